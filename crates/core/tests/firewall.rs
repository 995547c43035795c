//! Must catch: a packet whose cell says something else than rules asked one by one, at a boundary above all; a packet in
//! no cell, or in two; an unknown that is taken for a pass; work that grows without bound.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use overlane_core::cidr::Cidr;
use overlane_core::cluster::Routing;
use overlane_core::family::Family;
use overlane_core::firewall::{
    Action, Chain, Dimension, Direction, Firewall, Flow, Label, Needs, Purpose, RangeSet, Rule, Span, Traffic, Verdict,
    cells, judge, needs,
};
use proptest::prelude::*;

/// The first address of the flow's networks, 10.0.0.0.
const BASE: u128 = 0x0a00_0000;

/// A packet, and what it has of each dimension that the test's rules ask for.
type Packet = BTreeMap<Dimension, u128>;

/// A range of a dimension that surely matches, and one around it that perhaps does.
type Ask = (Dimension, (u128, u128), (u128, u128));

/// A rule as the naive evaluator wants it: ranges that surely and that perhaps match.
#[derive(Clone, Debug)]
struct Plain {
    asks: Vec<Ask>,
    opaque: bool,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    No,
    Perhaps,
    Yes,
}

impl Plain {
    fn matches(&self, packet: &Packet) -> Match {
        let most = if self.opaque { Match::Perhaps } else { Match::Yes };
        self.asks.iter().fold(most, |so_far, (dimension, sure, perhaps)| {
            let value = packet[dimension];
            let within = |range: &(u128, u128)| range.0 <= value && value <= range.1;
            so_far.min(if within(sure) {
                Match::Yes
            } else if within(perhaps) {
                Match::Perhaps
            } else {
                Match::No
            })
        })
    }
}

/// What a list of rules says in one world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Nothing,
    Pass,
    Drop,
}

/// Everything that the rules from `at` on can say, in every world of what is not known.
fn naive(chains: &[Vec<Plain>], chain: usize, at: usize, packet: &Packet) -> BTreeSet<Said> {
    let Some(rule) = chains[chain].get(at) else { return [Said::Nothing].into() };
    let rest = || naive(chains, chain, at + 1, packet);
    let taken = || match rule.action {
        Action::Allow => [Said::Pass].into(),
        Action::Deny => [Said::Drop].into(),
        Action::Return => [Said::Nothing].into(),
        Action::Goto(to) => naive(chains, to, 0, packet),
        Action::Jump(to) => {
            let mut said = naive(chains, to, 0, packet);
            if said.remove(&Said::Nothing) {
                said.extend(rest());
            }
            said
        }
    };
    match rule.matches(packet) {
        Match::Yes => taken(),
        Match::No => rest(),
        Match::Perhaps => taken().union(&rest()).copied().collect(),
    }
}

/// Chains 0 and 1 are the path, both with a policy; 2 and 3 are led to.
fn verdict(chains: &[Vec<Plain>], policies: [Said; 2], packet: &Packet) -> Verdict {
    let said = [0, 1].map(|chain| {
        let said = naive(chains, chain, 0, packet);
        said.into_iter().map(|one| if one == Said::Nothing { policies[chain] } else { one }).collect::<BTreeSet<_>>()
    });
    if said.iter().any(|said| *said == [Said::Drop].into()) {
        Verdict::Blocked
    } else if said.iter().all(|said| *said == [Said::Pass].into()) {
        Verdict::Passes
    } else {
        Verdict::CannotTell
    }
}

fn range(base: u128, width: u128) -> impl Strategy<Value = (u128, u128)> {
    (0..width, 0..width / 2).prop_map(move |(first, more)| (base + first, base + first + more))
}

fn ask() -> impl Strategy<Value = Ask> {
    let of = |dimension, base, width| {
        (range(base, width), range(base, width), any::<bool>()).prop_map(move |(sure, more, certain)| {
            let wide = (sure.0.min(more.0), sure.1.max(more.1));
            (dimension, sure, if certain { sure } else { wide })
        })
    };
    prop_oneof![
        of(Dimension::Source, BASE, 16),
        of(Dimension::Destination, BASE, 16),
        of(Dimension::Protocol, 0, 20),
        of(Dimension::Detail, 0, 8),
        of(Dimension::SourcePort, 0, 8),
        of(Dimension::State, 0, 3),
    ]
}

