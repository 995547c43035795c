//! Must catch: a rule lost, doubled or moved in the packet filter of any family.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use expect_test::expect_file;
use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::plan::{
    EgressPlan, ExitPlan, GatewayPlan, MasqPlan, NodeMember, NodePlan, Outside, PeerMember, Place, PodMember,
    TunnelPlan,
};
use overlane_datapath::render::element::{self, Element};
use overlane_datapath::render::nft::{Objects, Structure, mark};
use overlane_datapath::render::policy::Pool;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn plan(families: &[Family], masquerade: bool) -> NodePlan {
    let pick = |v4: &str, v6: &str| -> BTreeSet<Cidr> {
        families.iter().map(|f| cidr(if *f == Family::V4 { v4 } else { v6 })).collect()
    };
    let ips = |v4: &str, v6: &str| -> BTreeMap<Family, IpAddr> {
        families.iter().map(|f| (*f, if *f == Family::V4 { v4 } else { v6 }.parse().unwrap())).collect()
    };
    let space = pick("10.244.0.0/16", "fd12:3456:789a::/64");
    let own = pick("10.244.1.0/24", "fd12:3456:789a:0:1::/80");
    let node_ips = ips("10.224.0.4", "fd10:224::4");
    let peer_ips = ips("10.224.0.5", "fd10:224::5");
    let known = pick("10.244.2.0/24", "fd12:3456:789a:0:2::/80");
    let unknown = pick("10.244.3.0/24", "fd12:3456:789a:0:3::/80");
    let mac = Some([2, 0, 0x5e, 0, 0x53, 5]);
    let peers = known.iter().map(|block| PeerMember { block: *block, mac });
    let peers = peers.chain(unknown.iter().map(|block| PeerMember { block: *block, mac: None }));
    let strangers = ips("10.224.0.6", "fd10:224::6");
    let nodes = peer_ips.values().map(|ip| NodeMember { address: *ip, mac });
    let nodes = nodes.chain(strangers.values().map(|ip| NodeMember { address: *ip, mac: None }));
    let masquerade = masquerade.then(|| MasqPlan { sources: own, except: space.clone(), node_ips: node_ips.clone() });
    NodePlan {
        pod_space: space,
        nodes: BTreeSet::from_iter(nodes),
        node_ips,
        peers: peers.collect(),
        masquerade,
        ..NodePlan::default()
    }
}

fn members(plan: &NodePlan) -> BTreeSet<Element> {
    let mut all = element::of_plan(plan);
    for family in plan.node_ips.keys() {
        let address = if *family == Family::V4 { "10.244.1.1" } else { "fd12:3456:789a:0:1::1" }.parse().unwrap();
        all.insert(Element::Pod(PodMember { link: "ovlpabcdefghijk".to_owned(), mac: [2, 1, 2, 3, 4, 5], address }));
    }
    all
}

fn primary() -> BTreeMap<Family, String> {
    Family::ALL.into_iter().map(|family| (family, "eth0".to_owned())).collect()
}

fn create(families: &[Family], masquerade: bool) -> String {
    let plan = plan(families, masquerade);
    Structure::of(&plan, &primary()).create(&members(&plan))
}

#[test]
fn ipv4_only() {
    expect_file!["snapshots/ipv4.nft"].assert_eq(&create(&[Family::V4], true));
}

#[test]
fn ipv6_only() {
    expect_file!["snapshots/ipv6.nft"].assert_eq(&create(&[Family::V6], true));
}

#[test]
fn dual_stack() {
    let text = create(&[Family::V4, Family::V6], true);
    expect_file!["snapshots/dual.nft"].assert_eq(&text);
    assert_eq!(text, create(&[Family::V6, Family::V4], true), "the cluster's order of families does not matter here");
}

#[test]
fn network_policy() {
    let plan = NodePlan { policed: true, logs_denied: true, ..plan(&Family::ALL, true) };
    let structure = |pool, hooked| Structure::of(&plan, &primary()).with_policy(pool, hooked);
    let text = structure(Pool { ingress: 1, egress: 1 }, true).create(&members(&plan));
    expect_file!["snapshots/policy.nft"].assert_eq(&text);
    let unhooked = structure(Pool { ingress: 1, egress: 1 }, false).create(&members(&plan));
    assert!(unhooked.contains("chain policy_in_0") && !unhooked.contains("jump policy_in "), "nothing leads there yet");
    // Without it there is nothing of it.
    let without = Structure::of(&NodePlan { policed: false, ..plan.clone() }, &primary());
    let off = without.clone().with_policy(Pool { ingress: 1, egress: 1 }, true).create(&members(&plan));
    assert!(!off.contains("policy_"), "{off}");
    let existing = Objects {
        chains: ["policy_in_0".to_owned()].into(),
        sets: ["policy_in4".to_owned(), "policy_own4".to_owned()].into(),
        maps: ["policy_in4".to_owned()].into(),
        ..Objects::default()
    };
    let update = without.update(&members(&plan), &existing);
    let at = |text: &str| update.find(text).unwrap();
    assert!(at("delete map inet overlane policy_in4") < at("delete chain inet overlane policy_in_0"), "it leads there");
    at("delete set inet overlane policy_own4");
}

