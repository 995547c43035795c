//! Tables for `core::blocks`: order of allocation, pairs, what stands on a block, admission of plans, conditions.
//!
//! Must catch: another order of reuse, a pair that is split though an index is free in both families, a liar's word that
//! keeps a cluster from its addresses, a plan that comes in force over blocks outside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::IpAddr;

use overlane_core::blocks::{
    Action, Allocator, Claim, ConditionKind, ConfigView, Container, Content, MachineId, NodeView, ObjectRef, Settings,
    Source, StateView, Trouble, Verdict, World, admit, admit_after,
};
use overlane_core::cidr::Cidr;
use overlane_core::cluster::{ClusterPlan, ClusterSpec, NodeCidrs, validate};

const HOLD_DOWN: u64 = 300_000;
const LATER: u64 = 1_000_000;

fn plan_of(pod_cidrs: &[&str], node_cidrs: NodeCidrs) -> ClusterPlan {
    let pod_cidrs = pod_cidrs.iter().map(|text| (*text).to_owned()).collect();
    validate(&ClusterSpec { pod_cidrs, node_cidrs, ..ClusterSpec::default() }).unwrap()
}

fn plan(pod_cidrs: &[&str]) -> ClusterPlan {
    plan_of(pod_cidrs, NodeCidrs::Allocate)
}

fn object(name: &str) -> ObjectRef {
    ObjectRef { uid: format!("uid of {name}"), resource_version: "1".to_owned() }
}

fn machine(name: &str) -> MachineId {
    MachineId { boot_id: format!("boot of {name}"), provider_id: String::new() }
}

fn node(name: &str) -> NodeView {
    let addresses: Vec<IpAddr> = vec!["10.224.0.4".parse().unwrap(), "fd10:224::4".parse().unwrap()];
    NodeView { name: name.to_owned(), object: object(name), machine: machine(name), addresses, ..NodeView::default() }
}

fn state(name: &str, held: &[&str]) -> StateView {
    let held = held.iter().map(|text| text.parse().unwrap()).collect();
    StateView {
        node: name.to_owned(),
        object: object(name),
        boot_id: machine(name).boot_id,
        held,
        ..StateView::default()
    }
}

fn claim(block: &str, node: &str, released_ms: Option<u64>) -> Claim {
    Claim {
        cidr: block.parse().unwrap(),
        pool: None,
        node: node.to_owned(),
        node_uid: object(node).uid,
        machine: machine(node),
        released_ms,
        created_ms: 0,
        object: object(block),
    }
}

fn world(pod_cidrs: &[&str], claims: &[Claim]) -> World {
    let mut world = World::new(Settings::default());
    let plan = plan(pod_cidrs);
    for claim in claims {
        let pool = plan.pod_cidrs().find(|pool| pool.contains_cidr(&claim.cidr));
        world.upsert_claim(Claim { pool, ..claim.clone() }, Source::List);
    }
    world.retain_claims(&claims.iter().map(|claim| claim.cidr).collect(), 0);
    world.set_plan(Some(plan));
    world
}

/// What a new node whose agent has spoken is given, and over which objects.
fn given(world: &mut World, name: &str) -> Vec<(String, bool)> {
    world.upsert_node(node(name), Source::News, 0);
    if !world.states().contains_key(name) {
        world.upsert_state(state(name, &[]), Source::News, 0);
    }
    assigned(&world.decide(name, LATER))
}

fn assigned(verdict: &Verdict) -> Vec<(String, bool)> {
    let assigned = verdict.actions.iter().filter_map(|action| match action {
        Action::Assign { block, over, .. } => Some((block.to_string(), over.is_some())),
        _ => None,
    });
    assigned.collect()
}

fn fresh(block: &str) -> (String, bool) {
    (block.to_owned(), false)
}

fn reused(block: &str) -> (String, bool) {
    (block.to_owned(), true)
}

const V4: &str = "10.244.0.0/22";
const V6: &str = "fd00::/76";

