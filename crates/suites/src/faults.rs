//! Faults planted by hand, one kernel object each, and whether they are still there.

use std::net::IpAddr;

use crate::ip;
use crate::nft;
use crate::ns::Ns;
use crate::runtime::Sandbox;

/// A networked pod as its node and its own namespace see it.
#[derive(Clone)]
pub struct Target {
    /// The node.
    pub host: Ns,
    /// The pod.
    pub pod: Ns,
    /// The host's side of the pair.
    pub link: String,
    /// The pod's side.
    pub ifname: String,
    /// The pod's MAC.
    pub mac: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

impl Target {
    /// Of a sandbox whose ADD succeeded.
    pub fn of(host: &Ns, sandbox: &Sandbox) -> Target {
        Target {
            host: host.clone(),
            pod: sandbox.net.ns.clone(),
            link: sandbox.host_link(),
            ifname: sandbox.ifname.clone(),
            mac: sandbox.mac(),
            ips: sandbox.ips(),
        }
    }
}

/// One fault.
pub struct Fault {
    /// What is broken, for messages.
    pub name: String,
    ns: Ns,
    line: String,
    still: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Fault {
    /// Breaks it now; the object must have been there.
    pub fn plant(&self) {
        self.ns.must(&self.line);
    }

    /// Breaks it again, if it was repaired meanwhile.
    pub fn insist(&self) {
        let words: Vec<&str> = self.line.split_whitespace().collect();
        self.ns.sh(&words);
    }

    /// Whether it is still broken.
    pub fn still(&self) -> bool {
        (self.still)()
    }
}

fn family(ip: &IpAddr) -> &'static str {
    if ip.is_ipv4() { "-4" } else { "-6" }
}

fn bits(ip: &IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn gateway(ip: &IpAddr) -> &'static str {
    if ip.is_ipv4() { "169.254.1.1" } else { "fe80::1" }
}

/// Faults on the node's side that leave the link.
pub fn host_side(t: &Target) -> Vec<Fault> {
    let mut faults = Vec::new();
    for ip in &t.ips {
        let (ip, f) = (*ip, family(ip));
        let (h, l) = (t.host.clone(), t.link.clone());
        faults.push(Fault {
            name: format!("host route to {ip}"),
            ns: t.host.clone(),
            line: format!("ip {f} route del {ip}/{} dev {} table {}", bits(&ip), t.link, ip::TABLE),
            still: Box::new(move || {
                !ip::family_routes(&h, f, ip::TABLE).iter().any(|r| r.dst == ip.to_string() && r.dev == l)
            }),
        });
        let (h, l) = (t.host.clone(), t.link.clone());
        faults.push(Fault {
            name: format!("host neighbour {ip}"),
            ns: t.host.clone(),
            line: format!("ip neigh del {ip} dev {}", t.link),
            still: Box::new(move || !ip::neighbours(&h).iter().any(|n| n.ip == ip && n.dev == l && n.permanent)),
        });
        let set = if ip.is_ipv4() { "pod4" } else { "pod6" };
        let (h, key) = (t.host.clone(), format!("{} . {} . {ip}", t.link, t.mac));
        faults.push(Fault {
            name: format!("nft element of {ip}"),
            ns: t.host.clone(),
            line: format!("nft delete element inet overlane {set} {{ \"{}\" . {} . {ip} }}", t.link, t.mac),
            still: Box::new(move || !nft::pod_elements(&h).contains(&key)),
        });
    }
    let (h, l, rules) = (t.host.clone(), t.link.clone(), t.host.clone());
    faults.push(Fault {
        name: "nft rules".to_owned(),
        ns: t.host.clone(),
        line: "nft flush chain inet overlane to_pod".to_owned(),
        still: Box::new(move || !nft::own_text(&rules).contains("counter name \"no_way_in\" drop")),
    });
    faults.push(Fault {
        name: "host link down".to_owned(),
        ns: t.host.clone(),
        line: format!("ip link set {} down", t.link),
        still: Box::new(move || ip::link(&h, &l).is_none_or(|l| !l.up)),
    });
    faults
}

/// Faults inside the pod that leave the link.
pub fn pod_side(t: &Target) -> Vec<Fault> {
    let mut faults = Vec::new();
    for ip in &t.ips {
        let (ip, f) = (*ip, family(ip));
        let p = t.pod.clone();
        faults.push(Fault {
            name: format!("pod address {ip}"),
            ns: t.pod.clone(),
            line: format!("ip address del {ip}/{} dev {}", bits(&ip), t.ifname),
            still: Box::new(move || !ip::addresses(&p).iter().any(|a| a.ip == ip)),
        });
        let p = t.pod.clone();
        faults.push(Fault {
            name: format!("pod default route {f}"),
            ns: t.pod.clone(),
            line: format!("ip {f} route del default dev {}", t.ifname),
            still: Box::new(move || !ip::family_routes(&p, f, "main").iter().any(|r| r.dst == "default")),
        });
        let (p, via) = (t.pod.clone(), gateway(&ip).parse::<IpAddr>().expect("an address"));
        faults.push(Fault {
            name: format!("pod neighbour {via}"),
            ns: t.pod.clone(),
            line: format!("ip neigh del {via} dev {}", t.ifname),
            still: Box::new(move || !ip::neighbours(&p).iter().any(|n| n.ip == via && n.permanent)),
        });
    }
    if t.ips.iter().any(IpAddr::is_ipv4) {
        let p = t.pod.clone();
        faults.push(Fault {
            name: "pod route to the gateway".to_owned(),
            ns: t.pod.clone(),
            line: format!("ip route del 169.254.1.1 dev {}", t.ifname),
            still: Box::new(move || !ip::family_routes(&p, "-4", "main").iter().any(|r| r.dst == "169.254.1.1")),
        });
    }
    let (p, i) = (t.pod.clone(), t.ifname.clone());
    faults.push(Fault {
        name: "pod link down".to_owned(),
        ns: t.pod.clone(),
        line: format!("ip link set {} down", t.ifname),
        still: Box::new(move || ip::link(&p, &i).is_none_or(|l| !l.up)),
    });
    faults
}

/// The link itself, removed from the node's side and from the pod's.
pub fn link_gone(t: &Target) -> [Fault; 2] {
    let (h, l) = (t.host.clone(), t.link.clone());
    let (p, i) = (t.pod.clone(), t.ifname.clone());
    [
        Fault {
            name: "host link removed".to_owned(),
            ns: t.host.clone(),
            line: format!("ip link del {}", t.link),
            still: Box::new(move || ip::link(&h, &l).is_none()),
        },
        Fault {
            name: "pod link removed".to_owned(),
            ns: t.pod.clone(),
            line: format!("ip link del {}", t.ifname),
            still: Box::new(move || ip::link(&p, &i).is_none()),
        },
    ]
}
