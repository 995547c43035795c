//! Values that rules of nftables compare fields with.

use overlane_core::family::Family;
use overlane_core::firewall::{RangeSet, Span, icmp, link, number, protocol, state};
use serde_json::Value;

use super::ask::Kind;
use super::{At, Reader, Table};
use crate::firewall::terms::{Addresses, any_span, network};

/// How deep values may hold values: sets of elements of ranges.
const DEEPEST: usize = 4;

/// The values that the right side of a comparison means; `None` where that is not understood.
pub(super) fn right(reader: &Reader<'_, '_>, table: Table<'_>, kind: Kind, at: &At<'_>) -> Option<Span> {
    match at.value().as_str().and_then(|text| text.strip_prefix('@')) {
        Some(name) => {
            let elements = reader.sets.get(&(table, name))?;
            elements.as_ref().map_or_else(|| Some(Span::default()), |list| all_of(reader, kind, list))
        }
        None => value(reader, kind, at, 0),
    }
}

fn all_of(reader: &Reader<'_, '_>, kind: Kind, list: &At<'_>) -> Option<Span> {
    union(list.items().ok()?.iter().map(|item| value(reader, kind, item, 1)))
}

fn union(spans: impl Iterator<Item = Option<Span>>) -> Option<Span> {
    let spans = spans.collect::<Option<Vec<_>>>()?;
    Some(any_span(spans.iter()))
}

/// One value, or several in a set.
pub(super) fn value(reader: &Reader<'_, '_>, kind: Kind, at: &At<'_>, depth: usize) -> Option<Span> {
    if depth > DEEPEST {
        return None;
    }
    let next = |at: &At<'_>| value(reader, kind, at, depth + 1);
    match at.value() {
        Value::String(text) => text_value(reader, kind, text),
        Value::Number(given) => numeric(kind, u128::from(given.as_u64()?)),
        // Names of bits, any of which is enough.
        Value::Array(_) => union(at.items().ok()?.iter().map(next)),
        Value::Object(_) => match at.only()? {
            ("set", list) => union(list.items().ok()?.iter().map(next)),
            ("elem", inner) => next(&inner.get("val")?),
            ("prefix", inner) => prefix(kind, &inner),
            ("range", ends) => range(reader, kind, &ends, depth),
            _ => None,
        },
        _ => None,
    }
}

fn text_value(reader: &Reader<'_, '_>, kind: Kind, text: &str) -> Option<Span> {
    match kind {
        Kind::Address(family) => {
            let address = text.parse().ok().filter(|address| Family::of(address) == family)?;
            Some(Span::sure(RangeSet::one(number(address))))
        }
        Kind::Protocol => {
            let number = protocol_number(text).or_else(|| text.parse().ok())?;
            Some(Span::sure(RangeSet::one(number.into())))
        }
        Kind::Port => numeric(kind, text.parse::<u16>().ok()?.into()),
        Kind::Icmp(family) => numeric(kind, icmp_type(family, text)?.into()),
        Kind::State => Some(Span::sure(match text {
            "new" => RangeSet::one(state::NEW),
            "established" => RangeSet::one(state::ESTABLISHED),
            "related" => RangeSet::one(state::RELATED),
            // What the overlay needs is neither.
            "invalid" | "untracked" => RangeSet::default(),
            _ => return None,
        })),
        Kind::Link => Some(link_name(reader, text)),
        Kind::Family => Some(Span::sure(match text {
            "ipv4" | "ip" => RangeSet::one(4),
            "ipv6" | "ip6" => RangeSet::one(6),
            _ => RangeSet::default(),
        })),
    }
}

fn numeric(kind: Kind, number: u128) -> Option<Span> {
    let set = match kind {
        Kind::Protocol | Kind::Port => RangeSet::one(number),
        Kind::Icmp(_) => icmp(u8::try_from(number).ok()?, None),
        _ => return None,
    };
    Some(Span::sure(set))
}

