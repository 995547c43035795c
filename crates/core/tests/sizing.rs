//! Must catch: a proposal that meets what is there, a plan that runs out before it says so, an expansion to a range that
//! somebody has, a rule that is overlooked because of a proposal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use overlane_core::cidr::Cidr;
use overlane_core::cluster::{ClusterSpec, Routing, Surroundings, validate_within};
use overlane_core::sizing::{Fabric, Growth, Model, PoolWish, SNAT_PORTS, Sizing, Wish, size};
use proptest::prelude::*;

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn pool(nodes: u64, growth: Growth) -> PoolWish {
    PoolWish { name: "pool".to_owned(), nodes, growth }
}

fn wish(nodes: u64, growth: Growth) -> Wish {
    Wish { pools: vec![pool(nodes, growth)], months: 24, surge: 1, ..Wish::default() }
}

fn rules(sizing: &Sizing) -> Vec<String> {
    sizing.findings.iter().map(|finding| format!("{} {}", finding.field, finding.rule)).collect()
}

fn pods(sizing: &Sizing) -> Vec<String> {
    sizing.pods.iter().map(|space| space.cidr.to_string()).collect()
}

#[test]
fn nothing_known_gives_the_defaults() {
    let sizing = size(&wish(3, Growth::None));
    assert_eq!(pods(&sizing), ["10.244.0.0/16", "fd12:3456:789a::/64"]);
    assert_eq!(sizing.spec.service_cidrs, ["10.0.0.0/16", "fd12:3456:789a:1::/108"]);
    assert_eq!(sizing.around.dns_service_ips, ["10.0.0.10"]);
    assert_eq!((rules(&sizing), sizing.nodes), (Vec::new(), (3, 3)));
    let v4 = &sizing.pods[0];
    assert_eq!((v4.blocks, v4.pods, v4.runs_out, v4.proposed), (256, 64_000, None, true));
    let larger: Vec<_> = v4.expansions.iter().map(|e| (e.cidr.to_string(), e.blocks, e.in_the_way.len())).collect();
    assert_eq!(larger, [("10.244.0.0/15".to_owned(), 512, 0), ("10.244.0.0/14".to_owned(), 1024, 0)]);
    assert!(sizing.pods[1].expansions.is_empty(), "65,536 blocks are enough");
    assert_eq!(size(&wish(3, Growth::Percent(50))).pods[1].runs_out, None, "for more nodes than a cluster can have");
    assert_eq!(sizing.subnets[0].prefix_len, 28, "11 nodes");
}

#[test]
fn five_thousand_nodes_get_room() {
    let sizing = size(&wish(4_000, Growth::Nodes(40)));
    assert_eq!((rules(&sizing), sizing.nodes), (Vec::new(), (4_000, 4_960)));
    // 10.244.0.0 is no base of a /11.
    assert_eq!(pods(&sizing)[0], "10.128.0.0/11", "beside the Services' default, with room to grow");
    assert_eq!((sizing.subnets[0].prefix_len, sizing.pods[0].blocks), (19, 8_192));
    let sizing = size(&wish(4_000, Growth::Nodes(80)));
    assert_eq!(rules(&sizing), ["nodes node-count-limit"]);
}

#[test]
fn what_is_there_is_avoided() {
    let around = Surroundings {
        vnet_cidrs: owned(&["10.0.0.0/8"]),
        node_subnets: owned(&["10.224.0.0/24"]),
        on_prem_cidrs: owned(&["172.16.0.0/12"]),
        peered_cidrs: owned(&["192.168.0.0/17"]),
        ..Surroundings::default()
    };
    let sizing = size(&Wish { around, ..wish(10, Growth::Nodes(5)) });
    assert_eq!(rules(&sizing), Vec::<String>::new());
    assert_eq!((pods(&sizing), sizing.pods.len()), (owned(&["100.64.0.0/16"]), 1), "a family that nodes have");
    assert_eq!(sizing.spec.service_cidrs, ["100.68.0.0/16"]);
    let subnet = &sizing.subnets[0];
    assert_eq!((subnet.room, subnet.runs_out, subnet.prefix_len), (Some(251), Some(49), 24));
    assert_eq!(subnet.place.unwrap().to_string(), "10.0.0.0/24");
}

