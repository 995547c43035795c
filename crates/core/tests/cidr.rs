//! Must catch: a block cut at the wrong place, so that two nodes share addresses; host bits taken as a network.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use overlane_core::cidr::{Cidr, CidrError, outermost};
use overlane_core::family::Family;
use proptest::prelude::*;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn families() {
    for text in ["ipv4", "IPv4", "IPV4"] {
        assert_eq!(text.parse(), Ok(Family::V4));
    }
    for text in ["ipv6", "IPv6", "IPV6"] {
        assert_eq!(text.parse(), Ok(Family::V6));
    }
    for text in ["", "v4", "ipv5", "ipv4 ", "4"] {
        assert_eq!(text.parse::<Family>().unwrap_err().given, text);
    }
    assert_eq!(Family::ALL.map(|family| family.to_string()), ["IPv4", "IPv6"]);
    assert_eq!(Family::ALL.map(Family::bits), [32, 128]);
    assert_eq!(Family::of(&ip("::ffff:10.0.0.1")), Family::V6);
}

#[test]
fn reads_and_writes() {
    for text in ["0.0.0.0/0", "10.244.2.0/24", "255.255.255.255/32", "::/0", "fd12:3456:789a::/64", "::1/128"] {
        assert_eq!(cidr(text).to_string(), text);
    }
    assert_eq!(cidr("FD12:3456:789A:0:2:0:0:0/80").to_string(), "fd12:3456:789a:0:2::/80");
    assert_eq!(format!("{:>14}|", cidr("10.0.0.0/8")), "    10.0.0.0/8|");
}

#[test]
fn refuses_what_is_no_cidr() {
    let syntax = [
        "",
        "/",
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/08",
        "10.0.0.0/ 8",
        "10.0.0/8",
        "10.0.0.0/8/8",
        "010.0.0.0/8",
        " 10.0.0.0/8",
        "10.0.0.0/256",
        "10.0.0.0/-1",
        "[fd00::]/8",
        "fd00::%eth0/8",
        "node/24",
    ];
    for text in syntax {
        assert_eq!(text.parse::<Cidr>().unwrap_err(), CidrError::Syntax { given: text.to_owned() });
    }
    for (text, longest) in [("10.0.0.0/33", 32), ("fd00::/129", 128), ("10.0.0.0/128", 32)] {
        let error = text.parse::<Cidr>().unwrap_err();
        assert!(matches!(error, CidrError::PrefixLen { longest: found, .. } if found == longest), "{error}");
    }
    for (text, meant) in [
        ("10.244.0.1/16", "10.244.0.0/16"),
        ("10.244.2.0/16", "10.244.0.0/16"),
        ("0.0.0.1/0", "0.0.0.0/0"),
        ("fd12:3456:789a::1/64", "fd12:3456:789a::/64"),
        ("fd12:3456:789a:1::/48", "fd12:3456:789a::/48"),
    ] {
        let error = text.parse::<Cidr>().unwrap_err();
        assert_eq!(error, CidrError::HostBits { given: text.to_owned(), meant: cidr(meant) });
        assert_eq!(error.to_string(), format!("`{text}` has host bits set; the network is {meant}"));
    }
}

