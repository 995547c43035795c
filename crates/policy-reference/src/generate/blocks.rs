//! CIDRs around addresses that packets come from and go to.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::IPBlock;

use super::{Choices, OUTSIDE, nodes_addresses, pods_addresses};
use crate::Cluster;

/// From all of a family down to one address: all pods, the pods of a node, the nodes, and others in between.
const V4: [u8; 7] = [0, 8, 16, 24, 26, 30, 32];
const V6: [u8; 7] = [0, 32, 48, 64, 112, 124, 128];

/// A block, with or without exceptions.
pub(super) fn block(choices: &mut Choices, cluster: &Cluster) -> IPBlock {
    let cidr = net(choices, cluster);
    let except = choices.chance(55).then(|| exceptions(choices, cluster, cidr)).filter(|all| !all.is_empty());
    IPBlock { cidr: text(choices, cidr), except }
}

/// A block whose CIDR is none, or whose exception is not inside.
pub(super) fn bad_block(choices: &mut Choices, cluster: &Cluster) -> IPBlock {
    if choices.chance(60) {
        return IPBlock { cidr: bad_cidr(choices, cluster), except: None };
    }
    let cidr = IpNet::from(address(choices, cluster));
    let outside = if cidr.addr().is_ipv4() { "240.0.0.0/4" } else { "ff00::/8" };
    IPBlock { cidr: cidr.to_string(), except: Some(vec![outside.to_owned()]) }
}

/// An address without a length, or with one that no address has.
pub(super) fn bad_cidr(choices: &mut Choices, cluster: &Cluster) -> String {
    let address = address(choices, cluster);
    if choices.chance(50) { address.to_string() } else { format!("{address}/129") }
}

/// CIDRs, of either family.
pub(super) fn networks(choices: &mut Choices, cluster: &Cluster) -> Vec<String> {
    choices.several(1, 3, |choices| {
        let net = net(choices, cluster);
        text(choices, net)
    })
}

fn net(choices: &mut Choices, cluster: &Cluster) -> IpNet {
    let address = address(choices, cluster);
    let lengths = if address.is_ipv4() { &V4 } else { &V6 };
    let length = lengths[choices.weighted(&[30, 20, 15, 15, 5, 5, 10])];
    IpNet::new(address, length).unwrap_or_else(|_| address.into())
}

/// Mostly as the API asks for it, at times with bits of the host.
fn text(choices: &mut Choices, net: IpNet) -> String {
    if choices.chance(12) { net.to_string() } else { net.trunc().to_string() }
}

/// One address, a part, or both halves, which leaves nothing of the block.
fn exceptions(choices: &mut Choices, cluster: &Cluster, cidr: IpNet) -> Vec<String> {
    if choices.chance(20) {
        let halves = cidr.subnets(cidr.prefix_len() + 1);
        return halves.map(|halves| halves.map(|half| half.to_string()).collect()).unwrap_or_default();
    }
    let inside: Vec<IpAddr> = addresses(cluster).into_iter().filter(|address| cidr.contains(address)).collect();
    let lengths = if cidr.addr().is_ipv4() { &V4 } else { &V6 };
    let longer: Vec<u8> = lengths.iter().copied().filter(|length| *length > cidr.prefix_len()).collect();
    let wanted = choices.between(1, 2);
    (0..wanted)
        .filter_map(|_| {
            let address = *choices.pick_any(&inside)?;
            let part = IpNet::new(address, *choices.pick_any(&longer)?).ok()?;
            Some(part.trunc().to_string())
        })
        .collect()
}

/// As likely a pod's as a node's or one from outside.
fn address(choices: &mut Choices, cluster: &Cluster) -> IpAddr {
    let from = match choices.weighted(&[50, 20, 30]) {
        0 => pods_addresses(cluster),
        1 => nodes_addresses(cluster),
        _ => Vec::new(),
    };
    *choices.pick_any(&from).unwrap_or(choices.pick(&OUTSIDE))
}

fn addresses(cluster: &Cluster) -> Vec<IpAddr> {
    [pods_addresses(cluster), nodes_addresses(cluster), OUTSIDE.to_vec()].concat()
}
