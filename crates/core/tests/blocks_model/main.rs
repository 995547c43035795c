//! Any sequence of nodes that join, leave, are made anew on the same or another machine, controllers that restart, an API
//! store that is restored from an older state, and two controllers at once whose views lag, against a model of the API
//! that refuses what the real one refuses.
//!
//! Must catch: any rule in `core::blocks` that lets a block go to two nodes, or lets one leak, once views lag: taking
//! back a block without looking the Node up, reusing one before its hold-down, ignoring what an agent says it holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod api;
mod controller;
mod sim;

use overlane_core::cluster::{ClusterPlan, ClusterSpec, NodeCidrs, validate};
use proptest::prelude::*;
use sim::{Op, Sim};

fn plan(pod_cidrs: &[&str]) -> ClusterPlan {
    let spec = ClusterSpec {
        pod_cidrs: pod_cidrs.iter().map(|text| (*text).to_owned()).collect(),
        node_mask_v4: 28,
        node_mask_v6: 80,
        max_pods: 10,
        node_cidrs: NodeCidrs::Allocate,
        ..ClusterSpec::default()
    };
    validate(&spec).unwrap()
}

/// Four IPv4 blocks, eight IPv6 blocks.
fn plans() -> impl Strategy<Value = ClusterPlan> {
    prop_oneof![
        Just(plan(&["10.9.0.0/26"])),
        Just(plan(&["fd00:1:2:3::/77"])),
        Just(plan(&["10.9.0.0/26", "fd00:1:2:3::/77"])),
        Just(plan(&["fd00:1:2:3::/77", "10.9.0.0/26"])),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0_u8..10).prop_map(Op::Join),
        2 => (0_u8..10, any::<bool>()).prop_map(|(node, dies)| Op::Leave { node, dies }),
        1 => (0_u8..10).prop_map(Op::Recreate),
        1 => (0_u8..10).prop_map(Op::Reboot),
        6 => (0_u8..10).prop_map(Op::Agent),
        12 => (0_u8..2, 0_u8..4, 1_u8..8).prop_map(|(who, kind, count)| Op::Deliver { who, kind, count }),
        8 => (0_u8..2, any::<u8>()).prop_map(|(who, which)| Op::Begin { who, which }),
        20 => (0_u8..2, any::<u8>()).prop_map(|(who, which)| Op::Step { who, which }),
        1 => (0_u8..2).prop_map(Op::Restart),
        2 => (1_u64..400).prop_map(Op::Wait),
        1 => (1_000_u64..400_000).prop_map(Op::Wait),
        1 => Just(Op::Snapshot),
        1 => Just(Op::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_block_never_has_two_nodes_and_none_leaks(plan in plans(), ops in proptest::collection::vec(op(), 1..250)) {
        let mut sim = Sim::new(plan, 2);
        for op in &ops {
            sim.apply(op);
        }
        sim.settle();
    }
}

/// More with `OVERLANE_CASES`.
fn cases() -> u32 {
    std::env::var("OVERLANE_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(400)
}

#[test]
fn many_nodes_two_controllers_then_exhaustion_then_room() {
    let mut sim = Sim::new(plan(&["10.9.0.0/26", "fd00:1:2:3::/77"]), 2);
    for node in 0..7 {
        sim.apply(&Op::Join(node));
    }
    sim.settle();
    assert_eq!(sim.served(), 4, "four blocks serve four nodes");
    for node in 0..5 {
        sim.apply(&Op::Leave { node, dies: true });
    }
    sim.settle();
    assert_eq!(sim.served(), 2, "those that waited went on by themselves");
}
