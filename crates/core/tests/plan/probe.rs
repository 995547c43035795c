//! Must catch: bare packets sent where the fabric has not shown that it carries them, a probe by a pod's address, a
//! router that is trusted with packets although no probe has come back by it.

use super::*;

fn auto(passing: &[&str]) -> NodeInput {
    NodeInput { routing: Routing::Auto, passing: cidrs(passing), ..dual() }
}

fn action(plan: &NodePlan, destination: &str) -> Option<RouteAction> {
    plan.routes.iter().find(|route| route.destination == cidr(destination)).map(|route| route.action.clone())
}

#[test]
fn auto_sends_bare_what_has_passed_and_the_rest_in_the_tunnel() {
    let plan = plan(&auto(&["10.244.1.0/24"]));
    assert_eq!(action(&plan, "10.244.1.0/24"), Some(RouteAction::Via(ip("10.224.0.5"))));
    let in_tunnel = |to: &str| Some(RouteAction::Tunnel { from: ip("10.224.0.4"), to: ip(to) });
    assert_eq!(action(&plan, "fd12:3456:789a:0:1::/80"), in_tunnel("10.224.0.5"), "each family by itself");
    assert_eq!(action(&plan, "10.244.2.0/24"), in_tunnel("10.224.0.6"));
    // Whatever others have found out, both are taken.
    assert_eq!((plan.peers.len(), plan.tunnel.as_ref().unwrap().peers.len()), (4, 4));
    // Probes go bare in any case.
    assert_eq!(action(&plan, "10.244.2.255/32"), Some(RouteAction::Via(ip("10.224.0.6"))));
    assert_eq!(plan.probes.targets.len(), 4);
    assert!(plan.notes.is_empty());
}

#[test]
fn a_router_gets_what_has_passed_by_it() {
    for routing in [Routing::Auto, Routing::Native] {
        let beyond: BTreeSet<IpAddr> = [ip("10.224.0.5"), ip("fd10:224::5")].into();
        let input = NodeInput { routing, beyond, passing: cidrs(&["10.244.1.0/24"]), ..dual() };
        let plan = plan(&input);
        assert_eq!(action(&plan, "10.244.1.0/24"), Some(RouteAction::Fabric(ip("10.224.0.5"))));
        assert_eq!(action(&plan, "10.244.1.255/32"), Some(RouteAction::Fabric(ip("10.224.0.5"))));
        let other = action(&plan, "fd12:3456:789a:0:1::/80").unwrap();
        assert!(!matches!(other, RouteAction::Fabric(_)), "{routing:?}: {other:?}");
    }
}

#[test]
fn what_is_known_to_be_carried_is_not_asked_about() {
    // Both ends have to be in one network.
    let trusted = vec![cidr("10.224.0.4/31"), cidr("10.224.0.6/32")];
    let plan = plan(&NodeInput { trusted, ..auto(&[]) });
    assert_eq!(action(&plan, "10.244.1.0/24"), Some(RouteAction::Via(ip("10.224.0.5"))));
    assert!(matches!(action(&plan, "10.244.2.0/24"), Some(RouteAction::Tunnel { .. })));
    let asked: Vec<String> = plan.probes.targets.keys().map(ToString::to_string).collect();
    assert_eq!(asked, ["10.244.2.0/24", "fd12:3456:789a:0:1::/80", "fd12:3456:789a:0:2::/80"]);
    let native = NodeInput { trusted: cidrs(&["10.224.0.0/16"]).into_iter().collect(), ..dual() };
    let beyond = NodeInput { beyond: [ip("10.224.0.5")].into(), ..native };
    let plan = overlane_core::plan::plan(&beyond);
    assert_eq!(action(&plan, "10.244.1.0/24"), Some(RouteAction::Fabric(ip("10.224.0.5"))));
}

#[test]
fn nothing_is_asked_where_no_answer_could_come() {
    assert_eq!(plan(&NodeInput { routing: Routing::Vxlan, ..dual() }).probes, ProbePlan::default());
    let mut input = auto(&[]);
    input.node_ips.remove(&Family::V6);
    let without = plan(&input);
    assert!(without.probes.targets.keys().all(|block| block.family() == Family::V4));
    assert!(without.notes.is_empty(), "the tunnel carries the other family");
    // The last address of so small a block is a pod's; so is one that a pod has all the same.
    let mut small = auto(&[]);
    small.own_blocks[0] = cidr("10.244.0.0/31");
    small.endpoints.push(endpoint("l2", &["fd12:3456:789a:0:0:ffff:ffff:ffff"]));
    assert_eq!(plan(&small).probes, ProbePlan::default());
}

#[test]
fn in_native_routing_a_few_are_asked_and_not_the_same_by_all() {
    let mut input = only(&[Family::V4]);
    let node = |n: u8| peer(&format!("n{n}"), &[&format!("10.244.{n}.0/24")], &[&format!("10.224.1.{n}")], None);
    input.peers = (0..100).filter(|n| *n != 97).map(node).collect();
    input.own_blocks = vec![cidr("10.244.97.0/24")];
    input.endpoints.clear();
    let asked: Vec<String> = plan(&input).probes.targets.keys().map(ToString::to_string).collect();
    assert_eq!(asked.len(), 8);
    assert!(asked.contains(&"10.244.98.0/24".to_owned()) && asked.contains(&"10.244.5.0/24".to_owned()), "{asked:?}");
    // Who is behind a router is asked by everybody.
    input.beyond = [ip("10.224.1.50")].into();
    assert!(plan(&input).probes.targets.contains_key(&cidr("10.244.50.0/24")));
}
