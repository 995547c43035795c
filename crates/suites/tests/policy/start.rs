//! No gap at a pod's start: pods that send from their first instruction on, and peers that fire at the addresses that
//! come next. `OVERLANE_POLICY_STARTS` is how many pods there are (20).

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use overlane_suites::api::Api;
use overlane_suites::far::Far;
use overlane_suites::lab::Pod;
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Ns, probe};
use serde_json::{Value, json};

use crate::canary;
use crate::objects::{self, Definition};
use crate::probes::number;
use crate::stage::{Range, Stage};

/// Where the pods are that everything is denied to.
const SHUT: &str = "shut";
/// Where those are that are let do what they like.
const PEERS: &str = "peers";
/// What new pods send to, and what peers fire at.
const OUT: u16 = 7011;
const IN: u16 = 7012;
/// How many addresses ahead peers fire at.
const AHEAD: u64 = 5;

fn starts() -> usize {
    number("OVERLANE_POLICY_STARTS", 20) as usize
}

/// A lab with a peer on each node.
fn stage() -> (Range, Vec<Pod>) {
    let mut stage = Stage::up(2, "ipv4,ipv6", Definition::AsItIs);
    stage.namespace(PEERS, &json!({"team": "peers"}));
    stage.namespace(SHUT, &json!({"team": "shut"}));
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    objects::put(stage.api(), &objects::policy(SHUT, "deny", &deny));
    let peers = (0..2).map(|node| stage.run(PEERS, &format!("peer-{node}"), node, &json!({}))).collect();
    let range = stage.open();
    canary::settle(&range);
    (range, peers)
}

/// Creates a pod whose program does nothing but send to these, from its first instruction on.
fn start(range: &Range, name: &str, node: usize, labels: &Value, peers: &[Pod]) {
    let sends = peers.iter().flat_map(|peer| &peer.ips).map(|ip| format!("echo x >/dev/udp/{ip}/{OUT}; "));
    let script = format!("while :; do {} read -t 0.005 <> <(:); done 2>/dev/null", sends.collect::<String>());
    let containers = json!([{"name": "main", "image": "overlane.io/lab", "command": ["bash", "-c", script]}]);
    range.stage.create(SHUT, name, node, labels, &json!({ "containers": containers }));
}

/// The address so many behind this one.
fn behind(ip: IpAddr, steps: u64) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + steps as u32).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) + u128::from(steps)).into()),
    }
}

/// The address of a block that its addresses are counted from.
fn base(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) & !0xff).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !0xffff).into()),
    }
}

/// The place of an address in its node's block.
fn offset(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => u64::from(ip.octets()[3]),
        IpAddr::V6(ip) => u64::from(ip.segments()[7]),
    }
}

/// Fires from a peer at the next addresses of both nodes until it is to stop. `next` are their first places.
fn fire_ahead(peer: &Ns, blocks: &[Vec<IpAddr>], next: &[AtomicU64], stop: &AtomicBool) {
    // One source port a family all the time, so that what came before the pod is of the same flows.
    let sockets = blocks[0].iter().zip([IN, IN + 1]);
    let open = |(ip, port): (&IpAddr, u16)| (ip.is_ipv4(), peer.udp(SocketAddr::new(probe::any(*ip), port), millis(1)));
    let sockets: Vec<_> = sockets.map(open).collect();
    while !stop.load(Ordering::Relaxed) {
        for (block, next) in blocks.iter().zip(next) {
            let first = next.load(Ordering::Relaxed);
            for to in block.iter().flat_map(|base| (first..first + AHEAD).map(|step| behind(*base, step))) {
                let socket = sockets.iter().find(|(v4, _)| *v4 == to.is_ipv4());
                // Nobody there, says the node mostly.
                socket.map(|(_, socket)| socket.send_to(b"x", SocketAddr::new(to, IN)));
            }
        }
        std::thread::sleep(millis(3));
    }
}

/// Datagrams that reached a namespace since it was made, whoever was to take them.
fn datagrams(ns: &Ns) -> u64 {
    let snmp = ns.must("cat /proc/net/snmp").stdout;
    let mut rows = snmp.lines().filter(|line| line.starts_with("Udp:")).map(|line| line.split_whitespace().skip(1));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let v4 = names.zip(values).filter(|(name, _)| ["InDatagrams", "NoPorts", "InErrors"].contains(name));
    let v4: u64 = v4.filter_map(|(_, value)| value.parse::<u64>().ok()).sum();
    let snmp6 = ns.must("cat /proc/net/snmp6").stdout;
    let v6 = snmp6.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let v6 = v6.filter(|(name, _)| ["Udp6InDatagrams", "Udp6NoPorts", "Udp6InErrors"].contains(name));
    v4 + v6.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum::<u64>()
}

