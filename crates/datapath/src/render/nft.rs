//! The packet filter's structure as nft text: sets, counters, chains, rules. Snapshots of it are in `tests/`.
//!
//! What a packet between pods of two nodes costs once its flow is established, on each node: one or two comparisons,
//! one set look-up (it is who it says it is), one test of its flow's state. All else is behind those.

mod egress;
mod gateway;
mod policy;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::plan::{EgressPlan, GatewayPlan, MasqPlan, NodePlan};

use super::element::{Element, Set, digit};
use super::policy::Pool;
use crate::owned::{NFT_PRIORITY_OFFSET, NFT_TABLE, POD_LINK_PREFIX};

/// The counters, one for each reason to drop a packet.
pub const COUNTERS: [&str; 10] =
    ["audited", "denied", "forged", "invalid", "midstream", "no_way_in", "no_way_out", "noise", "spoofed", "unpoliced"];
/// How the rule begins by which what reaches pods meets network policy.
pub const POLICY_HOOK: &str = "jump policy_in";
/// The chain that tells what was written: it is not part of what it tells about.
pub const MARKER_CHAIN: &str = "about";

/// Names of what a table holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// Chains.
    pub chains: BTreeSet<String>,
    /// Sets and maps.
    pub sets: BTreeSet<String>,
    /// Those of them that nft calls maps.
    pub maps: BTreeSet<String>,
    /// Counters.
    pub counters: BTreeSet<String>,
}

/// Sets, counters and chains of a node's packet filter, without any element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    sets: BTreeSet<Set>,
    chains: Vec<Chain>,
    policy: Option<PolicyPart>,
}

/// What there is of network policy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PolicyPart {
    pool: Pool,
    /// Packets meet it.
    hooked: bool,
    /// Chains that lead to it, in place of those of these names.
    hooks: Vec<Chain>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    name: &'static str,
    /// `type ... hook ... priority ...; policy accept;` of a chain that the kernel calls.
    hook: Option<String>,
    rules: Vec<String>,
}

impl Structure {
    /// The structure for a plan. `primary` is the link with the node's address of each family.
    #[must_use]
    pub fn of(plan: &NodePlan, primary: &BTreeMap<Family, String>) -> Self {
        let masks: BTreeSet<_> = plan
            .peers
            .iter()
            .filter(|peer| peer.mac.is_some())
            .map(|peer| (peer.block.family(), peer.block.prefix_len()))
            .collect();
        let mut sets: BTreeSet<Set> =
            masks.iter().map(|(family, prefix_len)| Set::Peer(*family, *prefix_len)).collect();
        for family in Family::ALL {
            sets.extend([Set::Pod(family), Set::Node(family), Set::NodeAnyMac(family), Set::PeerAnyMac(family)]);
            sets.extend([Set::Port(family), Set::PortAny(family), Set::Hairpin(family), Set::Delegated(family)]);
            if let Some(egress) = &plan.egress {
                sets.insert(Set::Inside(family));
                sets.extend(egress.gateways.iter().flat_map(|gateways| gateway::sets(gateways, family)));
            }
            if plan.masquerade.is_some() {
                sets.extend([Set::MasqueradeSource(family), Set::MasqueradeExcept(family)]);
            }
        }
        if let Some(tunnel) = &plan.tunnel {
            sets.extend(tunnel.peers.iter().map(|peer| Set::Tunnel(peer.block.family(), peer.block.prefix_len())));
            sets.extend(Family::ALL.into_iter().flat_map(|family| {
                [Set::Vtep(family), Set::VtepAnyMac(family), Set::NodeName(family), Set::Outer(family)]
            }));
        }
        let mut chains = vec![
            pre(plan),
            from_pod(),
            from_underlay(&masks, primary),
            forward(plan, false),
            to_pod(&plan.pod_space, false),
        ];
        let policy = plan.policed.then(|| PolicyPart {
            pool: Pool::default(),
            hooked: false,
            hooks: vec![forward(plan, true), to_pod(&plan.pod_space, true)],
        });
        let gateways = plan.egress.as_ref().and_then(|egress| egress.gateways.as_ref());
        if let Some(tunnel) = &plan.tunnel {
            chains.extend(tunnel::chains(tunnel, plan));
        }
        chains.extend(plan.egress.iter().flat_map(|egress| egress::chains(egress, &plan.service_space, primary)));
        chains.extend(gateways.iter().flat_map(|gateways| gateway::chains(gateways, plan, primary)));
        if policy.is_some() {
            chains.extend(policy::chains(plan.logs_denied));
        }
        chains.extend([
            entrance("port_in", hook("nat", "prerouting", "dstnat"), from_outside(&plan.service_space, gateways)),
            // nft has no name for this priority in this hook.
            entrance(
                "port_own",
                Some(format!("type nat hook output priority {}; policy accept;", -100 + NFT_PRIORITY_OFFSET)),
                from_here(&plan.service_space),
            ),
            ports(),
            port_back(&plan.node_ips),
            port_guard(),
        ]);
        if let Some(masquerade) = &plan.masquerade {
            chains.extend([post(gateways.is_some()), masq(masquerade, plan.egress.as_ref(), primary)]);
        }
        Self { sets, chains, policy }
    }

