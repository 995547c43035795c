//! Must catch: a slot's table without its end, a rule that goes before its packets are sent another way, an egress address
//! that stays, a pod's way out that outlives the pod.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use overlane_core::cluster::Vxlan;
use overlane_core::plan::{EgressPlan, ExitPlan, GatewayPlan, NodePlan, Place, PodElement, TunnelPlan, TunnelWay};
use overlane_datapath::nft::PodChange;
use overlane_datapath::node::{self, Surplus, TunnelGround, TunnelKind};
use overlane_datapath::uninstall::{self, Removal};

fn tunnel_plan() -> TunnelPlan {
    TunnelPlan {
        vxlan: Vxlan::default(),
        carries_pods: false,
        mac: [6; 6],
        addresses: BTreeMap::new(),
        peers: BTreeSet::new(),
        senders: BTreeSet::new(),
        nodes: BTreeMap::new(),
        overhead: 50,
    }
}

/// What says by which slots a pod leaves goes with the pod, and comes with the sets that it is for.
#[test]
fn how_a_pod_leaves_goes_with_it() {
    let mut net = Net::new(&[V4, V6]);
    let pod = net.a.pod(1);
    let (v4, v6) = (pod.address(V4), pod.address(V6));
    let table = &net.a.table;
    let run = |changes: &[PodChange]| net.a.ns.run(|| table.pods(changes).unwrap());
    let slots = |numbers: &[u8]| Some(numbers.iter().copied().collect::<BTreeSet<u8>>());
    // Without gateways there are no sets for it; a slot that comes later is none yet.
    run(&[PodChange::Decide(v4, slots(&[2])), PodChange::Decide(v6, slots(&[2]))]);
    let exit = |number| ExitPlan {
        number,
        vni: 0,
        destinations: BTreeSet::new(),
        addresses: BTreeMap::new(),
        place: Place::Nowhere,
    };
    let gateways = Some(GatewayPlan { exits: vec![exit(2), exit(3)], ..GatewayPlan::default() });
    let plan = NodePlan {
        egress: Some(EgressPlan { gateways, ..EgressPlan::default() }),
        tunnel: Some(tunnel_plan()),
        ..net.a.plan()
    };
    net.a.ns.run(|| table.apply(&plan, &net.a.primary()).unwrap());
    let of = |set: &str| net.a.ns.sh(&format!("nft list set inet overlane {set}"));
    assert!(
        of("exit4_2").contains(&v4.to_string()) && of("decided6").contains(&v6.to_string()),
        "they came with the sets"
    );
    run(&[PodChange::Decide(v4, slots(&[3]))]);
    assert!(!of("exit4_2").contains(&v4.to_string()) && of("exit4_3").contains(&v4.to_string()));
    assert_eq!(table.decided(), [(v4, [3].into()), (v6, [2].into())].into());
    run(&[PodChange::Decide(v4, slots(&[7]))]);
    assert!(!of("decided4").contains(&v4.to_string()), "until the slot's rules are there nothing leaves");
    run(&[PodChange::Decide(v4, slots(&[3]))]);
    assert!(of("decided4").contains(&v4.to_string()));
    run(&[PodChange::Decide(v4, None)]);
    assert!(!of("decided4").contains(&v4.to_string()) && !of("exit4_3").contains(&v4.to_string()));
    run(&[PodChange::Decide(v4, slots(&[]))]);
    assert!(of("decided4").contains(&v4.to_string()));
    let members: Vec<PodElement> = pod.members();
    run(&members.into_iter().map(PodChange::Remove).collect::<Vec<_>>());
    assert_eq!(table.decided(), BTreeMap::new());
    for set in ["decided4", "decided6", "exit6_2"] {
        assert!(!of(set).contains("elements"), "{set}");
    }
    assert_eq!(net.a.ns.run(|| table.audit().unwrap()), overlane_datapath::nft::Audit::default());
}

