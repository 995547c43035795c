//! How pod packets cross nodes: in VXLAN, judged by what is on the wire between the nodes.
//!
//! Must catch: a tunnel that takes packets from whoever knows its port (`tests/mutants/tunnel-open.mutant`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod change;
mod checksums;
mod clusters;
mod fabric;
mod forged;
mod mtu;
mod nodes;
mod vxlan;

use overlane_suites::lab::{NodeHandle, Pod};
use overlane_suites::{Lab, ip, nft};
use serde_json::Value;

/// RFC 7348, section 5: the port that IANA gave to VXLAN.
const PORT: u16 = 4789;
/// The tunnel's link on every node.
const LINK: &str = "ovlx0";
const FAMILIES: [&str; 4] = ["ipv4", "ipv6", "ipv4,ipv6", "ipv6,ipv4"];

/// A lab with pods `a` and `b` on the first node and one more on each other.
struct Stage {
    lab: Lab,
    nodes: Vec<NodeHandle>,
    pods: Vec<Pod>,
}

impl Stage {
    fn new(nodes: usize, families: &str, more: &[&str]) -> Stage {
        let count = nodes.to_string();
        let mut words = vec!["--nodes", &count, "--ip-families", families];
        words.extend(more);
        let lab = Lab::up(&words);
        let nodes = lab.nodes();
        let mut pods = vec![lab.run_pod("a", &nodes[0].name), lab.run_pod("b", &nodes[0].name)];
        for (name, node) in ["c", "d", "e"].iter().zip(nodes.iter().skip(1)) {
            pods.push(lab.run_pod(name, &node.name));
        }
        Stage { lab, nodes, pods }
    }

    /// Everything to everything, as `overlane lab check` sees it.
    fn check(&self) {
        let out = self.lab.cli("check", &["-o", "json"]);
        let report: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out}"));
        assert_eq!(report["failures"], serde_json::json!([]), "of {} questions", report["asked"]);
        assert!(out.ok() && report["good"] == true, "{out}");
    }
}

/// Counts frames on the segment that the nodes share.
struct Wiretap<'a> {
    stage: &'a Stage,
}

impl Wiretap<'_> {
    fn on(stage: &Stage) -> Wiretap<'_> {
        // The check has the VM try by itself: what it sends is bare.
        let vm = ip::link(&stage.lab.vm(), "eth0").unwrap().mac;
        let rules = [
            &format!("ether saddr {vm} return"),
            "ip saddr 10.244.0.0/16 counter name bare",
            "ip daddr 10.244.0.0/16 counter name bare",
            "ip6 saddr fd12:3456:789a::/64 counter name bare",
            "ip6 daddr fd12:3456:789a::/64 counter name bare",
            &format!("udp dport {PORT} counter name tunnel"),
        ];
        let script = format!(
            "table bridge tap {{\n counter bare {{}}\n counter tunnel {{}}\n chain c {{\n type filter hook forward priority 0;\n {}\n }}\n }}",
            rules.join("\n ")
        );
        stage.lab.router().sh(&["nft", &script]).must();
        Wiretap { stage }
    }

    /// Packets of pods that were bare, and those of the tunnel.
    fn counted(&self) -> (u64, u64) {
        let of = |name: &str| nft::packets(&self.stage.lab.router(), "bridge tap", name);
        (of("bare"), of("tunnel"))
    }
}

impl Drop for Wiretap<'_> {
    fn drop(&mut self) {
        self.stage.lab.router().sh(&["nft", "delete table bridge tap"]);
    }
}
