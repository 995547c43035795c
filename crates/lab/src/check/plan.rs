//! What a check asks: every question with what has to come of it. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use overlane_core::family::Family;

use super::probe::{Kind, Target};

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A pod.
    Pod,
    /// A node.
    Node,
    /// The host on the node subnet that is no node.
    Vm,
    /// The host behind the router.
    Internet,
}

/// Somewhere to ask from, and to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What it is.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// The node that it is on, for pods.
    pub node: Option<String>,
    /// Path of its network namespace.
    pub namespace: PathBuf,
    /// Its address by family.
    pub addresses: BTreeMap<Family, IpAddr>,
    /// Port of its echo server.
    pub port: u16,
    /// MTU of its interface, in bytes.
    pub mtu: usize,
}

/// A row of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Two pods of one node.
    PodToPodSameNode,
    /// Pods of two nodes.
    PodToPodOtherNode,
    /// A node to a pod of its own.
    NodeToOwnPod,
    /// A node to another node's pod.
    NodeToOtherPod,
    /// A pod to the node that it is on.
    PodToOwnNode,
    /// A pod to another node.
    PodToOtherNode,
    /// A pod to the VM.
    PodToVm,
    /// A pod to the host behind the router.
    PodToInternet,
    /// A node to the VM.
    NodeToVm,
    /// The VM to a node.
    VmToNode,
    /// The VM to a pod: not to come through.
    VmToPod,
    /// The VM to a pod, with a route to the pod's own node.
    VmToPodByItsNode,
    /// The VM to a pod, with a route for all pods to one node.
    VmToPodByOneNode,
    /// The host behind the router to a pod: not to come through.
    InternetToPod,
    /// A pod to a Service's address.
    PodToService,
    /// A node to a Service's address.
    NodeToService,
    /// A pod to a Service by its name.
    PodToName,
    /// A pod to the API server's Service.
    PodToApiServer,
}

impl Way {
    /// A row's heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::PodToPodSameNode => "pod to pod, same node",
            Self::PodToPodOtherNode => "pod to pod, other node",
            Self::NodeToOwnPod => "node to own pod",
            Self::NodeToOtherPod => "node to other pod",
            Self::PodToOwnNode => "pod to own node",
            Self::PodToOtherNode => "pod to other node",
            Self::PodToVm => "pod to vm",
            Self::PodToInternet => "pod to internet",
            Self::NodeToVm => "node to vm",
            Self::VmToNode => "vm to node",
            Self::VmToPod => "vm to pod: refused",
            Self::VmToPodByItsNode => "vm to pod, routed to its node: refused",
            Self::VmToPodByOneNode => "vm to pod, routed to one node: refused",
            Self::InternetToPod => "internet to pod: refused",
            Self::PodToService => "pod to service",
            Self::NodeToService => "node to service",
            Self::PodToName => "service by name",
            Self::PodToApiServer => "pod to API server",
        }
    }

    /// Whether nothing is to come through.
    pub fn refused(self) -> bool {
        matches!(self, Self::VmToPod | Self::VmToPodByItsNode | Self::VmToPodByOneNode | Self::InternetToPod)
    }
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The row that it counts for.
    pub way: Way,
    /// The family.
    pub family: Family,
    /// How it is asked.
    pub kind: Kind,
    /// Index of the place that asks.
    pub from: usize,
    /// Index of the place that is asked.
    pub to: usize,
    /// The far side.
    pub target: Target,
    /// Peers that the far side may have seen; any, if there are none.
    pub seen: Vec<IpAddr>,
}

/// Every question between `places` that needs no routes in the VM.
pub fn questions(places: &[Place], families: &[Family]) -> Vec<Question> {
    let mut questions = Vec::new();
    for (from, asker) in places.iter().enumerate() {
        for (to, asked) in places.iter().enumerate() {
            let Some(way) = way(asker, asked) else { continue };
            for family in families {
                add(&mut questions, places, (from, to), way, *family);
            }
        }
    }
    questions
}

/// The questions of the VM to pods, for a row with routes.
pub fn from_vm(places: &[Place], families: &[Family], way: Way) -> Vec<Question> {
    let mut questions = Vec::new();
    for (from, asker) in places.iter().enumerate().filter(|(_, place)| place.role == Role::Vm) {
        for (to, asked) in places.iter().enumerate() {
            if self::way(asker, asked) == Some(Way::VmToPod) {
                families.iter().for_each(|family| add(&mut questions, places, (from, to), way, *family));
            }
        }
    }
    questions
}

fn way(from: &Place, to: &Place) -> Option<Way> {
    let together = from.node == to.node;
    Some(match (from.role, to.role) {
        (Role::Pod, Role::Pod) if from.name == to.name => return None,
        (Role::Pod, Role::Pod) if together => Way::PodToPodSameNode,
        (Role::Pod, Role::Pod) => Way::PodToPodOtherNode,
        (Role::Node, Role::Pod) if to.node.as_deref() == Some(&from.name) => Way::NodeToOwnPod,
        (Role::Node, Role::Pod) => Way::NodeToOtherPod,
        (Role::Pod, Role::Node) if from.node.as_deref() == Some(&to.name) => Way::PodToOwnNode,
        (Role::Pod, Role::Node) => Way::PodToOtherNode,
        (Role::Pod, Role::Vm) => Way::PodToVm,
        (Role::Pod, Role::Internet) => Way::PodToInternet,
        (Role::Node, Role::Vm) => Way::NodeToVm,
        (Role::Vm, Role::Node) => Way::VmToNode,
        (Role::Vm, Role::Pod) => Way::VmToPod,
        (Role::Internet, Role::Pod) => Way::InternetToPod,
        _ => return None,
    })
}

