//! Every rule about numbers and choices.

use overlane_core::cluster::{ClusterSpec, EgressSpec, NodeCidrs, Outbound, Routing, Vxlan};

use super::{broken, owned, spec};

#[test]
fn every_rule_about_numbers() {
    let v4 = || spec(&["IPv4"], &[], &[]);
    let v6 = || spec(&["IPv6"], &[], &[]);
    let pods_range = ("maxPods", "max-pods-range");
    let pods_block = ("maxPods", "max-pods-block");
    let mask4 = ("nodeMaskSize.ipv4", "node-mask-range");
    let mask6 = ("nodeMaskSize.ipv6", "node-mask-range");
    let table: Vec<(ClusterSpec, Vec<(&str, &str)>)> = vec![
        (ClusterSpec { max_pods: 10, ..v4() }, vec![]),
        (ClusterSpec { max_pods: 250, ..v4() }, vec![]),
        (ClusterSpec { max_pods: 9, ..v4() }, vec![pods_range]),
        (ClusterSpec { max_pods: 251, ..v4() }, vec![pods_range]),
        (ClusterSpec { max_pods: 0, ..v4() }, vec![pods_range]),
        (ClusterSpec { max_pods: 255, ..v4() }, vec![pods_range, pods_block]),
        (ClusterSpec { max_pods: u32::MAX, ..v6() }, vec![pods_range, pods_block]),
        (ClusterSpec { node_mask_v4: 25, max_pods: 126, ..v4() }, vec![]),
        (ClusterSpec { node_mask_v4: 25, max_pods: 127, ..v4() }, vec![pods_block]),
        (ClusterSpec { node_mask_v4: 28, max_pods: 14, ..v4() }, vec![]),
        (ClusterSpec { node_mask_v4: 28, max_pods: 15, ..v4() }, vec![pods_block]),
        (ClusterSpec { node_mask_v4: 20, ..v4() }, vec![]),
        (ClusterSpec { node_mask_v4: 19, ..v4() }, vec![mask4]),
        (ClusterSpec { node_mask_v4: 29, max_pods: 10, ..v4() }, vec![mask4, pods_block]),
        (ClusterSpec { node_mask_v4: 32, max_pods: 10, ..v4() }, vec![mask4, pods_block]),
        (ClusterSpec { node_mask_v4: 255, max_pods: 10, ..v4() }, vec![mask4, pods_block]),
        (ClusterSpec { node_mask_v4: 15, ..v4() }, vec![("nodeMaskSize.ipv4", "node-mask-pod-cidr"), mask4]),
        (ClusterSpec { node_mask_v6: 64, ..v6() }, vec![]),
        (ClusterSpec { node_mask_v6: 63, ..v6() }, vec![("nodeMaskSize.ipv6", "node-mask-pod-cidr"), mask6]),
        (ClusterSpec { node_mask_v6: 120, max_pods: 250, ..v6() }, vec![]),
        (ClusterSpec { node_mask_v6: 124, max_pods: 14, ..v6() }, vec![]),
        (ClusterSpec { node_mask_v6: 125, max_pods: 10, ..v6() }, vec![mask6, pods_block]),
        // A mask of a family that the cluster has not means nothing.
        (ClusterSpec { node_mask_v4: 99, ..v6() }, vec![]),
        (ClusterSpec { node_mask_v6: 199, ..v4() }, vec![]),
        // The smaller block of two counts.
        (ClusterSpec { node_mask_v4: 26, max_pods: 62, ..ClusterSpec::default() }, vec![]),
        (ClusterSpec { node_mask_v4: 26, max_pods: 63, ..ClusterSpec::default() }, vec![pods_block]),
        // Adopted blocks are as large as they are.
        (ClusterSpec { node_mask_v4: 99, node_cidrs: NodeCidrs::Adopt, ..v4() }, vec![]),
        (ClusterSpec { node_cidrs: NodeCidrs::Adopt, pod_cidrs: owned(&["10.244.0.0/28"]), ..v4() }, vec![]),
        (ClusterSpec { native_cidrs: vec!["10.0.0.1/8".into()], ..v4() }, vec![("nativeCIDRs[0]", "host-bits")]),
        (ClusterSpec { routing: Routing::Vxlan, ..v4() }, vec![]),
        (
            ClusterSpec { vxlan: Vxlan { port: 0, vni: 0 }, ..v4() },
            vec![("vxlan.port", "vxlan-port"), ("vxlan.vni", "vxlan-vni")],
        ),
        (ClusterSpec { vxlan: Vxlan { port: 1, vni: 1 << 24 }, ..v4() }, vec![("vxlan.vni", "vxlan-vni")]),
        (ClusterSpec { outbound: Outbound::NatGateway, ..v4() }, vec![]),
        (ClusterSpec { outbound: Outbound::UserDefinedRouting, ..v4() }, vec![]),
        (ClusterSpec { outbound: Outbound::None, ..v4() }, vec![]),
        (ClusterSpec { masquerade: false, ..v4() }, vec![]),
    ];
    for (spec, expected) in table {
        let found = broken(&spec);
        let found: Vec<(&str, &str)> = found.iter().map(|(field, rule)| (field.as_str(), *rule)).collect();
        assert_eq!(found, expected, "{spec:?}");
    }
}

