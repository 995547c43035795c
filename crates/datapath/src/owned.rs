//! What in a node's kernel is ours, and how it is recognised. The only place that makes or tests such names.
//!
//! Two ways of being wrong: to take a foreign object for ours (it would be deleted: the worse one) and to miss one
//! of ours (a leftover that `doctor` reports). So a link counts as ours only by prefix *and* kind, a route only by
//! table *and* protocol number *and* metric.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::mac::Mac;

/// Every link of ours begins so.
pub const LINK_PREFIX: &str = "ovl";
/// The host's end of a pod's link begins so.
pub const POD_LINK_PREFIX: &str = "ovlp";
/// The link that a pod's packets wait in, if they are limited, begins so.
pub const SHAPER_LINK_PREFIX: &str = "ovlb";
/// The kind of such a link.
pub const SHAPER_KIND: &str = "ifb";
/// The link that leads to other nodes' pods in the tunnel; of kind `vxlan`.
pub const TUNNEL_LINK: &str = "ovlx0";
/// Every pod link's host end has this address, so that a pod's permanent neighbour never changes.
pub const HOST_MAC: Mac = [0x02, 0x6f, 0x76, 0x6c, 0x00, 0x01];
/// The group of the packet filter's log (`NFLOG`) that packets of network policy go to.
pub const NFLOG_GROUP: u16 = 28_534;
/// The nftables table (family `inet`).
pub const NFT_TABLE: &str = "overlane";
/// `rtm_protocol` of what we add.
pub const PROTOCOL: u8 = 111;
/// The route table with pod routes: main. A rule that leads to a table of ours would make the kernel walk all rules for
/// every packet of the node (ADR 8).
pub const ROUTE_TABLE: u32 = 254;
/// `RT_TABLE_LOCAL`, for addresses that are the node's own and on no link: the kernel answers from no others.
pub const LOCAL_TABLE: u32 = 255;
/// Metric of a route of ours to somewhere: nobody's default, and before IPv6's of 1024.
pub const METRIC: u32 = 111;
/// Metric of a route of ours that answers "unreachable": anything else for the same destination goes first.
pub const METRIC_UNREACHABLE: u32 = 0x7fff_ffff;
/// Bits of the packet mark that are ours: the number of the exit by which a packet leaves the cluster.
pub const MARK_MASK: u32 = 0x0ff0_0000;
/// Tables of exits, by their numbers: what a marked packet is routed by.
pub const EXIT_TABLES: RangeInclusive<u32> = 28_601..=28_855;
/// The number of the exit of packets that go to a next hop.
pub const NEXT_HOP_EXIT: u8 = 1;
/// Place of rules that lead to them: behind the kernel's for addresses of the node itself, before anybody's default.
pub const RULE_PRIORITY: u32 = 111;
/// Conntrack zones that are ours.
pub const CONNTRACK_ZONES: RangeInclusive<u16> = 28_600..=28_899;
/// Distance of our nft chains' priorities from the named ones (raw, filter, srcnat): before other people's.
pub const NFT_PRIORITY_OFFSET: i32 = -11;
/// Links in this group are about to be deleted.
pub const DYING_GROUP: u32 = 0x6f76_6c10;
/// Directory below the bpffs mount.
pub const BPFFS_DIR: &str = "overlane";
/// The IPv4 gateway that pods see.
pub const GATEWAY_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 gateway that pods see.
pub const GATEWAY_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Where the agent keeps its socket, leases and view.
pub const RUN_DIR: &str = "/run/overlane";
/// Where the container runtime looks for network configurations.
pub const CNI_CONF_DIR: &str = "/etc/cni/net.d";
/// Our network configuration's file name.
pub const CNI_CONF_NAME: &str = "05-overlane.conflist";

/// The kernel's IFALIASZ less the final NUL.
const ALIAS_MAX: usize = 255;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Whether a route of the node is ours.
#[must_use]
pub const fn is_route(table: u32, protocol: u8, metric: u32) -> bool {
    (matches!(table, ROUTE_TABLE | LOCAL_TABLE) || is_exit_table(table))
        && protocol == PROTOCOL
        && matches!(metric, METRIC | METRIC_UNREACHABLE)
}

/// Whether an address of a link is an egress address of ours.
#[must_use]
pub const fn is_egress_ip(protocol: u8, prefix_len: u8, address: IpAddr) -> bool {
    protocol == PROTOCOL && prefix_len == if address.is_ipv4() { 32 } else { 128 }
}

/// Whether a table is an exit's.
#[must_use]
pub const fn is_exit_table(table: u32) -> bool {
    *EXIT_TABLES.start() <= table && table <= *EXIT_TABLES.end()
}

/// The table of exit `number`, 1 to 255.
#[must_use]
pub fn exit_table(number: u8) -> u32 {
    *EXIT_TABLES.start() + u32::from(number.max(1)) - 1
}

/// The conntrack zone of flows that come to this node for slot `number`, by their first packets' direction.
#[must_use]
pub fn slot_zone(number: u8) -> u16 {
    *CONNTRACK_ZONES.start() + u16::from(number)
}

/// The mark of packets that leave by exit `number`, 1 to 255.
#[must_use]
pub fn exit_mark(number: u8) -> u32 {
    u32::from(number.max(1)) << MARK_MASK.trailing_zeros()
}

