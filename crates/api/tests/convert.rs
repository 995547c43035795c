//! Must catch: a ClusterNetwork that leaves fields out and gets zeroes and "off" instead of the defaults; a masquerade
//! key that is misspelt and passed over.

#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::error::Error;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use overlane_api::convert::{
    ConvertError, NodeAddressRule, blocks, cluster_spec, gateway, gateway_spec, held_blocks, mac, mac_text,
    masq_fragment, node_ips, peer, selector,
};
use overlane_api::crd::{
    ClusterNetworkSpec, EgressGatewaySpec, EgressGatewayStatus, EgressSlot, NetworkContainer, NodeCidrs,
    NodeNetworkConfigStatus, NodeStateSpec, OutboundType, Routing,
};
use overlane_core::cluster::{self, ClusterSpec};
use overlane_core::egress::{Gateway, Slot};
use overlane_core::family::Family;
use overlane_core::ipam::Block;
use overlane_core::labels::{Labels, Requirement, Selector};
use overlane_core::masq::MasqFragment;
use overlane_core::plan::Peer;

fn container(block: &str, node_ip: &str) -> NetworkContainer {
    NetworkContainer {
        id: "id".into(),
        primary_ip: block.into(),
        subnet_address_space: String::new(),
        node_ip: node_ip.into(),
        kind: "overlay".into(),
        assignment_mode: "static".into(),
    }
}

fn status(containers: &[(&str, &str)]) -> NodeNetworkConfigStatus {
    NodeNetworkConfigStatus {
        network_containers: containers.iter().map(|(block, node_ip)| container(block, node_ip)).collect(),
        ..NodeNetworkConfigStatus::default()
    }
}

#[test]
fn an_empty_manifest_means_the_defaults() {
    let spec: ClusterNetworkSpec = serde_json::from_str("{}").unwrap();
    assert_eq!(cluster_spec(&spec), ClusterSpec::default());
    assert_eq!(cluster_spec(&ClusterNetworkSpec::default()), ClusterSpec::default());
}

#[test]
fn every_field_arrives() {
    let text = r#"{"ipFamilies":["IPv6","IPv4"],"podCIDRs":["fd00::/64","10.1.0.0/16"],"serviceCIDRs":["fd01::/108",
        "10.2.0.0/16"],"nodeMaskSize":{"ipv4":25,"ipv6":96},"maxPods":30,"routing":"vxlan","nativeCIDRs":["10.9.0.0/16"],"vxlan":{"port":8472,"vni":7},"nodeCIDRs":"adopt",
        "masquerade":false,"outboundType":"userDefinedRouting","egress":{"internalCIDRs":["10.8.0.0/16"],
        "nextHops":["10.9.0.9"],"keepPodAddress":true},"networkPolicy":"none","networkPolicyLog":true}"#;
    let spec = cluster_spec(&serde_json::from_str(text).unwrap());
    let expected = ClusterSpec {
        ip_families: vec!["IPv6".into(), "IPv4".into()],
        pod_cidrs: vec!["fd00::/64".into(), "10.1.0.0/16".into()],
        service_cidrs: vec!["fd01::/108".into(), "10.2.0.0/16".into()],
        node_mask_v4: 25,
        node_mask_v6: 96,
        max_pods: 30,
        routing: cluster::Routing::Vxlan,
        native_cidrs: vec!["10.9.0.0/16".into()],
        vxlan: cluster::Vxlan { port: 8472, vni: 7 },
        node_cidrs: cluster::NodeCidrs::Adopt,
        masquerade: false,
        outbound: cluster::Outbound::UserDefinedRouting,
        egress: cluster::EgressSpec {
            internal_cidrs: vec!["10.8.0.0/16".into()],
            next_hops: vec!["10.9.0.9".into()],
            keep_pod_address: true,
        },
        network_policy: cluster::NetworkPolicy::None,
        network_policy_log: true,
    };
    assert_eq!(spec, expected);
}