#[test]
fn blocks_of_a_pod_cidr() {
    let table = [
        ("10.244.0.0/16", 24, 256, 2, "10.244.2.0/24"),
        ("10.224.0.0/11", 24, 8192, 5000, "10.243.136.0/24"),
        ("10.224.0.0/11", 24, 8192, 8191, "10.255.255.0/24"),
        ("10.244.2.0/24", 24, 1, 0, "10.244.2.0/24"),
        ("10.244.2.0/24", 32, 256, 255, "10.244.2.255/32"),
        ("0.0.0.0/0", 32, 1 << 32, (1 << 32) - 1, "255.255.255.255/32"),
        ("fd12:3456:789a::/64", 80, 65_536, 2, "fd12:3456:789a:0:2::/80"),
        ("fd12:3456:789a::/64", 80, 65_536, 65_535, "fd12:3456:789a:0:ffff::/80"),
        ("fd00::/8", 72, u64::MAX, u64::MAX, "fdff:ffff:ffff:ffff:ff00::/72"),
        ("::/0", 128, u64::MAX, u64::MAX, "::ffff:ffff:ffff:ffff/128"),
    ];
    for (pod_cidr, mask, count, index, block) in table {
        let pod_cidr = cidr(pod_cidr);
        assert_eq!(pod_cidr.subnet_count(mask), Some(count), "{pod_cidr} /{mask}");
        assert_eq!(pod_cidr.subnet(mask, index), Some(cidr(block)), "{pod_cidr} /{mask} {index}");
        assert_eq!(pod_cidr.index_of(&cidr(block)), Some(index));
        if count < u64::MAX {
            assert_eq!(pod_cidr.subnet(mask, count), None, "{pod_cidr} /{mask}");
        }
    }
    for (pod_cidr, mask) in [("10.244.0.0/16", 15), ("10.244.0.0/16", 33), ("fd00::/64", 63), ("fd00::/64", 129)] {
        assert_eq!(cidr(pod_cidr).subnet_count(mask), None);
        assert_eq!(cidr(pod_cidr).subnet(mask, 0), None);
    }
    assert_eq!(cidr("10.244.0.0/16").index_of(&cidr("10.245.0.0/24")), None);
    assert_eq!(cidr("10.244.0.0/16").index_of(&cidr("10.0.0.0/8")), None);
    assert_eq!(cidr("::/0").index_of(&cidr("fd00::/128")), None, "beyond u64");
}

#[test]
fn a_slash_11_gives_8192_different_blocks() {
    let pod_cidr = cidr("10.224.0.0/11");
    let blocks: BTreeSet<Cidr> = (0..8192).map(|index| pod_cidr.subnet(24, index).unwrap()).collect();
    assert_eq!(blocks.len(), 8192);
    assert_eq!(outermost(blocks.iter().copied()), blocks, "none lies in another");
    assert_eq!(blocks.last().unwrap().to_string(), "10.255.255.0/24");
}

#[test]
fn addresses_of_a_block() {
    let block = cidr("10.244.2.0/24");
    assert_eq!(block.host(2), Some(ip("10.244.2.2")));
    assert_eq!(block.host(255), Some(ip("10.244.2.255")));
    assert_eq!(block.host(256), None);
    assert_eq!(block.offset_of(ip("10.244.2.254")), Some(254));
    assert_eq!(block.offset_of(ip("10.244.3.0")), None);
    assert_eq!(block.offset_of(ip("fd00::1")), None);
    assert_eq!((block.network(), block.last()), (ip("10.244.2.0"), ip("10.244.2.255")));
    assert_eq!(block.address_count(), 256);
    let block = cidr("fd12:3456:789a:0:2::/80");
    assert_eq!(block.host(2), Some(ip("fd12:3456:789a:0:2::2")));
    assert_eq!(block.offset_of(ip("fd12:3456:789a:0:2:1::")), Some(1 << 32));
    assert_eq!(block.last(), ip("fd12:3456:789a:0:2:ffff:ffff:ffff"));
    assert_eq!(cidr("::/0").address_count(), u64::MAX);
    assert_eq!(cidr("::/0").offset_of(ip("fd00::1")), None, "beyond u64");
    assert_eq!(Cidr::host_range(ip("fd00::1")), cidr("fd00::1/128"));
    assert_eq!(Cidr::host_range(ip("10.0.0.1")), cidr("10.0.0.1/32"));
}

#[test]
fn the_outermost_remain() {
    let given = ["10.244.3.0/24", "10.244.0.0/16", "10.244.0.0/24", "10.245.0.0/16", "fd00::/8", "fd00::/64", "::/128"];
    let kept = outermost(given.map(cidr));
    assert_eq!(kept, ["10.244.0.0/16", "10.245.0.0/16", "fd00::/8", "::/128"].map(cidr).into_iter().collect());
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    ]
}

fn any_cidr() -> impl Strategy<Value = Cidr> {
    (any_ip(), any::<u8>()).prop_map(|(addr, len)| Cidr::around(addr, len % (Family::of(&addr).bits() + 1)).unwrap())
}

