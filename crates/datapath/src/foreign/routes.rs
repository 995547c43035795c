//! Routes of others that the kernel takes in place of ours.

use overlane_core::family::Family;

use super::{Finding, not_looked_at};
use crate::netlink::Socket;
use crate::node::main_table;
use crate::rtnl::route::{Hop, Route};

pub(super) fn inspect() -> Vec<Finding> {
    const ANYBODY: u8 = 0;
    match Socket::route().and_then(|mut socket| main_table(&mut socket, ANYBODY, 0)) {
        Ok(routes) => shadowing(&routes),
        Err(error) => vec![not_looked_at(error.to_string(), "run as root")],
    }
}

/// The longest prefix wins, then the smallest metric.
fn shadowing(routes: &[Route]) -> Vec<Finding> {
    let (ours, foreign): (Vec<&Route>, Vec<&Route>) = routes.iter().partition(|route| route.is_ours());
    let wins = |foreign: &&&Route| {
        ours.iter().any(|our| {
            our.hop != Hop::Unreachable
                && our.destination.contains_cidr(&foreign.destination)
                && (our.destination != foreign.destination || foreign.metric < our.metric)
        })
    };
    foreign.iter().filter(wins).map(|route| finding(route)).collect()
}

fn finding(route: &Route) -> Finding {
    let Route { destination, metric, protocol, .. } = route;
    let ip = if destination.family() == Family::V4 { "ip" } else { "ip -6" };
    Finding {
        kind: "foreign-route",
        what: format!(
            "the route to {destination} (metric {metric}, protocol {protocol}) goes before ours: packets to these pods \
             go astray"
        ),
        remedy: format!("end what makes it (another pod network?), then {ip} route del {destination} metric {metric}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a narrower foreign route inside a block that is not named; a harmless one that is.
    use super::*;
    use crate::owned;

    fn route(destination: &str, metric: u32, protocol: u8) -> Route {
        let destination = destination.parse().unwrap();
        let hop = Hop::Link { index: 7 };
        Route { table: owned::ROUTE_TABLE, protocol, destination, hop, prefsrc: None, metric }
    }

    #[test]
    fn a_route_that_goes_before_ours_is_named() {
        let ours = [
            route("10.244.1.0/24", owned::METRIC, owned::PROTOCOL),
            route("fd12::/80", owned::METRIC, owned::PROTOCOL),
            Route { hop: Hop::Unreachable, ..route("10.244.0.0/16", owned::METRIC_UNREACHABLE, owned::PROTOCOL) },
        ];
        let named = |foreign: Route| {
            let all: Vec<_> = ours.iter().cloned().chain([foreign]).collect();
            shadowing(&all).into_iter().map(|found| found.remedy).collect::<Vec<_>>()
        };
        for (destination, metric) in [("10.244.1.0/24", 0), ("10.244.1.128/25", 4000), ("fd12::/96", 1024)] {
            let said = named(route(destination, metric, 3));
            assert!(
                said.len() == 1 && said[0].contains(&format!("route del {destination} metric {metric}")),
                "{said:?}"
            );
        }
        for (destination, metric) in
            [("10.244.1.0/24", 1024), ("10.244.0.0/20", 0), ("10.244.2.0/24", 0), ("0.0.0.0/0", 0), ("fd12::/80", 1024)]
        {
            assert_eq!(named(route(destination, metric, 3)), Vec::<String>::new(), "{destination}");
        }
    }
}