#[test]
fn what_runs_out_is_told_with_the_way_out() {
    let spec = ClusterSpec { pod_cidrs: owned(&["10.244.0.0/18"]), ..ClusterSpec::default() };
    let around = Surroundings {
        vnet_cidrs: owned(&["10.224.0.0/16"]),
        node_subnets: owned(&["10.224.0.0/26"]),
        peered_cidrs: owned(&["10.245.0.0/16"]),
        ..Surroundings::default()
    };
    let sizing = size(&Wish { spec, around, ..wish(40, Growth::Nodes(4)) });
    assert_eq!(rules(&sizing), ["podCIDRs pod-cidr-runs-out", "nodeSubnets node-subnet-runs-out"]);
    let space = &sizing.pods[0];
    assert_eq!((space.blocks, space.runs_out), (64, Some(6)));
    let larger: Vec<_> =
        space.expansions.iter().map(|e| (e.cidr.to_string(), e.runs_out, e.in_the_way.len())).collect();
    assert_eq!(
        larger,
        [
            ("10.244.0.0/17".to_owned(), Some(22), 0),
            ("10.244.0.0/16".to_owned(), Some(54), 0),
            ("10.244.0.0/15".to_owned(), Some(118), 1),
            ("10.244.0.0/14".to_owned(), Some(246), 1),
        ]
    );
    assert!(sizing.findings[0].fix.contains("10.244.0.0/16"), "{}", sizing.findings[0]);
    assert_eq!((sizing.subnets[0].room, sizing.subnets[0].runs_out), (Some(59), Some(5)));
    assert!(sizing.findings[1].fix.contains("/24"), "{}", sizing.findings[1]);
}

#[test]
fn the_largest_cluster_is_a_plan() {
    let families = owned(&["ipv4"]);
    let sizing = size(&Wish {
        spec: ClusterSpec { ip_families: families, ..ClusterSpec::default() },
        ..wish(5_000, Growth::None)
    });
    assert_eq!((rules(&sizing), sizing.pods[0].blocks), (Vec::new(), 8_192));
}

#[test]
fn a_text_that_is_no_range_is_one_finding() {
    for (text, rule) in [("zz", "cidr-syntax"), ("10.244.0.1/16", "host-bits")] {
        let spec = ClusterSpec { pod_cidrs: owned(&[text]), ..ClusterSpec::default() };
        assert_eq!(rules(&size(&Wish { spec, ..wish(3, Growth::None) })), [format!("podCIDRs[0] {rule}")]);
    }
}

#[test]
fn rules_of_the_network_are_the_plans() {
    let spec = ClusterSpec { pod_cidrs: owned(&["10.0.0.0/16"]), max_pods: 300, ..ClusterSpec::default() };
    let around = Surroundings { vnet_cidrs: owned(&["10.0.0.0/8"]), ..Surroundings::default() };
    let sizing = size(&Wish { spec, around, ..wish(3, Growth::None) });
    let found = rules(&sizing);
    assert!(sizing.plan.is_none() && found.contains(&"podCIDRs[0] overlap-vnet".to_owned()), "{found:?}");
    assert!(found.contains(&"maxPods max-pods-range".to_owned()), "{found:?}");
    assert_eq!(sizing.spec.service_cidrs, ["172.16.0.0/16"], "proposed beside both");
}

#[test]
fn ports_are_counted() {
    let spec = ClusterSpec { max_pods: 100, ..ClusterSpec::default() };
    let with = |flows, ips| size(&Wish { flows, outbound_ips: ips, spec: spec.clone(), ..wish(20, Growth::None) });
    assert_eq!(with(None, Some(1)).snat, None);
    let snat = with(Some(600), None).snat.unwrap();
    assert_eq!((snat.flows, snat.ports), (60_000, SNAT_PORTS));
    assert_eq!(rules(&with(Some(600), None)), Vec::<String>::new());
    assert_eq!(rules(&with(Some(700), None)), ["flows snat-ports"]);
    let snat = with(Some(600), Some(2)).snat.unwrap();
    assert_eq!(snat.ports, 2 * SNAT_PORTS / 21, "of all nodes together");
    assert_eq!(rules(&with(Some(600), Some(2))), ["flows snat-ports"]);
}

#[test]
fn advice_follows_from_what_is_told() {
    let model = |wish: Wish| size(&wish).model;
    assert_eq!(model(wish(3, Growth::None)).choice, Model::Overlay);
    let direct = model(Wish { direct: true, ..wish(3, Growth::None) });
    assert_eq!(direct.choice, Model::Flat);
    assert!(direct.because.iter().any(|because| because.contains("753")), "{:?}", direct.because);
    let leaving = model(Wish { leaving: Some(70), ..wish(3, Growth::None) });
    assert!(leaving.because.iter().any(|because| because.contains("64512")), "{:?}", leaving.because);
    let around = Surroundings { node_subnets: owned(&["10.1.0.0/24", "10.1.1.0/24"]), ..Surroundings::default() };
    for (fabric, several, want) in [
        (Fabric::Unknown, false, Routing::Auto),
        (Fabric::Segment, false, Routing::Native),
        (Fabric::Segment, true, Routing::Auto),
        (Fabric::Routed, false, Routing::Vxlan),
        (Fabric::RoutedToPods, true, Routing::Native),
        (Fabric::Azure, false, Routing::Auto),
        (Fabric::Aws, false, Routing::Auto),
        (Fabric::Gcp, false, Routing::Vxlan),
    ] {
        let around = if several { around.clone() } else { Surroundings::default() };
        let routing = size(&Wish { fabric, around, ..wish(3, Growth::None) }).routing;
        assert_eq!(routing.choice, want, "{fabric:?}");
        let asked = Some(Routing::Native);
        let routing = size(&Wish { fabric, routing: asked, ..wish(3, Growth::None) }).routing;
        assert_eq!(routing.choice, Routing::Native, "{fabric:?}: what is asked for is planned");
        assert!(!routing.because.is_empty());
    }
}

