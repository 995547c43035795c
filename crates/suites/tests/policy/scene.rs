//! A shop for the tests of changes: a client, and servers on its node and on another.

use overlane_suites::lab::Lab;
use overlane_suites::volley::{Carries, Shot};
use serde_json::{Value, json};

use crate::canary;
use crate::objects::{self, Definition};
use crate::stage::{Range, Stage};

/// The namespace of all of them.
pub const SHOP: &str = "shop";
/// The client.
pub const CLIENT: &str = "shop/client";
/// Servers: on the client's node, and on the other.
pub const SERVERS: [&str; 2] = ["shop/near", "shop/far"];
/// A port that policies leave open, and one that they shut.
pub const OPEN: u16 = 7001;
/// The other.
pub const SHUT: u16 = 7002;

/// Brings it up; `more` may add pods.
pub fn shop(more: impl FnOnce(&mut Stage)) -> Range {
    let mut stage = Stage::up(2, "ipv4,ipv6", Definition::AsItIs);
    stage.namespace(SHOP, &json!({"team": "shop"}));
    stage.run(SHOP, "client", 0, &json!({"app": "client"}));
    stage.run(SHOP, "near", 0, &json!({"app": "server"}));
    stage.run(SHOP, "far", 1, &json!({"app": "server"}));
    more(&mut stage);
    let range = stage.open();
    canary::settle(&range);
    range
}

/// The lab of it.
pub fn lab(range: &Range) -> &Lab {
    &range.stage.lab
}

/// A way to shut all between client and servers but for the open port.
pub fn closings() -> [(&'static str, Value); 3] {
    let ports = json!([{"protocol": "TCP", "port": OPEN}, {"protocol": "UDP", "port": OPEN}]);
    let of = |app: &str| json!({"matchLabels": {"app": app}});
    let ingress = json!({
        "podSelector": of("server"), "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": of("client")}], "ports": ports}],
    });
    let egress = json!({
        "podSelector": of("client"), "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": of("server")}], "ports": ports}],
    });
    let everyone = json!([{"namespaces": {}}]);
    let protocols =
        json!([{"tcp": {"destinationPort": {"number": OPEN}}}, {"udp": {"destinationPort": {"number": OPEN}}}]);
    let admin = json!({
        "tier": "Admin", "priority": 5,
        "subject": {"pods": {"namespaceSelector": {"matchLabels": {"team": "shop"}}, "podSelector": of("server")}},
        "ingress": [
            {"action": "Accept", "from": everyone, "protocols": protocols},
            {"action": "Deny", "from": everyone},
        ],
    });
    [
        ("what comes to servers, by a NetworkPolicy", objects::policy(SHOP, "closing", &ingress)),
        ("what the client sends, by a NetworkPolicy", objects::policy(SHOP, "closing", &egress)),
        ("what comes to servers, by a ClusterNetworkPolicy", objects::cluster_policy("closing", &admin)),
    ]
}

/// Packets of every kind from the client to both servers that a closing leaves open, and those that it does not.
pub fn packets(range: &Range) -> (Vec<Shot>, Vec<Shot>) {
    let of = |kinds: &[Carries]| -> Vec<Shot> {
        let each = |server: &&str| kinds.iter().flat_map(|kind| range.shots(CLIENT, server, *kind)).collect::<Vec<_>>();
        SERVERS.iter().flat_map(each).collect()
    };
    let open = of(&[Carries::Tcp(OPEN), Carries::Udp(OPEN)]);
    (open, of(&[Carries::Tcp(SHUT), Carries::Udp(SHUT), Carries::Sctp(SHUT), Carries::Echo]))
}
