//! What was tried, and how often.

use std::collections::{BTreeMap, BTreeSet};

use overlane_policy_reference::Packet;
use overlane_policy_reference::generate::FEATURES;
use overlane_suites::volley::{Carries, Shot};

use crate::ground::WAYS;

/// What a cluster with an API server in it cannot have: one namespace is never without object, and each has the label
/// of its name.
const NOT_IN_A_LAB: [&str; 2] = ["namespace-absent", "namespace-without-labels"];
const KINDS: [&str; 8] = [
    "tcp over IPv4",
    "tcp over IPv6",
    "udp over IPv4",
    "udp over IPv6",
    "sctp over IPv4",
    "sctp over IPv6",
    "echo over IPv4",
    "echo over IPv6",
];

/// Counts of probes.
#[derive(Debug)]
pub struct Tally {
    /// All of them.
    pub probes: u64,
    /// Those that were to pass.
    pub allowed: u64,
    features: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Tally {
        let names = FEATURES.iter().flat_map(|names| names.iter().copied()).chain(WAYS).chain(KINDS);
        let features = names.filter(|name| !NOT_IN_A_LAB.contains(name)).map(|name| (name, 0)).collect();
        Tally { probes: 0, allowed: 0, features }
    }

    /// Counts one.
    pub fn count(
        &mut self,
        packet: &Packet,
        shot: &Shot,
        way: &'static str,
        about: &BTreeSet<&'static str>,
        allowed: bool,
    ) {
        self.probes += 1;
        self.allowed += u64::from(allowed);
        let kind = match shot.carries {
            Carries::Tcp(_) => 0,
            Carries::Udp(_) => 2,
            Carries::Sctp(_) => 4,
            Carries::Echo => 6,
        };
        let kind = KINDS[kind + usize::from(!packet.to.is_ipv4())];
        for name in about.iter().copied().chain([way, kind]) {
            if let Some(count) = self.features.get_mut(name) {
                *count += 1;
            }
        }
    }

    /// Ends the test unless at least three of ten passed, and each feature came a hundred times in 10,000 probes, or in
    /// as many fewer as there are fewer probes.
    pub fn must_be_broad(&self) {
        let least = self.probes / 100;
        let rare: Vec<_> = self.features.iter().filter(|(_, count)| **count < least).collect();
        println!("{} probes, {} to pass, by feature: {:#?}", self.probes, self.allowed, self.features);
        assert!(self.allowed * 10 >= self.probes * 3, "only {} of {} were to pass", self.allowed, self.probes);
        assert!(rare.is_empty(), "in fewer than {least} of {} probes: {rare:?}", self.probes);
    }
}