    /// The same with so many chains for classes of network policy, which packets meet or not; nothing else where there is no
    /// network policy.
    #[must_use]
    pub fn with_policy(mut self, pool: Pool, hooked: bool) -> Self {
        if let Some(policy) = &mut self.policy {
            (policy.pool, policy.hooked) = (pool, hooked);
        }
        self
    }

    /// Whether there is network policy; and whether packets meet it.
    #[must_use]
    pub fn policed(&self) -> Option<bool> {
        self.policy.as_ref().map(|policy| policy.hooked)
    }

    /// The sets.
    pub fn sets(&self) -> impl Iterator<Item = Set> {
        self.sets.iter().copied().chain(self.policy.iter().flat_map(|policy| policy.pool.sets()))
    }

    /// The chains, but for those of classes.
    fn chains(&self) -> impl Iterator<Item = &Chain> {
        let hooks = || self.policy.iter().filter(|policy| policy.hooked).flat_map(|policy| &policy.hooks);
        self.chains.iter().map(move |chain| hooks().find(|hook| hook.name == chain.name).unwrap_or(chain))
    }

    /// Whether it has a set; those of network policy apart.
    #[must_use]
    pub fn has(&self, set: Set) -> bool {
        self.sets.contains(&set)
    }

    /// A short hash of the structure: equal for equal structures of one version of this program.
    #[must_use]
    pub fn revision(&self) -> String {
        hash(&self.body([], &Objects::default(), &BTreeMap::new()))
    }

