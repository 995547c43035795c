//! Network security groups: `az network nsg rule list`, `az network nsg show`, `az network nsg list`, and the same as the
//! REST API has it, with everything under `properties`.
//!
//! Source: Azure's documentation, "Network security groups" and "Virtual network service tags". Rules are asked by
//! priority, the lowest number first; the first that matches decides. Groups of subnet and interface both have to let a
//! packet through.

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::firewall::{Action, Chain, Direction, Firewall, Label, RangeSet, Span, all_ports, protocol};

use super::cursor::At;
use super::terms::{Addresses, Draft, Service, network, ports};
use super::{FirewallError, Format, List, Rules, Told};

/// From here on priorities are those of default rules.
const DEFAULTS: i64 = 65_000;
/// Where probes of Azure's load balancers come from.
const LOAD_BALANCER: &str = "168.63.129.16";
/// Networks that the tag `Internet` does not cover, whatever the VNet is.
const PRIVATE: [&str; 6] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7"];

/// Keys that say between whom a rule is.
const ENDS: [&str; 10] = [
    "sourceAddressPrefix",
    "sourceAddressPrefixes",
    "sourceApplicationSecurityGroups",
    "sourcePortRange",
    "sourcePortRanges",
    "destinationAddressPrefix",
    "destinationAddressPrefixes",
    "destinationApplicationSecurityGroups",
    "destinationPortRange",
    "destinationPortRanges",
];
/// What of default rules is not known.
const UNTOLD: &str = "which addresses its service tags cover";

/// A rule, with what its words mean.
struct Read {
    name: String,
    place: String,
    priority: i64,
    direction: Direction,
    action: Action,
    sources: Addresses,
    destinations: Addresses,
    services: Vec<Service>,
    /// Whether it asks for something that is not known.
    opaque: bool,
    unknown: Vec<String>,
}

/// Reads groups.
pub(super) fn read(top: &At<'_>, told: &Told) -> Result<Rules, FirewallError> {
    let mut rules =
        Rules { format: Format::Azure, firewall: Firewall::default(), lists: Vec::new(), notes: Vec::new() };
    for group in groups(top, told)? {
        let name = group.name()?;
        let owner = name.clone().unwrap_or_else(|| "the security group".to_owned());
        let mut list = List { owner, name, resource_group: resource_group(&group.at)?, ..List::default() };
        let read = group.rules()?.iter().map(|at| rule(at, told)).collect::<Result<Vec<_>, _>>()?;
        for direction in Direction::ALL {
            add(&mut rules, &mut list, direction, &read, told)?;
        }
        rules.lists.push(list);
    }
    let outside: Vec<String> = told.pods.iter().filter(|pods| !in_vnet(told, pods)).map(ToString::to_string).collect();
    if told.bare && !outside.is_empty() {
        rules.notes.push(format!(
            "VirtualNetwork is taken not to cover {}: say --route-cidr if a route table of the nodes' subnet leads there",
            outside.join(", ")
        ));
    }
    Ok(rules)
}

/// A group, or rules without their group.
struct Group<'a> {
    at: At<'a>,
    bare: bool,
}

impl<'a> Group<'a> {
    /// Its name, which rules without their group have in their identifiers.
    fn name(&self) -> Result<Option<String>, FirewallError> {
        if !self.bare {
            return Ok(self.at.text_of("name")?.map(str::to_owned));
        }
        let Some(first) = self.at.items()?.into_iter().next() else { return Ok(None) };
        let mut parts = first.text_of("id")?.unwrap_or_default().split('/');
        let name = parts.find(|part| part.eq_ignore_ascii_case("networkSecurityGroups")).and_then(|_| parts.next());
        Ok(name.map(str::to_owned))
    }

    fn rules(&self) -> Result<Vec<At<'a>>, FirewallError> {
        if self.bare {
            return self.at.items();
        }
        let inner = self.at.get("properties").unwrap_or_else(|| self.at.clone());
        let mut rules = inner.need("securityRules")?.items()?;
        rules.extend(inner.list("defaultSecurityRules")?);
        Ok(rules)
    }
}

