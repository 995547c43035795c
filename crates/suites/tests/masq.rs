//! Masquerade: settings in ip-masq-agent's format, from ConfigMaps; and the address that each link gives.
//!
//! Must catch: one bad ConfigMap undoing the good ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use overlane_suites::lab::Pod;
use overlane_suites::ns::OwnNs;
use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Lab, NodeHandle, Ns, ip};
use serde_json::{Value, json};

/// Address that `outside` sees when `pod` speaks to it over UDP; `None` if nothing arrives. An answer cannot come back
/// to a pod's bare address, so the witness is asked and not the pod.
fn seen_as(pod: &Pod, outside: &Ns, like: IpAddr) -> Option<IpAddr> {
    let to = ip::global_addresses(outside).into_iter().find(|ip| ip.is_ipv4() == like.is_ipv4()).unwrap();
    let at = SocketAddr::new(to, probe::port());
    let witness = Witness::new(outside, to, at.port());
    let began = Instant::now();
    while began.elapsed() < millis(500) {
        probe::fire(&pod.ns, at, None, "who", 1);
        if let Some(seen) = witness.seen().first() {
            return Some(seen.peer.ip());
        }
        std::thread::sleep(millis(10));
    }
    None
}

struct Stage {
    lab: Lab,
    pod: Pod,
    node: Vec<IpAddr>,
    vm: Ns,
    internet: Ns,
}

impl Stage {
    fn node_like(&self, ip: IpAddr) -> IpAddr {
        *self.node.iter().find(|n| n.is_ipv4() == ip.is_ipv4()).unwrap()
    }

    /// Waits until a pod's packets to `outside` bear the node's address, or the pod's own.
    fn source(&self, outside: &Ns, masqueraded: bool, v4: bool, limit: Duration, why: &str) {
        let own = *self.pod.ips.iter().find(|ip| ip.is_ipv4() == v4).unwrap();
        let want = if masqueraded { self.node_like(own) } else { own };
        eventually(limit, why, || {
            let seen = seen_as(&self.pod, outside, own);
            ensure(seen == Some(want), || format!("{} sees {seen:?}, not {want}", outside.label))
        });
    }

    fn both(&self, outside: &Ns, masqueraded: bool, why: &str) {
        for v4 in [true, false] {
            self.source(outside, masqueraded, v4, secs(5), why);
        }
    }

    fn map(&self, name: &str, labels: &Value, config: &str) {
        self.lab.api.config_map("kube-system", name, labels, &json!({"ip-masq-agent": config}));
    }

    fn unmap(&self, name: &str) {
        self.lab.api.delete(&format!("/api/v1/namespaces/kube-system/configmaps/{name}"));
    }
}