/// A network and one that is likely to be near it.
fn near() -> impl Strategy<Value = (Cidr, Cidr)> {
    (any_cidr(), any_cidr(), 0_u8..=8, any::<u64>()).prop_map(|(one, other, down, index)| {
        let len = (one.prefix_len() + down).min(one.family().bits());
        let below = one.subnet_count(len).unwrap();
        (one, one.subnet(len, index % below).unwrap_or(other))
    })
}

proptest! {
    #[test]
    fn text_comes_back(cidr in any_cidr()) {
        prop_assert_eq!(cidr.to_string().parse::<Cidr>().unwrap(), cidr);
        prop_assert_eq!(Cidr::new(cidr.network(), cidr.prefix_len()).unwrap(), cidr);
    }

    #[test]
    fn any_text_is_judged(text in ".{0,40}") {
        let _ = text.parse::<Cidr>();
    }

    #[test]
    fn what_is_around_contains(addr in any_ip(), len in 0_u8..=128) {
        match Cidr::around(addr, len) {
            Ok(cidr) => {
                prop_assert!(cidr.contains(addr) && cidr.network() <= addr && addr <= cidr.last());
                match Cidr::new(addr, len) {
                    Ok(same) => prop_assert_eq!((same, addr), (cidr, cidr.network())),
                    Err(error) => {
                        let given = format!("{addr}/{len}");
                        prop_assert_eq!(error, CidrError::HostBits { given, meant: cidr });
                    }
                }
            }
            Err(_) => prop_assert!(len > Family::of(&addr).bits()),
        }
    }

    #[test]
    fn contains_is_between_first_and_last(cidr in any_cidr(), addr in any_ip()) {
        let between = Family::of(&addr) == cidr.family() && cidr.network() <= addr && addr <= cidr.last();
        prop_assert_eq!(cidr.contains(addr), between);
    }

    #[test]
    fn containing_and_overlapping_agree_with_their_ends((one, two) in near()) {
        let inside = one.contains(two.network()) && one.contains(two.last());
        prop_assert_eq!(one.contains_cidr(&two), inside);
        let meet = inside || (two.contains(one.network()) && two.contains(one.last()));
        prop_assert_eq!(one.overlaps(&two), meet);
        prop_assert_eq!(two.overlaps(&one), meet);
    }

    #[test]
    fn index_and_subnet_undo_each_other(cidr in any_cidr(), down in 0_u8..=128, index in any::<u64>()) {
        let len = cidr.prefix_len().saturating_add(down);
        if let Some(sub) = cidr.subnet(len, index) {
            prop_assert!(cidr.contains_cidr(&sub));
            prop_assert_eq!(sub.prefix_len(), len);
            prop_assert_eq!(cidr.index_of(&sub), Some(index));
            if let Some(next) = index.checked_add(1).and_then(|next| cidr.subnet(len, next)) {
                prop_assert!(!next.overlaps(&sub) && sub.last() < next.network());
            }
        } else {
            prop_assert!(cidr.subnet_count(len).is_none_or(|count| index >= count));
        }
    }

    #[test]
    fn offset_and_host_undo_each_other(cidr in any_cidr(), offset in any::<u64>()) {
        match cidr.host(offset) {
            Some(addr) => prop_assert_eq!(cidr.offset_of(addr), Some(offset)),
            None => prop_assert!(offset >= cidr.address_count()),
        }
    }

    #[test]
    fn outermost_covers_the_same_and_nothing_twice(cidrs in proptest::collection::vec(near(), 0..12)) {
        let cidrs: Vec<Cidr> = cidrs.into_iter().flat_map(|(one, two)| [one, two]).collect();
        let kept = outermost(cidrs.iter().copied());
        for cidr in &cidrs {
            prop_assert_eq!(kept.iter().filter(|outer| outer.contains_cidr(cidr)).count(), 1);
        }
        for (index, one) in kept.iter().enumerate() {
            prop_assert!(kept.iter().skip(index + 1).all(|other| !one.overlaps(other)));
        }
    }
}