fn cidrs() -> impl Strategy<Value = Vec<String>> {
    let v4 = (any::<u32>(), 8_u8..=28, prop::sample::select(vec![10_u8, 172, 192, 100]));
    let v4 = v4.prop_map(|(bits, length, first)| {
        let [_, b, c, d] = bits.to_be_bytes();
        Cidr::around([first, b, c, d].into(), length).unwrap().to_string()
    });
    let v6 = (any::<u64>(), 10_u8..=64).prop_map(|(bits, length)| {
        let address = (0xfd_u128 << 120) | (u128::from(bits >> 8) << 64);
        Cidr::around(std::net::Ipv6Addr::from(address).into(), length).unwrap().to_string()
    });
    prop::collection::vec(prop_oneof![3 => v4, 1 => v6], 0..5)
}

fn growth() -> impl Strategy<Value = Growth> {
    prop_oneof![Just(Growth::None), (0_u64..50).prop_map(Growth::Nodes), (0_u64..30).prop_map(Growth::Percent)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// What is proposed meets nothing that is there: no rule about it is broken but where no space is free at all.
    #[test]
    fn proposals_meet_nothing(peered in cidrs(), on_prem in cidrs(), vnet in cidrs(), nodes in 1_u64..3_000, growth in growth()) {
        let around = Surroundings { peered_cidrs: peered, on_prem_cidrs: on_prem, vnet_cidrs: vnet, ..Surroundings::default() };
        let sizing = size(&Wish { around: around.clone(), ..wish(nodes, growth) });
        let theirs = [&around.peered_cidrs, &around.on_prem_cidrs, &around.vnet_cidrs];
        let theirs: Vec<Cidr> = theirs.into_iter().flatten().map(|text| text.parse().unwrap()).collect();
        for space in &sizing.pods {
            let meets = theirs.iter().any(|theirs| theirs.overlaps(&space.cidr));
            // What is that large can have all there is.
            let large = theirs.iter().any(|theirs| theirs.prefix_len() <= 12);
            prop_assert!(!meets || large);
            prop_assert!(large || space.blocks >= sizing.nodes.1.min(4_999));
        }
        let around = Surroundings { nodes: None, ..sizing.around.clone() };
        let again = validate_within(&sizing.spec, &around).err().unwrap_or_default();
        for finding in &again {
            prop_assert!(sizing.findings.contains(finding), "{finding}");
        }
    }

    /// The month that is told is the first in which there are more nodes than blocks.
    #[test]
    fn the_month_is_the_first(nodes in 1_u64..300, more in 1_u64..40, length in 15_u8..20, surge in 0_u64..5) {
        let spec = ClusterSpec { pod_cidrs: vec![format!("10.240.0.0/{length}")], ..ClusterSpec::default() };
        let sizing = size(&Wish { spec, surge, ..wish(nodes, Growth::Nodes(more)) });
        let space = &sizing.pods[0];
        let month = u64::from(space.runs_out.unwrap());
        prop_assert!(nodes + more * month + surge > space.blocks);
        prop_assert!(month == 0 || nodes + more * (month - 1) + surge <= space.blocks);
        for larger in &space.expansions {
            prop_assert_eq!(larger.cidr.network(), space.cidr.network());
            prop_assert!(larger.cidr.contains_cidr(&space.cidr) && larger.runs_out.is_none_or(|later| later >= space.runs_out.unwrap()));
        }
    }

    #[test]
    fn any_wish_is_answered(pods in "[0-9a-f.:/]{0,18}", nodes in any::<u64>(), more in any::<u64>(), months in any::<u32>(), mask in any::<u8>(), max in any::<u32>(), flows in any::<u64>()) {
        let spec = ClusterSpec { pod_cidrs: vec![pods], node_mask_v4: mask, node_mask_v6: mask, max_pods: max, ..ClusterSpec::default() };
        let wish = Wish { spec, months, flows: Some(flows), outbound_ips: Some(flows), ..wish(nodes, Growth::Percent(more)) };
        let _ = size(&wish);
    }
}