#[test]
fn every_value_of_the_enums_arrives() {
    let routing = [
        (Routing::Native, cluster::Routing::Native),
        (Routing::Vxlan, cluster::Routing::Vxlan),
        (Routing::Auto, cluster::Routing::Auto),
    ];
    for (routing, expected) in routing {
        let spec = ClusterNetworkSpec { routing, ..ClusterNetworkSpec::default() };
        assert_eq!(cluster_spec(&spec).routing, expected);
    }
    let outbound = [
        (OutboundType::LoadBalancer, cluster::Outbound::LoadBalancer),
        (OutboundType::NatGateway, cluster::Outbound::NatGateway),
        (OutboundType::UserDefinedRouting, cluster::Outbound::UserDefinedRouting),
        (OutboundType::None, cluster::Outbound::None),
    ];
    for (outbound_type, expected) in outbound {
        let spec = ClusterNetworkSpec { outbound_type, ..ClusterNetworkSpec::default() };
        assert_eq!(cluster_spec(&spec).outbound, expected);
    }
    let node_cidrs =
        [(NodeCidrs::Allocate, cluster::NodeCidrs::Allocate), (NodeCidrs::Adopt, cluster::NodeCidrs::Adopt)];
    for (node_cidrs, expected) in node_cidrs {
        let spec = ClusterNetworkSpec { node_cidrs, ..ClusterNetworkSpec::default() };
        assert_eq!(cluster_spec(&spec).node_cidrs, expected);
    }
}

#[test]
fn blocks_beside_each_other_are_pairs() {
    let (v4a, v4b) = ("10.244.2.0/24", "10.244.9.0/24");
    let (v6a, v6b) = ("fd12:3456:789a:0:2::/80", "fd12:3456:789a:0:9::/80");
    let table: [(&[&str], &[u32]); 7] = [
        (&[], &[]),
        (&[v4a], &[0]),
        (&[v4a, v6a], &[0, 0]),
        (&[v6a, v4a], &[0, 0]),
        (&[v4a, v6a, v4b, v6b], &[0, 0, 1, 1]),
        (&[v4a, v4b, v6b], &[0, 1, 1]),
        (&[v4a, v6a, v6b], &[0, 0, 1]),
    ];
    for (given, pairs) in table {
        let containers: Vec<(&str, &str)> = given.iter().map(|block| (*block, "")).collect();
        let expected: Vec<Block> =
            given.iter().zip(pairs).map(|(cidr, pair)| Block { cidr: cidr.parse().unwrap(), pair: *pair }).collect();
        assert_eq!(blocks(&status(&containers)).unwrap(), expected, "{given:?}");
    }
}

#[test]
fn a_peer_in_every_choice_of_families() {
    let (v4, v6) = (("10.244.2.0/24", "10.224.0.5"), ("fd12:3456:789a:0:2::/80", "fd10:224::5"));
    for containers in [vec![v4], vec![v6], vec![v4, v6], vec![v6, v4]] {
        let mut status = status(&containers);
        status.underlay_mac = "02:00:5e:10:00:0f".into();
        let expected = Peer {
            name: "node-2".into(),
            blocks: containers.iter().map(|(block, _)| block.parse().unwrap()).collect(),
            node_ips: containers.iter().map(|(_, ip)| ip.parse().unwrap()).map(|ip| (Family::of(&ip), ip)).collect(),
            mac: Some([2, 0, 0x5e, 0x10, 0, 0x0f]),
        };
        assert_eq!(peer("node-2", &status).unwrap(), expected);
    }
    let without = peer("node-3", &status(&[("10.244.2.0/24", "")])).unwrap();
    assert!(without.node_ips.is_empty() && without.mac.is_none());
}