#[test]
fn never_used_by_index_then_the_longest_free() {
    let rested = |ago: u64| Some(LATER - HOLD_DOWN - ago);
    let claims = [claim("10.244.0.0/24", "a", rested(5)), claim("10.244.2.0/24", "b", rested(9))];
    assert_eq!(given(&mut world(&[V4], &claims), "n"), [fresh("10.244.1.0/24")]);
    let claims = [
        claims[0].clone(),
        claim("10.244.1.0/24", "c", None),
        claims[1].clone(),
        claim("10.244.3.0/24", "d", rested(0)),
    ];
    assert_eq!(given(&mut world(&[V4], &claims), "n"), [reused("10.244.2.0/24")]);
    let claims = [
        claim("10.244.0.0/24", "a", Some(LATER - HOLD_DOWN)),
        claims[1].clone(),
        claim("10.244.2.0/24", "b", None),
        claim("10.244.3.0/24", "d", None),
    ];
    assert_eq!(given(&mut world(&[V4], &claims), "n"), [reused("10.244.0.0/24")], "to the millisecond");
    let mut full = world(
        &[V4],
        &[
            claim("10.244.0.0/24", "a", Some(LATER - HOLD_DOWN + 1)),
            claims[1].clone(),
            claims[2].clone(),
            claims[3].clone(),
        ],
    );
    assert!(given(&mut full, "n").is_empty());
    let verdict = full.decide("n", LATER);
    assert_eq!(verdict.trouble, Some(Trouble::NoBlockAvailable { pool: V4.parse().unwrap() }));
    assert_eq!(verdict.retry_at_ms, Some(LATER + 1));
}

#[test]
fn one_index_in_both_families_as_long_as_there_is_one() {
    let rested = Some(LATER - 2 * HOLD_DOWN);
    for order in [[V4, V6], [V6, V4]] {
        let pair = |index: u64, make: fn(&str) -> (String, bool)| {
            let mut pair = [
                make(&format!("10.244.{index}.0/24")),
                make(&format!("fd00:0:0:0:{index}::/80").parse::<Cidr>().unwrap().to_string()),
            ];
            if order[0] == V6 {
                pair.reverse();
            }
            pair
        };
        assert_eq!(given(&mut world(&order, &[]), "n"), pair(0, fresh));
        // The lowest that was never used in either.
        let claims = [claim("10.244.0.0/24", "a", None), claim("fd00:0:0:0:1::/80", "b", rested)];
        assert_eq!(given(&mut world(&order, &claims), "n"), pair(2, fresh));
        // None such: a pair that has rested, be it in one family only, before two of different indexes.
        let mut claims: Vec<Claim> = (0..4).map(|index| claim(&format!("10.244.{index}.0/24"), "a", None)).collect();
        claims[3].released_ms = rested;
        let mut mixed = vec![reused("10.244.3.0/24"), fresh("fd00::3:0:0:0/80")];
        if order[0] == V6 {
            mixed.reverse();
        }
        assert_eq!(given(&mut world(&order, &claims), "n"), mixed);
        // No index is free in both.
        claims.push(claim("fd00::3:0:0:0/80", "b", None));
        let apart = given(&mut world(&order, &claims), "n");
        assert!(apart.contains(&reused("10.244.3.0/24")) && apart.contains(&fresh("fd00::/80")), "{apart:?}");
    }
}

#[test]
fn a_second_family_follows_the_index_of_the_first() {
    let held = claim("10.244.2.0/24", "n", None);
    assert_eq!(given(&mut world(&[V4, V6], std::slice::from_ref(&held)), "n"), [fresh("fd00::2:0:0:0/80")]);
    assert_eq!(given(&mut world(&[V6, V4], &[held]), "n"), [fresh("fd00::2:0:0:0/80")]);
}

#[test]
fn what_an_agent_holds_is_its_own_but_a_lie_is_bounded() {
    let mut world = world(&["10.244.0.0/16"], &[]);
    let lie: Vec<String> = (0..200).map(|index| format!("10.244.{index}.0/24")).collect();
    let lie: Vec<&str> = lie.iter().map(String::as_str).collect();
    world.upsert_state(state("liar", &lie), Source::News, 0);
    assert_eq!(given(&mut world, "n"), [fresh("10.244.16.0/24")], "sixteen are believed");
    world.upsert_state(state("liar", &[]), Source::News, 0);
    world.upsert_state(state("honest", &["10.244.0.0/24", "10.244.9.0/24"]), Source::News, 0);
    assert_eq!(given(&mut world, "n"), [fresh("10.244.1.0/24")]);
    assert_eq!(given(&mut world, "honest"), [fresh("10.244.0.0/24"), fresh("10.244.9.0/24")]);
    // Who has a claim gets nothing for its word.
    world.upsert_claim(claim("10.244.20.0/24", "honest", None), Source::News);
    assert!(given(&mut world, "honest").is_empty());
}

