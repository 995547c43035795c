//! Nobody outside the cluster reaches a pod.

use std::net::{IpAddr, SocketAddr};

use overlane_suites::probe::{self, Witness};
use overlane_suites::{Ns, ip, nft, packet};

use crate::{LIMIT, NOBODY, Stage};

/// A route that a stranger adds, taken away again.
pub struct ForeignRoute {
    ns: Ns,
    line: String,
}

impl ForeignRoute {
    pub fn new(ns: &Ns, to: &str, via: IpAddr) -> ForeignRoute {
        let family = if via.is_ipv4() { "-4" } else { "-6" };
        ns.must(&format!("ip {family} route replace {to} via {via}"));
        ForeignRoute { ns: ns.clone(), line: format!("ip {family} route del {to} via {via}") }
    }
}

impl Drop for ForeignRoute {
    fn drop(&mut self) {
        let words: Vec<&str> = self.line.split_whitespace().collect();
        self.ns.sh(&words);
    }
}

pub fn nobody_outside_gets_in(stage: &Stage) {
    let nodes = stage.lab.nodes();
    for (pod, at) in [(&stage.pods[0], 0usize), (&stage.pods[2], 1)] {
        for to in &pod.ips {
            let port = probe::port();
            let witness = Witness::new(&pod.ns, *to, port);
            for outside in [stage.lab.vm(), stage.lab.internet()] {
                let word = format!("from-{}", outside.label.replace(' ', "-"));
                refused(&outside, SocketAddr::new(*to, port), &word, &witness);
                // Somebody routes the pods' space to a node: to the right one, and to the other.
                for hop in [at, 1 - at] {
                    let via = nodes[hop].ips().into_iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).unwrap();
                    let space = if to.is_ipv4() { "10.244.0.0/16" } else { "fd12:3456:789a::/64" };
                    let mut routes = Vec::new();
                    if outside.label.starts_with("internet") {
                        let family = if to.is_ipv4() { "-4" } else { "-6" };
                        let default =
                            ip::family_routes(&outside, family, "main").into_iter().find(|r| r.dst == "default");
                        routes.push(ForeignRoute::new(&stage.lab.router(), space, via));
                        routes.push(ForeignRoute::new(&outside, space, default.unwrap().gateway.parse().unwrap()));
                    } else {
                        routes.push(ForeignRoute::new(&outside, space, via));
                    }
                    let before = nft::counter(&nodes[at].ns, "no_way_in");
                    refused(&outside, SocketAddr::new(*to, port), &word, &witness);
                    if hop == at {
                        assert!(nft::counter(&nodes[at].ns, "no_way_in") > before, "the drop is counted");
                    }
                }
            }
            // The pod still answers those who may ask.
            probe::tcp(&nodes[at].ns, SocketAddr::new(*to, port), None, "hello", LIMIT).unwrap();
        }
    }
}

fn refused(from: &Ns, to: SocketAddr, word: &str, witness: &Witness) {
    assert!(probe::tcp(from, to, None, word, NOBODY).is_err(), "{} reached {to} over TCP", from.label);
    assert!(probe::udp(from, to, None, word, NOBODY).is_err(), "{} reached {to} over UDP", from.label);
    assert!(packet::ping(from, to.ip(), 56, NOBODY).is_err(), "{} pinged {}", from.label, to.ip());
    assert!(!witness.saw(word), "a packet of {} reached {to}", from.label);
}