    /// Everything, for a node that has no such table.
    #[must_use]
    pub fn create<'a>(&self, elements: impl IntoIterator<Item = &'a Element>) -> String {
        self.body(elements, &Objects::default(), &BTreeMap::new())
    }

    /// Turns a table with `existing` objects into this one, in one transaction. Sets that stay keep their elements,
    /// counters their values; only new sets get theirs from `elements`.
    #[must_use]
    pub fn update<'a>(&self, elements: impl IntoIterator<Item = &'a Element>, existing: &Objects) -> String {
        let mut text = String::new();
        for chain in &existing.chains {
            let _ = writeln!(text, "flush chain inet {NFT_TABLE} {chain}");
        }
        let names: BTreeSet<String> = self.sets().map(|set| set.to_string()).collect();
        // Before chains: a map may lead to one.
        for set in existing.sets.difference(&names) {
            // What nft calls a map is deleted by that word.
            let kind = if existing.maps.contains(set) { "map" } else { "set" };
            let _ = writeln!(text, "delete {kind} inet {NFT_TABLE} {set}");
        }
        let pool = self.policy.as_ref().map(|policy| policy.pool).unwrap_or_default();
        let classes = pool.classes().map(super::policy::class_chain);
        let fixed = self.chains().map(|chain| chain.name).chain([MARKER_CHAIN]).map(str::to_owned);
        let ours: BTreeSet<String> = fixed.chain(classes).collect();
        for chain in existing.chains.difference(&ours) {
            let _ = writeln!(text, "delete chain inet {NFT_TABLE} {chain}");
        }
        for counter in existing.counters.iter().filter(|name| !COUNTERS.contains(&name.as_str())) {
            let _ = writeln!(text, "delete counter inet {NFT_TABLE} {counter}");
        }
        text + &self.body(elements, existing, &BTreeMap::new())
    }

    /// Replaces whatever table there is, in one transaction; `counters` are the values to go on from.
    #[must_use]
    pub fn replace<'a>(
        &self,
        elements: impl IntoIterator<Item = &'a Element>,
        counters: &BTreeMap<String, (u64, u64)>,
    ) -> String {
        let body = self.body(elements, &Objects::default(), counters);
        format!("table inet {NFT_TABLE} {{}}\ndelete table inet {NFT_TABLE}\n{body}")
    }

    fn body<'a>(
        &self,
        elements: impl IntoIterator<Item = &'a Element>,
        existing: &Objects,
        counters: &BTreeMap<String, (u64, u64)>,
    ) -> String {
        let mut by_set: BTreeMap<Set, Vec<&Element>> = BTreeMap::new();
        for element in elements {
            by_set.entry(element.set()).or_default().push(element);
        }
        let mut text = format!("table inet {NFT_TABLE} {{\n");
        for counter in COUNTERS {
            let (packets, bytes) = counters.get(counter).copied().unwrap_or_default();
            let _ = match (packets, bytes) {
                (0, 0) => writeln!(text, "\tcounter {counter} {{ }}"),
                _ => writeln!(text, "\tcounter {counter} {{ packets {packets} bytes {bytes} }}"),
            };
        }
        for set in self.sets() {
            let name = set.to_string();
            let kind = if set.is_map() { "map" } else { "set" };
            let _ = write!(text, "\n\t{kind} {name} {{\n\t\t{}\n", set.kind().replace("; ", "\n\t\t"));
            if let Some(elements) = by_set.get(&set).filter(|_| !existing.sets.contains(&name)) {
                // One by one: with thousands of nodes this is the longest text of all.
                text.push_str("\t\telements = { ");
                for (index, element) in elements.iter().enumerate() {
                    let comma = if index > 0 { ",\n\t\t\t     " } else { "" };
                    let _ = write!(text, "{comma}{}", element.text());
                }
                text.push_str(" }\n");
            }
            text.push_str("\t}\n");
        }
        for chain in self.chains() {
            let _ = write!(text, "\n\tchain {} {{\n", chain.name);
            for line in chain.hook.iter().chain(&chain.rules) {
                let _ = writeln!(text, "\t\t{line}");
            }
            text.push_str("\t}\n");
        }
        policy::classes(&mut text, self.policy.as_ref().map(|policy| policy.pool).unwrap_or_default());
        text.push_str("}\n");
        text
    }
}

/// Replaces the marker: what was written, and how nft lists it.
#[must_use]
pub fn mark(revision: &str, listing: &str) -> String {
    format!(
        "add chain inet {NFT_TABLE} {MARKER_CHAIN}\nflush chain inet {NFT_TABLE} {MARKER_CHAIN}\n\
         add rule inet {NFT_TABLE} {MARKER_CHAIN} return comment \"{}\"\n",
        marker(revision, listing)
    )
}

/// The marker's words.
#[must_use]
pub fn marker(revision: &str, listing: &str) -> String {
    format!("overlane structure {revision} listed {listing}")
}

