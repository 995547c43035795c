//! Where address space is free: for a network that is to be, and for one that is to grow.

use crate::cidr::Cidr;
use crate::cluster::reserved;
use crate::family::Family;

/// Private ranges, those first that are tried first (RFC 1918, RFC 4193), and the one for carriers (RFC 6598) where all of
/// these are taken.
const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fd00::/8"];
/// How much a proposed range should be able to grow, in bits: to four times its size.
const ROOM_TO_GROW: u8 = 2;
/// How many places of a range are looked at before it counts as full.
const LOOKED_AT: u64 = 1 << 16;

/// A range that something has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The range.
    pub cidr: Cidr,
    /// What has it, such as `VNet`.
    pub what: String,
}

/// What keeps a range from being taken; nothing if it is free.
pub(super) fn in_the_way(cidr: &Cidr, taken: &[Taken]) -> Vec<Taken> {
    let mut all: Vec<Taken> = taken.iter().filter(|taken| taken.cidr.overlaps(cidr)).cloned().collect();
    all.extend(reserved(cidr).map(|(range, why)| Taken { cidr: range, what: why.to_owned() }));
    all
}

/// A free range of that length: the preferred one's place first, and one that has room to grow before one that has not.
pub(super) fn find(family: Family, prefix_len: u8, preferred: Option<Cidr>, taken: &[Taken]) -> Option<Cidr> {
    let is_free = |cidr: &Cidr| in_the_way(cidr, taken).is_empty();
    let preferred = preferred.and_then(|preferred| Cidr::new(preferred.network(), prefix_len).ok());
    if let Some(preferred) = preferred.filter(is_free) {
        return Some(preferred);
    }
    let ranges: Vec<Cidr> = PRIVATE.iter().filter_map(|range| range.parse().ok()).collect();
    for room in (0..=ROOM_TO_GROW).rev() {
        let outer = prefix_len.saturating_sub(room);
        for range in ranges.iter().filter(|range| range.family() == family) {
            if let Some(found) = free_in(range, outer, taken) {
                return Cidr::new(found.network(), prefix_len).ok();
            }
        }
    }
    None
}

/// The first free range of that length within another.
pub(super) fn free_in(range: &Cidr, prefix_len: u8, taken: &[Taken]) -> Option<Cidr> {
    let count = range.subnet_count(prefix_len)?;
    let mut index = 0;
    for _ in 0..LOOKED_AT {
        let candidate = range.subnet(prefix_len, index).filter(|_| index < count)?;
        let Some(last) = in_the_way(&candidate, taken).iter().map(|taken| taken.cidr.last()).max() else {
            return Some(candidate);
        };
        // On behind what is in the way, which may be all that is left.
        let behind = range.index_of(&Cidr::around(last, prefix_len).ok()?)?;
        index = behind.max(index).checked_add(1)?;
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a proposal that somebody has already.

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn taken(texts: &[&str]) -> Vec<Taken> {
        texts.iter().map(|text| Taken { cidr: cidr(text), what: "VNet".to_owned() }).collect()
    }

    #[test]
    fn free_space_is_found() {
        let default = Some(cidr("10.244.0.0/16"));
        for (length, taken_by, want) in [
            (16, &[][..], Some("10.244.0.0/16")),
            (14, &[], Some("10.244.0.0/14")),
            // Its base is none of a larger one.
            (13, &[], Some("10.0.0.0/13")),
            (16, &["10.240.0.0/12"], Some("10.0.0.0/16")),
            (16, &["10.0.0.0/16", "10.244.0.0/24"], Some("10.4.0.0/16")),
            (16, &["10.0.0.0/8"], Some("172.16.0.0/16")),
            (16, &["10.0.0.0/8", "172.16.0.0/12"], Some("100.64.0.0/16")),
            (16, &["10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10"], Some("192.168.0.0/16")),
            (16, &["0.0.0.0/0"], None),
            (7, &[], None),
        ] {
            let found = find(Family::V4, length, default, &taken(taken_by));
            assert_eq!(found, want.map(cidr), "/{length} beside {taken_by:?}");
        }
        let default = Some(cidr("fd12:3456:789a::/64"));
        assert_eq!(find(Family::V6, 64, default, &[]), default);
        assert_eq!(find(Family::V6, 64, default, &taken(&["fd12::/16"])), Some(cidr("fd00::/64")));
        assert_eq!(find(Family::V6, 64, default, &taken(&["fd00::/8"])), None);
    }

    #[test]
    fn a_place_within_a_network_is_found() {
        let vnet = cidr("10.224.0.0/16");
        let used = ["10.224.0.0/24", "10.224.1.128/25", "10.224.2.0/23"];
        assert_eq!(free_in(&vnet, 24, &taken(&used)), Some(cidr("10.224.4.0/24")));
        assert_eq!(free_in(&vnet, 25, &taken(&used)), Some(cidr("10.224.1.0/25")));
        assert_eq!(free_in(&vnet, 17, &taken(&used)), Some(cidr("10.224.128.0/17")));
        assert_eq!(free_in(&vnet, 16, &taken(&used)), None);
        assert_eq!(free_in(&vnet, 15, &[]), None);
    }
}
