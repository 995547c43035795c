//! A change of routing, against nodes that follow when they like.
//!
//! Must catch: a step that does not wait, so that one node sends what another does not take; a node's word of an earlier
//! change that counts for this one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use overlane_core::cluster::{Routing, RoutingState, Step};
use proptest::prelude::*;

const ALL: [Routing; 3] = [Routing::Native, Routing::Vxlan, Routing::Auto];

#[derive(Clone, Debug)]
enum Event {
    /// A person asks for something else.
    Ask(usize),
    /// The controller looks.
    Look,
    /// A node does what is in force.
    Follow(usize),
    /// A node's word arrives.
    Hear(usize),
}

fn event(nodes: usize) -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => (0..ALL.len()).prop_map(Event::Ask),
        6 => Just(Event::Look),
        6 => (0..nodes).prop_map(Event::Follow),
        6 => (0..nodes).prop_map(Event::Hear),
    ]
}

struct Cluster {
    wanted: Routing,
    in_force: RoutingState,
    nodes: Vec<RoutingState>,
    /// What the controller has heard of each.
    heard: Vec<RoutingState>,
}

impl Cluster {
    fn new(nodes: usize) -> Self {
        let state = RoutingState::settled(Routing::Native);
        Self {
            wanted: Routing::Native,
            in_force: state.clone(),
            nodes: vec![state.clone(); nodes],
            heard: vec![state; nodes],
        }
    }

    fn look(&self) -> Step {
        let names: Vec<String> = (0..self.nodes.len()).map(|n| n.to_string()).collect();
        self.in_force.step(self.wanted, names.iter().map(String::as_str).zip(self.heard.iter().map(Some)))
    }

    fn act(&mut self, event: &Event) {
        match event {
            Event::Ask(which) => self.wanted = ALL[*which],
            Event::Look => {
                if let Step::Go(next) = self.look() {
                    self.in_force = next;
                }
            }
            Event::Follow(node) => self.nodes[*node] = self.in_force.clone(),
            Event::Hear(node) => self.heard[*node] = self.nodes[*node].clone(),
        }
    }

    /// Whatever a node sends, every node takes.
    fn loses_nothing(&self) -> bool {
        let sent = |node: &RoutingState| node.sends.carriers();
        self.nodes.iter().all(|from| self.nodes.iter().all(|to| sent(from).is_subset(&to.accepts)))
    }
}

proptest! {
    #[test]
    fn nothing_is_sent_that_somebody_does_not_take(events in proptest::collection::vec(event(3), 1..80)) {
        let mut cluster = Cluster::new(3);
        for event in &events {
            cluster.act(event);
            prop_assert!(cluster.loses_nothing(), "after {event:?}: {:?}", cluster.nodes);
        }
        // Once everybody follows, what was asked for last is there within four steps.
        for _ in 0..5 {
            cluster.act(&Event::Look);
            (0..3).for_each(|node| { cluster.act(&Event::Follow(node)); cluster.act(&Event::Hear(node)); });
        }
        prop_assert_eq!(cluster.look(), Step::Settled);
        let RoutingState { sends, accepts, .. } = cluster.in_force;
        prop_assert_eq!((sends, accepts), (cluster.wanted, cluster.wanted.carriers()));
    }
}

#[test]
fn who_is_behind_is_named_and_who_says_nothing_is_behind() {
    let now = RoutingState { sends: Routing::Native, accepts: Routing::Auto.carriers(), step: 1 };
    let old = RoutingState::settled(Routing::Native);
    let nodes = [("a", Some(&now)), ("b", Some(&old)), ("c", None)];
    assert_eq!(now.step(Routing::Vxlan, nodes), Step::Wait(["b".to_owned(), "c".to_owned()].into()));
    // To take more waits for nobody; to take less does.
    let first = old.step(Routing::Vxlan, nodes);
    assert_eq!(first, Step::Go(now.clone()));
    assert!(matches!(now.step(Routing::Native, nodes), Step::Wait(_)));
    assert_eq!(now.step(Routing::Native, [("a", Some(&now))]), Step::Go(RoutingState { step: 2, ..old }));
}

/// A change that was taken back and asked for again looks the same, but for its number.
#[test]
fn a_word_of_an_earlier_change_does_not_count() {
    let both = |step| RoutingState { sends: Routing::Native, accepts: Routing::Auto.carriers(), step };
    assert!(matches!(both(3).step(Routing::Vxlan, [("a", Some(&both(1)))]), Step::Wait(_)));
    assert!(matches!(both(3).step(Routing::Vxlan, [("a", Some(&both(3)))]), Step::Go(_)));
}
