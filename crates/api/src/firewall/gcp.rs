//! Firewall rules of a VPC network: `gcloud compute firewall-rules list --format=json`.
//!
//! Source: Google's documentation, "VPC firewall rules", and `firewalls` of the Compute API. Rules are asked by priority,
//! the lowest number first; of one priority those that deny come first. What no rule decides is denied inbound, and allowed
//! outbound. A source tag or account means the own addresses of instances that have it: of nodes, never of pods.

use std::collections::BTreeSet;

use overlane_core::family::Family;
use overlane_core::firewall::{Action, Chain, Direction, Firewall, Label, RangeSet, Span, all_ports, protocol};

use super::cursor::At;
use super::terms::{Addresses, Draft, Service, network, ports};
use super::{FirewallError, Format, List, Rules, Told};

/// The priority of the rules that every network has.
const IMPLIED: i64 = 65_535;
/// A rule's where it has none.
const DEFAULT: i64 = 1_000;
/// Keys that say whom a rule is for or from.
const ENDS: [&str; 6] =
    ["sourceRanges", "destinationRanges", "sourceTags", "targetTags", "sourceServiceAccounts", "targetServiceAccounts"];

struct Read {
    name: String,
    place: String,
    priority: i64,
    direction: Direction,
    action: Action,
    sources: Addresses,
    destinations: Addresses,
    services: Vec<Service>,
    /// Whether it is not known if nodes are among its targets.
    opaque: bool,
    unknown: Vec<String>,
}

/// Reads rules.
pub(super) fn read(top: &At<'_>, told: &Told) -> Result<Rules, FirewallError> {
    let items = match top.get("items") {
        Some(items) => items.items()?,
        None if top.is_list() => top.items()?,
        None => return Err(FirewallError::Other { format: Format::Gcp, expected: "a list of firewall rules" }),
    };
    let network = the_network(&items, told)?;
    let owner = network.clone().map_or_else(|| "the network".to_owned(), |name| format!("network {name}"));
    let mut list = List { owner: owner.clone(), name: network.clone(), ..List::default() };
    let mut read = Vec::new();
    for at in &items {
        if of_network(at)? == network.as_deref() {
            read.extend(rule(at, told)?);
        }
    }
    // Stable, so that rules of a priority stay as they came, those that deny first.
    read.sort_by_key(|rule| (rule.priority, rule.action == Action::Allow));
    list.used = read.iter().map(|rule| (rule.direction, rule.priority)).collect();
    let mut rules = Rules { format: Format::Gcp, firewall: Firewall::default(), lists: vec![list], notes: notes(told) };
    for direction in Direction::ALL {
        add(&mut rules.firewall, direction, &read, &owner);
    }
    Ok(rules)
}

fn notes(told: &Told) -> Vec<String> {
    let mut notes = vec!["firewall policies of organisation, folder and network are not in these rules".to_owned()];
    if told.bare {
        let text = "Google Cloud drops packets from and to pods' addresses, whatever the rules say, unless nodes may \
                    forward (--can-ip-forward) and routes of the network lead to them";
        notes.push(text.to_owned());
    }
    notes
}

fn of_network<'a>(at: &At<'a>) -> Result<Option<&'a str>, FirewallError> {
    Ok(at.text_of("network")?.and_then(|url| url.rsplit('/').next()))
}