/// Gateways: a slot of another node has a table into the tunnel under an identifier of its own, one of this node none;
/// answers find their blocks and nothing else.
#[test]
fn exits_to_gateways() {
    let net = Net::new(&[V4, V6]);
    net.a.ns.sh("ip link add ovlx0 type vxlan external dstport 4789; ip link set ovlx0 up");
    let index: u32 = net.a.ns.sh("ip -o link show ovlx0 | cut -d: -f1").trim().parse().unwrap();
    let tunnel = TunnelGround { index, kind: TunnelKind::Routes };
    let (from, to) = (net.a.address(V4), ip("10.224.0.5"));
    let way = |next_hop: &str| TunnelWay { from, to, next_hop: ip(next_hop) };
    let exit = |number, place| {
        let addresses = [(V4, ip("10.224.0.200")), (V6, ip("fd10:224::200"))].into();
        ExitPlan { number, vni: 9_000_000 + u32::from(number), destinations: BTreeSet::new(), addresses, place }
    };
    let away = |v4, v6| Place::At { node: "b".into(), ways: [(V4, way(v4)), (V6, way(v6))].into() };
    let plan = |exits| {
        let back =
            [(cidr("10.244.1.0/24"), way("10.244.1.0")), (cidr("fd12:3456:789a:0:1::/80"), way("fe80::1"))].into();
        let gateways = Some(GatewayPlan { exits, gateway: true, answers: 9_000_255, back, ..GatewayPlan::default() });
        let egress = Some(EgressPlan { gateways, ..EgressPlan::default() });
        NodePlan { egress, tunnel: Some(tunnel_plan()), ..NodePlan::default() }
    };
    let underlays: BTreeMap<_, _> =
        [V4, V6].map(|family| (family, net.a.ns.run(|| node::underlay(net.a.address(family)).unwrap()))).into();
    let keep = |plan: &NodePlan, tunnel, surplus| {
        net.a.ns.run(|| node::keep_exits(plan, &underlays, tunnel, surplus).unwrap())
    };
    let both = plan(vec![exit(2, away("10.244.1.0", "fe80::1")), exit(3, Place::Here), exit(4, Place::Nowhere)]);
    let first = keep(&both, Some(tunnel), Surplus::Removed);
    // Rules of 2, 4 and answers; a default and an "unreachable" of 2, the latter of 4, one block of answers; twice.
    assert_eq!((first.changes, first.failed, first.out_of_reach), (14, vec![], vec![]));
    assert_eq!(keep(&both, Some(tunnel), Surplus::Removed).changes, 0, "a second call writes nothing");
    let show = |table: u32| net.a.ns.sh(&format!("ip -d route show table {table}; ip -6 -d route show table {table}"));
    let to_b = show(28_602);
    assert_eq!(to_b.matches("encap ip id 9000002 ").count(), 2, "{to_b}");
    assert_eq!(to_b.matches("unreachable default").count(), 2, "{to_b}");
    assert_eq!(show(28_604).matches("unreachable default").count(), 2);
    let back = show(28_855);
    assert_eq!(back.matches("encap ip id 9000255 ").count(), 2, "{back}");
    assert!(!back.contains("unreachable"), "what is not there is a pod of this node: {back}");
    // It comes here: the rule stays until nothing is marked for it.
    let here = plan(vec![exit(2, Place::Here), exit(3, Place::Here), exit(4, Place::Nowhere)]);
    assert_eq!(keep(&here, Some(tunnel), Surplus::Kept).surplus, 6);
    assert_eq!(keep(&here, Some(tunnel), Surplus::Removed).changes, 6);
    // No way to it but the tunnel.
    let without = keep(&both, None, Surplus::Removed);
    assert_eq!(without.out_of_reach, ["b"]);
    assert!(!show(28_602).contains("encap"));
    let removed = net.a.ns.run(|| uninstall::remove_all(&Removal { links: false, sysctls: &[] }));
    assert_eq!(removed.failed, Vec::<String>::new());
    assert!(!net.a.ns.sh("ip rule; ip -6 rule").contains("286"));
}

/// Egress addresses: alone in their network, never a source by themselves, and nobody else's are touched.
#[test]
fn egress_addresses_come_and_go() {
    let net = Net::new(&[V4, V6]);
    net.a.ns.sh("ip addr add 10.224.0.77/32 dev eth0; ip addr add fd10:224::77/128 dev eth0 nodad");
    let before = net.a.ns.sh("ip -o addr show dev eth0");
    let underlays: BTreeMap<_, _> =
        [V4, V6].map(|family| (family, net.a.ns.run(|| node::underlay(net.a.address(family)).unwrap()))).into();
    let sources =
        || net.a.ns.sh("ip -o route get 10.224.0.5; ip -o route get fd10:224::5; ip -o route get 2001:db8::7");
    let chosen = sources();
    let keep = |wanted: &[&str]| {
        let wanted = wanted.iter().map(|text| ip(text)).collect();
        net.a.ns.run(|| node::keep_egress_ips(&wanted, &underlays).unwrap())
    };
    let both = ["10.224.0.200", "fd10:224::200"];
    let first = keep(&both);
    assert_eq!((first.added, first.failed), (both.map(ip).into(), vec![]));
    assert_eq!(keep(&both), node::KeptEgressIps::default(), "a second call writes nothing");
    let there = net.a.ns.sh("ip -o addr show dev eth0");
    assert!(there.contains("10.224.0.200/32") && there.contains("fd10:224::200/128"), "{there}");
    assert!(there.lines().any(|line| line.contains("fd10:224::200/128") && line.contains("deprecated")), "{there}");
    assert_eq!(sources(), chosen, "what the node itself sends");
    let one = keep(&["fd10:224::200"]);
    assert_eq!((one.added.len(), one.removed), (0, [ip("10.224.0.200")].into()));
    keep(&both);
    let removed = net.a.ns.run(|| uninstall::remove_all(&Removal { links: false, sysctls: &[] }));
    assert_eq!(removed.failed, Vec::<String>::new());
    assert_eq!(net.a.ns.sh("ip -o addr show dev eth0"), before);
}
