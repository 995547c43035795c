//! What has to pass between nodes.

use std::fmt;

use super::space::{Dimension, Space, addresses, all_ports, link, protocol, state};
use super::{Crossing, Direction, End, RangeSet};
use crate::cidr::Cidr;
use crate::cluster::Routing;
use crate::family::Family;

/// What is known of a cluster that says what has to pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs<'a> {
    /// The nodes' networks.
    pub nodes: &'a [Cidr],
    /// The pods'.
    pub pods: &'a [Cidr],
    /// How pods' packets cross nodes.
    pub routing: Routing,
    /// The tunnel's UDP port.
    pub vxlan_port: u16,
    /// Whether the rules see packets inside of the tunnel, and answers: [`super::Firewall::on_node`].
    pub on_node: bool,
}

/// What packets are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Nodes speak with each other.
    NodeToNode,
    /// The tunnel's packets.
    Tunnel,
    /// Nodes speak with pods.
    NodeToPod,
    /// Pods answer nodes.
    PodAnswersNode,
    /// Pods speak with each other.
    PodToPod,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NodeToNode => "node-to-node",
            Self::Tunnel => "tunnel",
            Self::NodeToPod => "node-to-pod",
            Self::PodAnswersNode => "pod-answers-node",
            Self::PodToPod => "pod-to-pod",
        })
    }
}

/// Which packets between two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// All, of every protocol and port.
    All,
    /// UDP to a port.
    Udp(u16),
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.pad("all"),
            Self::Udp(port) => f.pad(&format!("udp {port}")),
        }
    }
}

/// Packets that have to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// What for.
    pub purpose: Purpose,
    /// Which way, seen from the node whose rules are asked.
    pub direction: Direction,
    /// From where.
    pub source: Cidr,
    /// To where; of the source's family.
    pub destination: Cidr,
    /// Which.
    pub traffic: Traffic,
    /// How pods' packets cross nodes.
    pub routing: Routing,
}

/// Everything that has to pass: by purpose, source and destination, inbound first.
///
/// Bare, the seed's rules (seed 001, "Network security groups") hold: nodes to nodes, nodes to pods, pods to pods, all
/// protocols and ports. In a tunnel pods' addresses are not on the wire: nodes to nodes is all. Rules on the nodes
/// themselves see pods' packets either way.
#[must_use]
pub fn needs(of: &Needs<'_>) -> Vec<Flow> {
    let routing = of.routing;
    let bare = routing != Routing::Vxlan || of.on_node;
    let mut pairs = Vec::new();
    pair(&mut pairs, Purpose::NodeToNode, of.nodes, of.nodes, Traffic::All);
    if routing != Routing::Native {
        pair(&mut pairs, Purpose::Tunnel, of.nodes, of.nodes, Traffic::Udp(of.vxlan_port));
    }
    if bare {
        pair(&mut pairs, Purpose::NodeToPod, of.nodes, of.pods, Traffic::All);
        if of.on_node {
            pair(&mut pairs, Purpose::PodAnswersNode, of.pods, of.nodes, Traffic::All);
        }
        pair(&mut pairs, Purpose::PodToPod, of.pods, of.pods, Traffic::All);
    }
    let mut flows: Vec<Flow> = pairs
        .into_iter()
        .flat_map(|(purpose, source, destination, traffic)| {
            Direction::ALL.map(|direction| Flow { purpose, direction, source, destination, traffic, routing })
        })
        .collect();
    flows.sort();
    flows.dedup();
    flows.sort_by_key(|flow| (flow.purpose, flow.source, flow.destination, flow.direction));
    flows
}

type Pair = (Purpose, Cidr, Cidr, Traffic);

fn pair(pairs: &mut Vec<Pair>, purpose: Purpose, sources: &[Cidr], destinations: &[Cidr], traffic: Traffic) {
    for source in sources {
        for destination in destinations.iter().filter(|one| one.family() == source.family()) {
            pairs.push((purpose, *source, *destination, traffic));
        }
    }
}

impl Flow {
    /// The family.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.source.family()
    }

    /// How it crosses the node's edge.
    #[must_use]
    pub const fn crossing(&self) -> Crossing {
        let (from, to) = match self.purpose {
            Purpose::NodeToNode | Purpose::Tunnel => (End::Node, End::Node),
            Purpose::NodeToPod => (End::Node, End::Pod),
            Purpose::PodAnswersNode => (End::Pod, End::Node),
            Purpose::PodToPod => (End::Pod, End::Pod),
        };
        Crossing { direction: self.direction, from, to }
    }

    /// Its packets. Three spaces, since ports mean something else to each: protocols that have ports, ICMP, the others.
    #[must_use]
    pub fn spaces(&self) -> Vec<Space> {
        let space = Space::default()
            .with(Dimension::Source, addresses(self.source))
            .with(Dimension::Destination, addresses(self.destination))
            .with(Dimension::State, self.states());
        let (link_in, link_out) = self.links();
        let space = space.with(Dimension::LinkIn, link_in).with(Dimension::LinkOut, link_out);
        let of = |protocols: RangeSet, source_ports: RangeSet, details: RangeSet| {
            let space = space.clone().with(Dimension::Protocol, protocols);
            space.with(Dimension::SourcePort, source_ports).with(Dimension::Detail, details)
        };
        let none = RangeSet::one(0);
        match self.traffic {
            Traffic::Udp(port) => {
                let udp = RangeSet::one(u128::from(protocol::UDP));
                vec![of(udp, all_ports(), RangeSet::one(u128::from(port)))]
            }
            Traffic::All => {
                let icmp = RangeSet::one(u128::from(protocol::icmp(self.family())));
                let others = protocol::all(self.family()).without(&protocol::with_ports()).without(&icmp);
                vec![
                    of(protocol::with_ports(), all_ports(), all_ports()),
                    of(icmp, none.clone(), all_ports()),
                    of(others, none.clone(), none),
                ]
            }
        }
    }

    /// Its protocols.
    #[must_use]
    pub fn protocols(&self) -> RangeSet {
        match self.traffic {
            Traffic::All => protocol::all(self.family()),
            Traffic::Udp(_) => RangeSet::one(u128::from(protocol::UDP)),
        }
    }

    fn states(&self) -> RangeSet {
        match self.purpose {
            Purpose::PodAnswersNode => RangeSet::range(state::ESTABLISHED, state::RELATED),
            _ => RangeSet::range(state::NEW, state::RELATED),
        }
    }

    /// The links that its packets come by and go to.
    fn links(&self) -> (RangeSet, RangeSet) {
        let crossing = self.crossing();
        let between = match (self.purpose, self.routing) {
            (Purpose::NodeToNode | Purpose::Tunnel, _) | (_, Routing::Native) => RangeSet::one(link::UNDERLAY),
            (_, Routing::Vxlan) => RangeSet::one(link::TUNNEL),
            (_, Routing::Auto) => RangeSet::one(link::UNDERLAY).or(&RangeSet::one(link::TUNNEL)),
        };
        // Of pods on one node, and of a node and its own, too.
        let inside = match self.purpose {
            Purpose::NodeToNode | Purpose::Tunnel => false,
            Purpose::NodeToPod => self.direction == Direction::Outbound,
            Purpose::PodAnswersNode => self.direction == Direction::Inbound,
            Purpose::PodToPod => true,
        };
        let between = if inside { between.or(&RangeSet::one(link::POD)) } else { between };
        let own = |end| RangeSet::one(if end == End::Pod { link::POD } else { link::NONE });
        match self.direction {
            Direction::Inbound => (between, own(crossing.to)),
            Direction::Outbound => (own(crossing.from), between),
        }
    }
}