/// The network whose rules count.
fn the_network(items: &[At<'_>], told: &Told) -> Result<Option<String>, FirewallError> {
    let mut names = BTreeSet::new();
    for at in items {
        names.insert(of_network(at)?);
    }
    let known = || names.iter().map(|name| name.unwrap_or("one without name")).collect::<Vec<_>>().join(", ");
    match &told.network {
        Some(name) if names.contains(&Some(name.as_str())) || names.is_empty() => Ok(Some(name.clone())),
        Some(name) => Err(FirewallError::Absent { what: "network", name: name.clone(), known: known() }),
        None if names.len() > 1 => Err(FirewallError::Networks { known: known() }),
        None => Ok(names.into_iter().next().flatten().map(str::to_owned)),
    }
}

fn add(firewall: &mut Firewall, direction: Direction, read: &[Read], owner: &str) {
    let mut chain = Chain::default();
    for rule in read.iter().filter(|rule| rule.direction == direction) {
        let label = firewall.label(Label {
            name: rule.name.clone(),
            priority: Some(rule.priority),
            place: rule.place.clone(),
            owner: owner.to_owned(),
            unknown: (!rule.unknown.is_empty()).then(|| rule.unknown.join("; ")),
        });
        let draft = Draft {
            label,
            action: rule.action,
            sources: &rule.sources,
            destinations: &rule.destinations,
            services: &rule.services,
            opaque: rule.opaque,
        };
        draft.add_to(&mut chain);
    }
    let (name, action) = match direction {
        Direction::Inbound => ("the implied deny ingress rule", Action::Deny),
        Direction::Outbound => ("the implied allow egress rule", Action::Allow),
    };
    let label = Label { name: name.to_owned(), priority: Some(IMPLIED), owner: owner.to_owned(), ..Label::default() };
    chain.policy = Some((action, firewall.label(label)));
    let chain = firewall.chain(chain);
    firewall.enter(direction, chain);
}

/// A rule, if it is one for nodes.
fn rule(at: &At<'_>, told: &Told) -> Result<Option<Read>, FirewallError> {
    if at.get("disabled").map(|disabled| disabled.boolean()).transpose()?.unwrap_or(false) {
        return Ok(None);
    }
    let mut unknown = Vec::new();
    let Some(certain) = targets(at, told, &mut unknown)? else { return Ok(None) };
    let direction = match at.get("direction") {
        None => Direction::Inbound,
        Some(direction) => match direction.text()? {
            "INGRESS" => Direction::Inbound,
            "EGRESS" => Direction::Outbound,
            _ => return Err(direction.wrong("neither INGRESS nor EGRESS")),
        },
    };
    let (action, services) = services(at, &mut unknown)?;
    let strange = at.strange_key(&["source", "destination", "target"], &ENDS);
    let sources = match direction {
        Direction::Inbound => sources(at, told, &mut unknown)?,
        Direction::Outbound => ranges(at, "sourceRanges")?.unwrap_or_else(Addresses::all),
    };
    let destinations = match (ranges(at, "destinationRanges")?, direction) {
        (Some(ranges), _) => ranges,
        (None, Direction::Inbound) => Addresses::all(),
        (None, Direction::Outbound) => anybody(&mut unknown),
    };
    unknown.extend(strange.map(|key| format!("what `{key}` means")));
    Ok(Some(Read {
        name: at.need("name")?.text()?.to_owned(),
        place: at.place(),
        priority: priority(at)?,
        direction,
        action,
        sources,
        destinations,
        services,
        opaque: !certain || strange.is_some(),
        unknown,
    }))
}

fn priority(at: &At<'_>) -> Result<i64, FirewallError> {
    let Some(given) = at.get("priority") else { return Ok(DEFAULT) };
    match given.integer()? {
        priority @ 0..=IMPLIED => Ok(priority),
        _ => Err(given.wrong("no priority: those are 0 to 65535")),
    }
}

fn ranges(at: &At<'_>, key: &str) -> Result<Option<Addresses>, FirewallError> {
    let list = at.list(key)?;
    let mut cidrs = Vec::new();
    for range in &list {
        cidrs.push(network(range.text()?).ok_or_else(|| range.wrong("no network"))?);
    }
    Ok((!list.is_empty()).then(|| Addresses::of(&cidrs)))
}

/// Whom an inbound rule lets in or keeps out: ranges, tags and accounts together.
fn sources(at: &At<'_>, told: &Told, unknown: &mut Vec<String>) -> Result<Addresses, FirewallError> {
    let ranges = ranges(at, "sourceRanges")?;
    let mut named = None;
    let kinds =
        [("sourceTags", &told.tags, "--tag"), ("sourceServiceAccounts", &told.service_accounts, "--service-account")];
    for (key, known, flag) in kinds {
        let Some(nodes) = among(at, key, known.as_ref())? else { continue };
        let addresses = match nodes {
            Some(true) => Addresses::of(&told.nodes),
            Some(false) => Addresses::default(),
            None => {
                unknown.push(format!("whether nodes are among its {key}: say it with {flag}"));
                Addresses::of(&told.nodes).doubtful()
            }
        };
        named = Some(named.map_or_else(|| addresses.clone(), |other: Addresses| other.or(&addresses)));
    }
    Ok(match (ranges, named) {
        (None, None) => anybody(unknown),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(one), Some(other)) => one.or(&other),
    })
}

