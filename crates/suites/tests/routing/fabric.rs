//! Every routing over every kind of fabric, and a fabric that changes.
//!
//! Must catch: bare packets where the fabric has not shown that it carries them (`tests/mutants/auto-without-proof.mutant`).

use overlane_suites::api::told;
use overlane_suites::stream::Stream;
use overlane_suites::wait::{ensure, eventually, holds, millis, secs};
use overlane_suites::{Lab, nft, packet};
use serde_json::json;

use crate::{Stage, Wiretap};

/// A condition of a node's NodeState: status, reason, message.
pub fn said(lab: &Lab, node: &str, kind: &str) -> (String, String, String) {
    let state = lab.api.get(&format!("/apis/overlane.io/v1alpha1/nodestates/{node}"));
    told(&state["spec"]["conditions"], kind)
}

fn until_said(stage: &Stage, kind: &str, status: &str, reason: &str) {
    for node in &stage.nodes {
        eventually(secs(10), &format!("{}: {kind}={status} {reason}", node.name), || {
            let said = said(&stage.lab, &node.name, kind);
            ensure((said.0.as_str(), said.1.as_str()) == (status, reason), || format!("{said:?}"))
        });
    }
}

/// Which way pods' packets go is for the wire to say.
fn by_the_wire(stage: &Stage, tap: &Wiretap<'_>, bare: bool) {
    let (before_bare, before_tunnel) = tap.counted();
    for to in &stage.pods[2].ips {
        for _ in 0..20 {
            packet::ping(&stage.pods[0].ns, *to, 56, secs(2)).unwrap();
        }
    }
    let (after_bare, after_tunnel) = tap.counted();
    let (seen_bare, seen_tunnel) = (after_bare - before_bare, after_tunnel - before_tunnel);
    let pods = 2 * 20 * u64::try_from(stage.pods[2].ips.len()).unwrap();
    // Probes are bare in any case, and few.
    assert!(
        if bare { seen_bare >= pods && seen_tunnel == 0 } else { seen_tunnel >= pods && seen_bare < pods },
        "{seen_bare} bare and {seen_tunnel} in the tunnel, of {pods}"
    );
}

fn every_family(routing: &str, underlay: &str) {
    for families in ["ipv4", "ipv6", "ipv4,ipv6"] {
        println!("== {routing} over {underlay}, {families}");
        let stage = Stage::new(2, families, &["--routing", routing, "--underlay", underlay]);
        if (routing, underlay) == ("native", "antispoof") {
            until_said(&stage, "Degraded", "True", "FabricDropsPodAddresses");
            let (_, _, message) = said(&stage.lab, "node-0", "Degraded");
            assert!(message.contains("(node-1)") && message.contains("take routing vxlan or auto"), "{message}");
            continue;
        }
        if routing == "auto" {
            let carries = underlay != "antispoof";
            let (status, reason) = if carries { ("True", "Carries") } else { ("False", "FabricDropsPodAddresses") };
            until_said(&stage, "NativeRouting", status, reason);
        }
        until_said(&stage, "Degraded", "False", "AsItShouldBe");
        // Behind a router there is no segment to listen on.
        if underlay != "routed" {
            let tap = Wiretap::on(&stage);
            by_the_wire(&stage, &tap, routing == "native" || routing == "auto" && underlay == "l2");
        }
        stage.check();
    }
}

#[test]
fn native_on_one_segment() {
    every_family("native", "l2");
}

#[test]
fn native_behind_routers() {
    every_family("native", "routed");
}

#[test]
fn native_where_pod_addresses_are_dropped_says_so() {
    every_family("native", "antispoof");
}

#[test]
fn vxlan_behind_routers() {
    every_family("vxlan", "routed");
}

#[test]
fn vxlan_where_pod_addresses_are_dropped() {
    every_family("vxlan", "antispoof");
}

#[test]
fn auto_on_one_segment() {
    every_family("auto", "l2");
}

#[test]
fn auto_behind_routers() {
    every_family("auto", "routed");
}

#[test]
fn auto_where_pod_addresses_are_dropped() {
    every_family("auto", "antispoof");
}

/// Drops what bears pods' addresses as its source, as a fabric does whose owner turns spoofing protection on.
const PROTECTED: &str = "table bridge protect {\n chain c {\n type filter hook forward priority -10;\n ip saddr 10.244.0.0/16 drop\n ip6 saddr fd12:3456:789a::/64 drop\n }\n }";

