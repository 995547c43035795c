//! Host ports: what leads to a pod, from where, and that nothing of it outlives the pod.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use overlane_suites::exec;
use overlane_suites::probe::{self, Witness};
use overlane_suites::runtime::{Answer, Runtime, Sandbox};
use overlane_suites::wait::{ensure, eventually, secs};
use overlane_suites::{Ns, ip, nft};
use serde_json::{Value, json};

use crate::{lab, node, settled};

const LIMIT: Duration = Duration::from_secs(2);
/// How long nothing must come through.
const SILENCE: Duration = Duration::from_millis(500);

fn add(runtime: &Runtime, sandbox: &mut Sandbox, ports: &Value) -> Answer {
    runtime.add_with(sandbox, &json!({ "runtimeConfig": { "portMappings": ports } }))
}

fn mapping(protocol: &str, host: u16, pod: u16, ip: &str) -> Value {
    json!({ "protocol": protocol, "hostPort": host, "containerPort": pod, "hostIP": ip })
}

fn of_family(ips: &[IpAddr], like: IpAddr) -> IpAddr {
    *ips.iter().find(|ip| ip.is_ipv4() == like.is_ipv4()).expect("an address of the family")
}

fn both(ns: &Ns, to: IpAddr, port: u16, limit: Duration) -> [Result<IpAddr, String>; 2] {
    let to = SocketAddr::new(to, port);
    [probe::tcp(ns, to, None, "x", limit), probe::udp(ns, to, None, "x", limit)]
}

#[test]
fn a_port_of_the_node_leads_to_its_pod_from_everywhere() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    let ports = json!([mapping("tcp", 8081, 80, ""), mapping("udp", 8081, 80, "")]);
    add(&runtime, &mut sandbox, &ports).must();
    let mut beside = Sandbox::new();
    runtime.add(&mut beside).must();
    let other = lab().node(1);
    let mut far = Sandbox::new();
    other.runtime().add(&mut far).must();
    for node_ip in node.ips() {
        let pod_ip = of_family(&sandbox.ips(), node_ip);
        let _server = Witness::new(&sandbox.net.ns, pod_ip, 80);
        let seen_as = |ns: &Ns| both(ns, node_ip, 8081, LIMIT);
        // A client from outside is seen as what it is: only pods and the node itself may be disguised.
        let vm = lab().vm();
        for seen in seen_as(&vm) {
            let seen = seen.unwrap();
            assert!(!node.ips().contains(&seen), "the VM is seen as {seen}");
        }
        for ns in [&beside.net.ns, &far.net.ns, &other.ns, &node.ns, &sandbox.net.ns, &lab().internet()] {
            for seen in seen_as(ns) {
                assert!(seen.is_ok(), "{} by {node_ip}: {seen:?}", ns.label);
            }
        }
        // The pod's own address and port go on working, and only those that are mapped are.
        assert!(probe::tcp(&beside.net.ns, SocketAddr::new(pod_ip, 80), None, "x", LIMIT).is_ok());
        assert!(probe::tcp(&vm, SocketAddr::new(node_ip, 8082), None, "x", SILENCE).is_err());
    }
    {
        let localhost: IpAddr = "127.0.0.1".parse().unwrap();
        let _server = Witness::new(&sandbox.net.ns, localhost, 80);
        for seen in both(&node.ns, localhost, 8081, LIMIT) {
            assert!(node.ips().contains(&seen.unwrap()), "who comes by 127.0.0.1 is seen as the node");
        }
    }
    for gone in [&sandbox, &beside] {
        runtime.del(gone).must();
    }
    other.runtime().del(&far).must();
    settled(&node, &[]);
}