fn groups<'a>(top: &At<'a>, told: &Told) -> Result<Vec<Group<'a>>, FirewallError> {
    let is_group = |at: &At<'_>| {
        at.get("securityRules").is_some()
            || at.get("properties").is_some_and(|inner| inner.get("securityRules").is_some())
    };
    if is_group(top) {
        return Ok(vec![Group { at: top.clone(), bare: false }]);
    }
    if !top.is_list() {
        let expected = "a list of rules, or a group with `securityRules`";
        return Err(FirewallError::Other { format: Format::Azure, expected });
    }
    let items = top.items()?;
    if !items.iter().any(is_group) {
        return Ok(vec![Group { at: top.clone(), bare: true }]);
    }
    let mut named = Vec::new();
    for at in items {
        named.push((at.need("name")?.text()?, at));
    }
    let known: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    if let Some(name) = told.groups.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(FirewallError::Absent { what: "security group", name: name.clone(), known: known.join(", ") });
    }
    let wanted = |name: &str| told.groups.is_empty() || told.groups.iter().any(|one| one == name);
    Ok(named.into_iter().filter(|(name, _)| wanted(name)).map(|(_, at)| Group { at, bare: false }).collect())
}

/// The resource group of a group, or of the rules of one.
fn resource_group(at: &At<'_>) -> Result<Option<String>, FirewallError> {
    let item = if at.is_list() { at.items()?.into_iter().next() } else { Some(at.clone()) };
    match item {
        Some(item) => Ok(item.text_of("resourceGroup")?.map(str::to_owned)),
        None => Ok(None),
    }
}

