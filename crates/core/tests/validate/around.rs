//! Every rule about what is around a cluster.

use overlane_core::cluster::{ClusterSpec, NodeCidrs, Routing, Surroundings, validate, validate_within};
use proptest::prelude::*;

use super::{owned, spec};

/// What is given, each word with its key; field and rule of every finding. Pods have 10.244.0.0/16 and fd12:3456:789a::/64,
/// Services 10.0.0.0/16 and fd12:3456:789a:1::/108, unless `pods` or `services` say otherwise.
const TABLE: &str = "
    # Nothing is known.
    => good
    # A network as it should be.
    vnet=10.224.0.0/12 subnet=10.224.0.0/16 subnet=fd00:1::/64 peer=192.168.0.0/16 prem=172.16.0.0/16 => good
    # Pods.
    subnet=10.244.7.0/24 subnet=fd00:1::/64 => podCIDRs overlap-node-subnet
    vnet=10.240.0.0/13 => podCIDRs overlap-vnet
    vnet=10.240.0.0/13 subnet=10.240.0.0/24 subnet=fd00:1::/64 => podCIDRs overlap-vnet
    vnet=10.0.0.0/8 pods=10.244.0.0/16 services=172.20.0.0/16 => podCIDRs[0] overlap-vnet
    peer=10.244.0.0/24 => podCIDRs overlap-peered
    prem=10.244.255.255/32 => podCIDRs overlap-on-prem
    prem=10.244.0.0/15 peer=fd12::/16 => podCIDRs overlap-peered, serviceCIDRs overlap-peered, podCIDRs overlap-on-prem
    # The same pod CIDR may be used again in another cluster: nothing of that is asked.
    pods=192.168.0.0/16 services=10.2.0.0/16 vnet=10.0.0.0/16 => good
    # Services.
    vnet=10.0.0.0/24 => serviceCIDRs overlap-vnet
    subnet=10.0.9.0/24 subnet=fd00:1::/64 => serviceCIDRs overlap-node-subnet
    peer=10.0.0.0/17 => serviceCIDRs overlap-peered
    prem=fd12:3456:789a:1::7/128 => serviceCIDRs overlap-on-prem
    # Networks among each other.
    vnet=10.224.0.0/16 peer=10.224.128.0/24 => vnetCIDRs[0] overlap-peered
    vnet=10.224.0.0/16 prem=10.0.0.0/8 => podCIDRs overlap-on-prem, serviceCIDRs overlap-on-prem, vnetCIDRs[0] overlap-on-prem
    subnet=10.224.0.0/24 subnet=10.224.0.128/25 subnet=fd00:1::/64 => nodeSubnets[1] overlap-node-subnet
    vnet=10.224.0.0/16 subnet=10.225.0.0/24 subnet=fd00:1::/64 => nodeSubnets[0] node-subnet-vnet
    subnet=10.225.0.0/30 subnet=fd00:1::/64 => nodeSubnets[0] node-subnet-size
    subnet=10.225.0.0/29 subnet=fd00:1::/64 => good
    subnet=10.224.0.0/24 => nodeSubnets node-subnet-family
    subnet=10.224.0.0/24 vxlan => good
    subnet=10.224.0.0/24 pods=10.244.0.0/16 services=10.0.0.0/16 => good
    # Texts.
    vnet=ten => vnetCIDRs[0] cidr-syntax
    vnet=10.224.1.0/16 => vnetCIDRs[0] host-bits
    peer=10.244.0.1/24 => peeredCIDRs[0] host-bits, podCIDRs overlap-peered
    prem=1.2.3.0/33 => onPremCIDRs[0] prefix-length
    # Nodes: blocks, and addresses of subnets. A /24 has 251.
    nodes=256 => good
    nodes=257 => nodes node-count-blocks
    nodes=251 subnet=10.224.0.0/24 subnet=fd00:1::/64 => good
    nodes=252 subnet=10.224.0.0/24 subnet=fd00:1::/64 => nodes node-count-subnet
    nodes=252 subnet=10.224.0.0/24 subnet=10.224.1.0/29 subnet=fd00:1::/64 => good
    nodes=5000 pods=10.128.0.0/11 services=10.0.0.0/16 => good
    nodes=5001 pods=10.128.0.0/11 services=10.0.0.0/16 => nodes node-count-limit
    nodes=300 adopt => good
    # DNS.
    dns=10.0.0.10 dns=fd12:3456:789a:1::a => good
    dns=10.0.0.2 => good
    dns=10.0.0.1 => dnsServiceIPs[0] dns-service-ip
    dns=10.0.0.0 => dnsServiceIPs[0] dns-service-ip
    dns=10.0.255.255 => dnsServiceIPs[0] dns-service-ip
    dns=10.1.0.10 => dnsServiceIPs[0] dns-service-ip
    dns=x => dnsServiceIPs[0] dns-service-ip
    dns=10.0.0.10 dns=10.0.0.11 => dnsServiceIPs[1] dns-service-ip
    pods=10.244.0.0/16 services=10.0.0.0/16 dns=fd12:3456:789a:1::a => dnsServiceIPs[0] dns-service-ip
    # Names.
    name=aks-vnet => good
    name=group_ => vnetName label-value
    # All at once.
    vnet=10.0.0.0/8 nodes=9999 dns=10.0.0.1 name=- => podCIDRs overlap-vnet, serviceCIDRs overlap-vnet, \
        nodes node-count-limit, nodes node-count-blocks, dnsServiceIPs[0] dns-service-ip, vnetName label-value
