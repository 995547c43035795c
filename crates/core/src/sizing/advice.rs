//! What speaks for which way. Every advice says why.

use super::{SNAT_PORTS, Wish};
use crate::cidr::Cidr;
use crate::cluster::Routing;
use crate::family::Family;

/// A choice, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice<T> {
    /// The choice.
    pub choice: T,
    /// What speaks for it, and what is to be known of it; at least one sentence.
    pub because: Vec<String>,
}

/// Where pods' addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// From a private range that the nodes' network knows nothing of.
    Overlay,
    /// From the nodes' network itself.
    Flat,
}

/// What carries packets between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fabric {
    /// Nobody said.
    #[default]
    Unknown,
    /// One segment: nodes reach each other without a router.
    Segment,
    /// Routers that know nothing of pods.
    Routed,
    /// Routers that lead each node's block to it.
    RoutedToPods,
    /// Azure's virtual network, of machines that are not AKS'.
    Azure,
    /// Amazon's.
    Aws,
    /// Google's.
    Gcp,
}

/// So many of a hundred packets that leave are most of them.
const MOST: u32 = 50;

pub(super) fn model(wish: &Wish, nodes: u64, max_pods: u32) -> Advice<Model> {
    // Each node its own address, and one for each pod that it may run.
    let needed = nodes.saturating_mul(u64::from(max_pods) + 1);
    let v4 = |texts: &[String]| {
        let cidrs = texts.iter().filter_map(|text| text.parse::<Cidr>().ok());
        cidrs.filter(|cidr| cidr.family() == Family::V4).map(|cidr| cidr.address_count()).reduce(u64::saturating_add)
    };
    let room = v4(&wish.around.vnet_cidrs);
    let mut because = Vec::new();
    if wish.direct {
        because.push(
            "hosts outside are to reach pods by the pods' own addresses, which an overlay does not show them: they come in by \
             Services alone"
                .to_owned(),
        );
        because.push(match room {
            Some(room) if room < needed => format!(
                "the network has {room} IPv4 addresses, and {needed} are needed for that: where Services do, an overlay needs \
                 {nodes}"
            ),
            _ => format!("{needed} addresses of the nodes' network are needed for that"),
        });
        return Advice { choice: Model::Flat, because };
    }
    because.push(format!(
        "the nodes' network gives {nodes} addresses, one a node; with pods in it, it would give {needed}"
    ));
    if let Some(room) = room.filter(|room| *room < needed) {
        because.push(format!("it has {room}"));
    }
    if wish.leaving.is_some_and(|percent| percent > MOST) {
        because.push(format!(
            "most packets of pods leave the cluster, each translated to the node's address: watch the {SNAT_PORTS} ports that \
             a node has to one destination"
        ));
    }
    Advice { choice: Model::Overlay, because }
}

pub(super) fn routing(wish: &Wish) -> Advice<Routing> {
    let fits = fitting(wish);
    match wish.routing {
        Some(asked) if asked != fits.choice && wish.fabric != Fabric::Unknown => {
            let doubt = "it was asked for; what carries packets between nodes speaks for another, since".to_owned();
            Advice { choice: asked, because: std::iter::once(doubt).chain(fits.because).collect() }
        }
        Some(asked) if asked != fits.choice => Advice { choice: asked, because: vec!["it was asked for".to_owned()] },
        _ => fits,
    }
}

fn fitting(wish: &Wish) -> Advice<Routing> {
    let several = Family::ALL.into_iter().any(|family| count(wish, family) > 1);
    let tunnel = "each packet bears 50 bytes more (70 over IPv6), which pods' MTU is less by";
    let (choice, because): (_, &[&str]) = match wish.fabric {
        Fabric::Segment if several => (
            Routing::Auto,
            &[
                "nodes are in several subnets, with routers between them: within one packets go bare, between two they do where a \
               probe shows that they arrive",
            ],
        ),
        Fabric::Segment => (Routing::Native, &["nodes reach each other without a router: pods are as fast as nodes"]),
        Fabric::RoutedToPods => (
            Routing::Native,
            &[
                "the routers lead each node's block to it; give the nodes' networks as native-cidr where there is a router between \
               nodes",
            ],
        ),
        Fabric::Routed => {
            (Routing::Vxlan, &["routers between nodes drop what they know no way for: pods' packets", tunnel])
        }
        Fabric::Azure => (
            Routing::Auto,
            &[
                "the network drops packets with other addresses than a machine's unless IP forwarding is on for its interface, and \
               needs a route to each block: a probe finds out; until it has passed, and where it does not, packets go in VXLAN",
            ],
        ),
        Fabric::Aws => (
            Routing::Auto,
            &[
                "between machines of one subnet packets go bare once the source/destination check of their interfaces is off; a \
               probe finds out; until it has passed, and where it does not, packets go in VXLAN",
            ],
        ),
        Fabric::Gcp => (
            Routing::Vxlan,
            &[
                "every packet meets the network's router, which drops what has no route: it would need one for each node's block",
                tunnel,
            ],
        ),
        Fabric::Unknown => (
            Routing::Auto,
            &[
                "it was not told what carries packets between nodes: a probe finds out whether they arrive bare; until it has passed, \
               and where it does not, they go in VXLAN",
            ],
        ),
    };
    Advice { choice, because: because.iter().map(|words| (*words).to_owned()).collect() }
}

/// How many subnets of a family there are.
fn count(wish: &Wish, family: Family) -> usize {
    let cidrs = wish.around.node_subnets.iter().filter_map(|text| text.parse::<Cidr>().ok());
    cidrs.filter(|cidr| cidr.family() == family).count()
}
