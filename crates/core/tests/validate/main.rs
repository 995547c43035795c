//! Must catch: a rule that is not asked, a rule that is asked with another number than the documents', and a judge
//! that stops at the first finding.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod around;
mod lists;
mod numbers;

use overlane_core::cidr::Cidr;
use overlane_core::cluster::{
    ClusterPlan, ClusterSpec, EgressSpec, Finding, NodeCidrs, Outbound, Pool, Routing, default_pod_cidr,
    default_service_cidr, validate,
};
use overlane_core::family::Family;
use proptest::prelude::*;

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn spec(families: &[&str], pods: &[&str], services: &[&str]) -> ClusterSpec {
    ClusterSpec {
        ip_families: owned(families),
        pod_cidrs: owned(pods),
        service_cidrs: owned(services),
        ..ClusterSpec::default()
    }
}

fn broken(spec: &ClusterSpec) -> Vec<(String, &'static str)> {
    match validate(spec) {
        Ok(_) => Vec::new(),
        Err(findings) => findings.into_iter().map(|finding| (finding.field, finding.rule)).collect(),
    }
}

fn texts(cidrs: &[Cidr]) -> Vec<String> {
    cidrs.iter().map(ToString::to_string).collect()
}

fn pods(plan: &ClusterPlan) -> Vec<String> {
    texts(&plan.pod_cidrs().collect::<Vec<_>>())
}

#[test]
fn the_defaults_are_those_of_the_documents() {
    let plan = validate(&ClusterSpec::default()).unwrap();
    assert_eq!(plan.families(), [Family::V4, Family::V6]);
    assert_eq!(pods(&plan), ["10.244.0.0/16", "fd12:3456:789a::/64"]);
    assert_eq!(texts(plan.services()), ["10.0.0.0/16", "fd12:3456:789a:1::/108"]);
    assert_eq!(plan.pools().iter().map(|pool| pool.node_mask).collect::<Vec<_>>(), [24, 80]);
    assert_eq!((plan.max_pods(), plan.masquerade(), plan.node_capacity()), (250, true, 256));
    assert_eq!((plan.routing(), plan.node_cidrs()), (Routing::Native, NodeCidrs::Allocate));
    assert_eq!(plan.outbound(), Outbound::LoadBalancer);
    assert_eq!(plan.pool(Family::V6).unwrap().block(2).unwrap().to_string(), "fd12:3456:789a:0:2::/80");
}

#[test]
fn empty_lists_are_filled_in() {
    // Families, pod CIDRs, service CIDRs as given; the same as they are understood.
    type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [Family], &'a [&'a str], &'a [&'a str]);
    let (p4, p6, s4, s6) = ("10.244.0.0/16", "fd12:3456:789a::/64", "10.0.0.0/16", "fd12:3456:789a:1::/108");
    let (v4, v6) = (Family::V4, Family::V6);
    let table: [Row; 12] = [
        (&[], &[], &[], &[v4, v6], &[p4, p6], &[s4, s6]),
        (&["IPv4"], &[], &[], &[v4], &[p4], &[s4]),
        (&["ipv6"], &[], &[], &[v6], &[p6], &[s6]),
        (&["IPV4", "ipv6"], &[], &[], &[v4, v6], &[p4, p6], &[s4, s6]),
        (&["IPv6", "IPv4"], &[], &[], &[v6, v4], &[p6, p4], &[s6, s4]),
        (&[], &["192.168.0.0/16"], &[], &[v4], &["192.168.0.0/16"], &[s4]),
        (&[], &["fd00::/64"], &[], &[v6], &["fd00::/64"], &[s6]),
        (&[], &["fd00::/64", "192.168.0.0/16"], &[], &[v6, v4], &["fd00::/64", "192.168.0.0/16"], &[s6, s4]),
        (&[], &[], &["10.9.0.0/24"], &[v4], &[p4], &["10.9.0.0/24"]),
        (&[], &[], &["fd01::/112", "10.9.0.0/24"], &[v6, v4], &[p6, p4], &["fd01::/112", "10.9.0.0/24"]),
        (&["IPv6"], &["fd00::/64"], &[], &[v6], &["fd00::/64"], &[s6]),
        (&["IPv4", "IPv6"], &[], &["10.9.0.0/24", "fd01::/112"], &[v4, v6], &[p4, p6], &["10.9.0.0/24", "fd01::/112"]),
    ];
    for (families, pod_cidrs, services, want_families, want_pods, want_services) in table {
        let plan = validate(&spec(families, pod_cidrs, services)).unwrap();
        assert_eq!(plan.families(), want_families);
        assert_eq!(pods(&plan), want_pods);
        assert_eq!(texts(plan.services()), want_services);
    }
}

