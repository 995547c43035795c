//! Must catch: a foreign table, route, rule, link or neighbour that apply, audit or removal alters; something of ours
//! that removal leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeSet;

use common::*;
use overlane_datapath::node::{self, AwayRoutes, PodRoutes};
use overlane_datapath::uninstall::{Removal, Removed, leftovers, remove_all};
use overlane_datapath::{foreign, sysctl};

/// What docker, flannel, ufw and people leave on a node; some of it close to ours.
const FOREIGN: &str = r#"
    ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
    ip link add vethd0c type veth peer name ovlpeer; ip link set vethd0c master docker0 up
    ip link add ovlhand type bridge; ip link set ovlhand up
    ip link add flannel.1 type vxlan id 1 dstport 8472 local 10.224.0.4 dev eth0; ip link set flannel.1 up
    ip addr add 10.244.0.0/32 dev flannel.1
    ip route add 10.243.7.0/24 via 10.224.0.9 dev eth0
    ip route add 10.244.200.0/24 via 10.224.0.9 dev eth0 metric 77
    ip route add 192.0.2.0/24 via 10.224.0.9 dev eth0 metric 111
    ip -6 route add 2001:db8:77::/48 via fd10:224::9 dev eth0 metric 111
    ip route add 192.0.2.0/25 via 10.224.0.9 dev eth0 proto 111
    ip rule add from 192.0.2.0/24 lookup main pref 500 protocol 111
    ip neigh add 10.224.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent
    nft 'table ip nat { chain POSTROUTING { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }; }'
    nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; jump DOCKER-USER; }; chain DOCKER-USER { return; }; chain ufw-user-forward { }; }'
    nft 'table inet overlane2 { set pod4 { type ipv4_addr; elements = { 10.244.4.1 }; }; chain c { type filter hook input priority -300; }; }'
"#;

/// Everything on the node, without what is ours.
fn state(net: &Net) -> String {
    let text = net.a.ns.sh(
        "ip -br link | awk '{print $1, $3}'; ip -br addr | awk '{$2 = \"\"; print}'; for t in main local; do ip route show table $t || true; ip -6 route show table $t || true; done 2>/dev/null
         ip rule; ip -6 rule; ip neigh show nud permanent; nft -s list ruleset",
    );
    let mut ours = false;
    let mut kept = Vec::new();
    for line in text.lines() {
        ours |= line.starts_with("table inet overlane {");
        // `proto 111` with another metric than ours is somebody else's.
        let our_route = line.contains("proto 111") && !line.contains("192.0.2.0/2");
        let our_link = line.split([' ', '@']).any(|w| w.starts_with("ovlp") && w.len() == 15);
        if !ours && !our_route && !our_link {
            // Carriers come and go by themselves.
            kept.push(line.replace(" linkdown", ""));
        }
        ours &= line != "}";
    }
    kept.join("\n")
}

#[test]
fn what_is_not_ours_stays_as_it_is() {
    let mut net = Net::new(&[V4, V6]);
    net.a.ns.sh(FOREIGN);
    let before = state(&net);
    for word in
        ["docker0", "flannel.1", "DOCKER-USER", "overlane2", "ovlpeer", "ovlhand", "192.0.2.0/24", "from 192.0.2.0/24"]
    {
        assert!(before.contains(word), "{word} in {before}");
    }
    let pods = [net.a.pod(1), net.a.pod(2)];
    net.a.input.masquerade = None;
    net.a.agree();
    net.a.ns.run(|| {
        net.a.table.audit().unwrap();
        node::apply(&net.a.plan(), &net.a.underlays, None, PodRoutes::Planned, AwayRoutes::Planned, None).unwrap();
        net.a.wirer.reap(&["ovlpeer".into(), "ovlhand".into(), pods[1].spec.link.clone()]).unwrap();
    });
    assert_eq!(state(&net), before, "while we are there");

    let removed = net.a.ns.run(|| remove_all(&Removal { links: true, sysctls: &[] }));
    assert_eq!(removed.failed, Vec::<String>::new());
    let left = net.a.ns.sh("ip -br link; ip rule; ip -6 rule; nft list tables; ip -6 route show proto 111");
    assert!(!left.contains(&pods[0].spec.link) && !left.contains("table inet overlane\n"), "{left}");
    assert_eq!(
        left.matches("protocol 111").count() + left.matches("proto 111").count(),
        1,
        "the foreign rule alone: {left}"
    );
    assert_eq!(state(&net), before, "after removal");
    assert_eq!(
        net.a.ns.run(|| remove_all(&Removal { links: true, sysctls: &[] })),
        Removed::default(),
        "nothing left to do"
    );
}