fn add(questions: &mut Vec<Question>, places: &[Place], (from, to): (usize, usize), way: Way, family: Family) {
    let (Some(asker), Some(asked)) = (places.get(from), places.get(to)) else { return };
    let Some(ip) = asked.addresses.get(&family).copied() else { return };
    // The VM and the host outside always have both families; an asker without the family has nothing to ask with.
    if !asker.addresses.contains_key(&family) {
        return;
    }
    let own = asker.addresses.get(&family).copied();
    let node = asker.node.as_ref().and_then(|name| places.iter().find(|p| p.role == Role::Node && p.name == *name));
    let node = node.and_then(|node| node.addresses.get(&family).copied());
    let seen: Vec<IpAddr> = match way {
        // Outside the pod CIDRs a pod is its node.
        Way::PodToVm | Way::PodToInternet => node.into_iter().collect(),
        // Nodes are outside the pod CIDRs too, but reach pods either way.
        Way::PodToOwnNode | Way::PodToOtherNode => own.into_iter().chain(node).collect(),
        _ => own.into_iter().collect(),
    };
    let kinds: &[Kind] = if way.refused() { &Kind::SMALL } else { &Kind::ALL };
    let target = Target { ip, port: asked.port, mtu: asker.mtu.min(asked.mtu) };
    questions.extend(kinds.iter().map(|kind| Question {
        way,
        family,
        kind: *kind,
        from,
        to,
        target,
        seen: seen.clone(),
    }));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a pair that is not asked, or a wrong source address that would pass.

    use super::*;

    fn place(role: Role, name: &str, node: Option<&str>, last: u8) -> Place {
        let net = if role == Role::Pod { "10.244.0" } else { "10.224.0" };
        let v4: IpAddr = format!("{net}.{last}").parse().unwrap();
        let v6: IpAddr = format!("fd00::{last}").parse().unwrap();
        Place {
            role,
            name: name.into(),
            node: node.map(str::to_owned),
            namespace: name.into(),
            addresses: [(Family::V4, v4), (Family::V6, v6)].into(),
            port: 8080,
            mtu: 1500,
        }
    }

    fn places() -> Vec<Place> {
        vec![
            place(Role::Pod, "a", Some("n0"), 1),
            place(Role::Pod, "b", Some("n0"), 2),
            place(Role::Pod, "c", Some("n1"), 3),
            place(Role::Node, "n0", None, 4),
            place(Role::Node, "n1", None, 5),
            place(Role::Vm, "vm", None, 6),
            place(Role::Internet, "internet", None, 7),
        ]
    }

    fn count(questions: &[Question], way: Way) -> usize {
        questions.iter().filter(|q| q.way == way).count()
    }

    #[test]
    fn every_pair_is_asked_in_every_way() {
        let questions = questions(&places(), &[Family::V4, Family::V6]);
        let expected = [
            (Way::PodToPodSameNode, 2 * 12),
            (Way::PodToPodOtherNode, 4 * 12),
            (Way::NodeToOwnPod, 3 * 12),
            (Way::NodeToOtherPod, 3 * 12),
            (Way::PodToOwnNode, 3 * 12),
            (Way::PodToOtherNode, 3 * 12),
            (Way::PodToVm, 3 * 12),
            (Way::PodToInternet, 3 * 12),
            (Way::NodeToVm, 2 * 12),
            (Way::VmToNode, 2 * 12),
            (Way::VmToPod, 3 * 6),
            (Way::InternetToPod, 3 * 6),
        ];
        for (way, number) in expected {
            assert_eq!(count(&questions, way), number, "{way:?}");
        }
        assert_eq!(questions.len(), expected.iter().map(|(_, number)| number).sum::<usize>());
        assert_eq!(from_vm(&places(), &[Family::V4], Way::VmToPodByItsNode).len(), 3 * 3);
    }

    #[test]
    fn the_far_side_has_to_see_the_right_address() {
        let questions = questions(&places(), &[Family::V4]);
        let seen = |way| questions.iter().find(|q| q.way == way && q.from == 0).unwrap().seen.clone();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(seen(Way::PodToInternet), [ip("10.224.0.4")], "the node's");
        assert_eq!(seen(Way::PodToVm), [ip("10.224.0.4")]);
        assert_eq!(seen(Way::PodToPodOtherNode), [ip("10.244.0.1")], "its own");
        assert_eq!(seen(Way::PodToOwnNode), [ip("10.244.0.1"), ip("10.224.0.4")]);
    }

    #[test]
    fn a_family_that_a_place_lacks_is_not_asked() {
        let mut places = places();
        places[0].addresses.remove(&Family::V6);
        assert!(questions(&places, &[Family::V6]).iter().all(|q| q.from != 0 && q.to != 0));
    }
}