fn prefix(kind: Kind, at: &At<'_>) -> Option<Span> {
    let Kind::Address(family) = kind else { return None };
    let (address, length) = (at.get("addr")?.text().ok()?, at.get("len")?.integer().ok()?);
    let cidr = network(&format!("{address}/{length}"))?;
    (cidr.family() == family).then(|| Addresses::of([&cidr]).family(family).clone())
}

fn range(reader: &Reader<'_, '_>, kind: Kind, ends: &At<'_>, depth: usize) -> Option<Span> {
    // Names have no order.
    if kind == Kind::Link || kind == Kind::State {
        return None;
    }
    let ends = ends.items().ok()?;
    let [first, last] = ends.as_slice() else { return None };
    let one = |at: &At<'_>| value(reader, kind, at, depth + 1);
    let (first, last) = (one(first)?, one(last)?);
    let (start, _) = first.certain().ranges().first()?;
    let (_, end) = last.certain().ranges().last()?;
    Some(Span::sure(RangeSet::range(*start, *end)))
}

/// What links a name means: those between nodes are known where they were told, those of pods and the tunnel by name.
fn link_name(reader: &Reader<'_, '_>, name: &str) -> Span {
    let (told, own) = (reader.told, &reader.told.own);
    let matches = |link: &str| name.strip_suffix('*').map_or(link == name, |start| link.starts_with(start));
    let mut span = Span::default();
    let mut add = |role, sure: bool, possible: bool| {
        let set = RangeSet::one(role);
        if sure {
            span = span.or(&Span::sure(set));
        } else if possible {
            span = span.or(&Span::perhaps(set));
        }
    };
    let count = told.links.iter().filter(|link| matches(link)).count();
    if told.links.is_empty() {
        add(link::UNDERLAY, false, name != "lo" && !name.starts_with(&own.link));
    } else {
        add(link::UNDERLAY, count == told.links.len(), count > 0);
    }
    let all_pods = name.strip_suffix('*').is_some_and(|start| own.pod_link.starts_with(start));
    add(link::POD, all_pods, name.starts_with(&own.pod_link));
    add(link::TUNNEL, matches(&own.tunnel_link), false);
    span
}

fn protocol_number(name: &str) -> Option<u8> {
    Some(match name {
        "icmp" => protocol::ICMP,
        "igmp" => 2,
        "ipencap" | "ipip" => 4,
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "dccp" => 33,
        "ipv6" => 41,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "ipv6-icmp" | "icmpv6" => protocol::ICMPV6,
        "ospf" => 89,
        "comp" => 108,
        "vrrp" => 112,
        "sctp" => protocol::SCTP,
        "udplite" => 136,
        _ => return None,
    })
}

fn icmp_type(family: Family, name: &str) -> Option<u8> {
    let v4 = [
        ("echo-reply", 0),
        ("destination-unreachable", 3),
        ("source-quench", 4),
        ("redirect", 5),
        ("echo-request", 8),
        ("router-advertisement", 9),
        ("router-solicitation", 10),
        ("time-exceeded", 11),
        ("parameter-problem", 12),
        ("timestamp-request", 13),
        ("timestamp-reply", 14),
        ("info-request", 15),
        ("info-reply", 16),
        ("address-mask-request", 17),
        ("address-mask-reply", 18),
    ];
    let v6 = [
        ("destination-unreachable", 1),
        ("packet-too-big", 2),
        ("time-exceeded", 3),
        ("parameter-problem", 4),
        ("echo-request", 128),
        ("echo-reply", 129),
        ("mld-listener-query", 130),
        ("mld-listener-report", 131),
        ("mld-listener-done", 132),
        ("mld-listener-reduction", 132),
        ("nd-router-solicit", 133),
        ("nd-router-advert", 134),
        ("nd-neighbor-solicit", 135),
        ("nd-neighbor-advert", 136),
        ("nd-redirect", 137),
        ("router-renumbering", 138),
        ("ind-neighbor-solicit", 141),
        ("ind-neighbor-advert", 142),
        ("mld2-listener-report", 143),
    ];
    let names: &[(&str, u8)] = if family == Family::V4 { &v4 } else { &v6 };
    names.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}