/// FNV-1a, 64 bits, as hexadecimal digits: tells apart what nobody forges.
#[must_use]
pub fn hash(text: &str) -> String {
    let hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

fn hook(kind: &str, hook: &str, priority: &str) -> Option<String> {
    let offset = NFT_PRIORITY_OFFSET.unsigned_abs();
    Some(format!("type {kind} hook {hook} priority {priority} - {offset}; policy accept;"))
}

fn from_any_pod() -> String {
    format!("iifname \"{POD_LINK_PREFIX}*\"")
}

fn protocol(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// `ip saddr 10.244.0.0/16`, one for each family that has any.
fn source_in(cidrs: &BTreeSet<Cidr>) -> impl Iterator<Item = String> + '_ {
    Family::ALL.into_iter().filter_map(|family| {
        let list: Vec<_> = cidrs.iter().filter(|c| c.family() == family).map(Cidr::to_string).collect();
        let list = match list.as_slice() {
            [] => return None,
            [one] => one.clone(),
            many => format!("{{ {} }}", many.join(", ")),
        };
        Some(format!("{} saddr {list}", protocol(family)))
    })
}

fn pre(plan: &NodePlan) -> Chain {
    let mut rules = vec![format!("{} goto from_pod comment \"source check: pods of this node\"", from_any_pod())];
    if let Some(tunnel) = &plan.tunnel {
        rules.extend(tunnel::before(tunnel, plan));
    }
    rules.extend(
        source_in(&plan.pod_space)
            .map(|source| format!("{source} goto from_underlay comment \"source check: pods of other nodes\"")),
    );
    Chain { name: "pre", hook: hook("filter", "prerouting", "raw"), rules }
}

fn from_pod() -> Chain {
    let rules = vec![
        "iifname . ether saddr . ip saddr @pod4 return comment \"source check: link, ethernet and IP address are the pod's\"".to_owned(),
        "iifname . ether saddr . ip6 saddr @pod6 return comment \"source check: link, ethernet and IP address are the pod's\"".to_owned(),
        "ip6 saddr { ::, fe80::/10 } counter name noise drop comment \"source check: link-local talk of IPv6 has no listener\"".to_owned(),
        "counter name spoofed drop comment \"source check: absence denies\"".to_owned(),
    ];
    Chain { name: "from_pod", hook: None, rules }
}

fn from_underlay(masks: &BTreeSet<(Family, u8)>, primary: &BTreeMap<Family, String>) -> Chain {
    let mut rules = Vec::new();
    for (family, prefix_len) in masks {
        rules.push(format!(
            "{} . ether saddr @{} return comment \"source check: a peer's block and ethernet address\"",
            block_of_source(*family, *prefix_len),
            Set::Peer(*family, *prefix_len)
        ));
    }
    for family in Family::ALL {
        rules.push(format!(
            "{} saddr @peer{}_any return comment \"source check: a peer's block\"",
            protocol(family),
            digit(family)
        ));
    }
    // Another plugin's links have names that nobody here knows. What comes from the segment is none of them.
    let segment = match primary.values().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().as_slice() {
        [] => String::new(),
        [one] => format!("iifname != \"{one}\" "),
        many => format!("iifname != {{ {} }} ", many.iter().map(|l| format!("\"{l}\"")).collect::<Vec<_>>().join(", ")),
    };
    for family in Family::ALL {
        rules.push(format!(
            "{segment}{} saddr @delegated{} return comment \"source check: pods behind other plugins' links\"",
            protocol(family),
            digit(family)
        ));
    }
    rules.push("iif \"lo\" return comment \"source check: the node itself\"".to_owned());
    rules.push("counter name forged drop comment \"source check: no peer has this address there\"".to_owned());
    Chain { name: "from_underlay", hook: None, rules }
}

/// The first address of the block, of this length, that a packet's source is in.
fn block_of_source(family: Family, prefix_len: u8) -> String {
    match mask(family, prefix_len) {
        Some(mask) => format!("{} saddr & {mask}", protocol(family)),
        None => format!("{} saddr", protocol(family)),
    }
}

/// The mask of a length as an address; `None` if it covers everything.
fn mask(family: Family, prefix_len: u8) -> Option<String> {
    if prefix_len >= family.bits() {
        return None;
    }
    Some(match family {
        Family::V4 => std::net::Ipv4Addr::from(!(u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0))).to_string(),
        Family::V6 => std::net::Ipv6Addr::from(!(u128::MAX.checked_shr(prefix_len.into()).unwrap_or(0))).to_string(),
    })
}

