//! Security groups of EC2: `aws ec2 describe-security-groups` and `aws ec2 describe-security-group-rules`.
//!
//! Source: Amazon's documentation, "Security group rules" of the VPC guide and `SecurityGroupRule` of the API reference.
//! Rules allow, nothing denies, and the rules of all groups of an interface count together. A group that a rule names
//! means the addresses of that group's interfaces: of nodes, never of pods.

use std::collections::{BTreeMap, BTreeSet};

use overlane_core::firewall::{Action, Chain, Direction, Firewall, Label, RangeSet, Span, all_ports, icmp, protocol};

use super::cursor::At;
use super::terms::{Addresses, Draft, Service, network};
use super::{FirewallError, Format, List, Rules, Told};

/// Something that rules are for, of which they are read.
struct Group<'a> {
    id: String,
    name: Option<String>,
    /// Its rules, as `IpPermissions` has them or as rules of their own.
    rules: Vec<(Direction, At<'a>)>,
}

/// Who is at the far end of a rule, and under which words.
struct Far {
    addresses: Addresses,
    unknown: Option<String>,
}

/// Reads groups.
pub(super) fn read(top: &At<'_>, told: &Told) -> Result<Rules, FirewallError> {
    let groups = groups(top)?;
    let mine = chosen(&groups, told)?;
    let owner = mine.iter().map(|group| group.id.as_str()).collect::<Vec<_>>().join(", ");
    let list = List { owner: owner.clone(), name: mine.first().map(|group| group.id.clone()), ..List::default() };
    let mut rules =
        Rules { format: Format::Aws, firewall: Firewall::default(), lists: vec![list], notes: notes(&groups, told) };
    let members: BTreeSet<&str> =
        mine.iter().flat_map(|group| [Some(group.id.as_str()), group.name.as_deref()]).flatten().collect();
    for direction in Direction::ALL {
        let mut chain = Chain::default();
        for group in &mine {
            for (_, at) in group.rules.iter().filter(|(of, _)| *of == direction) {
                add(&mut rules.firewall, &mut chain, direction, at, (&members, told, &owner))?;
            }
        }
        let end = Label { name: "no rule that allows it".to_owned(), owner: owner.clone(), ..Label::default() };
        chain.policy = Some((Action::Deny, rules.firewall.label(end)));
        let chain = rules.firewall.chain(chain);
        rules.firewall.enter(direction, chain);
    }
    Ok(rules)
}

fn notes(groups: &[Group<'_>], told: &Told) -> Vec<String> {
    let mut notes = Vec::new();
    if told.groups.is_empty() && groups.len() > 1 {
        notes.push(format!(
            "nodes are taken to be in all {} groups of the file: name theirs with --group",
            groups.len()
        ));
    }
    if told.bare {
        let text = "AWS drops packets from and to pods' addresses, whatever the rules say, unless the source/destination \
                    check is off on every node's interface (aws ec2 modify-instance-attribute --no-source-dest-check)";
        notes.push(text.to_owned());
    }
    notes.push("network ACLs of the subnets are not in these rules".to_owned());
    notes
}

fn groups<'a>(top: &At<'a>) -> Result<Vec<Group<'a>>, FirewallError> {
    let items = match (top.get("SecurityGroups"), top.get("SecurityGroupRules")) {
        (Some(groups), _) => groups.items()?,
        (None, Some(rules)) => rules.items()?,
        (None, None) if top.is_list() => top.items()?,
        (None, None) => {
            let expected = "an object with `SecurityGroups` or `SecurityGroupRules`";
            return Err(FirewallError::Other { format: Format::Aws, expected });
        }
    };
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for item in items {
        let id = item.need("GroupId")?.text()?.to_owned();
        let name = item.text_of("GroupName")?.map(str::to_owned);
        let mut rules = Vec::new();
        if let Some(egress) = item.get("IsEgress") {
            rules.push((if egress.boolean()? { Direction::Outbound } else { Direction::Inbound }, item));
        } else {
            rules.extend(item.need("IpPermissions")?.items()?.into_iter().map(|rule| (Direction::Inbound, rule)));
            rules
                .extend(item.need("IpPermissionsEgress")?.items()?.into_iter().map(|rule| (Direction::Outbound, rule)));
        }
        match places.get(&id).and_then(|place| groups.get_mut(*place)) {
            Some(group) => group.rules.extend(rules),
            None => {
                places.insert(id.clone(), groups.len());
                groups.push(Group { id, name, rules });
            }
        }
    }
    Ok(groups)
}

/// The groups that nodes are in.
fn chosen<'a, 'b>(groups: &'b [Group<'a>], told: &Told) -> Result<Vec<&'b Group<'a>>, FirewallError> {
    let is = |group: &Group<'_>, name: &str| group.id == name || group.name.as_deref() == Some(name);
    if let Some(name) = told.groups.iter().find(|name| !groups.iter().any(|group| is(group, name))) {
        let known = groups.iter().map(|group| group.id.as_str()).collect::<Vec<_>>().join(", ");
        return Err(FirewallError::Absent { what: "security group", name: name.clone(), known });
    }
    let wanted = |group: &&Group<'_>| told.groups.is_empty() || told.groups.iter().any(|name| is(group, name));
    Ok(groups.iter().filter(wanted).collect())
}

