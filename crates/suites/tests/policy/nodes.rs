//! Programs on nodes, which take the source that their kernel gives them, however packets cross.

use std::net::SocketAddr;

use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::millis;
use serde_json::{Value, json};

use crate::canary;
use crate::objects::{self, Definition};
use crate::stage::{Range, Stage};

/// Which nodes' programs reach a pod of the second node, over TCP and UDP: by node.
fn reach(range: &Range, name: &str) -> Vec<Vec<bool>> {
    let pod = range.host(name);
    let mut found = Vec::new();
    for node in &range.stage.nodes {
        let mut of_node = Vec::new();
        for ip in &pod.ips {
            let at = SocketAddr::new(*ip, probe::port());
            let _witness = Witness::new(&pod.ns, *ip, at.port());
            of_node.push(probe::tcp(&node.ns, at, None, "x", millis(800)).is_ok());
            of_node.push(probe::udp(&node.ns, at, None, "x", millis(800)).is_ok());
        }
        found.push(of_node);
    }
    found
}

#[test]
fn a_node_is_known_by_its_addresses() {
    for routing in ["native", "vxlan"] {
        let mut stage = Stage::up_with(3, "ipv4,ipv6", Definition::AsItIs, &["--routing", routing]);
        stage.namespace("shop", &json!({}));
        stage.run("shop", "pod", 1, &json!({}));
        let range = stage.open();
        canary::settle(&range);
        let all = |passes: [bool; 3]| passes.map(|passes| vec![passes; 4]).to_vec();
        assert_eq!(reach(&range, "shop/pod"), all([true; 3]), "{routing}, without policies");
        let first: Vec<Value> = range.stage.nodes[0]
            .ips()
            .iter()
            .map(|ip| json!({"ipBlock": {"cidr": format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })}}))
            .collect();
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": first}]});
        objects::put(range.api(), &objects::policy("shop", "first", &spec));
        canary::settle(&range);
        assert_eq!(reach(&range, "shop/pod"), all([true, true, false]), "{routing}, the first node and its own");
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
        objects::put(range.api(), &objects::policy("shop", "first", &spec));
        canary::settle(&range);
        assert_eq!(reach(&range, "shop/pod"), all([false, true, false]), "{routing}, its own node alone");
    }
}