/// One test: its steps build on each other, and the settings are the cluster's.
#[test]
fn config_maps_are_merged_applied_at_once_and_bad_ones_named() {
    let lab = Lab::up(&["--nodes", "1"]);
    let node = lab.node(0);
    let pod = lab.run_pod("p", &node.name);
    let (vm, internet) = (lab.vm(), lab.internet());
    let stage = Stage { node: node.ips(), pod, vm, internet, lab };
    let none = json!({});
    stage.both(&stage.vm, true, "no ConfigMap: everything but the pod CIDRs is masqueraded");
    stage.both(&stage.internet, true, "no ConfigMap: everything but the pod CIDRs is masqueraded");

    // One fragment a family, each in a ConfigMap of its own: the union counts.
    stage.map("azure-ip-masq-agent-config", &none, "nonMasqueradeCIDRs:\n- 10.224.0.0/16\nmasqLinkLocal: true\n");
    stage.source(&stage.vm, false, true, secs(5), "the node subnet is not masqueraded in IPv4");
    stage.source(&stage.vm, true, false, secs(5), "nobody spoke of IPv6 yet");
    stage.map(
        "azure-ip-masq-agent-config-reconciled",
        &none,
        "{\"nonMasqueradeCIDRs\": [\"fd10:224::/64\"], \"masqLinkLocalIPv6\": true}",
    );
    stage.both(&stage.vm, false, "two ConfigMaps are merged");
    stage.both(&stage.internet, true, "what neither names is masqueraded");

    // Within a second, every time.
    let all = ["0.0.0.0/0", "10.224.0.0/16"];
    for round in 0..4 {
        stage.map("azure-ip-masq-agent-config", &none, &format!("nonMasqueradeCIDRs: [\"{}\"]\n", all[round % 2]));
        let why = "a change works within a second";
        stage.source(&stage.internet, round % 2 == 1, true, Duration::from_secs(1), why);
    }

    // A labelled one of any name counts too.
    stage.map("ours", &json!({"overlane.io/config": "ip-masq-agent"}), "nonMasqueradeCIDRs: [\"203.0.113.0/24\"]\n");
    stage.source(&stage.internet, false, true, secs(5), "a labelled ConfigMap of any name counts");
    // One that is neither named nor labelled so does not.
    stage.map("stranger", &none, "nonMasqueradeCIDRs: [\"2001:db8:113::/64\"]\n");
    std::thread::sleep(secs(1));
    stage.source(&stage.internet, true, false, secs(1), "a ConfigMap without name or label says nothing");

    bad_ones(&stage);

    for name in ["azure-ip-masq-agent-config", "azure-ip-masq-agent-config-reconciled", "ours", "stranger"] {
        stage.unmap(name);
    }
    stage.both(&stage.vm, true, "without ConfigMaps again");
    stage.both(&stage.internet, true, "without ConfigMaps again");
}

/// What leaves by another link than the node's primary one bears that link's address.
#[test]
fn a_second_interface_has_its_own_address() {
    let lab = Lab::up(&["--nodes", "1"]);
    let node = lab.node(0);
    let pod = lab.run_pod("p", &node.name);
    let own = OwnNs::new();
    let side = own.ns.clone();
    let name = own.path();
    let name = name.file_name().unwrap().to_str().unwrap();
    node.ns.must(&format!("ip link add side0 type veth peer name eth0 netns {name}"));
    for line in [
        "ip address add 198.51.100.1/24 dev side0",
        "ip address add 2001:db8:51::1/64 dev side0 nodad",
        "ip link set side0 up",
    ] {
        node.ns.must(line);
    }
    for line in [
        "ip address add 198.51.100.2/24 dev eth0",
        "ip address add 2001:db8:51::2/64 dev eth0 nodad",
        "ip link set eth0 up",
    ] {
        side.must(line);
    }
    for (own, want) in pod.ips.iter().map(|ip| (*ip, if ip.is_ipv4() { "198.51.100.1" } else { "2001:db8:51::1" })) {
        eventually(secs(5), "the leaving link's address", || {
            let seen = seen_as(&pod, &side, own);
            ensure(seen == want.parse().ok(), || format!("{own} is seen as {seen:?}, not {want}"))
        });
        // Answers find back.
        let to = ip::global_addresses(&side).into_iter().find(|ip| ip.is_ipv4() == own.is_ipv4()).unwrap();
        overlane_suites::packet::ping(&pod.ns, to, 1400, secs(2)).unwrap();
        // And by the primary link it is the node's, as before.
        let internet = lab.internet();
        let node_ip = node.ips().into_iter().find(|ip| ip.is_ipv4() == own.is_ipv4());
        assert_eq!(seen_as(&pod, &internet, own), node_ip);
    }
    link_local_is_left_alone_unless_asked_for(&lab, &pod, &node, &side);
    // Nobody gets in by it.
    let before = overlane_suites::nft::counter(&node.ns, "no_way_in");
    for ip in &pod.ips {
        let (family, via) = if ip.is_ipv4() { ("-4", "198.51.100.1") } else { ("-6", "2001:db8:51::1") };
        side.must(&format!("ip {family} route add {ip} via {via}"));
        assert!(overlane_suites::packet::ping(&side, *ip, 56, millis(300)).is_err());
    }
    assert!(overlane_suites::nft::counter(&node.ns, "no_way_in") > before);
}

