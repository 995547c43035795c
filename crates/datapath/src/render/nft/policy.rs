//! Network policy's part of the packet filter: the chains that look up who is who, and one chain a class.
//!
//! Only first packets of flows get here: answers, and errors about flows that passed, go before. A pod's address leads to its
//! class; one that is not there is of a pod about which nothing is known yet, and nothing passes.

use std::fmt::Write as _;

use overlane_core::family::Family;
use overlane_core::policy::{ClassId, Direction};

use super::{Chain, digit, protocol};
use crate::nflog::SNAP_LENGTH;
use crate::owned::NFLOG_GROUP;
use crate::render::element::Set;
use crate::render::policy::{ALLOW, AUDIT, CUT_SECONDS, DENY, PolicySet, Pool, VERDICTS, Way, class_chain};

/// Where pods' first packets are judged, and what is done with what was found.
pub(super) const IN: &str = "policy_in";
/// The same of what pods send.
pub(super) const OUT: &str = "policy_out";

fn named(set: PolicySet) -> Set {
    Set::Policy(set)
}

/// The chains, but for those of classes.
pub(super) fn chains(logs_denied: bool) -> Vec<Chain> {
    vec![
        entrance(IN, Direction::Ingress),
        entrance(OUT, Direction::Egress),
        who("policy_from", "saddr"),
        who("policy_to", "daddr"),
        Chain { name: Way::HALF, hook: None, rules: preface() },
        verdict(logs_denied),
    ]
}

fn entrance(name: &'static str, direction: Direction) -> Chain {
    let end = if direction == Direction::Ingress { "daddr" } else { "saddr" };
    let mut rules: Vec<String> = Family::ALL
        .into_iter()
        .map(|family| {
            let (ip, set) = (protocol(family), named(PolicySet::Pod(direction, family)));
            format!("{ip} {end} vmap @{set} comment \"policy: the pod's class\"")
        })
        .collect();
    rules.push("counter name unpoliced drop comment \"policy: absence denies\"".to_owned());
    Chain { name, hook: None, rules }
}

/// What comes before anybody is looked up. A segment that is not the first of its connection opens no flow: one that was cut
/// would begin again with the other side's next.
fn preface() -> Vec<String> {
    let own = |family| {
        let (ip, set) = (protocol(family), named(PolicySet::Own(family)));
        format!("{ip} saddr . {ip} daddr @{set} accept comment \"policy: a pod reaches itself\"")
    };
    let mut rules: Vec<String> = Family::ALL.into_iter().map(own).collect();
    rules.extend(Family::ALL.into_iter().flat_map(cut));
    rules.push(
        "tcp flags & (fin | syn | rst | ack) != syn counter name midstream drop comment \"policy: no flow begins in its middle\""
            .to_owned(),
    );
    rules
}

/// Flows that were cut, in both directions, as long as anybody sends.
fn cut(family: Family) -> [String; 2] {
    let (ip, set) = (protocol(family), named(PolicySet::Cut(family)));
    [("saddr", "sport", "daddr", "dport"), ("daddr", "dport", "saddr", "sport")].map(
        |(from, from_port, to, to_port)| {
            let flow = format!("{ip} {from} . meta l4proto . th {from_port} . {ip} {to} . th {to_port}");
            let again = format!("update @{set} {{ {flow} timeout {CUT_SECONDS}s }}");
            let which = "meta l4proto { udp, udplite, sctp }";
            format!("{which} {flow} @{set} {again} counter name denied drop comment \"policy: flows that were cut\"")
        },
    )
}

/// Looks up the number of the other side.
fn who(name: &'static str, end: &str) -> Chain {
    let mut rules = preface();
    rules.push("meta priority set none".to_owned());
    for family in Family::ALL {
        let ip = protocol(family);
        // The later one counts.
        for set in [PolicySet::Span(family), PolicySet::Host(family)].map(named) {
            rules.push(format!("meta priority set {ip} {end} map @{set} comment \"policy: who is at the other side\""));
        }
    }
    Chain { name, hook: None, rules }
}

/// What was found becomes a verdict.
fn verdict(logs_denied: bool) -> Chain {
    let code = |code: u32| format!("{:x}:{:x}", code >> 16, code & 0xffff);
    let log = |verdict| {
        let (code, rate) = (code(verdict), "limit rate 20/second burst 40 packets");
        format!("meta priority {code} {rate} log group {NFLOG_GROUP} snaplen {SNAP_LENGTH} comment \"policy: the log\"")
    };
    let mut rules = vec![format!("meta priority {} return comment \"policy: allowed\"", code(ALLOW))];
    rules.extend(logs_denied.then(|| log(DENY)));
    rules.push(log(AUDIT));
    rules.extend([
        format!("meta priority {} counter name denied drop comment \"policy: denied\"", code(DENY)),
        format!("meta priority {} counter name audited return comment \"policy: would be denied\"", code(AUDIT)),
        "counter name unpoliced drop comment \"policy: absence denies\"".to_owned(),
    ]);
    Chain { name: "policy_verdict", hook: None, rules }
}

/// The chain of a class.
fn class(id: ClassId) -> Vec<String> {
    let who = if id.direction == Direction::Ingress { "policy_from" } else { "policy_to" };
    // What one has found is no key of the next.
    let found = PolicySet::of_class(id).map(|set| match set {
        PolicySet::Rest(_) => format!("meta priority set meta priority map @{}", named(set)),
        _ => format!("meta priority set meta priority . meta l4proto . th dport map @{}", named(set)),
    });
    let mut rules = vec![format!("jump {who}")];
    rules.extend(found.clone());
    rules.push(format!("meta priority >= {VERDICTS} goto policy_verdict"));
    rules.push("meta priority set none".to_owned());
    rules.extend(found);
    rules.push("goto policy_verdict".to_owned());
    rules
}

/// The chains of classes, as text.
pub(super) fn classes(text: &mut String, pool: Pool) {
    for id in pool.classes() {
        let _ = writeln!(text, "\n\tchain {} {{", class_chain(id));
        for rule in class(id) {
            let _ = writeln!(text, "\t\t{rule}");
        }
        text.push_str("\t}\n");
    }
}

/// In `forward`: what pods send.
pub(super) fn sent(from_pods: &str) -> Vec<String> {
    let mut rules = vec![format!("{from_pods} jump {OUT} comment \"policy: what pods send\"")];
    rules.extend(Family::ALL.map(|family| {
        let (ip, digit) = (protocol(family), digit(family));
        format!(
            "{ip} saddr @delegated{digit} jump {OUT} comment \"policy: what pods behind other plugins' links send\""
        )
    }));
    rules
}

/// In `forward`: what reaches pods behind other plugins' links.
pub(super) fn reaching_delegated() -> Vec<String> {
    let rule = |family| {
        let (ip, digit) = (protocol(family), digit(family));
        format!(
            "{ip} daddr @delegated{digit} jump {IN} comment \"policy: what reaches pods behind other plugins' links\""
        )
    };
    Family::ALL.map(rule).into()
}

/// Puts the priority back, where policy left a number in it.
pub(super) const AFTER: &str = "meta priority set none comment \"policy: its numbers end here\"";