/// The host's link name for an attachment that began at `began_ns`: 15 bytes, the longest that the kernel takes.
///
/// The start is part of it so that an attachment made again at once never meets the link that is still going.
#[must_use]
pub fn pod_link_name(container_id: &str, ifname: &str, began_ns: u64) -> String {
    let mut hash = Fnv::new(0);
    hash.add(container_id.as_bytes());
    hash.add(&[0]);
    hash.add(ifname.as_bytes());
    hash.add(&[0]);
    hash.add(&began_ns.to_be_bytes());
    let mut bits = hash.end();
    let mut name = String::with_capacity(15);
    name.push_str(POD_LINK_PREFIX);
    for _ in 0..11 {
        let digit = usize::try_from(bits & 31).unwrap_or(0);
        name.push(char::from(BASE32[digit]));
        bits >>= 5;
    }
    name
}

/// The pod's end's address for the host's link `link`: locally administered, never [`HOST_MAC`].
#[must_use]
pub fn pod_mac(link: &str) -> Mac {
    let mut hash = Fnv::new(1);
    hash.add(link.as_bytes());
    let [a, b, c, d, e, ..] = hash.end().to_be_bytes();
    let mac = [0x02, a, b, c, d, e];
    if mac == HOST_MAC { [0x02, a, b, c, d, !e] } else { mac }
}

/// The link's alias: who the link is for, cut to what the kernel holds.
#[must_use]
pub fn pod_alias(namespace: &str, pod: &str, container_id: &str) -> String {
    let mut alias = format!("overlane:{namespace}/{pod}:{container_id}");
    let mut end = alias.len().min(ALIAS_MAX);
    while !alias.is_char_boundary(end) {
        end -= 1;
    }
    alias.truncate(end);
    alias
}

/// Whether a link of this name and kind is the tunnel's.
#[must_use]
pub fn is_tunnel(name: &str, kind: Option<&str>) -> bool {
    name == TUNNEL_LINK && kind == Some("vxlan")
}

/// Whether a link's name is one that [`pod_link_name`] makes.
#[must_use]
pub fn is_pod_link(name: &str) -> bool {
    is_numbered(name, POD_LINK_PREFIX)
}

/// The link that the packets of the pod behind `link` wait in.
#[must_use]
pub fn shaper_link_name(link: &str) -> String {
    format!("{SHAPER_LINK_PREFIX}{}", link.strip_prefix(POD_LINK_PREFIX).unwrap_or(link))
}

/// The pod's link that a link of [`shaper_link_name`] is for; none if the name is no such.
#[must_use]
pub fn shaped_link(name: &str) -> Option<String> {
    is_numbered(name, SHAPER_LINK_PREFIX).then(|| name.replacen(SHAPER_LINK_PREFIX, POD_LINK_PREFIX, 1))
}

/// Whether a link of this name and kind is one that is made for a pod.
#[must_use]
pub fn is_for_pod(name: &str, kind: Option<&str>) -> bool {
    match kind {
        Some("veth") => is_pod_link(name),
        Some(SHAPER_KIND) => shaped_link(name).is_some(),
        _ => false,
    }
}

fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.len() == 11 && rest.bytes().all(|b| BASE32.contains(&b)))
}

/// FNV-1a with a final mix: short inputs that differ in one byte differ in all bits. Not against an adversary: a name
/// that is taken makes the creation fail, and it is made again with another start.
struct Fnv(u64);

impl Fnv {
    fn new(salt: u64) -> Self {
        Self(0xcbf2_9ce4_8422_2325 ^ salt)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn end(self) -> u64 {
        let mut x = self.0;
        x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        x ^ (x >> 33)
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a link name longer than the kernel takes, or one that `is_pod_link` does not know again.
    use super::*;

    #[test]
    fn names_fit_and_are_known_again() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..10_000_u64 {
            let name = pod_link_name("0123456789abcdef", "eth0", n);
            assert_eq!(name.len(), 15);
            assert!(is_pod_link(&name) && is_for_pod(&name, Some("veth")), "{name}");
            let shaper = shaper_link_name(&name);
            assert_eq!((shaper.len(), shaped_link(&shaper).as_deref()), (15, Some(name.as_str())));
            assert!(is_for_pod(&shaper, Some("ifb")) && !is_for_pod(&shaper, Some("veth")) && !is_pod_link(&shaper));
            assert!(seen.insert(name.clone()), "{name} twice");
            let mac = pod_mac(&name);
            assert_eq!(mac[0] & 3, 2, "locally administered unicast");
            assert_ne!(mac, HOST_MAC);
        }
        assert_ne!(pod_link_name("a", "bc", 1), pod_link_name("ab", "c", 1));
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in
            ["eth0", "ovlp", "ovlpabc", "ovlpABCDEFGHIJK", "ovlp0000000000!", "ovlx0", "vethovlp", "ovlp1aaaaaaaaaa"]
        {
            assert!(!is_pod_link(name), "{name}");
        }
    }

    #[test]
    fn aliases_are_cut_at_a_character() {
        let alias = pod_alias("ns", &"ä".repeat(200), "id");
        assert!(alias.len() <= 255 && alias.starts_with("overlane:ns/ä"));
        assert_eq!(pod_alias("a", "b", "c"), "overlane:a/b:c");
    }
}