/// Rules of a chain; those of the path may lead to 2 and 3, those of 2 to 3.
fn rules(chain: usize) -> impl Strategy<Value = Vec<Plain>> {
    let action = prop_oneof![
        4 => Just(Action::Allow),
        4 => Just(Action::Deny),
        1 => Just(Action::Return),
        2 => ((chain.max(1) + 1).min(4)..5).prop_map(|to| if to < 4 { Action::Jump(to) } else { Action::Return }),
        1 => ((chain.max(1) + 1).min(4)..5).prop_map(|to| if to < 4 { Action::Goto(to) } else { Action::Allow }),
    ];
    let rule =
        (prop::collection::vec(ask(), 0..4), prop::bool::weighted(0.15), action).prop_map(|(asks, opaque, action)| {
            // One ask a dimension, and a goto that is sure: of one that is not, nothing exact is promised.
            let asks: BTreeMap<_, _> =
                asks.into_iter().map(|(dimension, sure, wide)| (dimension, (sure, wide))).collect();
            let leads = matches!(action, Action::Goto(_));
            let asks = asks.into_iter().map(|(of, (sure, wide))| (of, sure, if leads { sure } else { wide })).collect();
            Plain { asks, opaque: opaque && !leads, action }
        });
    prop::collection::vec(rule, 0..7)
}