/// The kernel forwards no link-local IPv6, so this is IPv4 only.
fn link_local_is_left_alone_unless_asked_for(lab: &Lab, pod: &Pod, node: &NodeHandle, side: &Ns) {
    node.ns.must("ip address add 169.254.77.1/24 dev side0");
    side.must("ip address add 169.254.77.2/24 dev eth0");
    let own = *pod.ips.iter().find(|ip| ip.is_ipv4()).unwrap();
    let at = SocketAddr::new("169.254.77.2".parse().unwrap(), probe::port());
    let masqueraded: IpAddr = "169.254.77.1".parse().unwrap();
    for (masq, want) in [("false", own), ("true", masqueraded), ("false", own)] {
        let config = format!("nonMasqueradeCIDRs: [\"10.224.0.0/16\"]\nmasqLinkLocal: {masq}\n");
        lab.api.config_map("kube-system", "ip-masq-agent", &json!({}), &json!({"config": config}));
        eventually(secs(5), &format!("masqLinkLocal: {masq}"), || {
            let witness = Witness::new(side, at.ip(), at.port());
            probe::fire(&pod.ns, at, None, "who", 3);
            std::thread::sleep(millis(50));
            let seen: Vec<IpAddr> = witness.seen().iter().map(|seen| seen.peer.ip()).collect();
            ensure(!seen.is_empty() && seen.iter().all(|ip| *ip == want), || format!("{seen:?}, not {want}"))
        });
    }
    lab.api.delete("/api/v1/namespaces/kube-system/configmaps/ip-masq-agent");
}

fn bad_ones(stage: &Stage) {
    let bad = [
        ("host bits", "nonMasqueradeCIDRs: [\"2001:db8:113::5/64\"]\n"),
        ("no CIDR", "nonMasqueradeCIDRs: [\"2001:db8:113::/64\", \"the internet\"]\n"),
        ("no YAML", "nonMasqueradeCIDRs: [\"2001:db8:113::/64\"\n  x: {\n"),
        ("wrong type", "nonMasqueradeCIDRs: \"2001:db8:113::/64\"\n"),
        ("unknown key", "nonMasqueradeCIDRs: [\"2001:db8:113::/64\"]\nnoMasqueradeCIDRs: []\n"),
    ];
    let node = stage.lab.node(0);
    for (what, text) in bad {
        stage.map("ours", &json!({"overlane.io/config": "ip-masq-agent"}), text);
        // Left out whole: neither its good lines count nor what it said before; the others stay.
        stage.source(&stage.internet, true, true, secs(5), &format!("{what}: its former content no longer counts"));
        stage.source(&stage.internet, true, false, secs(1), &format!("{what}: none of it counts"));
        stage.source(&stage.vm, false, true, secs(1), &format!("{what}: the others still count"));
        stage.source(&stage.vm, false, false, secs(1), &format!("{what}: the others still count"));
        eventually(secs(10), &format!("{what}: the ConfigMap is named"), || {
            let path = format!("{}/nodestates/{}", overlane_suites::api::OVERLANE, node.name);
            let state = stage.lab.api.find(&path).unwrap_or_default();
            ensure(state.to_string().contains("ours"), || format!("{}", state["spec"]["conditions"]))
        });
    }
    stage.map("ours", &json!({"overlane.io/config": "ip-masq-agent"}), "nonMasqueradeCIDRs: [\"203.0.113.0/24\"]\n");
    stage.source(&stage.internet, false, true, secs(5), "mended");
    eventually(secs(10), "the complaint ends", || {
        let path = format!("{}/nodestates/{}", overlane_suites::api::OVERLANE, node.name);
        let state = stage.lab.api.find(&path).unwrap_or_default();
        let conditions = state["spec"]["conditions"].to_string();
        ensure(!conditions.contains("ours"), || conditions.clone())
    });
}