#[test]
fn a_node_is_left_as_it_was_found() {
    let shown = |ns: &Ns| {
        ns.sh(
            "ip link; ip addr; ip route show table all; ip -6 route show table all; ip rule; ip -6 rule; nft list ruleset
             cd /proc/sys/net; grep . ipv4/ip_forward ipv6/conf/*/forwarding ipv6/conf/*/accept_ra",
        )
    };
    let (ns, other) = (Ns::new(), Ns::new());
    ns.connect("eth0", &other, "eth0");
    ns.sh("ip addr add 10.224.0.4/16 dev eth0; ip -6 addr add fd10:224::4/64 dev eth0 nodad; ip link set eth0 addrgenmode none; ip -6 addr flush dev eth0 scope link");
    let before = shown(&ns);
    let node_ips = [(V4, ip("10.224.0.4")), (V6, ip("fd10:224::4"))];
    let input = overlane_core::plan::NodeInput {
        service_cidrs: Vec::new(),
        pod_cidrs: ["10.244.0.0/16", "fd12:3456:789a::/64"].map(cidr).into(),
        routing: overlane_core::cluster::Routing::Native,
        node_ips: node_ips.into(),
        own_blocks: ["10.244.4.0/24", "fd12:3456:789a:0:4::/80"].map(cidr).into(),
        masquerade: Some(overlane_core::masq::MasqConfig::default()),
        ..overlane_core::plan::NodeInput::default()
    };
    let plan = overlane_core::plan::plan(&input);
    let removed = ns.run(|| {
        let families = [V4, V6];
        let changed = sysctl::apply(&sysctl::wanted(&families, &BTreeSet::from(["eth0".into()])).unwrap()).unwrap();
        let underlays: std::collections::BTreeMap<_, _> =
            node_ips.iter().map(|(family, address)| (*family, node::underlay(*address).unwrap())).collect();
        let primary = underlays.iter().map(|(family, u)| (*family, u.link.clone())).collect();
        overlane_datapath::nft::Table::new(BTreeSet::new()).apply(&plan, &primary).unwrap();
        node::apply(&plan, &underlays, None, PodRoutes::Planned, AwayRoutes::Planned, None).unwrap();
        assert_ne!(shown(&ns), before);
        let left = leftovers().unwrap();
        assert_eq!(left, ["6 routes", "nft table inet overlane"]);
        remove_all(&Removal { links: true, sysctls: &changed })
    });
    assert_eq!(ns.run(|| leftovers().unwrap()), Vec::<String>::new());
    assert_eq!(removed.failed, Vec::<String>::new());
    assert_eq!(removed.done.len(), 5, "{removed:?}");
    assert_eq!(shown(&ns), before);
}

#[test]
fn a_foreign_forward_drop_is_found_and_its_remedy_works() {
    let mut net = Net::new(&[V4, V6]);
    let pod = net.a.pod(1);
    let _echo = net.internet.echo(7);
    let outside =
        |family| std::net::SocketAddr::new(if family == V4 { ip("198.51.100.7") } else { ip("2001:db8::7") }, 7);
    let inspect = |net: &Net| net.a.ns.run(foreign::inspect);
    assert_eq!(inspect(&net), []);
    let bridged = net.router.run(foreign::inspect);
    assert!(bridged.iter().all(|f| f.kind == "bridge-netfilter" && f.what.contains("br0")), "{bridged:?}");
    let drops = [
        (
            V4,
            "nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }; chain DOCKER-USER { }; }'",
            "ip filter FORWARD (docker)",
        ),
        (
            V6,
            "nft 'table inet strict { chain passing { type filter hook forward priority 10; policy drop; }; }'",
            "inet strict passing (nftables)",
        ),
        (
            V4,
            "nft 'table inet strict { chain passing { type filter hook forward priority 10; counter reject; }; }'",
            "inet strict passing (nftables)",
        ),
        (V4, "iptables-legacy -P FORWARD DROP", "iptables-legacy"),
        (V6, "ip6tables-legacy -P FORWARD DROP", "ip6tables-legacy"),
    ];
    for (family, script, name) in drops {
        net.a.ns.sh(script);
        assert!(pod.ns.silent(None, outside(family)), "{script}");
        let found = inspect(&net);
        let finding = found.iter().find(|f| f.kind == "forward-drop" && f.what.contains(name));
        let finding = finding.unwrap_or_else(|| panic!("{name} not in {found:?}"));
        // The commands that it prints let the pods through.
        net.a.ns.sh(&finding.remedy.replace("iptables -I DOCKER-USER", "iptables-nft -I DOCKER-USER"));
        assert!(pod.ns.ask(None, outside(family)).is_some(), "{}", finding.remedy);
        assert_eq!(inspect(&net), [], "nothing is wrong any more");
        net.a.ns.sh("nft delete table ip filter 2>/dev/null || true; nft delete table inet strict 2>/dev/null || true");
        net.a.ns.sh("iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F; ip6tables-legacy -P FORWARD ACCEPT; ip6tables-legacy -F");
    }
}