fn built(chains: &[Vec<Plain>], policies: [Said; 2]) -> Firewall {
    let mut firewall = Firewall::default();
    for (index, rules) in chains.iter().enumerate() {
        let mut chain = Chain::default();
        for plain in rules {
            let label = firewall.label(Label::default());
            let span = |(first, last), (from, to)| {
                Span::sure(RangeSet::range(first, last)).or(&Span::perhaps(RangeSet::range(from, to)))
            };
            let spans = plain.asks.iter().map(|(of, sure, wide)| (*of, span(*sure, *wide))).collect();
            let rule = Rule { label, family: Family::V4, spans, opaque: plain.opaque, action: plain.action };
            chain.rules.push(rule);
        }
        if let Some(policy) = policies.get(index) {
            let label = firewall.label(Label::default());
            chain.policy = Some((if *policy == Said::Drop { Action::Deny } else { Action::Allow }, label));
        }
        let id = firewall.chain(chain);
        if index < policies.len() {
            firewall.enter(Direction::Inbound, id);
        }
    }
    firewall
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn flow() -> Flow {
    Flow {
        purpose: Purpose::NodeToNode,
        direction: Direction::Inbound,
        source: cidr("10.0.0.0/28"),
        destination: cidr("10.0.0.0/28"),
        traffic: Traffic::All,
        routing: Routing::Native,
    }
}

/// A packet that there is: ports of what has ports, a type of ICMP, neither of others.
fn packet([source, destination, protocol, detail, port, state]: [u128; 6]) -> Packet {
    let protocol = if protocol == 58 { 6 } else { protocol };
    let ports = [6, 17, 33, 132, 136].contains(&protocol);
    let detail = if ports || protocol == 1 { detail } else { 0 };
    [
        (Dimension::Source, BASE + source),
        (Dimension::Destination, BASE + destination),
        (Dimension::Protocol, protocol),
        (Dimension::Detail, detail),
        (Dimension::SourcePort, if ports { port } else { 0 }),
        (Dimension::State, state),
        (Dimension::LinkIn, 1),
        (Dimension::LinkOut, 0),
    ]
    .into()
}

/// Packets at the edges of what rules ask for, as far as they are in the flow.
fn edges(chains: &[Vec<Plain>], like: &Packet) -> Vec<Packet> {
    let mut found = Vec::new();
    for (dimension, sure, wide) in chains.iter().flatten().flat_map(|rule| &rule.asks) {
        for (first, last) in [sure, wide] {
            for value in [first.saturating_sub(1), *first, *last, last + 1] {
                let mut packet = like.clone();
                packet.insert(*dimension, value);
                let exists =
                    flow().spaces().iter().any(|space| packet.iter().all(|(of, value)| space.of(*of).contains(*value)));
                if exists {
                    found.push(packet);
                }
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn cells_say_what_rules_asked_one_by_one_say(
        chains in (rules(0), rules(1), rules(2), rules(3)).prop_map(|(a, b, c, d)| vec![a, b, c, d]),
        drops in any::<[bool; 2]>(),
        packets in prop::collection::vec([0..16_u128, 0..16_u128, 0..24_u128, 0..12_u128, 0..12_u128, 0..3_u128], 1..40),
    ) {
        let policies = drops.map(|drop| if drop { Said::Drop } else { Said::Pass });
        let firewall = built(&chains, policies);
        let cells = cells(&firewall, &flow());
        let mut packets: Vec<Packet> = packets.into_iter().map(packet).collect();
        packets.extend(edges(&chains, &packets[0].clone()));
        for packet in &packets {
            let mine: Vec<_> = cells.iter().filter(|cell| packet.iter().all(|(of, value)| cell.space.of(*of).contains(*value))).collect();
            prop_assert_eq!(mine.len(), 1, "{:?}", packet);
            prop_assert_eq!(mine[0].verdict, verdict(&chains, policies, packet), "{:?}", packet);
        }
        let worst = cells.iter().map(|cell| cell.verdict).max().unwrap();
        prop_assert_eq!(judge(&firewall, &[flow()])[0].verdict, worst);
    }

    /// What cannot be followed exactly is never a pass.
    #[test]
    fn a_goto_that_may_be_taken_is_no_pass_that_it_is_not(
        before in rules(2), inner in rules(3), last in rules(4), drop in any::<bool>(),
        raw in [0..16_u128, 0..16_u128, 0..24_u128, 0..12_u128, 0..12_u128, 0..3_u128],
    ) {
        let lead = Plain { asks: vec![], opaque: true, action: Action::Goto(2) };
        let mut base = before;
        base.insert(base.len() / 2, lead);
        let chains = vec![base, vec![], inner, last];
        let policies = [if drop { Said::Drop } else { Said::Pass }, Said::Pass];
        let packet = packet(raw);
        let exact = verdict(&chains, policies, &packet);
        let cells = cells(&built(&chains, policies), &flow());
        let mine = cells.iter().find(|cell| packet.iter().all(|(of, value)| cell.space.of(*of).contains(*value))).unwrap();
        prop_assert!(mine.verdict == exact || mine.verdict == Verdict::CannotTell, "{:?}, exactly {:?}", mine.verdict, exact);
    }
}

/// Rules in a chain of their own behind a policy, at which a thousand of them ask for two ends, a protocol and a port.
fn many(count: u128, end: impl Fn(u128) -> [(Dimension, (u128, u128)); 2]) -> Firewall {
    let rules = (0..count).map(|at| {
        let asks = end(at).into_iter().map(|(of, range)| (of, range, range)).collect();
        Plain { asks, opaque: false, action: if at % 2 == 0 { Action::Deny } else { Action::Allow } }
    });
    built(&[rules.collect(), vec![], vec![], vec![]], [Said::Drop, Said::Pass])
}

#[test]
fn a_thousand_rules_are_judged_in_no_time_or_given_up() {
    let wide = Flow { source: cidr("10.0.0.0/8"), destination: cidr("10.0.0.0/8"), ..flow() };
    let crossing = many(1_000, |at| {
        [(Dimension::Source, (BASE + at * 7, BASE + at * 7 + 900)), (Dimension::Detail, (at * 31, at * 31 + 4_000))]
    });
    let apart = many(1_000, |at| {
        [(Dimension::Source, (BASE + at * 9, BASE + at * 9)), (Dimension::Destination, (BASE, BASE + 0xff_ffff))]
    });
    for (name, firewall) in [("crossing", crossing), ("apart", apart)] {
        let began = Instant::now();
        let judged = judge(&firewall, &[wide]);
        println!("{name}: {:?}, {:?}", judged[0].verdict, began.elapsed());
        assert_ne!(judged[0].verdict, Verdict::Passes);
        // An optimised build was measured to take an eighth of it.
        assert!(began.elapsed().as_secs() < 30, "{name}");
    }
}

#[test]
fn chains_that_lead_into_each_other_end() {
    for action in [Action::Jump, Action::Goto] {
        let to = |chain| Plain { asks: vec![], opaque: false, action: action(chain) };
        let firewall = built(&[vec![to(2)], vec![], vec![to(3)], vec![to(2)]], [Said::Pass, Said::Pass]);
        assert_eq!(judge(&firewall, &[flow()])[0].verdict, Verdict::CannotTell);
    }
    // A chain that is not there.
    let nowhere = Plain { asks: vec![], opaque: false, action: Action::Jump(77) };
    let firewall = built(&[vec![nowhere], vec![], vec![], vec![]], [Said::Pass, Said::Pass]);
    assert_eq!(judge(&firewall, &[flow()])[0].verdict, Verdict::CannotTell);
}

/// What is asked for: a row a line.
fn rows(routing: Routing, on_node: bool, nodes: &[&str], pods: &[&str]) -> Vec<String> {
    let parsed = |list: &[&str]| list.iter().map(|one| cidr(one)).collect::<Vec<_>>();
    let (nodes, pods) = (parsed(nodes), parsed(pods));
    let of = Needs { nodes: &nodes, pods: &pods, routing, vxlan_port: 8472, on_node };
    let inbound = needs(&of).into_iter().filter(|flow| flow.direction == Direction::Inbound);
    inbound.map(|flow| format!("{} {} {} {}", flow.purpose, flow.source, flow.destination, flow.traffic)).collect()
}

#[test]
fn what_has_to_pass() {
    let (node, pod) = ("10.0.0.0/24", "10.244.0.0/16");
    let of = |routing, on_node| rows(routing, on_node, &[node], &[pod]);
    let nodes = format!("node-to-node {node} {node} all");
    let tunnel = format!("tunnel {node} {node} udp 8472");
    let (to_pods, pods) = (format!("node-to-pod {node} {pod} all"), format!("pod-to-pod {pod} {pod} all"));
    let answers = format!("pod-answers-node {pod} {node} all");
    let list = |of: &[&String]| of.iter().map(|one| (*one).clone()).collect::<Vec<_>>();
    assert_eq!(of(Routing::Native, false), list(&[&nodes, &to_pods, &pods]));
    assert_eq!(of(Routing::Auto, false), list(&[&nodes, &tunnel, &to_pods, &pods]));
    assert_eq!(of(Routing::Vxlan, false), list(&[&nodes, &tunnel]));
    assert_eq!(of(Routing::Native, true), list(&[&nodes, &to_pods, &answers, &pods]));
    assert_eq!(of(Routing::Vxlan, true), list(&[&nodes, &tunnel, &to_pods, &answers, &pods]));
    // Every pair of networks of one family, twice given counts once.
    let dual =
        rows(Routing::Native, false, &[node, "10.0.1.0/24", node, "fd00:10::/64"], &[pod, "fd12:3456:789a::/64"]);
    let count = |purpose: &str| dual.iter().filter(|row| row.starts_with(purpose)).count();
    assert_eq!((count("node-to-node"), count("node-to-pod"), count("pod-to-pod")), (5, 3, 2));
}

/// What follows in the chain that surely was entered counts where only the inner jump is not known.
#[test]
fn jumps_within_jumps_that_may_be_taken() {
    let rule = |opaque, action| Plain { asks: vec![], opaque, action };
    let base = vec![rule(true, Action::Jump(2))];
    let outer = vec![rule(true, Action::Jump(3)), rule(false, Action::Deny)];
    let inner = vec![rule(false, Action::Allow)];
    let chains = [base, vec![], outer, inner];
    let firewall = built(&chains, [Said::Pass, Said::Pass]);
    assert_eq!(judge(&firewall, &[flow()])[0].verdict, Verdict::CannotTell);
    let firewall = built(&chains, [Said::Drop, Said::Pass]);
    assert_eq!(judge(&firewall, &[flow()])[0].verdict, Verdict::CannotTell);
}