#[test]
fn what_means_nothing_is_refused_with_its_place() {
    let table = [
        (
            status(&[("10.244.2.0/24", ""), ("10.244.2.1/24", "")]),
            "status.networkContainers[1].primaryIP: `10.244.2.1/24` has host bits set; the network is 10.244.2.0/24",
        ),
        (status(&[("", "")]), "status.networkContainers[0].primaryIP: `` is no CIDR"),
        (status(&[("10.244.2.0/24", "node-1")]), "status.networkContainers[0].nodeIP: `node-1` is no address"),
        (
            status(&[("10.244.2.0/24", "fd10::1")]),
            "status.networkContainers[0].nodeIP: fd10::1 cannot be the node's address here: the block is IPv4",
        ),
        (
            status(&[("10.244.2.0/24", "10.0.0.1"), ("10.244.3.0/24", "10.0.0.2")]),
            "status.networkContainers[1].nodeIP: 10.0.0.2 cannot be the node's address here: another entry says 10.0.0.1",
        ),
        (
            NodeNetworkConfigStatus { underlay_mac: "02:00".into(), ..status(&[]) },
            "status.underlayMAC: `02:00` is no MAC address",
        ),
        (
            NodeNetworkConfigStatus {
                network_containers: vec![NetworkContainer {
                    kind: "vnetBlock".into(),
                    ..container("10.244.2.0/24", "")
                }],
                ..status(&[])
            },
            "status.networkContainers[0].type: `vnetBlock` is not known",
        ),
    ];
    for (status, message) in table {
        let error = peer("n", &status).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    let mixed = node_ips(&status(&[("10.244.2.0/24", "fd10::1")])).unwrap_err();
    assert!(matches!(mixed, ConvertError::NodeAddress { expected: NodeAddressRule::Family(Family::V4), .. }));
}

#[test]
fn held_blocks_come_whole_or_not_at_all() {
    let state = |held: &[&str]| NodeStateSpec {
        held_blocks: held.iter().map(|text| (*text).to_owned()).collect(),
        ..NodeStateSpec::default()
    };
    assert_eq!(held_blocks(&state(&["10.244.2.0/24"])).unwrap(), ["10.244.2.0/24".parse().unwrap()]);
    let error = held_blocks(&state(&["10.244.2.0/24", "x"])).unwrap_err().to_string();
    assert!(error.starts_with("spec.heldBlocks[1]: "), "{error}");
}

#[test]
fn macs() {
    assert_eq!(mac("f", "").unwrap(), None);
    assert_eq!(mac("f", "02:6F:76:6c:00:01").unwrap(), Some([2, 0x6f, 0x76, 0x6c, 0, 1]));
    for bad in ["02:6f:76:6c:00", "02:6f:76:6c:00:01:02", "02:6f:76:6c:0:01", "+2:6f:76:6c:00:01", "02-6f-76-6c-00-01"]
    {
        assert!(mac("f", bad).is_err(), "{bad}");
    }
    let text = mac_text(&[2, 0x6f, 0x76, 0x6c, 0, 1]);
    assert_eq!(text, "02:6f:76:6c:00:01");
}

#[test]
fn masquerade_fragments_in_yaml_and_json() {
    let full = MasqFragment {
        source: "cm/config".into(),
        non_masquerade_cidrs: vec!["10.0.0.0/8".into(), "fd00::/8".into()],
        masq_link_local: true,
        masq_link_local_ipv6: true,
    };
    let table = [
        (
            "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- fd00::/8\nmasqLinkLocal: true\nmasqLinkLocalIPv6: true\nresyncInterval: 60s\n",
            full.clone(),
        ),
        (r#"{"nonMasqueradeCIDRs":["10.0.0.0/8","fd00::/8"],"masqLinkLocal":true,"masqLinkLocalIPv6":true}"#, full),
        ("", MasqFragment { source: "cm/config".into(), ..MasqFragment::default() }),
        ("masqLinkLocal: false", MasqFragment { source: "cm/config".into(), ..MasqFragment::default() }),
        ("nonMasqueradeCIDRs:", MasqFragment { source: "cm/config".into(), ..MasqFragment::default() }),
        // Judged by `core`, with its place in the list.
        (
            "nonMasqueradeCIDRs: [what]",
            MasqFragment {
                source: "cm/config".into(),
                non_masquerade_cidrs: vec!["what".into()],
                ..MasqFragment::default()
            },
        ),
    ];
    for (text, expected) in table {
        assert_eq!(masq_fragment("cm", "config", text).unwrap(), expected, "{text}");
    }
}

#[test]
fn bad_masquerade_fragments_are_named_with_the_cause() {
    let table = [
        ("nonMasqueradeCIDR: [10.0.0.0/8]", "nonMasqueradeCIDR"),
        ("masqLinkLocalIpv6: true", "masqLinkLocalIpv6"),
        ("nonMasqueradeCIDRs: yes: no", ""),
        ("nonMasqueradeCIDRs: 10.0.0.0/8", "nonMasqueradeCIDRs"),
        ("masqLinkLocal: often", "masqLinkLocal"),
        ("- a\n- b", ""),
        ("\u{0}", ""),
    ];
    for (text, named) in table {
        let error = masq_fragment("kube-system/cm", "config", text).unwrap_err();
        assert!(error.to_string().contains("kube-system/cm/config is left out"), "{error}");
        let cause = error.source().unwrap().to_string();
        assert!(cause.contains(named), "{text}: {cause}");
    }
}

fn asked(key: &str, operator: &str, values: &[&str]) -> LabelSelectorRequirement {
    let values = (!values.is_empty()).then(|| values.iter().map(|value| (*value).to_owned()).collect());
    LabelSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values }
}

fn with(match_expressions: Vec<LabelSelectorRequirement>) -> LabelSelector {
    LabelSelector { match_expressions: Some(match_expressions), match_labels: None }
}

#[test]
fn a_selector_asks_for_all_that_it_says() {
    assert_eq!(selector("podSelector", &LabelSelector::default()).unwrap(), Selector::default());
    let mut all = with(vec![
        asked("tier", "In", &["web", "api"]),
        asked("zone", "NotIn", &["c"]),
        asked("team", "Exists", &[]),
        asked("legacy", "DoesNotExist", &[]),
    ]);
    all.match_labels = Some([("app".to_owned(), "shop".to_owned())].into());
    let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    let expected = [
        Requirement::In("app".into(), values(&["shop"])),
        Requirement::In("tier".into(), values(&["web", "api"])),
        Requirement::NotIn("zone".into(), values(&["c"])),
        Requirement::Exists("team".into()),
        Requirement::DoesNotExist("legacy".into()),
    ];
    assert_eq!(selector("podSelector", &all).unwrap().requirements, expected.into());
    for (operator, values) in [
        ("In", &[][..]),
        ("NotIn", &[]),
        ("Exists", &["x"]),
        ("DoesNotExist", &["x"]),
        ("Gt", &["1"]),
        ("in", &["x"]),
        ("", &[]),
    ] {
        let error = selector("podSelector", &with(vec![asked("tier", operator, values)])).unwrap_err().to_string();
        assert!(error.starts_with("podSelector.matchExpressions: `tier"), "{operator}: {error}");
    }
}

#[test]
fn a_gateway_in_force_is_what_was_applied() {
    let spec = EgressGatewaySpec {
        namespace_selector: with(vec![asked("team", "In", &["shop"])]),
        node_selector: with(vec![asked("egress", "Exists", &[])]),
        destination_cidrs: vec!["203.0.113.0/24".into()],
        egress_ips: vec!["10.224.0.200".into(), "fd10:224::200".into()],
        ..EgressGatewaySpec::default()
    };
    let raw = gateway_spec(&spec).unwrap();
    assert_eq!((&raw.addresses, &raw.destinations), (&spec.egress_ips, &spec.destination_cidrs));
    assert!(raw.nodes.selects(&Labels::from([("egress".into(), String::new())])) && !raw.nodes.selects(&Labels::new()));
    assert_eq!(gateway("out", &EgressGatewayStatus::default()).unwrap(), None, "none is in force");
    let slot = EgressSlot { number: 7, egress_ips: spec.egress_ips.clone() };
    let mut status = EgressGatewayStatus {
        applied: Some(spec.clone()),
        slots: vec![slot],
        nodes: vec!["b".into(), "a".into()],
        ..EgressGatewayStatus::default()
    };
    let addresses = spec.egress_ips.iter().map(|text| text.parse().unwrap()).map(|ip| (Family::of(&ip), ip)).collect();
    let expected = Gateway {
        name: "out".into(),
        namespaces: raw.namespaces,
        pods: Selector::default(),
        destinations: vec!["203.0.113.0/24".parse().unwrap()],
        slots: vec![Slot { number: 7, addresses }],
        nodes: ["a".to_owned(), "b".to_owned()].into(),
    };
    assert_eq!(gateway("out", &status).unwrap(), Some(expected));
    status.slots[0].egress_ips[0] = "10.224.0".into();
    assert!(matches!(gateway("out", &status), Err(ConvertError::Address { .. })));
}