#[test]
fn a_word_that_is_too_wide_counts_for_nothing_whether_it_came_before_the_plan_or_after() {
    for before in [true, false] {
        let mut world = World::new(Settings::default());
        let lie = state("liar", &["10.244.0.0/16", "10.244.0.0/24"]);
        if before {
            world.upsert_state(lie.clone(), Source::News, 0);
        }
        world.set_plan(Some(plan(&[V4])));
        if !before {
            world.upsert_state(lie, Source::News, 0);
        }
        // What a node may have is believed, the whole pod CIDR is not.
        assert_eq!(given(&mut world, "n"), [fresh("10.244.1.0/24")], "{before}");
    }
}

#[test]
fn what_an_agent_of_another_boot_says_is_no_word_of_this_machine() {
    let mut world = world(&[V4], &[]);
    world.upsert_state(StateView { boot_id: "of old".into(), ..state("n", &["10.244.2.0/24"]) }, Source::News, 0);
    assert_eq!(given(&mut world, "n"), [fresh("10.244.0.0/24")]);
    world.upsert_node(NodeView { first_seen_ms: LATER, object: object("again"), ..node("n") }, Source::News, 0);
    let early = world.decide("n", LATER + 4_999);
    assert!(assigned(&early).is_empty());
    assert_eq!(early.retry_at_ms, Some(LATER + 5_000));
    let due = world.decide("n", LATER + HOLD_DOWN);
    assert!(due.actions.iter().any(|action| matches!(action, Action::DeleteState { .. })), "{due:?}");
}

#[test]
fn a_claim_of_another_size_stands_on_every_block_that_it_overlaps() {
    let large = claim("10.244.0.0/23", "a", None);
    let small = claim("10.244.2.128/25", "b", None);
    let mut both = world(&[V4], &[large.clone(), small.clone()]);
    assert_eq!(given(&mut both, "n"), [fresh("10.244.3.0/24")]);
    both.remove_claim(&small.cidr, None);
    assert_eq!(given(&mut both, "n"), [fresh("10.244.2.0/24")]);
    both.remove_claim(&large.cidr, None);
    assert_eq!(given(&mut both, "n"), [fresh("10.244.0.0/24")]);
}

#[test]
fn a_released_claim_of_a_size_that_is_given_no_more_goes_once_it_has_rested() {
    let deleted = |verdict: &Verdict| -> Vec<String> {
        let deletions = verdict.actions.iter().filter_map(|action| match action {
            Action::DeleteClaim { block, .. } => Some(block.to_string()),
            _ => None,
        });
        deletions.collect()
    };
    let rested = Some(LATER - HOLD_DOWN);
    let claims = [
        claim("10.244.0.0/25", "gone", rested),
        claim("10.244.0.128/25", "gone", Some(LATER - HOLD_DOWN + 7)),
        claim("10.244.1.0/24", "gone", rested),
        claim("10.244.2.0/25", "n", rested),
        claim("10.244.2.128/25", "other", None),
        claim("10.99.0.0/24", "gone", rested),
    ];
    let mut world = world(&[V4], &claims);
    let verdict = world.decide("gone", LATER);
    assert_eq!(deleted(&verdict), ["10.99.0.0/24", "10.244.0.0/25"]);
    assert_eq!(verdict.retry_at_ms, Some(LATER + 7));
    // Under a node that is there, too, and beside what it is given.
    assert_eq!(given(&mut world, "n"), [fresh("10.244.3.0/24")]);
    assert_eq!(deleted(&world.decide("n", LATER)), ["10.244.2.0/25"]);
    world.remove_claim(&"10.244.0.0/25".parse().unwrap(), None);
    world.remove_claim(&"10.244.0.128/25".parse().unwrap(), None);
    world.upsert_claim(claim("10.244.3.0/24", "a", None), Source::News);
    assert_eq!(given(&mut world, "n"), [fresh("10.244.0.0/24")]);
}