#[test]
fn auto_follows_a_fabric_that_changes() {
    let stage = Stage::new(2, "ipv4,ipv6", &["--routing", "auto"]);
    let tap = Wiretap::on(&stage);
    let (a, c) = (&stage.pods[0], &stage.pods[2]);
    until_said(&stage, "NativeRouting", "True", "Carries");
    by_the_wire(&stage, &tap, true);
    stage.lab.router().sh(&["nft", PROTECTED]).must();
    until_said(&stage, "NativeRouting", "False", "FabricDropsPodAddresses");
    // From now on nothing is lost, whatever becomes of the fabric.
    let streams: Vec<Stream> = c.ips.iter().map(|to| Stream::start(&a.ns, &c.ns, *to, millis(5))).collect();
    holds(secs(3), "pods meet", || c.ips.iter().try_for_each(|to| packet::ping(&a.ns, *to, 56, secs(1)).map(drop)));
    by_the_wire(&stage, &tap, false);
    stage.lab.router().must("nft delete table bridge protect");
    eventually(secs(40), "bare again", || {
        let said = said(&stage.lab, "node-0", "NativeRouting");
        ensure(said.0 == "True", || format!("{said:?}"))
    });
    until_said(&stage, "NativeRouting", "True", "Carries");
    by_the_wire(&stage, &tap, true);
    nothing_lost("a fabric that changes", streams);
    stage.check();
}

fn both_ways(stage: &Stage) -> Vec<Stream> {
    let (a, c) = (&stage.pods[0], &stage.pods[2]);
    let there = c.ips.iter().map(|to| Stream::start(&a.ns, &c.ns, *to, millis(5)));
    let back = a.ips.iter().map(|to| Stream::start(&c.ns, &a.ns, *to, millis(5)));
    there.chain(back).collect()
}

fn nothing_lost(what: &str, streams: Vec<Stream>) {
    for stream in streams {
        let report = stream.finish();
        assert!(report.lost() == 0 && report.refused == 0, "{what}: {report:?}");
    }
}

#[test]
fn an_agent_that_starts_again_goes_on_from_the_routes_that_are_there() {
    for (routing, underlay) in [("native", "l2"), ("native", "routed"), ("auto", "l2"), ("auto", "routed")] {
        println!("== {routing} over {underlay}");
        let stage = Stage::new(2, "ipv4,ipv6", &["--routing", routing, "--underlay", underlay]);
        if routing == "auto" {
            until_said(&stage, "NativeRouting", "True", "Carries");
        }
        let streams = both_ways(&stage);
        for api in [true, false] {
            stage.lab.api_up(api);
            for node in &stage.nodes {
                let agent = node.take_agent();
                agent.kill();
                agent.start();
            }
            std::thread::sleep(secs(3));
        }
        stage.lab.api_up(true);
        std::thread::sleep(secs(2));
        nothing_lost(&format!("{routing} over {underlay}"), streams);
    }
}

#[test]
fn routing_rules_of_the_machine_do_not_silence_it() {
    let stage = Stage::new(2, "ipv4,ipv6", &["--routing", "auto"]);
    until_said(&stage, "NativeRouting", "True", "Carries");
    // From the first rule on the kernel keeps the tables local and main apart.
    for node in &stage.nodes {
        node.ns.must("ip rule add from 198.51.100.0/24 table 100");
        node.ns.must("ip -6 rule add from 2001:db8:5::/64 table 100");
    }
    holds(secs(5), "the nodes answer", || {
        let said = said(&stage.lab, "node-0", "NativeRouting");
        ensure(said.0 == "True", || format!("{said:?}"))
    });
}

#[test]
fn routing_changes_behind_routers() {
    let stage = Stage::new(2, "ipv4,ipv6", &["--routing", "vxlan", "--underlay", "routed"]);
    let streams = both_ways(&stage);
    for (routing, accepts) in [
        ("native", json!(["native"])),
        ("auto", json!(["native", "vxlan"])),
        ("vxlan", json!(["vxlan"])),
        ("auto", json!(["native", "vxlan"])),
        ("native", json!(["native"])),
    ] {
        println!("== to {routing}");
        crate::change::change(&stage, routing, &accepts);
        if routing == "auto" {
            until_said(&stage, "NativeRouting", "True", "Carries");
        }
    }
    nothing_lost("changes", streams);
    stage.check();
}

