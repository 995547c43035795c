//! Every rule about families and ranges.

use super::{broken, spec};

/// Families, pod CIDRs, service CIDRs; field and rule of every finding. `-` is an empty list.
const TABLE: &str = "
    # Names of families.
    IPv5 | - | - => ipFamilies[0] family-name
    IPv4 ipv4 | - | - => ipFamilies[1] family-twice
    IPv4 IPv6 IPv4 | - | - => ipFamilies[2] family-twice
    # Counts and order.
    IPv4 IPv6 | 10.244.0.0/16 | - => podCIDRs family-count
    IPv4 | 10.244.0.0/16 fd00::/64 | - => podCIDRs family-count
    IPv4 IPv6 | - | 10.0.0.0/16 => serviceCIDRs family-count
    IPv4 | - | 10.0.0.0/16 fd00::/108 => serviceCIDRs family-count
    - | 10.244.0.0/16 | 10.0.0.0/16 fd00::/108 => serviceCIDRs family-count
    IPv4 | fd00::/64 | - => podCIDRs[0] family-order
    IPv6 IPv4 | 10.244.0.0/16 fd00::/64 | - => podCIDRs[0] family-order, podCIDRs[1] family-order
    IPv4 IPv6 | - | fd00::/108 10.0.0.0/16 => serviceCIDRs[0] family-order, serviceCIDRs[1] family-order
    - | 10.244.0.0/16 10.245.0.0/16 | - => podCIDRs[1] family-twice, podCIDRs family-count
    # Texts.
    IPv4 | ten | - => podCIDRs[0] cidr-syntax
    - | 10.244.0.0 | - => podCIDRs[0] cidr-syntax
    - | fd00:: | - => podCIDRs[0] cidr-syntax
    - | 10.244.0.0/33 | - => podCIDRs[0] prefix-length
    - | 10.244.1.0/16 | - => podCIDRs[0] host-bits
    - | fd12:3456:789a::1/64 | - => podCIDRs[0] host-bits
    IPv4 | - | 10.0.0.1/16 => serviceCIDRs[0] host-bits
    - | 10.0.1.0/11 | - => podCIDRs[0] host-bits, serviceCIDRs overlap
    IPv6 | 10.244.0.1/16 | - => podCIDRs[0] host-bits, podCIDRs[0] family-order
    # Overlaps.
    - | 10.0.0.0/11 | - => serviceCIDRs overlap
    - | 10.244.0.0/16 | 10.244.128.0/24 => serviceCIDRs[0] overlap
    - | 10.244.0.0/16 | 10.244.0.0/16 => serviceCIDRs[0] overlap
    - | 10.244.0.0/20 | 10.240.0.0/13 => serviceCIDRs[0] overlap
    - | fd12:3456:789a::/48 | fd12:3456:789a:1::/108 => serviceCIDRs[0] overlap
    # Ranges that nobody can have.
    - | 169.254.0.0/16 | - => podCIDRs[0] reserved-range
    - | 169.254.64.0/18 | - => podCIDRs[0] reserved-range
    - | 172.30.0.0/16 | - => podCIDRs[0] reserved-range
    - | 172.31.0.0/16 | - => podCIDRs[0] reserved-range
    - | 172.16.0.0/12 | - => podCIDRs[0] reserved-range
    - | 192.0.2.0/24 | - => podCIDRs[0] reserved-range
    IPv4 | - | 169.254.1.0/24 => serviceCIDRs[0] reserved-range
    IPv4 | - | 172.30.0.0/24 => serviceCIDRs[0] reserved-range
    IPv4 | - | 172.31.255.0/24 => serviceCIDRs[0] reserved-range
    IPv4 | - | 192.0.2.0/25 => serviceCIDRs[0] reserved-range
    - | 127.0.0.0/16 | - => podCIDRs[0] reserved-range
    - | 224.0.0.0/16 | - => podCIDRs[0] reserved-range
    - | 240.0.0.0/16 | - => podCIDRs[0] reserved-range
    - | 0.0.0.0/0 | - => podCIDRs[0] reserved-range, serviceCIDRs overlap
    - | fe80::/64 | - => podCIDRs[0] reserved-range
    - | ff00::/64 | - => podCIDRs[0] reserved-range
    - | ::/64 | - => podCIDRs[0] reserved-range
    # Size of service ranges: smaller than /12, no larger than /108, and what the API server takes.
    IPv4 | - | 11.0.0.0/13 => good
    IPv4 | - | 11.0.0.0/12 => serviceCIDRs[0] service-size
    IPv4 | - | 11.0.0.0/8 => serviceCIDRs[0] service-size
    IPv4 | - | 11.0.0.0/29 => good
    IPv4 | - | 11.0.0.0/30 => serviceCIDRs[0] service-size
    IPv6 | - | fd01::/108 => good
    IPv6 | - | fd01::/107 => serviceCIDRs[0] service-size
    IPv6 | - | fd01::/125 => good
    IPv6 | - | fd01::/126 => serviceCIDRs[0] service-size
    # Pod CIDRs that hold no block of the default size.
    - | 10.244.0.0/25 | - => nodeMaskSize.ipv4 node-mask-pod-cidr
    - | fd00::/81 | - => nodeMaskSize.ipv6 node-mask-pod-cidr
    - | 10.244.0.0/24 | - => good
    - | fd00::/80 | - => good
";

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().filter(|word| *word != "-").collect()
}

#[test]
fn every_rule_about_lists() {
    let rows = TABLE.lines().map(str::trim).filter(|row| !row.is_empty() && !row.starts_with('#'));
    let mut asked = 0;
    for row in rows {
        let (given, expected) = row.split_once(" => ").unwrap();
        let [families, pods, services] = given.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let found = broken(&spec(&words(families), &words(pods), &words(services)));
        let found: Vec<String> = found.iter().map(|(field, rule)| format!("{field} {rule}")).collect();
        let found = if found.is_empty() { "good".to_owned() } else { found.join(", ") };
        assert_eq!(found, expected, "{row}");
        asked += 1;
    }
    assert_eq!(asked, 56);
}