#[test]
fn no_block_while_a_list_is_fresh() {
    let mut world = world(&[V4], &[]);
    world.upsert_node(node("n"), Source::News, 0);
    world.upsert_state(state("n", &[]), Source::News, 0);
    world.retain_claims(&std::collections::BTreeSet::new(), LATER);
    let verdict = world.decide("n", LATER + 4_999);
    assert_eq!((verdict.actions.len(), verdict.retry_at_ms), (0, Some(LATER + 5_000)));
    assert_eq!(assigned(&world.decide("n", LATER + 5_000)), [fresh("10.244.0.0/24")]);
}

#[test]
fn without_a_plan_only_what_is_gone_is_given_back_and_nothing_is_decided_about_nobody() {
    let mut world = World::new(Settings::default());
    world.upsert_node(node("n"), Source::News, 0);
    world.upsert_claim(claim("10.244.0.0/24", "", None), Source::News);
    world.upsert_claim(claim("10.99.1.0/24", "n", None), Source::News);
    world.upsert_claim(claim("10.99.0.0/24", "gone", None), Source::News);
    assert_eq!(world.decide("n", LATER), Verdict::default());
    let released = world.decide("gone", LATER).actions;
    assert!(matches!(&released[..], [Action::ConfirmNode { .. }, Action::Release { .. }]), "{released:?}");
    world.set_plan(Some(plan(&[V4])));
    assert_eq!(world.decide("", LATER), Verdict::default());
}

#[test]
fn what_is_announced_is_not_given_to_another() {
    let mut world = world(&[V4], &[]);
    let block: Cidr = "10.244.0.0/24".parse().unwrap();
    let container = Container { block, pool: None, node_ip: None };
    let content = Some(Content { containers: vec![container], ..Content::default() });
    world.upsert_config(
        ConfigView { node: "other".into(), node_uid: "u".into(), object: object("c"), content },
        Source::News,
    );
    assert_eq!(given(&mut world, "n"), [fresh("10.244.1.0/24")]);
    world.remove_config("other", None);
    assert_eq!(given(&mut world, "n"), [fresh("10.244.0.0/24")]);
}

#[test]
fn an_older_state_is_no_news_but_a_list_counts() {
    let mut world = world(&[V4], &[]);
    let versioned = |version: &str, released_ms| {
        let mut claim = claim("10.244.0.0/24", "a", released_ms);
        claim.object.resource_version = version.to_owned();
        claim
    };
    let released = |world: &World| world.alloc().claims().next().unwrap().released_ms;
    world.upsert_claim(versioned("10", Some(1)), Source::News);
    world.upsert_claim(versioned("9", None), Source::News);
    assert_eq!(released(&world), Some(1));
    world.upsert_claim(versioned("9", None), Source::List);
    assert_eq!(released(&world), None);
}