/// The link of such a pod lets 127.0.0.0/8 through, for answers. A pod must not reach the node's own loopback by it.
#[test]
fn no_pod_reaches_the_nodes_loopback() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    add(&runtime, &mut sandbox, &json!([mapping("tcp", 8083, 80, "")])).must();
    let link = sandbox.host_link();
    assert_eq!(node.ns.sysctl(&format!("net/ipv4/conf/{link}/route_localnet")), "1");
    let localhost: IpAddr = "127.0.0.1".parse().unwrap();
    let secret = Witness::new(&node.ns, localhost, 7788);
    assert!(probe::tcp(&node.ns, SocketAddr::new(localhost, 7788), None, "own", LIMIT).is_ok());
    // With a route of its own making: without one the pod's kernel would keep such packets.
    sandbox.net.ns.must("sysctl -qw net.ipv4.conf.all.route_localnet=1");
    sandbox.net.ns.must("ip route flush table local");
    sandbox.net.ns.must("ip route add 127.0.0.1/32 via 169.254.1.1 dev eth0 onlink");
    let before = nft::counter(&node.ns, "spoofed");
    let source = of_family(&sandbox.ips(), localhost);
    sandbox.net.ns.must(&format!("ip route add local {source} dev eth0 table local"));
    probe::fire(&sandbox.net.ns, SocketAddr::new(localhost, 7788), Some(source), "stolen", 5);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!secret.saw("stolen"), "a pod reached the node's loopback");
    assert!(nft::counter(&node.ns, "spoofed") > before, "what was dropped is counted");
    drop(secret);
    runtime.del(&sandbox).must();
    settled(&node, &[]);
}

#[test]
fn a_port_is_one_pods_and_free_the_moment_that_is_gone() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let (mut first, mut second, mut third) = (Sandbox::new(), Sandbox::new(), Sandbox::new());
    let any = json!([mapping("tcp", 8084, 80, "")]);
    add(&runtime, &mut first, &any).must();
    let refused = add(&runtime, &mut second, &any).refused(11);
    assert!(refused.message().contains("8084/tcp"), "{}", refused.message());
    // Bound to another address, or of another protocol, it is another port.
    let node_ip = node.ips().into_iter().find(IpAddr::is_ipv4).unwrap();
    let bound = json!([mapping("tcp", 8084, 80, "127.0.0.1"), mapping("udp", 8084, 80, &node_ip.to_string())]);
    add(&runtime, &mut third, &bound).must();
    let localhost: IpAddr = "127.0.0.1".parse().unwrap();
    let to = |ip| SocketAddr::new(ip, 8084);
    let pod = |sandbox: &Sandbox| Witness::new(&sandbox.net.ns, node_ip, 80);
    let (one, three) = (pod(&first), pod(&third));
    probe::tcp(&node.ns, to(localhost), None, "bound", LIMIT).unwrap();
    probe::tcp(&node.ns, to(node_ip), None, "any", LIMIT).unwrap();
    assert!(three.saw("bound") && !three.saw("any") && one.saw("any") && !one.saw("bound"));
    drop((one, three));
    // The runtime starts the next pod the moment that DEL has answered.
    for _ in 0..20 {
        runtime.del(&first).must();
        first = Sandbox::new();
        add(&runtime, &mut first, &any).must();
    }
    for gone in [&first, &third] {
        runtime.del(gone).must();
    }
    settled(&node, &[]);
    let listing = node.ns.must("nft list map inet overlane port4_any").stdout;
    assert!(!listing.contains("elements"), "{listing}");
}

/// A sender that goes on and on keeps its flow: it must reach the new owner of the port all the same.
#[test]
fn udp_follows_the_ports_owner() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let vm = lab().vm();
    for node_ip in node.ips() {
        let outlet = vm.udp(SocketAddr::new(probe::any(node_ip), 0), SILENCE);
        let to = SocketAddr::new(node_ip, 8085);
        // Before anybody owns the port the flow is with the node itself.
        for _ in 0..3 {
            let _ = outlet.send_to(b"early", to);
        }
        for round in 0..3 {
            let mut sandbox = Sandbox::new();
            add(&runtime, &mut sandbox, &json!([mapping("udp", 8085, 53, "")])).must();
            let server = Witness::new(&sandbox.net.ns, node_ip, 53);
            let word = format!("round {round}");
            eventually(secs(3), "the datagrams arrive at the new pod", || {
                let _ = outlet.send_to(word.as_bytes(), to);
                std::thread::sleep(Duration::from_millis(20));
                ensure(server.saw(&word), || format!("none of {word}, {:?} so far", server.seen().len()))
            });
            drop(server);
            runtime.del(&sandbox).must();
        }
    }
    settled(&node, &[]);
}

