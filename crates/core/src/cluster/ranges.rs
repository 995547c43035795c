//! The rules about ranges of addresses: which nobody may use, how large they may be, which may not meet.

use super::rules::{Entry, Findings};
use crate::cidr::Cidr;
use crate::family::Family;

/// Ranges that neither pods nor Services can have, and why. The first four are those that the original keeps for
/// itself; the others are no ordinary unicast addresses.
const RESERVED: [(&str, &str); 11] = [
    ("169.254.0.0/16", "reserved: link-local, and the pods' gateway is in it"),
    ("172.30.0.0/16", "reserved by the platform"),
    ("172.31.0.0/16", "reserved by the platform"),
    ("192.0.2.0/24", "reserved by the platform"),
    ("0.0.0.0/8", "not usable: \"this network\""),
    ("127.0.0.0/8", "not usable: loopback"),
    ("224.0.0.0/3", "not usable: multicast and above"),
    ("::/96", "not usable: unspecified, loopback and IPv4-compatible"),
    ("::ffff:0:0/96", "not usable: IPv4-mapped"),
    ("fe80::/10", "not usable: link-local"),
    ("ff00::/8", "not usable: multicast"),
];

/// The prefix that an IPv4 service range must be longer than: "smaller than /12" (seed 001, "IP address planning").
const SERVICE_V4_SHORTER: u8 = 12;
/// The shortest prefix of an IPv6 service range: "no larger than a /108" (seed 003, `--service-cidrs`).
const SERVICE_V6_SHORTEST: u8 = 108;
/// The fewest addresses that the API server takes for a service range.
const SERVICE_FEWEST: u64 = 8;

pub(super) fn check_pod_range(entry: &Entry, findings: &mut Findings) {
    check_reserved(entry, findings);
}

pub(super) fn check_service_range(entry: &Entry, findings: &mut Findings) {
    check_reserved(entry, findings);
    let Entry { field, cidr, .. } = entry;
    let too_large = match cidr.family() {
        Family::V4 if cidr.prefix_len() <= SERVICE_V4_SHORTER => Some("must be smaller than /12"),
        Family::V6 if cidr.prefix_len() < SERVICE_V6_SHORTEST => Some("can be no larger than /108"),
        Family::V4 | Family::V6 => None,
    };
    if let Some(limit) = too_large {
        let reason = format!("{cidr} is too large: a service range of {} {limit}", cidr.family());
        findings.add("service-size", field, reason, "take a longer prefix");
    }
    if cidr.address_count() < SERVICE_FEWEST {
        let reason = format!("{cidr} is too small: the API server wants {SERVICE_FEWEST} addresses or more");
        findings.add("service-size", field, reason, "take a shorter prefix");
    }
}

/// Ranges that nobody can have and that a network has addresses of, each with why.
pub(crate) fn reserved(cidr: &Cidr) -> impl Iterator<Item = (Cidr, &'static str)> + '_ {
    let known = RESERVED.iter().filter_map(|(range, why)| Some((range.parse::<Cidr>().ok()?, *why)));
    known.filter(|(range, _)| range.overlaps(cidr))
}

fn check_reserved(entry: &Entry, findings: &mut Findings) {
    let hits: Vec<String> = reserved(&entry.cidr).map(|(range, why)| format!("{range} ({why})")).collect();
    if !hits.is_empty() {
        findings.add(
            "reserved-range",
            &entry.field,
            format!("{} overlaps {}", entry.cidr, hits.join(", ")),
            "take a private range clear of it, such as 10.244.0.0/16 or fd12:3456:789a::/64",
        );
    }
}

/// Finds each pair with addresses in common once; `these` and `those` may be one list.
pub(super) fn check_overlaps(these: &[Entry], those: &[Entry], findings: &mut Findings) {
    check_meeting("overlap", these, those, "take ranges that have no address in common", findings);
}

/// The same by another rule.
pub(super) fn check_meeting(rule: &'static str, these: &[Entry], those: &[Entry], fix: &str, findings: &mut Findings) {
    let same_list = std::ptr::eq(these, those);
    for (index, this) in these.iter().enumerate() {
        let earlier = if same_list { index } else { those.len() };
        for that in those.iter().take(earlier).filter(|that| that.cidr.overlaps(&this.cidr)) {
            findings.add(rule, &this.field, format!("{this} overlaps {that} of {}", that.field), fix);
        }
    }
}