/// Makes a chain of a direction's rules.
fn add(
    rules: &mut Rules,
    list: &mut List,
    direction: Direction,
    read: &[Read],
    told: &Told,
) -> Result<(), FirewallError> {
    let assumed = defaults(direction, told);
    let mut mine: Vec<&Read> = read.iter().filter(|rule| rule.direction == direction).collect();
    if mine.iter().all(|rule| rule.priority < DEFAULTS) {
        mine.extend(&assumed);
    }
    mine.sort_by_key(|rule| rule.priority);
    let mut chain = Chain::default();
    for rule in mine {
        if !list.used.insert((direction, rule.priority)) {
            let problem = "a priority that another rule of this direction has; give the rules of one group";
            return Err(FirewallError::Value { at: rule.place.clone(), given: rule.priority.to_string(), problem });
        }
        let label = rules.firewall.label(Label {
            name: rule.name.clone(),
            priority: Some(rule.priority),
            place: rule.place.clone(),
            owner: list.owner.clone(),
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
    let end = Label { name: "the end of the rules".to_owned(), owner: list.owner.clone(), ..Label::default() };
    chain.policy = Some((Action::Deny, rules.firewall.label(end)));
    let chain = rules.firewall.chain(chain);
    rules.firewall.enter(direction, chain);
    Ok(())
}

/// The rules that every group has.
fn defaults(direction: Direction, told: &Told) -> [Read; 3] {
    let (vnet, all) = (tag("VirtualNetwork", Action::Allow, told), Addresses::all());
    let of = |name: &str, priority, action, sources: &Addresses, destinations: &Addresses| Read {
        name: name.to_owned(),
        place: String::new(),
        priority,
        direction,
        action,
        sources: sources.clone(),
        destinations: destinations.clone(),
        services: vec![Service::default()],
        opaque: false,
        unknown: if destinations == &Addresses::all() { Vec::new() } else { vec![UNTOLD.to_owned()] },
    };
    let known = |name| tag(name, Action::Allow, told).unwrap_or_default();
    let vnet = vnet.unwrap_or_default();
    match direction {
        Direction::Inbound => [
            of("AllowVnetInBound", 65_000, Action::Allow, &vnet, &vnet),
            of("AllowAzureLoadBalancerInBound", 65_001, Action::Allow, &known("AzureLoadBalancer"), &all),
            of("DenyAllInBound", 65_500, Action::Deny, &all, &all),
        ],
        Direction::Outbound => [
            of("AllowVnetOutBound", 65_000, Action::Allow, &vnet, &vnet),
            of("AllowInternetOutBound", 65_001, Action::Allow, &all, &known("Internet")),
            of("DenyAllOutBound", 65_500, Action::Deny, &all, &all),
        ],
    }
}

fn rule(at: &At<'_>, told: &Told) -> Result<Read, FirewallError> {
    let inner = at.get("properties").unwrap_or_else(|| at.clone());
    let action =
        choice(&inner.need("access")?, [("Allow", Action::Allow), ("Deny", Action::Deny)], "neither Allow nor Deny")?;
    let directions = [("Inbound", Direction::Inbound), ("Outbound", Direction::Outbound)];
    let direction = choice(&inner.need("direction")?, directions, "neither Inbound nor Outbound")?;
    let priority = inner.need("priority")?;
    let number = priority.integer()?;
    if !(100..=65_535).contains(&number) {
        return Err(priority.wrong("no priority: those are 100 to 4096, and of default rules more"));
    }
    let mut unknown = Vec::new();
    let sources = end(&inner, "source", action, told, &mut unknown)?;
    let destinations = end(&inner, "destination", action, told, &mut unknown)?;
    let services = services(&inner, &mut unknown)?;
    let strange = inner.strange_key(&["source", "destination"], &ENDS);
    unknown.extend(strange.map(|key| format!("what `{key}` means")));
    Ok(Read {
        name: at.text_of("name")?.unwrap_or("a rule without name").to_owned(),
        place: at.place(),
        priority: number,
        direction,
        action,
        sources,
        destinations,
        services,
        opaque: strange.is_some(),
        unknown,
    })
}

fn choice<T: Copy>(at: &At<'_>, of: [(&str, T); 2], problem: &'static str) -> Result<T, FirewallError> {
    let text = at.text()?;
    of.into_iter().find_map(|(name, is)| name.eq_ignore_ascii_case(text).then_some(is)).ok_or_else(|| at.wrong(problem))
}

/// The texts of a property that is there once, or as a list.
fn either<'a>(at: &At<'a>, one: &str, many: &str) -> Result<Vec<At<'a>>, FirewallError> {
    let mut found = at.list(many)?;
    found.extend(at.get(one).filter(|text| text.value().as_str() != Some("")));
    Ok(found)
}

/// Who is at one end of a rule.
fn end(
    at: &At<'_>,
    side: &str,
    action: Action,
    told: &Told,
    unknown: &mut Vec<String>,
) -> Result<Addresses, FirewallError> {
    let prefixes = either(at, &format!("{side}AddressPrefix"), &format!("{side}AddressPrefixes"))?;
    let groups = at.list(&format!("{side}ApplicationSecurityGroups"))?;
    if prefixes.is_empty() && groups.is_empty() {
        return Err(FirewallError::Missing { at: at.place(), key: format!("{side}AddressPrefix") });
    }
    let mut all = Vec::new();
    for prefix in prefixes {
        all.push(addresses_of(&prefix, action, told, unknown)?);
    }
    for group in groups {
        all.push(application_group(&group, told, unknown)?);
    }
    Ok(Addresses::any_of(&all))
}

fn addresses_of(
    at: &At<'_>,
    action: Action,
    told: &Told,
    unknown: &mut Vec<String>,
) -> Result<Addresses, FirewallError> {
    let text = at.text()?.trim();
    if let Some(cidr) = network(text) {
        return Ok(Addresses::of([&cidr]));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*') || text.contains([':', '/']) {
        return Err(at.wrong("no address, network or service tag"));
    }
    let known = tag(text, action, told);
    if known.as_ref().is_none_or(|known| *known != Addresses::all() && !is_exact(known)) {
        unknown.push(format!("which addresses the service tag {text} covers"));
    }
    Ok(known.unwrap_or_else(Addresses::unknown))
}

fn is_exact(addresses: &Addresses) -> bool {
    Family::ALL.iter().all(|family| addresses.family(*family).certain() == addresses.family(*family).thinkable())
}

/// What a service tag covers, as far as it is one that is known.
fn tag(name: &str, action: Action, told: &Told) -> Option<Addresses> {
    let vnet: Vec<Cidr> = told.nodes.iter().chain(&told.vnet).copied().collect();
    match name.to_ascii_lowercase().as_str() {
        "*" | "any" => Some(Addresses::all()),
        // What else it covers, by routes or gateways, nobody said: it lets nothing else in, and may keep it out.
        "virtualnetwork" if action == Action::Allow => Some(Addresses::of(&vnet)),
        "virtualnetwork" => Some(Addresses::of(&vnet).or(&Addresses::unknown())),
        "azureloadbalancer" => network(LOAD_BALANCER).map(|cidr| Addresses::of([&cidr])),
        "internet" => {
            let private: Vec<Cidr> = PRIVATE.iter().filter_map(|text| network(text)).chain(vnet).collect();
            Some(Addresses::of(&private).beyond())
        }
        _ => None,
    }
}

fn in_vnet(told: &Told, cidr: &Cidr) -> bool {
    told.nodes.iter().chain(&told.vnet).any(|one| one.contains_cidr(cidr))
}

fn application_group(at: &At<'_>, told: &Told, unknown: &mut Vec<String>) -> Result<Addresses, FirewallError> {
    let id = at.need("id")?.text()?;
    let name = id.rsplit('/').next().unwrap_or(id);
    if let Some(members) = told.members.get(name) {
        return Ok(Addresses::of(members));
    }
    unknown.push(format!("who is in the application security group {name}"));
    Ok(Addresses::unknown())
}

/// Protocols and ports of a rule.
fn services(at: &At<'_>, unknown: &mut Vec<String>) -> Result<Vec<Service>, FirewallError> {
    let source = port_ranges(at, "sourcePortRange")?;
    let destination = port_ranges(at, "destinationPortRange")?;
    let every = source == all_ports() && destination == all_ports();
    let named = at.need("protocol")?;
    let one = |number: u8| Span::sure(RangeSet::one(number.into()));
    let text = named.text()?.to_ascii_lowercase();
    let span = match text.as_str() {
        "tcp" => return Ok(vec![Service::with_ports(one(protocol::TCP), &source, &destination)]),
        "udp" => return Ok(vec![Service::with_ports(one(protocol::UDP), &source, &destination)]),
        "*" | "any" if every => return Ok(vec![Service::default()]),
        "*" | "any" => Span::default(),
        "icmp" => {
            unknown.push("whether Icmp means ICMPv6".to_owned());
            one(protocol::ICMP).or(&Span::perhaps(RangeSet::one(protocol::ICMPV6.into())))
        }
        "esp" => one(50),
        "ah" => one(51),
        _ => return Err(named.wrong("no protocol of Azure: Tcp, Udp, Icmp, Esp, Ah or *")),
    };
    if every {
        return Ok(vec![Service::protocols(span)]);
    }
    unknown.push("what its ports mean for protocols other than TCP and UDP".to_owned());
    if span.is_empty() {
        return Ok(Service::any_with_ports(&source, &destination));
    }
    Ok(vec![Service::protocols(Span::perhaps(span.thinkable().clone()))])
}

fn port_ranges(at: &At<'_>, key: &str) -> Result<RangeSet, FirewallError> {
    let given = either(at, key, &format!("{key}s"))?;
    if given.is_empty() {
        return Err(FirewallError::Missing { at: at.place(), key: key.to_owned() });
    }
    let mut all = Vec::new();
    for range in given {
        let set = match range.text()?.trim() {
            "*" => all_ports(),
            text => ports(text).ok_or_else(|| range.wrong("no port or range of ports"))?,
        };
        all.extend_from_slice(set.ranges());
    }
    Ok(all.into_iter().collect())
}
