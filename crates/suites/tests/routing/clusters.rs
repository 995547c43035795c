//! Two clusters with one pod CIDR in one VNet, in the tunnel: nothing of one comes to the other.
//!
//! Must catch: a tunnel that takes packets of another cluster's nodes (`tests/mutants/tunnel-open.mutant`).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use overlane_suites::lab::{NodeHandle, Pod};
use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::secs;
use overlane_suites::{Lab, ip, nft};

/// Counts, on the segment, frames from nodes of one cluster to nodes of the other.
struct Border<'a> {
    lab: &'a Lab,
}

impl Border<'_> {
    fn between<'a>(lab: &'a Lab, one: &[NodeHandle], two: &[NodeHandle]) -> Border<'a> {
        let macs = |nodes: &[NodeHandle]| {
            let all: Vec<String> = nodes.iter().map(|node| ip::link(&node.ns, "eth0").unwrap().mac).collect();
            all.join(", ")
        };
        let (one, two) = (macs(one), macs(two));
        let script = format!(
            "table bridge border {{\n counter strays {{}}\n chain c {{\n type filter hook forward priority 0;\n
             ether saddr {{ {one} }} ether daddr {{ {two} }} ether type {{ ip, ip6 }} counter name strays\n
             ether saddr {{ {two} }} ether daddr {{ {one} }} ether type {{ ip, ip6 }} counter name strays\n }}\n }}"
        );
        lab.router().sh(&["nft", &script]).must();
        Border { lab }
    }

    fn strays(&self) -> u64 {
        nft::packets(&self.lab.router(), "bridge border", "strays")
    }
}

impl Drop for Border<'_> {
    fn drop(&mut self) {
        self.lab.router().sh(&["nft", "delete table bridge border"]);
    }
}

#[test]
fn two_clusters_never_meet() {
    for routing in ["vxlan", "auto"] {
        let vnet = overlane_suites::ns::unique("ovs");
        let up = || Lab::up(&["--nodes", "2", "--vnet", &vnet, "--routing", routing]);
        let (one, two) = (up(), up());
        let pods = |lab: &Lab| [("a", "node-0"), ("b", "node-1")].map(|(pod, node)| lab.run_pod(pod, node));
        let (first, second): ([Pod; 2], [Pod; 2]) = (pods(&one), pods(&two));
        assert_eq!(first[1].ips, second[1].ips, "the same addresses in both clusters");
        let border = Border::between(&one, &one.nodes(), &two.nodes());
        for (mine, other) in [(&first, &second), (&second, &first)] {
            for to in &mine[1].ips {
                let port = probe::port();
                let (own, stranger) = (Witness::new(&mine[1].ns, *to, port), Witness::new(&other[1].ns, *to, port));
                for round in 0..10 {
                    let word = format!("{routing}-{round}");
                    probe::tcp(&mine[0].ns, SocketAddr::new(*to, port), None, &word, secs(2)).unwrap();
                }
                assert!(own.seen().len() == 10 && stranger.seen().is_empty(), "{:?}", stranger.seen());
            }
        }
        assert_eq!(border.strays(), 0, "{routing}: nothing of one cluster goes to a node of the other");
        // Checks in both at once. They try each other's nodes on purpose, so strays are theirs.
        let (a, b) = std::thread::scope(|scope| {
            let (a, b) = (scope.spawn(|| one.cli("check", &[])), scope.spawn(|| two.cli("check", &[])));
            (a.join().unwrap(), b.join().unwrap())
        });
        assert!(a.ok() && b.ok(), "{routing}: {a}\n{b}");
        a_node_of_one_is_nobody_to_the_other(routing, &one, &two, &first, &second);
    }
}

/// Even with a route that somebody planted into the other cluster's tunnel.
fn a_node_of_one_is_nobody_to_the_other(routing: &str, one: &Lab, two: &Lab, first: &[Pod; 2], second: &[Pod; 2]) {
    let (target, strange) = (one.node(0), two.node(1));
    let outer = *target.ips().iter().find(|ip| ip.is_ipv4()).unwrap();
    let mac = ip::link(&target.ns, "ovlx0").unwrap().mac;
    for to in &first[0].ips {
        let (family, bits, hop) = if to.is_ipv4() { ("-4", 32, "169.254.9.9") } else { ("-6", 128, "fe80::9:9") };
        for line in [
            format!("ip neigh replace {hop} lladdr {mac} dev ovlx0 nud permanent"),
            format!(
                "ip {family} route add {to}/{bits} encap ip id 28534 dst {outer} via {hop} dev ovlx0 onlink table 99"
            ),
            format!("ip {family} rule add to {to}/{bits} lookup 99 pref 900"),
        ] {
            strange.ns.must(&line);
        }
        let port = probe::port();
        let witness = Witness::new(&first[0].ns, *to, port);
        let before = nft::counter(&target.ns, "forged");
        probe::fire(&second[1].ns, SocketAddr::new(*to, port), None, "across", 5);
        probe::fire(&strange.ns, SocketAddr::new(*to, port), None, "across", 5);
        std::thread::sleep(overlane_suites::wait::millis(200));
        strange.ns.must(&format!("ip {family} rule del pref 900"));
        let seen: BTreeSet<String> = witness.seen().iter().map(|seen| format!("{seen:?}")).collect();
        assert!(seen.is_empty(), "{routing}: {seen:?}");
        assert!(nft::counter(&target.ns, "forged") >= before + 10, "{routing}: {to}: what was dropped is counted");
    }
}
