//! Nodes, pods and hosts as network namespaces without a name: they end with the value, also when a test panics.
//! What is judged is read by `ip`, `nft` and `conntrack`, not by the code under test.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests; not each uses everything"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::masq::MasqConfig;
use overlane_core::plan::{self, NodeInput, NodePlan, Peer, PodElement, PodMember};
use overlane_datapath::mac::{self, Mac};
use overlane_datapath::netns::Netns;
use overlane_datapath::nft::{PodChange, Table};
use overlane_datapath::node::{self, AwayRoutes, PodRoutes, Underlay};
use overlane_datapath::pod::{PodSpec, Wirer};
use overlane_datapath::{owned, sysctl};

pub const V4: Family = Family::V4;
pub const V6: Family = Family::V6;
/// What the nodes' link can carry, and so the pods' too.
pub const MTU: u32 = 1500;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

/// A namespace.
pub struct Ns(pub Netns);

impl Ns {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare a network namespace: needs root");
            Netns::current().unwrap()
        });
        let ns = Self(thread.join().unwrap());
        // No wait for duplicate address detection on the nodes' own links; pods must not need this.
        ns.sh("ip link set lo up; for c in all default; do echo 0 > /proc/sys/net/ipv6/conf/$c/accept_dad; done");
        ns
    }

    /// As a container runtime makes it: nothing set.
    pub fn bare() -> Self {
        let ns = Self::new();
        ns.sh("for c in all default; do echo 1 > /proc/sys/net/ipv6/conf/$c/accept_dad; done; ip link set lo down");
        ns
    }

    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.0.run(f).unwrap()
    }

    /// Runs a shell script that must succeed; gives what it prints.
    pub fn sh(&self, script: &str) -> String {
        let output = self.output(script);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script}\n{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    pub fn output(&self, script: &str) -> std::process::Output {
        self.run(|| Command::new("sh").args(["-ec", script]).output().unwrap())
    }

    /// A veth pair from here to `other`.
    pub fn connect(&self, name: &str, other: &Ns, other_name: &str) {
        let pid = std::process::id();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&other.0));
        self.sh(&format!("ip link add {name} type veth peer name {other_name} netns /proc/{pid}/fd/{fd}"));
        self.sh(&format!("ip link set {name} up"));
        other.sh(&format!("ip link set {other_name} up"));
    }

    /// Asks over UDP as whom the far side sees us; patiently, as the machine may be busy.
    pub fn ask(&self, from: Option<IpAddr>, to: SocketAddr) -> Option<SocketAddr> {
        self.datagrams(from, to, 40, Duration::from_millis(200))
    }

    /// Whether one datagram gets no answer.
    pub fn silent(&self, from: Option<IpAddr>, to: SocketAddr) -> bool {
        self.datagrams(from, to, 1, Duration::from_millis(250)).is_none()
    }

    /// Whether one datagram gets an answer, however long it takes.
    pub fn ask_once(&self, to: SocketAddr) -> bool {
        self.datagrams(None, to, 1, Duration::from_secs(5)).is_some()
    }

    fn datagrams(&self, from: Option<IpAddr>, to: SocketAddr, tries: u32, wait: Duration) -> Option<SocketAddr> {
        self.run(|| {
            let any: IpAddr = if to.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
            let socket = UdpSocket::bind((from.unwrap_or(any), 0)).unwrap();
            socket.set_read_timeout(Some(wait)).unwrap();
            (0..tries).find_map(|n| {
                if n > 0 {
                    std::thread::sleep(wait / 4);
                }
                // A refusal (no route, unreachable) is as good as silence.
                socket.connect(to).ok()?;
                socket.send(b"who am I").ok()?;
                let mut answer = [0; 64];
                let length = socket.recv(&mut answer).ok()?;
                String::from_utf8_lossy(&answer[..length]).parse().ok()
            })
        })
    }

    /// Answers UDP on a port with the address that it saw, until the value is dropped.
    pub fn echo(&self, port: u16) -> Echo {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut threads = Vec::new();
        for any in ["0.0.0.0", "::"] {
            let socket = self.run(|| {
                let domain = if any == "::" {
                    nix::sys::socket::AddressFamily::Inet6
                } else {
                    nix::sys::socket::AddressFamily::Inet
                };
                udp(domain, SocketAddr::new(ip(any), port))
            });
            let stop = stop.clone();
            threads.push(std::thread::spawn(move || answer(&socket, &stop)));
        }
        Echo { stop, threads }
    }
}

fn udp(family: nix::sys::socket::AddressFamily, address: SocketAddr) -> UdpSocket {
    use nix::sys::socket::{SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};
    use std::os::fd::AsRawFd;
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    if family == nix::sys::socket::AddressFamily::Inet6 {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true).unwrap();
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    UdpSocket::from(fd)
}