/// What is known of ports outlives the agent, and is put back where somebody took it away.
#[test]
fn ports_outlive_the_agent() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    add(&runtime, &mut sandbox, &json!([mapping("tcp", 8086, 80, "")])).must();
    let node_ip = node.ips()[0];
    let _server = Witness::new(&sandbox.net.ns, node_ip, 80);
    let works = |what: &str| {
        eventually(secs(20), what, || probe::tcp(&lab().vm(), SocketAddr::new(node_ip, 8086), None, "x", LIMIT))
    };
    works("at first");
    let pid = node.agent_pid().expect("an agent");
    exec::signal(pid, nix::sys::signal::Signal::SIGKILL);
    works("with no agent");
    eventually(secs(20), "the next agent", || {
        ensure(node.agent_pid().is_some_and(|now| now != pid), || "not there".to_owned())
    });
    node.agent_ready();
    works("with the next agent");
    node.ns.must("nft delete table inet overlane");
    works("after the table was deleted");
    runtime.check(&sandbox).must();
    for map in ["port4_any", "port6_any"] {
        node.ns.must(&format!("nft flush map inet overlane {map}"));
    }
    assert_ne!(runtime.check(&sandbox).out.code, Some(0), "CHECK misses the port");
    works("after its element was deleted");
    runtime.del(&sandbox).must();
    settled(&node, &[]);
}

/// A frame from the segment that bears the loopback's address: the kernel would take it for a martian, but a port that is
/// bound to 127.0.0.1 must not lead it to the pod before that.
#[test]
fn nobody_outside_comes_in_by_the_loopback() {
    let (_lock, node) = node(2);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    let ports = json!([mapping("udp", 8087, 53, "127.0.0.1"), mapping("udp", 8088, 53, "")]);
    add(&runtime, &mut sandbox, &ports).must();
    let node_ip = node.ips().into_iter().find(IpAddr::is_ipv4).unwrap();
    let server = Witness::new(&sandbox.net.ns, node_ip, 53);
    let vm = lab().vm();
    let mac = ip::link(&node.ns, "eth0").expect("the node's interface").mac;
    let frame = |to: &str, port: u16, word: &str| {
        let words = ["python3", "-c", FRAME, &mac, to, &port.to_string(), word];
        vm.sh(&words).must();
    };
    let node_ip = node_ip.to_string();
    eventually(secs(3), "a frame to the node's own address arrives", || {
        frame(&node_ip, 8088, "sound");
        std::thread::sleep(Duration::from_millis(50));
        ensure(server.saw("sound"), || "nothing".to_owned())
    });
    for port in [8087, 8088] {
        for _ in 0..5 {
            frame("127.0.0.1", port, "martian");
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(!server.saw("martian"), "a neighbour reached a port of 127.0.0.1");
    drop(server);
    runtime.del(&sandbox).must();
    settled(&node, &[]);
}

/// Sends one UDP datagram as a raw frame out of eth0: destination MAC, destination address, port, data.
const FRAME: &str = r"
import fcntl, socket, struct, sys
mac, to, port, data = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].encode()
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
ask = lambda what: fcntl.ioctl(s.fileno(), what, struct.pack('256s', b'eth0'))
own_mac, own_ip = ask(0x8927)[18:24], socket.inet_ntoa(ask(0x8915)[20:24])
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
udp = struct.pack('!HHHH', 40000, port, 8 + len(data), 0) + data
ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(own_ip), socket.inet_aton(to))
ip = ip[:10] + struct.pack('!H', checksum(ip)) + ip[12:]
s.send(bytes.fromhex(mac.replace(':', '')) + own_mac + b'\x08\x00' + ip + udp)
";
