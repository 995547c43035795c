//! What rules ask for, in parts that the formats have in common: addresses, protocols, ports.

use std::collections::BTreeMap;

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::firewall::{
    Action, Chain, Dimension, LabelId, RangeSet, Rule, Span, addresses, all_addresses, all_ports, protocol,
};

/// Addresses of either family that one end of a rule means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    v4: Span,
    v6: Span,
}

impl Addresses {
    pub(super) fn all() -> Self {
        let all = |family| Span::sure(all_addresses(family));
        Self { v4: all(Family::V4), v6: all(Family::V6) }
    }

    pub(super) fn all_of(family: Family) -> Self {
        let all = Span::sure(all_addresses(family));
        match family {
            Family::V4 => Self { v4: all, v6: Span::default() },
            Family::V6 => Self { v4: Span::default(), v6: all },
        }
    }

    /// The same, not surely.
    pub(super) fn doubtful(&self) -> Self {
        let perhaps = |family| Span::perhaps(self.family(family).thinkable().clone());
        Self { v4: perhaps(Family::V4), v6: perhaps(Family::V6) }
    }

    /// Any address may be meant.
    pub(super) fn unknown() -> Self {
        let all = |family| Span::perhaps(all_addresses(family));
        Self { v4: all(Family::V4), v6: all(Family::V6) }
    }

    pub(super) fn of<'a>(cidrs: impl IntoIterator<Item = &'a Cidr>) -> Self {
        let (v4, v6): (Vec<&Cidr>, Vec<&Cidr>) = cidrs.into_iter().partition(|cidr| cidr.family() == Family::V4);
        let span = |cidrs: Vec<&Cidr>| {
            Span::sure(cidrs.into_iter().flat_map(|cidr| addresses(*cidr).ranges().to_vec()).collect::<RangeSet>())
        };
        Self { v4: span(v4), v6: span(v6) }
    }

    pub(super) fn or(&self, other: &Self) -> Self {
        Self { v4: self.v4.or(&other.v4), v6: self.v6.or(&other.v6) }
    }

    /// What any of several means, at once: lists may be long.
    pub(super) fn any_of(several: &[Self]) -> Self {
        let of = |family| any_span(several.iter().map(|one| one.family(family)));
        Self { v4: of(Family::V4), v6: of(Family::V6) }
    }

    /// Any address that is not surely meant may be.
    pub(super) fn beyond(&self) -> Self {
        let rest = |family| Span::perhaps(all_addresses(family).without(self.family(family).certain()));
        Self { v4: rest(Family::V4), v6: rest(Family::V6) }
    }

    pub(super) const fn family(&self, family: Family) -> &Span {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// What any of several spans means.
pub(super) fn any_span<'a>(several: impl Iterator<Item = &'a Span>) -> Span {
    let (mut sure, mut possible) = (Vec::new(), Vec::new());
    for span in several {
        sure.extend_from_slice(span.certain().ranges());
        possible.extend_from_slice(span.thinkable().ranges());
    }
    let span = Span::sure(sure.into_iter().collect());
    span.or(&Span::perhaps(possible.into_iter().collect()))
}

/// A network or one address; bits behind the prefix mean nothing.
pub(super) fn network(text: &str) -> Option<Cidr> {
    match text.split_once('/') {
        None => Some(Cidr::host_range(text.parse().ok()?)),
        Some((address, length)) => Cidr::around(address.parse().ok()?, length.parse().ok()?).ok(),
    }
}

/// `80` or `8000-8999`.
pub(super) fn ports(text: &str) -> Option<RangeSet> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?);
    (first <= last).then(|| RangeSet::range(first.into(), last.into()))
}

/// Protocols and ports that a rule means.
#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    /// Protocols; `None` for all.
    pub(super) protocols: Option<Span>,
    /// Ports at the source; `None` for all.
    pub(super) source_ports: Option<Span>,
    /// Ports at the destination, or types and codes; `None` for all.
    pub(super) details: Option<Span>,
}

impl Service {
    pub(super) fn protocols(protocols: Span) -> Self {
        Self { protocols: Some(protocols), ..Self::default() }
    }

    pub(super) fn protocol(number: u8) -> Self {
        Self::protocols(Span::sure(RangeSet::one(number.into())))
    }

    /// All protocols, of those that have ports these: what becomes of the others is not said anywhere.
    pub(super) fn any_with_ports(source: &RangeSet, destination: &RangeSet) -> Vec<Self> {
        if *source == all_ports() && *destination == all_ports() {
            return vec![Self::default()];
        }
        let sure: RangeSet =
            [protocol::TCP, protocol::UDP].map(|one| (u128::from(one), u128::from(one))).into_iter().collect();
        let others = RangeSet::range(0, 255).without(&sure);
        vec![Self::with_ports(Span::sure(sure), source, destination), Self::protocols(Span::perhaps(others))]
    }

    pub(super) fn with_ports(protocols: Span, source: &RangeSet, destination: &RangeSet) -> Self {
        let span = |ports: &RangeSet| (*ports != all_ports()).then(|| Span::sure(ports.clone()));
        Self { protocols: Some(protocols), source_ports: span(source), details: span(destination) }
    }
}

/// A rule as formats have it, before it is one of a family and of one service.
pub(super) struct Draft<'a> {
    pub(super) label: LabelId,
    pub(super) action: Action,
    pub(super) sources: &'a Addresses,
    pub(super) destinations: &'a Addresses,
    pub(super) services: &'a [Service],
    pub(super) opaque: bool,
}

impl Draft<'_> {
    /// Adds what it is to a chain.
    pub(super) fn add_to(&self, chain: &mut Chain) {
        for family in Family::ALL {
            let ends = [
                (Dimension::Source, self.sources.family(family)),
                (Dimension::Destination, self.destinations.family(family)),
            ];
            if ends.iter().any(|(_, span)| span.is_empty()) {
                continue;
            }
            for service in self.services {
                let parts = [
                    (Dimension::Protocol, &service.protocols),
                    (Dimension::SourcePort, &service.source_ports),
                    (Dimension::Detail, &service.details),
                ];
                let parts = parts.into_iter().filter_map(|(of, span)| span.as_ref().map(|span| (of, span)));
                let all = ends.into_iter().filter(|(_, span)| *span.certain() != all_addresses(family));
                let spans: BTreeMap<Dimension, Span> = all.chain(parts).map(|(of, span)| (of, span.clone())).collect();
                chain.rules.push(Rule { label: self.label, family, spans, opaque: self.opaque, action: self.action });
            }
        }
    }
}