#[test]
fn all_findings_at_once_in_the_fields_order() {
    let spec = ClusterSpec {
        ip_families: owned(&["IPv4", "IPv9"]),
        pod_cidrs: owned(&["10.244.0.1/16", "fd00::/64"]),
        service_cidrs: owned(&["10.0.0.0/12"]),
        node_mask_v4: 30,
        max_pods: 5,
        native_cidrs: owned(&["x"]),
        egress: EgressSpec { internal_cidrs: owned(&["10.0.0.1/8"]), ..EgressSpec::default() },
        ..ClusterSpec::default()
    };
    let fields: Vec<String> = broken(&spec).into_iter().map(|(field, _)| field).collect();
    let expected = [
        "ipFamilies[1]",
        "podCIDRs",
        "podCIDRs[0]",
        "serviceCIDRs[0]",
        "nodeMaskSize.ipv4",
        "maxPods",
        "maxPods",
        "nativeCIDRs[0]",
        "egress.internalCIDRs[0]",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_finding_tells_what_to_do() {
    let findings = validate(&spec(&[], &["10.244.1.0/16"], &[])).unwrap_err();
    let expected = Finding {
        field: "podCIDRs[0]".into(),
        rule: "host-bits",
        reason: "`10.244.1.0/16` has host bits set; the network is 10.244.0.0/16".into(),
        fix: "write 10.244.0.0/16".into(),
    };
    assert_eq!(findings, [expected]);
    let findings = validate(&spec(&[], &["10.0.0.0/11"], &[])).unwrap_err();
    assert_eq!(findings[0].reason, "the default 10.0.0.0/16 overlaps 10.0.0.0/11 of podCIDRs[0]");
    assert_eq!(
        findings[0].to_string(),
        "serviceCIDRs: the default 10.0.0.0/16 overlaps 10.0.0.0/11 of podCIDRs[0]; take ranges that have no address \
         in common (overlap)"
    );
}

#[test]
fn five_thousand_nodes_fit_a_slash_11() {
    let plan = validate(&spec(&[], &["10.32.0.0/11", "fd12:3456:789a::/64"], &[])).unwrap();
    assert_eq!(plan.node_capacity(), 8192);
    let pool = Pool { cidr: "10.244.0.0/24".parse().unwrap(), node_mask: 20 };
    assert_eq!((pool.block_count(), pool.block(0)), (0, None), "a pool that nobody validated gives nothing");
}

fn any_cidr_text() -> impl Strategy<Value = String> {
    prop_oneof![
        (any::<[u8; 4]>(), 0_u8..=33).prop_map(|([a, b, c, d], len)| format!("{a}.{b}.{c}.{d}/{len}")),
        (0_u8..=255, 8_u8..=28).prop_map(|(b, len)| format!("10.{b}.0.0/{len}")),
        (any::<u16>(), 32_u8..=120).prop_map(|(b, len)| format!("fd12:{b:x}::/{len}")),
        Just("x".to_owned()),
    ]
}

fn any_spec() -> impl Strategy<Value = ClusterSpec> {
    let families = proptest::collection::vec(prop_oneof![Just("IPv4"), Just("ipv6"), Just("v4")], 0..3);
    let pods = proptest::collection::vec(any_cidr_text(), 0..3);
    let services = proptest::collection::vec(any_cidr_text(), 0..3);
    (families, pods, services, 8_u8..=32, 32_u8..=128, 0_u32..300, any::<bool>()).prop_map(
        |(families, pod_cidrs, service_cidrs, node_mask_v4, node_mask_v6, max_pods, adopt)| ClusterSpec {
            ip_families: owned(&families),
            pod_cidrs,
            service_cidrs,
            node_mask_v4,
            node_mask_v6,
            max_pods,
            node_cidrs: if adopt { NodeCidrs::Adopt } else { NodeCidrs::Allocate },
            ..ClusterSpec::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// What is called valid keeps what everything after it relies on.
    #[test]
    fn a_valid_plan_is_one(spec in any_spec()) {
        match validate(&spec) {
            Err(findings) => {
                prop_assert!(!findings.is_empty());
                prop_assert!(findings.iter().all(|found| ![&found.field, &found.reason, &found.fix].contains(&&String::new())));
            }
            Ok(plan) => {
                let families = plan.families();
                prop_assert!((1..=2).contains(&families.len()));
                prop_assert!(families.first() != families.get(1));
                prop_assert_eq!(plan.pod_cidrs().map(|cidr| cidr.family()).collect::<Vec<_>>(), families);
                prop_assert_eq!(plan.services().iter().map(Cidr::family).collect::<Vec<_>>(), families);
                let all: Vec<Cidr> = plan.pod_cidrs().chain(plan.services().iter().copied()).collect();
                for (index, one) in all.iter().enumerate() {
                    prop_assert!(all.iter().skip(index + 1).all(|other| !one.overlaps(other)));
                }
                for pool in plan.pools() {
                    prop_assert!(pool.block_count() > 0 && pool.block(0).is_some());
                }
                prop_assert!((10..=250).contains(&plan.max_pods()));
            }
        }
    }

    #[test]
    fn defaults_are_valid_for_every_choice_of_families(order in 0_usize..4) {
        let families: &[Family] = [&[Family::V4][..], &[Family::V6], &[Family::V4, Family::V6], &[Family::V6, Family::V4]][order];
        let spec = ClusterSpec {
            ip_families: families.iter().map(ToString::to_string).collect(),
            pod_cidrs: families.iter().map(|family| default_pod_cidr(*family).to_owned()).collect(),
            service_cidrs: families.iter().map(|family| default_service_cidr(*family).to_owned()).collect(),
            ..ClusterSpec::default()
        };
        let named = ClusterSpec { pod_cidrs: vec![], service_cidrs: vec![], ..spec.clone() };
        prop_assert_eq!(validate(&spec).unwrap(), validate(&named).unwrap());
    }
}