#[test]
fn nothing_in_and_nothing_out_before_policy() {
    let (range, peers) = stage();
    let bases: Vec<Vec<IpAddr>> = peers.iter().map(|peer| peer.ips.iter().map(|ip| base(*ip)).collect()).collect();
    // Canaries and peers have the first ones.
    let next = [4, 4].map(AtomicU64::new);
    let fars: Vec<Far> = peers.iter().map(|peer| Far::on(&peer.ns)).collect();
    let (stop, mut met) = (AtomicBool::new(false), 0);
    let count = starts();
    let found: Vec<String> = std::thread::scope(|scope| {
        for peer in &peers {
            scope.spawn(|| fire_ahead(&peer.ns, &bases, &next, &stop));
        }
        let mut found = Vec::new();
        for number in 0..count {
            let (name, node) = (format!("new-{number}"), number % 2);
            let first = next[node].load(Ordering::Relaxed);
            start(&range, &name, node, &json!({"role": "none"}), &peers);
            let pod = range.stage.lab.pod_in(SHUT, &name);
            std::thread::sleep(millis(150));
            let place = offset(pod.ips[0]);
            met += usize::from((first..first + AHEAD).contains(&place));
            let got = datagrams(&pod.ns);
            if got > 0 {
                found.push(format!("{name} ({:?}) was reached by {got} datagrams", pod.ips));
            }
            for (far, peer) in fars.iter().zip(&peers) {
                let heard = far.udp(OUT);
                found.extend(heard.iter().map(|(source, count)| format!("{} heard {source} {count} times", peer.name)));
            }
            range.api().delete(&Api::pod_path(SHUT, &name));
            next[node].store(if place < 248 { place + 1 } else { 1 }, Ordering::Relaxed);
            if found.len() > 10 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        found
    });
    println!("{count} starts, {met} at an address that was fired at");
    assert!(found.is_empty(), "{found:#?}");
    assert!(met * 10 >= count * 8, "only {met} of {count} pods came where peers fired");
}

/// The same with policies that allow it: heard and reached, so that the other test is not blind; and how long another
/// node takes to know a new pod.
#[test]
fn a_new_pod_is_let_in_elsewhere_once_it_is_known() {
    let (range, peers) = stage();
    let peer = json!([{"namespaceSelector": {"matchLabels": {"team": "peers"}}}]);
    let allow = json!({
        "podSelector": {"matchLabels": {"role": "guest"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peer}], "egress": [{"to": peer}],
    });
    objects::put(range.api(), &objects::policy(SHUT, "allow", &allow));
    // The peer of the other node lets in guests alone, by their label; the one of the same node everybody.
    objects::label(range.api(), &Api::pod_path(PEERS, "peer-1"), &json!({"guarded": "yes"}));
    let guest = json!({
        "namespaceSelector": {"matchLabels": {"team": "shut"}}, "podSelector": {"matchLabels": {"role": "guest"}},
    });
    let guard = json!({
        "podSelector": {"matchLabels": {"guarded": "yes"}}, "policyTypes": ["Ingress"], "ingress": [{"from": [guest]}],
    });
    objects::put(range.api(), &objects::policy(PEERS, "guard", &guard));
    canary::settle(&range);
    let [near, far] = [0, 1].map(|at: usize| Far::on(&peers[at].ns));
    let mut took: Vec<Duration> = Vec::new();
    for number in 0..starts().min(50) {
        let name = format!("guest-{number}");
        start(&range, &name, 0, &json!({"role": "guest"}), &peers);
        let pod = range.stage.lab.pod_in(SHUT, &name);
        let hears = |by: &Far, who: &str| {
            eventually(secs(30), &format!("{who} hears {name}"), || {
                let heard = by.udp(OUT);
                ensure(pod.ips.iter().all(|ip| heard.contains_key(ip)), || format!("{heard:?}"))
            });
        };
        hears(&near, "the peer of its node");
        let began = Instant::now();
        hears(&far, "the peer of another node");
        took.push(began.elapsed());
        probe::fire(&peers[1].ns, SocketAddr::new(pod.ips[0], IN), None, "x", 3);
        eventually(secs(5), "it is reached from there", || ensure(datagrams(&pod.ns) > 0, || "not yet".into()));
        range.api().delete(&Api::pod_path(SHUT, &name));
    }
    took.sort();
    let (half, last) = (took[took.len() / 2], took[took.len() - 1]);
    println!(
        "a new pod is let in by another node {half:.2?} (half of them), {last:.2?} (all) after its own lets it send"
    );
    assert!(last < secs(20), "{took:?}");
}