#[test]
fn every_rule_about_ways_out() {
    let out = |outbound, next_hops: &[&str], keep_pod_address| ClusterSpec {
        outbound,
        egress: EgressSpec { next_hops: owned(next_hops), keep_pod_address, internal_cidrs: Vec::new() },
        ..spec(&["IPv4"], &[], &[])
    };
    let routed = |next_hops: &[&str]| out(Outbound::UserDefinedRouting, next_hops, false);
    let hop = |rule| ("egress.nextHops[0]", rule);
    let internal = |network: &str| ClusterSpec {
        egress: EgressSpec { internal_cidrs: owned(&[network]), ..EgressSpec::default() },
        ..spec(&["IPv4"], &[], &[])
    };
    let table: Vec<(ClusterSpec, Vec<(&str, &str)>)> = vec![
        (routed(&["10.224.0.250"]), vec![]),
        (ClusterSpec { ip_families: Vec::new(), ..routed(&["10.224.0.250", "fe80::250"]) }, vec![]),
        (routed(&["10.224.0.250/32"]), vec![hop("next-hop-syntax")]),
        (routed(&["0.0.0.0"]), vec![hop("next-hop-range")]),
        (routed(&["127.0.0.1"]), vec![hop("next-hop-range")]),
        (routed(&["224.0.0.1"]), vec![hop("next-hop-range")]),
        (routed(&["10.244.3.4"]), vec![hop("next-hop-range")]),
        (routed(&["10.0.0.4"]), vec![hop("next-hop-range")]),
        (routed(&["fd10::250"]), vec![hop("next-hop-family")]),
        (routed(&["10.224.0.250", "10.224.0.251"]), vec![("egress.nextHops[1]", "next-hop-twice")]),
        (out(Outbound::LoadBalancer, &["10.224.0.250"], false), vec![("egress.nextHops", "next-hop-outbound")]),
        (out(Outbound::None, &["10.224.0.250"], false), vec![("egress.nextHops", "next-hop-outbound")]),
        (out(Outbound::UserDefinedRouting, &["10.224.0.250"], true), vec![]),
        (out(Outbound::UserDefinedRouting, &[], true), vec![("egress.keepPodAddress", "keep-pod-address")]),
        (internal("10.250.0.0/16"), vec![]),
        (internal("10.250.0.1/16"), vec![("egress.internalCIDRs[0]", "host-bits")]),
        (internal("all"), vec![("egress.internalCIDRs[0]", "cidr-syntax")]),
    ];
    for (spec, expected) in table {
        let found = broken(&spec);
        let found: Vec<(&str, &str)> = found.iter().map(|(field, rule)| (field.as_str(), *rule)).collect();
        assert_eq!(found, expected, "{spec:?}");
    }
}