/// The first rule decides for nearly every packet. It also takes foreign flows through this node, which end there as
/// they came: to return is not to accept for others.
fn forward(plan: &NodePlan, policed: bool) -> Chain {
    let mut rules = vec!["ct state established,related return comment \"no way in: answers\"".to_owned()];
    if policed {
        rules.extend(policy::sent(&from_any_pod()));
        rules.extend(policy::reaching_delegated());
        rules.push(policy::AFTER.to_owned());
    }
    rules.extend(plan.tunnel.iter().flat_map(tunnel::no_forgery));
    rules.push(format!("oifname \"{POD_LINK_PREFIX}*\" goto to_pod comment \"no way in: what reaches pods\""));
    rules.extend(plan.egress.iter().flat_map(|_| egress::from_pods("leaves")));
    // Not into the tunnel again: a slot may be at neither of two nodes that think it is at the other.
    let gateways = plan.egress.as_ref().and_then(|egress| egress.gateways.as_ref());
    rules.extend(gateways.and_then(gateway::forwarded));
    rules.extend(plan.tunnel.as_ref().map(|_| tunnel::forwarded()));
    Chain { name: "forward", hook: hook("filter", "forward", "filter"), rules }
}

fn to_pod(space: &BTreeSet<Cidr>, policed: bool) -> Chain {
    let mut rules = Vec::new();
    if policed {
        rules.push(format!("{POLICY_HOOK} comment \"policy: what reaches pods\""));
        rules.push(policy::AFTER.to_owned());
    }
    rules.extend([
        "ct status dnat return comment \"no way in: translated on this node\"".to_owned(),
        "ct state invalid counter name invalid drop comment \"no way in: belongs to no flow\"".to_owned(),
    ]);
    rules.extend(source_in(space).map(|source| format!("{source} return comment \"no way in: pods\"")));
    for family in Family::ALL {
        let (ip, digit) = (protocol(family), digit(family));
        rules.push(format!(
            "{ip} saddr . ether saddr @node{digit}_mac return comment \"no way in: nodes of this cluster, by ethernet address\""
        ));
        rules.push(format!("{ip} saddr @node{digit}_any return comment \"no way in: nodes of this cluster\""));
    }
    rules.push("counter name no_way_in drop comment \"no way in: all else\"".to_owned());
    Chain { name: "to_pod", hook: None, rules }
}

/// Packets for the node itself: some of its ports lead to pods.
fn entrance(name: &'static str, hook: Option<String>, mut rules: Vec<String>) -> Chain {
    rules.push("fib daddr type local goto ports comment \"host ports: packets for this node\"".to_owned());
    Chain { name, hook, rules }
}

/// Addresses that are the node's and are not the node: those of Services (a proxy in IPVS mode has them all), and of
/// what serves nodes on the link-local range (a DNS cache).
fn not_the_nodes(services: &BTreeSet<Cidr>) -> Vec<String> {
    let mut rules = vec!["ip daddr 169.254.0.0/16 return comment \"host ports: not link-local services\"".to_owned()];
    for family in Family::ALL {
        let list: Vec<_> = services.iter().filter(|c| c.family() == family).map(Cidr::to_string).collect();
        if !list.is_empty() {
            let ip = protocol(family);
            rules.push(format!("{ip} daddr {{ {} }} return comment \"host ports: not Services\"", list.join(", ")));
        }
    }
    rules
}

/// A frame from the segment may bear the loopback's address: the kernel drops it as a martian, but only where it is
/// routed, and by then it would be a pod's.
fn from_outside(services: &BTreeSet<Cidr>, gateways: Option<&GatewayPlan>) -> Vec<String> {
    let mut rules = vec!["ip daddr 127.0.0.0/8 return comment \"host ports: no way in by the loopback\"".to_owned()];
    rules.extend(gateways.into_iter().flat_map(gateway::no_ports));
    rules.extend(not_the_nodes(services));
    rules
}