#[test]
fn masquerade_off_leaves_no_trace() {
    let text = create(&[Family::V4, Family::V6], false);
    expect_file!["snapshots/masquerade-off.nft"].assert_eq(&text);
    for word in ["masq", "masquerade"] {
        assert!(!text.contains(word), "{word}");
    }
}

#[test]
fn ways_out() {
    let plan = |outside| {
        let plan = plan(&Family::ALL, true);
        let inside = plan.pod_space.clone();
        NodePlan { egress: Some(EgressPlan { inside, outside, gateways: None }), ..plan }
    };
    let create = |plan: &NodePlan| Structure::of(plan, &primary()).create(&members(plan));
    expect_file!["snapshots/nothing-leaves.nft"].assert_eq(&create(&plan(Outside::Dropped)));
    let by = BTreeMap::from([(Family::V4, "10.224.0.250".parse().ok()), (Family::V6, None)]);
    let next_hops = |keep_pod_address| plan(Outside::NextHops { by: by.clone(), keep_pod_address });
    expect_file!["snapshots/next-hop.nft"].assert_eq(&create(&next_hops(false)));
    let (with, without) = (create(&next_hops(true)), create(&next_hops(false)));
    let kept: Vec<&str> = with.lines().filter(|line| !without.contains(line)).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(kept[0].contains("return"), "{kept:?}");
}

#[test]
fn gateways() {
    let addresses = BTreeMap::from(["10.224.0.200", "fd10:224::200"].map(|text| {
        let ip: IpAddr = text.parse().unwrap();
        (Family::of(&ip), ip)
    }));
    let exit = |number, place, to: &[&str], families: &[Family]| ExitPlan {
        number,
        vni: 0,
        destinations: to.iter().map(|text| cidr(text)).collect(),
        addresses: families.iter().map(|family| (*family, addresses[family])).collect(),
        place,
    };
    let away = Place::At { node: "b".to_owned(), ways: BTreeMap::new() };
    let exits = vec![
        exit(3, away, &["10.99.0.0/16", "10.98.0.0/16"], &[Family::V4]),
        exit(2, Place::Here, &[], &Family::ALL),
        exit(4, Place::Nowhere, &[], &Family::ALL),
    ];
    let made = |gateway, exits: &[ExitPlan]| {
        let gateways = GatewayPlan {
            exits: exits.to_vec(),
            gateway,
            taken: if gateway { [(2, 8_417_138)].into() } else { BTreeMap::new() },
            answers: 8_417_391,
            questions: 8_417_137,
            answer_from: ["10.224.0.5", "fd10:224::5"].map(|text| text.parse().unwrap()).into(),
            ..GatewayPlan::default()
        };
        let plan = plan(&Family::ALL, true);
        let egress = EgressPlan { inside: plan.pod_space.clone(), gateways: Some(gateways), ..EgressPlan::default() };
        let tunnel = TunnelPlan {
            vxlan: overlane_core::cluster::Vxlan::default(),
            carries_pods: false,
            mac: [6, 0x6f, 10, 224, 0, 4],
            addresses: BTreeMap::from(["10.244.1.0", "fd12:3456:789a:0:1::"].map(|text| {
                let ip: IpAddr = text.parse().unwrap();
                (Family::of(&ip), ip)
            })),
            peers: BTreeSet::new(),
            senders: BTreeSet::new(),
            nodes: BTreeMap::new(),
            overhead: 50,
        };
        let plan = NodePlan { egress: Some(egress), tunnel: Some(tunnel), ..plan };
        Structure::of(&plan, &primary()).create(&members(&plan))
    };
    expect_file!["snapshots/gateway.nft"].assert_eq(&made(true, &exits));
    let other = made(false, &exits[..1]);
    for chain in ["from_exit", "gateway_in", "gateway_out"] {
        assert!(!other.contains(&format!("chain {chain} ")), "{chain} is a gateway's alone");
    }
}

#[test]
fn an_update_keeps_sets_and_removes_what_is_not_wanted() {
    let plan = plan(&[Family::V4], false);
    let structure = Structure::of(&plan, &primary());
    let mut existing = Objects::default();
    existing.chains.extend(["pre", "post", "about"].map(str::to_owned));
    existing.sets.extend(["pod4", "node4_any", "masq_source4"].map(str::to_owned));
    existing.counters.extend(["spoofed", "gone"].map(str::to_owned));
    expect_file!["snapshots/update.nft"].assert_eq(&structure.update(&members(&plan), &existing));
}

#[test]
fn revisions_tell_structures_apart_and_nothing_else() {
    let structure = |families: &[Family], masquerade| Structure::of(&plan(families, masquerade), &primary()).revision();
    let dual = structure(&[Family::V4, Family::V6], true);
    assert_eq!(dual, structure(&[Family::V6, Family::V4], true));
    assert_ne!(dual, structure(&[Family::V4, Family::V6], false));
    assert_ne!(dual, structure(&[Family::V4], true));
    let mut more = plan(&[Family::V4, Family::V6], true);
    more.peers.insert(PeerMember { block: cidr("10.244.9.0/24"), mac: Some([2; 6]) });
    assert_eq!(dual, Structure::of(&more, &primary()).revision(), "a peer of a known mask is membership alone");
    more.peers.insert(PeerMember { block: cidr("10.244.8.0/26"), mac: Some([2; 6]) });
    assert_ne!(dual, Structure::of(&more, &primary()).revision());
    assert!(mark(&dual, &dual).lines().all(|l| l.len() < 200));
}