";

fn read(words: &str) -> (ClusterSpec, Surroundings) {
    let (mut around, mut spec) = (Surroundings::default(), spec(&[], &[], &[]));
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let text = value.to_owned();
        match key {
            "vnet" => around.vnet_cidrs.push(text),
            "subnet" => around.node_subnets.push(text),
            "peer" => around.peered_cidrs.push(text),
            "prem" => around.on_prem_cidrs.push(text),
            "dns" => around.dns_service_ips.push(text),
            "nodes" => around.nodes = Some(value.parse().unwrap()),
            "name" => around.names.push(("vnetName".to_owned(), text)),
            "pods" => spec.pod_cidrs.push(text),
            "services" => spec.service_cidrs.push(text),
            "vxlan" => spec.routing = Routing::Vxlan,
            "adopt" => spec.node_cidrs = NodeCidrs::Adopt,
            other => panic!("{other}"),
        }
    }
    (spec, around)
}

#[test]
fn every_rule_about_the_surroundings() {
    let rows = TABLE.lines().map(str::trim).filter(|row| !row.is_empty() && !row.starts_with('#'));
    let mut count = 0;
    for row in rows {
        let (given, want) = row.split_once("=>").unwrap();
        let (spec, around) = read(given);
        let found: Vec<String> = match validate_within(&spec, &around) {
            Ok(_) => vec!["good".to_owned()],
            Err(findings) => findings.iter().map(|finding| format!("{} {}", finding.field, finding.rule)).collect(),
        };
        assert_eq!(
            found,
            want.split(',').map(|want| want.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>(),
            "{row}"
        );
        count += 1;
    }
    assert!(count > 40, "{count} rows");
}

#[test]
fn what_is_around_takes_no_rule_away() {
    let (_, around) = read("vnet=10.224.0.0/12 subnet=10.224.0.0/16 subnet=fd00:1::/64 dns=10.0.0.10 nodes=3");
    for bad in [ClusterSpec { max_pods: 5, ..ClusterSpec::default() }, spec(&["IPv4"], &["x"], &[])] {
        assert_eq!(validate_within(&bad, &around).unwrap_err(), validate(&bad).unwrap_err());
    }
    let good = validate(&ClusterSpec::default()).unwrap();
    assert_eq!(validate_within(&ClusterSpec::default(), &around).unwrap(), good);
}

proptest! {
    /// No text at all makes it fail otherwise than by findings, and each of them names what is wrong and what is right.
    #[test]
    fn any_text_is_judged(
        vnet in "[0-9a-f.:/]{0,20}", subnet in "\\PC{0,12}", dns in "[0-9a-f.:]{0,12}", name in "\\PC{0,70}", nodes in any::<u64>(),
    ) {
        let around = Surroundings {
            vnet_cidrs: owned(&[&vnet]), node_subnets: owned(&[&subnet]), dns_service_ips: owned(&[&dns]),
            nodes: Some(nodes), names: vec![("vnetName".to_owned(), name)], ..Surroundings::default()
        };
        for finding in validate_within(&ClusterSpec::default(), &around).err().into_iter().flatten() {
            prop_assert!(!finding.reason.is_empty() && !finding.fix.is_empty() && !finding.field.is_empty());
        }
    }
}