#[test]
fn a_fabric_that_loses_packets_is_no_fabric_that_drops_pods() {
    let stage = Stage::new(2, "ipv4,ipv6", &["--routing", "auto", "--loss", "5"]);
    until_said(&stage, "NativeRouting", "True", "Carries");
    let (a, c) = (&stage.pods[0], &stage.pods[2]);
    let stream = Stream::start(&a.ns, &c.ns, c.ips[0], millis(1));
    holds(secs(5), "the verdict stays", || {
        let said = said(&stage.lab, "node-0", "NativeRouting");
        ensure(said.0 == "True", || format!("{said:?}"))
    });
    let report = stream.finish();
    let share = report.lost() * 1000 / report.sent;
    assert!((20..100).contains(&share), "{share} of 1000 are lost, 50 were asked for: {report:?}");
    assert!(nft::packets(&stage.lab.router(), "bridge fabric", "lost") >= report.lost());
}

#[test]
fn a_family_that_nodes_do_not_have_goes_in_the_tunnel() {
    for (pods, nodes) in [("ipv6", "ipv4"), ("ipv4", "ipv6"), ("ipv4,ipv6", "ipv4"), ("ipv6,ipv4", "ipv6")] {
        for routing in ["vxlan", "auto"] {
            println!("== {routing}: {pods} over {nodes}");
            let stage = Stage::new(2, pods, &["--routing", routing, "--node-families", nodes]);
            until_said(&stage, "Degraded", "False", "AsItShouldBe");
            let (a, b, c) = (&stage.pods[0], &stage.pods[1], &stage.pods[2]);
            assert_eq!(c.ips.len(), pods.split(',').count());
            for to in b.ips.iter().chain(&c.ips) {
                packet::ping(&a.ns, *to, 56, secs(2)).unwrap();
            }
            for to in &c.ips {
                packet::ping(&stage.nodes[0].ns, *to, 56, secs(2)).unwrap();
            }
            stage.check();
            refuses_to_leave_the_tunnel(&stage);
        }
    }
}

/// Linux has no next hop for a family that the node lacks.
fn refuses_to_leave_the_tunnel(stage: &Stage) {
    let network = "/apis/overlane.io/v1alpha1/clusternetworks/default";
    stage.lab.api.merge(network, &json!({"spec": {"routing": "native"}}));
    eventually(secs(10), "it is refused", || {
        let (status, reason, message) = told(&stage.lab.api.get(network)["status"]["conditions"], "Ready");
        let refused = status == "False" && reason == "Refused" && message.contains("native-families");
        ensure(refused, || format!("{status} {reason} {message}"))
    });
    for to in &stage.pods[2].ips {
        packet::ping(&stage.pods[0].ns, *to, 56, secs(2)).unwrap();
    }
}

#[test]
fn native_routing_says_that_nodes_lack_a_family() {
    let name = overlane_suites::ns::unique("ovs");
    let words = ["--nodes", "2", "--ip-families", "ipv6", "--node-families", "ipv4", "--timeout", "8"];
    let out = overlane_suites::lab::overlane(&[&["lab", "up", "--name", &name], &words[..]].concat());
    assert!(!out.ok() && out.stderr.contains("PlanIncomplete: "), "{out}");
    assert!(out.stderr.contains("the node has no address of that family"), "{out}");
}

#[test]
fn clusters_with_one_pod_cidr_do_not_share_a_routed_fabric() {
    let vnet = overlane_suites::ns::unique("ovs");
    let first = Lab::up(&["--nodes", "1", "--vnet", &vnet, "--underlay", "routed"]);
    let second = format!("{}b", first.name);
    let words = ["lab", "up", "--name", &second, "--nodes", "1", "--vnet", &vnet];
    let out = overlane_suites::lab::overlane(&words);
    assert!(!out.ok() && out.stderr.contains("has one table") && out.stderr.contains("--routing vxlan"), "{out}");
    let mut other = Lab::up_named(&second, &["--nodes", "1", "--vnet", &vnet, "--routing", "vxlan"]);
    for lab in [&first, &other] {
        let out = lab.cli("check", &["-o", "json"]);
        assert!(out.ok(), "{out}");
    }
    other.take_down();
}