/// Whom a rule means that names nobody: everybody of IPv4, by the API; of IPv6 it does not say.
fn anybody(unknown: &mut Vec<String>) -> Addresses {
    unknown.push("whether a rule without ranges means IPv6".to_owned());
    Addresses::all_of(Family::V4).or(&Addresses::all_of(Family::V6).doubtful())
}

/// Whether a rule is surely for nodes; `None` where it is for others.
fn targets(at: &At<'_>, told: &Told, unknown: &mut Vec<String>) -> Result<Option<bool>, FirewallError> {
    let kinds =
        [("targetTags", &told.tags, "--tag"), ("targetServiceAccounts", &told.service_accounts, "--service-account")];
    let mut found = Vec::new();
    for (key, known, flag) in kinds {
        if let Some(nodes) = among(at, key, known.as_ref())? {
            if nodes.is_none() {
                unknown.push(format!("whether nodes are among its {key}: say it with {flag}"));
            }
            found.push(nodes);
        }
    }
    let any = found.contains(&Some(true)) || found.is_empty();
    Ok(if any { Some(true) } else { found.contains(&None).then_some(false) })
}

/// Whether nodes have one of the names under a key: not asked, yes or no, or not known.
fn among(at: &At<'_>, key: &str, known: Option<&BTreeSet<String>>) -> Result<Option<Option<bool>>, FirewallError> {
    let list = at.list(key)?;
    let mut names = BTreeSet::new();
    for name in &list {
        names.insert(name.text()?);
    }
    let nodes = known.map(|known| known.iter().any(|name| names.contains(name.as_str())));
    Ok((!list.is_empty()).then_some(nodes))
}

fn services(at: &At<'_>, unknown: &mut Vec<String>) -> Result<(Action, Vec<Service>), FirewallError> {
    let (allowed, denied) = (at.list("allowed")?, at.list("denied")?);
    let (action, entries) = match (allowed.is_empty(), denied.is_empty()) {
        (false, true) => (Action::Allow, allowed),
        (true, false) => (Action::Deny, denied),
        _ => return Err(FirewallError::Missing { at: at.place(), key: "allowed` or `denied".to_owned() }),
    };
    let services = entries.iter().map(|entry| service(entry, unknown)).collect::<Result<_, _>>()?;
    Ok((action, services))
}

fn service(at: &At<'_>, unknown: &mut Vec<String>) -> Result<Service, FirewallError> {
    let named = at.need("IPProtocol")?;
    let number = match named.text()?.to_ascii_lowercase().as_str() {
        "all" => return Ok(Service::default()),
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "icmp" => protocol::ICMP,
        "esp" => 50,
        "ah" => 51,
        "ipip" => 4,
        "sctp" => protocol::SCTP,
        text => text.parse().map_err(|_| named.wrong("no protocol of Google Cloud, nor a number"))?,
    };
    let mut all = Vec::new();
    for range in at.list("ports")? {
        let set = ports(range.text()?).ok_or_else(|| range.wrong("no port or range of ports"))?;
        all.extend_from_slice(set.ranges());
    }
    let all: RangeSet = all.into_iter().collect();
    let one = Span::sure(RangeSet::one(number.into()));
    if all.is_empty() {
        return Ok(Service::protocols(one));
    }
    if protocol::WITH_PORTS.contains(&number) {
        return Ok(Service::with_ports(one, &all_ports(), &all));
    }
    unknown.push("what ports mean for a protocol that has none".to_owned());
    Ok(Service::protocols(Span::perhaps(one.thinkable().clone())))
}
