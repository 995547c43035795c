//! Must catch: a route into the tunnel that leads to another node than the block's, a node that is believed for a block
//! that is not its own, bare packets that are taken where all come in the tunnel.

use overlane_core::cluster::Carrier;
use overlane_core::plan::{TunnelPeer, TunnelSender, vtep_mac};

use super::*;

fn tunnel(from: &str, block: &str, to: &str) -> RouteSpec {
    RouteSpec { destination: cidr(block), action: RouteAction::Tunnel { from: ip(from), to: ip(to) } }
}

fn vxlan(input: NodeInput) -> NodeInput {
    NodeInput { routing: Routing::Vxlan, ..input }
}

const B: [u8; 6] = [0x06, 0x6f, 10, 224, 0, 5];
const C: [u8; 6] = [0x06, 0x6f, 10, 224, 0, 6];

#[test]
fn a_dual_stack_node() {
    let plan = plan(&vxlan(dual()));
    assert_eq!(plan.notes, BTreeSet::new());
    let away: BTreeSet<RouteSpec> =
        plan.routes.iter().filter(|route| matches!(route.action, RouteAction::Tunnel { .. })).cloned().collect();
    // Both families over IPv4, which both nodes have.
    let expected = [
        tunnel("10.224.0.4", "10.244.1.0/24", "10.224.0.5"),
        tunnel("10.224.0.4", "fd12:3456:789a:0:1::/80", "10.224.0.5"),
        tunnel("10.224.0.4", "10.244.2.0/24", "10.224.0.6"),
        tunnel("10.224.0.4", "fd12:3456:789a:0:2::/80", "10.224.0.6"),
    ];
    assert_eq!(away, expected.into());
    assert!(!plan.routes.iter().any(|route| matches!(route.action, RouteAction::Via(_))));
    assert!((plan.peers.is_empty(), plan.nodes.is_empty()) == (true, true), "nothing comes bare");
    let made = plan.tunnel.unwrap();
    assert_eq!(made.mac, [0x06, 0x6f, 10, 224, 0, 4]);
    assert_eq!(made.addresses, ips(&["10.244.0.0", "fd12:3456:789a::"]));
    let peers =
        [("10.244.1.0/24", B), ("fd12:3456:789a:0:1::/80", B), ("10.244.2.0/24", C), ("fd12:3456:789a:0:2::/80", C)];
    assert_eq!(made.peers, peers.map(|(block, mac)| TunnelPeer { block: cidr(block), mac }).into());
    let senders = [
        ("10.224.0.5", Some(MAC), B),
        ("fd10:224::5", Some(MAC), B),
        ("10.224.0.6", None, C),
        ("fd10:224::6", None, C),
    ];
    let senders = senders.map(|(address, underlay, mac)| TunnelSender { address: ip(address), underlay, mac });
    assert_eq!(made.senders, senders.into());
    let names = [
        ("10.244.1.0", "10.224.0.5"),
        ("10.244.2.0", "10.224.0.6"),
        ("fd12:3456:789a:0:1::", "fd10:224::5"),
        ("fd12:3456:789a:0:2::", "fd10:224::6"),
    ];
    assert_eq!(made.nodes, names.map(|(inside, address)| (ip(inside), ip(address))).into());
    assert_eq!(made.overhead, 50);
}

#[test]
fn either_family_is_carried_over_either() {
    for (own, theirs, outer, overhead) in [
        (&["10.224.0.4"][..], &["10.224.0.5", "fd10:224::5"][..], ("10.224.0.4", "10.224.0.5"), 50),
        (&["fd10:224::4"], &["10.224.0.5", "fd10:224::5"], ("fd10:224::4", "fd10:224::5"), 70),
        (&["10.224.0.4", "fd10:224::4"], &["fd10:224::5"], ("fd10:224::4", "fd10:224::5"), 70),
    ] {
        let mut input = vxlan(dual());
        input.node_ips = ips(own);
        input.peers.truncate(1);
        input.peers[0].node_ips = ips(theirs);
        let plan = plan(&input);
        assert_eq!(plan.notes, BTreeSet::new(), "{own:?} {theirs:?}");
        for block in ["10.244.1.0/24", "fd12:3456:789a:0:1::/80"] {
            assert!(plan.routes.contains(&tunnel(outer.0, block, outer.1)), "{block}: {:?}", plan.routes);
        }
        assert_eq!(plan.tunnel.unwrap().overhead, overhead);
    }
    let mut apart = vxlan(dual());
    apart.node_ips = ips(&["10.224.0.4"]);
    apart.peers.truncate(1);
    apart.peers[0].node_ips = ips(&["fd10:224::5"]);
    let apart = plan(&apart);
    assert_eq!(apart.notes.len(), 2, "one a block: {:?}", apart.notes);
    assert!(apart.notes.iter().all(|note| matches!(note, Note::PeerOutOfReach { .. })));
    assert!(apart.tunnel.unwrap().peers.is_empty());
}

#[test]
fn a_disputed_block_is_in_no_tunnel() {
    let mut input = vxlan(dual());
    input.peers[1].blocks.push(cidr("10.244.1.128/25"));
    let made = plan(&input).tunnel.unwrap();
    let blocks: BTreeSet<Cidr> = made.peers.iter().map(|peer| peer.block).collect();
    assert!(!blocks.contains(&cidr("10.244.1.0/24")) && !blocks.contains(&cidr("10.244.1.128/25")), "{blocks:?}");
}

/// While a cluster goes from one to the other, both are taken, and one is sent.
#[test]
fn both_are_accepted_during_a_change() {
    for (routing, besides) in [(Routing::Native, Carrier::Vxlan), (Routing::Vxlan, Carrier::Native)] {
        let plan = plan(&NodeInput { routing, accept: [besides].into(), ..dual() });
        assert_eq!(plan.peers.len(), 4, "bare");
        assert_eq!(plan.tunnel.as_ref().unwrap().peers.len(), 4, "in the tunnel");
        let blocks: BTreeSet<Cidr> = plan.peers.iter().map(|peer| peer.block).collect();
        let bare = plan
            .routes
            .iter()
            .filter(|route| blocks.contains(&route.destination) && matches!(route.action, RouteAction::Via(_)))
            .count();
        assert_eq!(bare, if routing == Routing::Native { 4 } else { 0 });
    }
    assert_eq!(plan(&dual()).tunnel, None);
}

#[test]
fn endpoints_are_told_apart() {
    let mac = |texts: &[&str]| vtep_mac(&ips(texts)).unwrap();
    assert_eq!(mac(&["10.224.0.5", "fd10:224::5"]), B);
    let v6: BTreeSet<_> = (1..2000).map(|n| mac(&[&format!("fd10:224::{n:x}")])).collect();
    assert_eq!(v6.len(), 1999);
    assert!(v6.iter().all(|mac| mac[0] & 3 == 2), "locally administered unicast");
    assert_eq!(vtep_mac(&BTreeMap::new()), None);
    let hop = |block: &str| TunnelPeer { block: cidr(block), mac: B }.next_hop().to_string();
    assert_eq!(hop("10.244.1.0/24"), "10.244.1.0");
    assert_eq!(hop("fd12::/80"), "fe80::6f6c:66f:ae0:5");
}
