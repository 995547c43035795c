//! A VXLAN network as flannel makes it, out of iproute2 and nft: a bridge for the pods of a node, one VXLAN link with an
//! FDB entry, a neighbour and a route a peer, conntrack and masquerade. Its two nodes are on the segment of a lab's nodes.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cni::ip;
use crate::lab::Lab;
use crate::net::Ends;

/// What is printed of it.
pub const SETTINGS: &str = "bridge + FDB: VXLAN link `id 4242 dstport 8473 nolearning`, MTU 1450 (IPv6 1430), permanent neighbours and FDB entries, \
                            bridge with a veth a pod, masquerade and an accepting forward chain with conntrack";

/// The namespaces of two nodes and of a pod on each; they end with this value.
pub struct Bridged {
    names: [String; 4],
}

impl Bridged {
    /// Builds it beside a lab's nodes.
    pub fn beside(lab: &Lab) -> Result<Self> {
        let names = ["node0", "node1", "pod0", "pod1"].map(|part| format!("ovb-peer-{part}"));
        let made = Self { names };
        made.remove();
        for name in &made.names {
            ip(&["netns", "add", name])?;
            run(name, "link set lo up")?;
            for key in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.accept_dad=0"]
            {
                in_ns(name, &["sysctl", "-qw", key], "")?;
            }
        }
        let router = lab.node_ns("router").replace("/run/netns/", "");
        for number in 0..2 {
            made.node(number, &router)?;
        }
        for number in 0..2 {
            made.tunnel(number)?;
        }
        Ok(made)
    }

    /// From the pod of the first node to that of the second.
    pub fn ends(&self, family: &str) -> Ends {
        let path = |name: &str| format!("/run/netns/{name}");
        let server = if family == "IPv4" {
            [10, 250, 1, 2].into()
        } else {
            std::net::IpAddr::from([0xfd66, 0, 0, 1, 0, 0, 0, 2])
        };
        Ends { client_ns: path(&self.names[2]), server_ns: path(&self.names[3]), server }
    }

    fn node(&self, number: usize, router: &str) -> Result<()> {
        let (node, pod) = (&self.names[number], &self.names[number + 2]);
        let port = format!("peer{number}");
        ip(&["-n", node, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", router])?;
        ip(&["-n", router, "link", "set", &port, "master", "br-nodes", "up"])?;
        ip(&["-n", node, "link", "add", "cni0", "type", "bridge"])?;
        ip(&["-n", node, "link", "add", "pod", "type", "veth", "peer", "name", "eth0", "netns", pod])?;
        for (mtu, family) in [(1450, "-4"), (1430, "-6")] {
            run(pod, &format!("link set eth0 mtu {} up", mtu.min(1430)))?;
            let (own, all) = if family == "-4" {
                (format!("10.250.{number}"), "10.250.0.0/16".to_owned())
            } else {
                (format!("fd66:0:0:{number}:"), "fd66::/32".to_owned())
            };
            let dot = if family == "-4" { "." } else { ":" };
            let bits = if family == "-4" { 24 } else { 64 };
            run(node, &format!("{family} address add {own}{dot}1/{bits} dev cni0 {}", nodad(family)))?;
            run(pod, &format!("{family} address add {own}{dot}2/{bits} dev eth0 {}", nodad(family)))?;
            run(node, "link set cni0 up")?;
            run(node, "link set pod master cni0 up")?;
            run(pod, &format!("{family} route add {all} via {own}{dot}1 mtu {mtu}"))?;
        }
        run(pod, "link set eth0 mtu 1450")?;
        run(node, "link set eth0 up")?;
        run(node, &format!("address add 10.224.200.{}/16 dev eth0", number + 1))?;
        run(node, &format!("address add fd10:224::200:{}/64 dev eth0 nodad", number + 1))?;
        let table = "table inet peer {\n chain forward { type filter hook forward priority 0; ct state established accept; \
                     ip saddr 10.250.0.0/16 accept; ip daddr 10.250.0.0/16 accept; }\n \
                     chain post { type nat hook postrouting priority 100; ip saddr 10.250.0.0/16 ip daddr != 10.250.0.0/16 masquerade; \
                     ip6 saddr fd66::/32 ip6 daddr != fd66::/32 masquerade; }\n }";
        in_ns(node, &["nft", "-f", "-"], table)
    }

    fn tunnel(&self, number: usize) -> Result<()> {
        let (node, other) = (&self.names[number], 1 - number);
        for (link, id, mtu, local, remote, family, route, hop) in [
            (
                "fl4",
                4242,
                1450,
                format!("10.224.200.{}", number + 1),
                format!("10.224.200.{}", other + 1),
                "-4",
                format!("10.250.{other}.0/24"),
                format!("10.250.{other}.0"),
            ),
            (
                "fl6",
                4243,
                1430,
                format!("fd10:224::200:{}", number + 1),
                format!("fd10:224::200:{}", other + 1),
                "-6",
                format!("fd66:0:0:{other}::/64"),
                format!("fd66:0:0:{other}::"),
            ),
        ] {
            let mac = |number: usize| format!("02:66:00:00:0{}:0{number}", &link[2..]);
            let own = if family == "-4" { format!("10.250.{number}.0/32") } else { format!("fd66:0:0:{number}::/128") };
            run(
                node,
                &format!(
                    "link add {link} mtu {mtu} address {} type vxlan id {id} dstport 8473 local {local} dev eth0 nolearning",
                    mac(number)
                ),
            )?;
            run(node, &format!("{family} address add {own} dev {link} {}", nodad(family)))?;
            run(node, &format!("link set {link} up"))?;
            run(node, &format!("neighbor add {hop} lladdr {} dev {link} nud permanent", mac(other)))?;
            in_ns(node, &["bridge", "fdb", "append", &mac(other), "dev", link, "dst", &remote], "")?;
            run(node, &format!("{family} route add {route} via {hop} dev {link} onlink"))?;
        }
        Ok(())
    }

    fn remove(&self) {
        for name in &self.names {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

impl Drop for Bridged {
    fn drop(&mut self) {
        self.remove();
    }
}

fn nodad(family: &str) -> &'static str {
    if family == "-6" { "nodad" } else { "" }
}

fn run(ns: &str, line: &str) -> Result<()> {
    let words: Vec<&str> = ["-n", ns].into_iter().chain(line.split_whitespace()).collect();
    ip(&words)
}

fn in_ns(ns: &str, words: &[&str], input: &str) -> Result<()> {
    use std::io::Write as _;
    let mut child = Command::new("ip")
        .args(["netns", "exec", ns])
        .args(words)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {} in {ns}", words.join(" ")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{} in {ns}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