/// What all rules are read with: names of the groups that nodes are in, what was told, the list's name.
type Around<'a> = (&'a BTreeSet<&'a str>, &'a Told, &'a str);

fn add(
    firewall: &mut Firewall,
    chain: &mut Chain,
    direction: Direction,
    at: &At<'_>,
    (members, told, owner): Around<'_>,
) -> Result<(), FirewallError> {
    let (service, doubt) = service(at)?;
    let name = at.text_of("SecurityGroupRuleId")?.map_or_else(|| at.place(), str::to_owned);
    for far in far_ends(at, members, told)? {
        let unknown: Vec<String> = [doubt.map(str::to_owned), far.unknown].into_iter().flatten().collect();
        let label = firewall.label(Label {
            name: name.clone(),
            priority: None,
            place: at.place(),
            owner: owner.to_owned(),
            unknown: (!unknown.is_empty()).then(|| unknown.join("; ")),
        });
        let all = Addresses::all();
        let (sources, destinations) = match direction {
            Direction::Inbound => (&far.addresses, &all),
            Direction::Outbound => (&all, &far.addresses),
        };
        let services = std::slice::from_ref(&service);
        Draft { label, action: Action::Allow, sources, destinations, services, opaque: false }.add_to(chain);
    }
    Ok(())
}

/// Everybody at the far end: one entry a network, a group or a prefix list.
fn far_ends(at: &At<'_>, members: &BTreeSet<&str>, told: &Told) -> Result<Vec<Far>, FirewallError> {
    let mut found = Vec::new();
    let mut cidrs: Vec<At<'_>> = [at.get("CidrIpv4"), at.get("CidrIpv6")].into_iter().flatten().collect();
    for (list, key) in [("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")] {
        for range in at.list(list)? {
            cidrs.push(range.need(key)?);
        }
    }
    for cidr in cidrs {
        let parsed = network(cidr.text()?).ok_or_else(|| cidr.wrong("no network"))?;
        found.push(Far { addresses: Addresses::of([&parsed]), unknown: None });
    }
    for pair in at.list("UserIdGroupPairs")?.into_iter().chain(at.get("ReferencedGroupInfo")) {
        let names = [pair.text_of("GroupId")?, pair.text_of("GroupName")?];
        let nodes = names.into_iter().flatten().any(|name| members.contains(name));
        found.push(Far {
            addresses: if nodes { Addresses::of(&told.nodes) } else { Addresses::default() },
            unknown: None,
        });
    }
    let mut lists = Vec::new();
    for list in at.list("PrefixListIds")? {
        lists.push(list.need("PrefixListId")?);
    }
    for id in lists.into_iter().chain(at.get("PrefixListId")) {
        let unknown = Some(format!("which networks are in the prefix list {}", id.text()?));
        found.push(Far { addresses: Addresses::unknown(), unknown });
    }
    Ok(found)
}

/// Protocol and ports of a rule, and what of them is not known.
fn service(at: &At<'_>) -> Result<(Service, Option<&'static str>), FirewallError> {
    let named = at.need("IpProtocol")?;
    let number = match named.text()? {
        "-1" => return Ok((Service::default(), None)),
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "icmp" => protocol::ICMP,
        "icmpv6" => protocol::ICMPV6,
        text => {
            text.parse().map_err(|_| named.wrong("no protocol: those are tcp, udp, icmp, icmpv6, a number, or -1"))?
        }
    };
    let (first, last) = (bound(at, "FromPort")?, bound(at, "ToPort")?);
    let mut service = Service::protocol(number);
    let details = match number {
        protocol::TCP | protocol::UDP => match (first, last) {
            (Some(first), Some(last)) if first <= last => RangeSet::range(first.into(), last.into()),
            (Some(_), Some(_)) => return Err(at.wrong_text("FromPort", "after ToPort")),
            _ => {
                service.details = Some(Span::perhaps(all_ports()));
                return Ok((service, Some("which ports a rule for TCP or UDP without ports means")));
            }
        },
        protocol::ICMP | protocol::ICMPV6 => match (byte(at, "FromPort", first)?, byte(at, "ToPort", last)?) {
            (None, _) => return Ok((service, None)),
            (Some(kind), code) => icmp(kind, code),
        },
        // Of other protocols a rule means everything, whatever its ports are.
        _ => return Ok((service, None)),
    };
    service.details = Some(Span::sure(details));
    Ok((service, None))
}

/// A port, type or code; -1 and absence mean all.
fn bound(at: &At<'_>, key: &str) -> Result<Option<u16>, FirewallError> {
    let Some(value) = at.get(key) else { return Ok(None) };
    match value.integer()? {
        -1 => Ok(None),
        number => u16::try_from(number).map(Some).map_err(|_| value.wrong("neither a port nor -1")),
    }
}

/// An ICMP type or code.
fn byte(at: &At<'_>, key: &str, number: Option<u16>) -> Result<Option<u8>, FirewallError> {
    let byte = number.map(u8::try_from).transpose();
    byte.map_err(|_| at.wrong_text(key, "neither an ICMP type or code nor -1"))
}