fn answer(socket: &UdpSocket, stop: &std::sync::atomic::AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = [0; 2048];
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(from.to_string().as_bytes(), from);
        }
    }
}

pub struct Echo {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Two nodes and a virtual machine on one segment, a router, and a host behind it.
pub struct Net {
    pub router: Ns,
    pub internet: Ns,
    pub vm: Ns,
    pub a: Node,
    pub b: Node,
}

impl Net {
    pub fn new(families: &[Family]) -> Self {
        let router = Ns::new();
        router.sh("ip link add br0 type bridge; ip link set br0 up
             ip addr add 10.224.0.1/16 dev br0; ip -6 addr add fd10:224::1/64 dev br0 nodad
             echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        let join = |name: &str, host: u8| {
            let ns = Ns::new();
            router.connect(&format!("to-{name}"), &ns, "eth0");
            router.sh(&format!("ip link set to-{name} master br0"));
            ns.sh(&format!(
                "ip addr add 10.224.0.{host}/16 dev eth0; ip -6 addr add fd10:224::{host}/64 dev eth0 nodad
                 ip route add default via 10.224.0.1; ip -6 route add default via fd10:224::1"
            ));
            ns
        };
        let (a, b, vm) = (join("a", 4), join("b", 5), join("vm", 9));
        let internet = Ns::new();
        router.connect("outside", &internet, "eth0");
        router.sh("ip addr add 198.51.100.1/24 dev outside; ip -6 addr add 2001:db8::1/64 dev outside nodad");
        internet.sh("ip addr add 198.51.100.7/24 dev eth0; ip -6 addr add 2001:db8::7/64 dev eth0 nodad
             ip route add default via 198.51.100.1; ip -6 route add default via 2001:db8::1");
        let mut net = Self { router, internet, vm, a: Node::new(a, 4, families), b: Node::new(b, 5, families) };
        let (a, b) = (net.a.as_peer(), net.b.as_peer());
        net.a.input.peers = vec![b];
        net.b.input.peers = vec![a];
        net.a.agree();
        net.b.agree();
        net.await_links();
        net
    }

    /// A busy kernel takes up to a second to find a new link's carrier; that is not what is tested here.
    fn await_links(&self) {
        let _echoes = [self.router.echo(7), self.b.ns.echo(7)];
        let segment = ["10.224.0.1", "fd10:224::1"];
        let outside = ["198.51.100.1", "2001:db8::1"];
        let hosts = [(&self.a.ns, segment), (&self.b.ns, segment), (&self.vm, segment), (&self.internet, outside)];
        for (ns, gateways) in hosts {
            for gateway in gateways {
                assert!(ns.ask(None, SocketAddr::new(ip(gateway), 7)).is_some(), "{gateway}");
            }
        }
        for node in ["10.224.0.5", "fd10:224::5"] {
            assert!(self.a.ns.ask(None, SocketAddr::new(ip(node), 7)).is_some(), "{node}");
        }
    }
}

/// A node with the parts under test.
pub struct Node {
    pub ns: Ns,
    pub families: Vec<Family>,
    pub input: NodeInput,
    pub table: Table,
    pub wirer: Wirer,
    pub underlays: BTreeMap<Family, Underlay>,
    number: u8,
    begun: u64,
}

pub struct Pod {
    pub ns: Ns,
    pub spec: PodSpec,
}

impl Pod {
    pub fn address(&self, family: Family) -> IpAddr {
        *self.spec.addresses.iter().find(|a| Family::of(a) == family).unwrap()
    }

    pub fn members(&self) -> Vec<PodElement> {
        let member = |address| PodMember { link: self.spec.link.clone(), mac: self.spec.mac, address };
        self.spec.addresses.iter().copied().map(member).map(PodElement::Source).collect()
    }
}

impl Node {
    fn new(ns: Ns, number: u8, families: &[Family]) -> Self {
        let both = |v4: String, v6: String| -> BTreeMap<Family, String> {
            [(V4, v4), (V6, v6)].into_iter().filter(|(f, _)| families.contains(f)).collect()
        };
        let space = both("10.244.0.0/16".into(), "fd12:3456:789a::/64".into());
        let own = both(format!("10.244.{number}.0/24"), format!("fd12:3456:789a:0:{number}::/80"));
        let node_ips: BTreeMap<_, _> = both(format!("10.224.0.{number}"), format!("fd10:224::{number}"))
            .into_iter()
            .map(|(family, text)| (family, ip(&text)))
            .collect();
        let underlays: BTreeMap<_, _> =
            node_ips.iter().map(|(family, address)| (*family, ns.run(|| node::underlay(*address).unwrap()))).collect();
        let input = NodeInput {
            service_cidrs: Vec::new(),
            pod_cidrs: space.values().map(|c| cidr(c)).collect(),
            routing: overlane_core::cluster::Routing::Native,
            node_ips,
            own_blocks: own.values().map(|c| cidr(c)).collect(),
            masquerade: Some(MasqConfig::default()),
            ..NodeInput::default()
        };
        let links = underlays.values().map(|u| u.link.clone()).collect();
        ns.run(|| sysctl::apply(&sysctl::wanted(families, &links).unwrap()).unwrap());
        let (table, wirer) = (Table::new(BTreeSet::new()), Wirer::new());
        Self { ns, families: families.to_vec(), input, table, wirer, underlays, number, begun: 0 }
    }

    fn as_peer(&self) -> Peer {
        Peer {
            name: format!("node-{}", self.number),
            blocks: self.input.own_blocks.clone(),
            node_ips: self.input.node_ips.clone(),
            mac: self.underlays.values().next().unwrap().mac,
        }
    }

    pub fn plan(&self) -> NodePlan {
        plan::plan(&self.input)
    }

    pub fn primary(&self) -> BTreeMap<Family, String> {
        self.underlays.iter().map(|(family, underlay)| (*family, underlay.link.clone())).collect()
    }

    /// Structure, membership, routes: as the plan says.
    pub fn agree(&self) -> (overlane_datapath::nft::Applied, node::Applied) {
        let (plan, primary) = (self.plan(), self.primary());
        self.ns.run(|| {
            let table = self.table.apply(&plan, &primary).unwrap();
            let mtu = self.underlays.values().map(|underlay| underlay.mtu).min().unwrap();
            let tunnel = plan.tunnel.as_ref().map(|tunnel| {
                let (kind, away) = (node::TunnelKind::Routes, node::AwayRoutes::Planned);
                let kept = node::keep_tunnel(&self.plan(), kind, mtu - tunnel.overhead, away, None).unwrap().unwrap();
                assert_eq!(kept.failed, []);
                node::TunnelGround { index: kept.index, kind }
            });
            let routes =
                node::apply(&plan, &self.underlays, tunnel, PodRoutes::LeftAlone, AwayRoutes::Planned, None).unwrap();
            assert_eq!(routes.failed, []);
            (table, routes)
        })
    }

    pub fn spec(&mut self, host: u8) -> PodSpec {
        self.begun += 1;
        let link = owned::pod_link_name("a-container", "eth0", self.begun * 256 + u64::from(self.number));
        let address = |family: &Family| match *family {
            V4 => ip(&format!("10.244.{}.{host}", self.number)),
            V6 => ip(&format!("fd12:3456:789a:0:{}::{host:x}", self.number)),
        };
        PodSpec {
            alias: owned::pod_alias("default", "a-pod", "a-container"),
            ifname: "eth0".to_owned(),
            mac: owned::pod_mac(&link),
            mtu: MTU,
            addresses: self.families.iter().map(address).collect(),
            from_loopback: false,
            bandwidth: overlane_core::rate::Bandwidth::default(),
            prefsrc: self.input.node_ips.clone(),
            link,
        }
    }

    pub fn pod(&mut self, host: u8) -> Pod {
        let pod = Pod { ns: Ns::bare(), spec: self.spec(host) };
        self.allow(&pod);
        self.ns.run(|| self.wirer.wire(&pod.ns.0, &pod.spec).unwrap());
        pod
    }

    pub fn allow(&self, pod: &Pod) {
        let changes: Vec<_> = pod.members().into_iter().map(PodChange::Add).collect();
        self.ns.run(|| self.table.pods(&changes).unwrap());
    }

    pub fn forbid(&self, pod: &Pod) {
        let changes: Vec<_> = pod.members().into_iter().map(PodChange::Remove).collect();
        self.ns.run(|| self.table.pods(&changes).unwrap());
    }

    /// Packets that a counter has seen, by `nft`.
    pub fn counted(&self, counter: &str) -> u64 {
        let text = self.ns.sh(&format!("nft list counter inet overlane {counter}"));
        text.split_whitespace().skip_while(|w| *w != "packets").nth(1).unwrap().parse().unwrap()
    }

    /// Whether a counter comes to stand at `expected`; a busy kernel takes its time.
    pub fn comes_to(&self, counter: &str, expected: u64) -> bool {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while self.counted(counter) != expected && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.counted(counter) == expected
    }

    /// Whether a counter comes to be more than `before`.
    pub fn exceeds(&self, counter: &str, before: u64) -> bool {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while self.counted(counter) <= before && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.counted(counter) > before
    }

    pub fn address(&self, family: Family) -> IpAddr {
        self.input.node_ips[&family]
    }
}

pub fn mac_of(ns: &Ns, link: &str) -> Mac {
    mac::parse(ns.sh(&format!("ip -br link show {link} | awk '{{print $3}}'")).trim()).unwrap()
}