#[test]
fn admission() {
    let live = |block: &str, pool: &str| Claim { pool: Some(pool.parse().unwrap()), ..claim(block, "a", None) };
    let block = live("10.244.9.0/24", "10.244.0.0/16");
    let gone = Claim { released_ms: Some(1), ..live("10.250.0.0/24", "10.250.0.0/16") };
    let adopted = claim("10.77.0.0/24", "a", None);
    let rules = |plan: &ClusterPlan, claims: &[&Claim]| -> Vec<(String, &'static str)> {
        admit(plan, claims.iter().copied()).into_iter().map(|finding| (finding.field, finding.rule)).collect()
    };
    assert!(rules(&plan(&["10.244.0.0/16"]), &[&block, &gone, &adopted]).is_empty());
    assert!(rules(&plan(&["10.244.0.0/14"]), &[&block]).is_empty());
    assert_eq!(rules(&plan(&["10.244.0.0/21"]), &[&block]), [("podCIDRs[0]".to_owned(), "pod-cidr-in-use")]);
    assert_eq!(
        rules(&plan(&["fd00::/64", "10.245.0.0/16"]), &[&block]),
        [("podCIDRs[1]".to_owned(), "pod-cidr-in-use")]
    );
    assert_eq!(rules(&plan(&["fd00::/64"]), &[&block]), [("podCIDRs".to_owned(), "pod-cidr-in-use")]);
    let after = |old: &str, new: &str| -> Vec<&'static str> {
        let mut alloc = Allocator::default();
        [&block, &gone, &adopted].into_iter().for_each(|claim| _ = alloc.upsert(claim.clone()));
        alloc.reserve("10.252.3.0/24".parse().unwrap(), "b");
        let findings = admit_after(Some(&plan(&[old])), &plan(&[new]), &alloc, []);
        findings.into_iter().map(|finding| finding.rule).collect()
    };
    assert!(after("10.244.0.0/16", "10.244.0.0/14").is_empty());
    assert_eq!(after("10.244.0.0/16", "10.240.0.0/12"), ["pod-cidr-base"]);
    assert!(after("10.250.0.0/16", "10.248.0.0/14").is_empty(), "released");
    assert_eq!(after("10.252.0.0/16", "10.252.0.0/23"), ["pod-cidr-in-use"], "on its way to a node");
    let resized =
        validate(&ClusterSpec { pod_cidrs: vec!["10.244.0.0/16".into()], node_mask_v4: 23, ..ClusterSpec::default() })
            .unwrap();
    assert_eq!(rules(&resized, &[&block]), [("nodeMaskSize.ipv4".to_owned(), "node-mask-in-use")]);
    let other_size = live("10.244.128.0/20", "10.244.0.0/16");
    assert!(rules(&plan_of(&["10.244.0.0/16"], NodeCidrs::Adopt), &[&block, &other_size]).is_empty());
    let many: Vec<Claim> = (0..9).map(|index| live(&format!("10.244.{index}.0/24"), "10.244.0.0/16")).collect();
    let finding = admit(&plan(&["10.9.0.0/16"]), &many).remove(0);
    assert!(
        finding.reason.contains("10.244.0.0/24 (a)") && finding.reason.contains("and 6 more"),
        "{}",
        finding.reason
    );
}

#[test]
fn the_startup_taint_goes_once_the_agent_is_ready() {
    let mut world = world(&[V4], &[]);
    let mut waiting = node("n");
    waiting.conditions.startup_taint = Some(2);
    world.upsert_node(waiting.clone(), Source::News, 0);
    let removals = |verdict: &Verdict| {
        let of = |action: &&Action| matches!(action, Action::RemoveStartupTaint { index: 2, .. });
        verdict.actions.iter().filter(of).count()
    };
    world.upsert_state(StateView { ready: false, ..state("n", &[]) }, Source::News, 0);
    assert_eq!(removals(&world.decide("n", LATER)), 0, "the agent is not ready");
    world.upsert_state(StateView { ready: true, ..state("n", &[]) }, Source::News, 0);
    assert_eq!(removals(&world.decide("n", LATER)), 1);
    waiting.conditions.startup_taint = None;
    world.upsert_node(waiting, Source::News, 0);
    assert_eq!(removals(&world.decide("n", LATER)), 0);
}

#[test]
fn conditions_are_written_once_and_only_where_somebody_waits() {
    let mut world = world(&[V4], &[]);
    let kinds = |verdict: &Verdict| -> Vec<(ConditionKind, bool, &'static str, bool)> {
        let changes = verdict.actions.iter().filter_map(|action| match action {
            Action::SetConditions { changes, .. } => Some(changes),
            _ => None,
        });
        changes.flatten().map(|change| (change.kind, change.status, change.reason, change.warn)).collect()
    };
    let mut healthy = node("n");
    world.upsert_state(StateView { ready: true, ..state("n", &[]) }, Source::News, 0);
    world.upsert_node(healthy.clone(), Source::News, 0);
    assert!(kinds(&world.decide("n", LATER)).is_empty());
    healthy.conditions.network_unavailable = Some((true, "NodeInitialization".into()));
    world.upsert_node(healthy.clone(), Source::News, 0);
    let fine = (ConditionKind::NetworkUnavailable, false, "OverlaneIsUp", false);
    assert_eq!(kinds(&world.decide("n", LATER)), [fine]);
    for index in 0..4 {
        world.upsert_claim(claim(&format!("10.244.{index}.0/24"), "a", None), Source::News);
    }
    let full = (ConditionKind::NetworkUnavailable, true, "NoBlockAvailable", true);
    assert_eq!(kinds(&world.decide("n", LATER)), [full]);
    healthy.conditions.network_unavailable = Some((true, "NoBlockAvailable".into()));
    world.upsert_node(healthy, Source::News, 0);
    assert!(world.decide("n", LATER).actions.is_empty());
}