/// What the node sends to its own loopback of IPv6 cannot reach a pod: the kernel lets nothing leave with `::1` as its
/// source. A program of the node that listens there is to be reached.
fn from_here(services: &BTreeSet<Cidr>) -> Vec<String> {
    let mut rules = vec!["ip6 daddr ::1 return comment \"host ports: no way in by the loopback of IPv6\"".to_owned()];
    rules.extend(not_the_nodes(services));
    rules
}

/// A port that is bound to an address goes before the same port of all.
fn ports() -> Chain {
    let mut rules = Vec::new();
    for family in Family::ALL {
        let (ip, digit) = (protocol(family), digit(family));
        rules.push(format!(
            "dnat {ip} to {ip} daddr . meta l4proto . th dport map @port{digit} comment \"host ports: of one address\""
        ));
        rules.push(format!(
            "meta nfproto ipv{digit} dnat {ip} to meta l4proto . th dport map @port{digit}_any comment \"host ports: of all addresses\""
        ));
    }
    Chain { name: "ports", hook: None, rules }
}

/// What leads to a pod must come from somewhere that it can answer to: not from 127.0.0.1, nor from itself.
fn port_back(node_ips: &BTreeMap<Family, std::net::IpAddr>) -> Chain {
    let mut rules = Vec::new();
    for (family, address) in node_ips {
        let (ip, digit) = (protocol(*family), digit(*family));
        if *family == Family::V4 {
            rules.push(format!(
                "oifname \"{POD_LINK_PREFIX}*\" ip saddr 127.0.0.0/8 snat ip to {address} comment \"host ports: by 127.0.0.1\""
            ));
        }
        rules.push(format!(
            "{ip} saddr . {ip} daddr @hairpin{digit} snat {ip} to {address} comment \"host ports: a pod calls itself\""
        ));
    }
    Chain { name: "port_back", hook: hook("nat", "postrouting", "srcnat"), rules }
}

/// Links of pods with host ports let 127.0.0.0/8 through, for answers: nothing else may come that way.
fn port_guard() -> Chain {
    let rules = vec![format!(
        "{} ip daddr 127.0.0.0/8 ct state != {{ established, related }} counter name spoofed drop comment \"host ports: no pod calls the node's loopback\"",
        from_any_pod()
    )];
    Chain { name: "port_guard", hook: hook("filter", "input", "filter"), rules }
}

fn post(gateways: bool) -> Chain {
    let mut rules = vec![
        format!("{} goto masq comment \"masquerade: from a pod's link\"", from_any_pod()),
        "ip saddr @masq_source4 goto masq comment \"masquerade: from this node's blocks\"".to_owned(),
        "ip6 saddr @masq_source6 goto masq comment \"masquerade: from this node's blocks\"".to_owned(),
    ];
    if gateways {
        rules.insert(0, gateway::unmasqueraded());
    }
    Chain { name: "post", hook: hook("nat", "postrouting", "srcnat"), rules }
}

fn masq(plan: &MasqPlan, egress: Option<&EgressPlan>, primary: &BTreeMap<Family, String>) -> Chain {
    let mut rules = vec![
        "ip daddr @masq_except4 return comment \"masquerade: these see the pod's address\"".to_owned(),
        "ip6 daddr @masq_except6 return comment \"masquerade: these see the pod's address\"".to_owned(),
    ];
    rules.extend(egress.and_then(egress::unmasqueraded));
    for (family, address) in &plan.node_ips {
        if let Some(link) = primary.get(family) {
            let ip = protocol(*family);
            let nfproto = format!("meta nfproto ipv{}", digit(*family));
            rules.push(format!(
                "{nfproto} oifname \"{link}\" snat {ip} to {address} fully-random comment \"masquerade: as the node\""
            ));
        }
    }
    rules.push("masquerade fully-random comment \"masquerade: as the leaving link\"".to_owned());
    Chain { name: "masq", hook: None, rules }
}
