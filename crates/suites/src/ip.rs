//! What `ip -j` says about a namespace.

use std::net::IpAddr;

use serde_json::Value;

use crate::ns::Ns;

/// Host-side name prefix of a pod's link.
pub const POD_LINK: &str = "ovlp";
/// The table with the product's routes.
pub const TABLE: &str = "main";
/// The product's route protocol number, as `ip` prints it.
pub const PROTO: &str = "111";
/// The product's route metric.
pub const METRIC: &str = "111";

/// `ip -j WORDS` as a list of objects.
pub fn json(ns: &Ns, line: &str) -> Vec<Value> {
    let words: Vec<&str> = ["ip", "-j"].into_iter().chain(line.split_whitespace()).collect();
    let out = ns.sh(&words);
    // A dump that met a link vanishing under it, or a table that nobody made, is an empty answer for these checks.
    if !out.ok() && (out.stderr.contains("FIB table does not exist") || out.stderr.contains("Cannot find device")) {
        return Vec::new();
    }
    assert!(out.ok(), "in {}: {out}", ns.label);
    if out.stdout.trim().is_empty() {
        return Vec::new();
    }
    let list: Vec<Value> = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e} in {out}"));
    list.into_iter().filter(|v| v.as_object().is_some_and(|o| !o.is_empty())).collect()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link.
    pub dev: String,
    /// The address.
    pub ip: IpAddr,
    /// Its prefix length.
    pub prefix: u64,
    /// `global`, `link`, `host`.
    pub scope: String,
}

/// All addresses of all links.
pub fn addresses(ns: &Ns) -> Vec<Address> {
    let mut all = Vec::new();
    for link in json(ns, "address show") {
        for info in link["addr_info"].as_array().cloned().unwrap_or_default() {
            let Some(Ok(ip)) = info["local"].as_str().map(str::parse) else { continue };
            let prefix = info["prefixlen"].as_u64().unwrap_or_default();
            all.push(Address { dev: text(&link, "ifname"), ip, prefix, scope: text(&info, "scope") });
        }
    }
    all
}

/// Addresses of global scope on every link but `lo`.
pub fn global_addresses(ns: &Ns) -> Vec<IpAddr> {
    addresses(ns).into_iter().filter(|a| a.dev != "lo" && a.scope == "global").map(|a| a.ip).collect()
}

/// A link.
#[derive(Clone, Debug)]
pub struct Link {
    /// Name.
    pub name: String,
    /// Alias, if set.
    pub alias: String,
    /// MAC address.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u64,
    /// Administratively up.
    pub up: bool,
    /// `veth`, `bridge`, ...
    pub kind: String,
    /// Index.
    pub index: u64,
}

/// All links.
pub fn links(ns: &Ns) -> Vec<Link> {
    json(ns, "-details link show")
        .iter()
        .map(|l| Link {
            name: text(l, "ifname"),
            alias: text(l, "ifalias"),
            mac: text(l, "address"),
            mtu: l["mtu"].as_u64().unwrap_or_default(),
            up: l["flags"].as_array().is_some_and(|f| f.iter().any(|f| f == "UP")),
            kind: text(&l["linkinfo"], "info_kind"),
            index: l["ifindex"].as_u64().unwrap_or_default(),
        })
        .collect()
}

/// The link of this name.
pub fn link(ns: &Ns, name: &str) -> Option<Link> {
    links(ns).into_iter().find(|l| l.name == name)
}

/// Host ends of pods.
pub fn pod_links(ns: &Ns) -> Vec<Link> {
    links(ns).into_iter().filter(|l| l.name.starts_with(POD_LINK)).collect()
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Destination as printed; `default` is spelt out.
    pub dst: String,
    /// Next hop, or empty.
    pub gateway: String,
    /// Device, or empty.
    pub dev: String,
    /// Protocol as printed.
    pub proto: String,
    /// `unicast`, `unreachable`, ...
    pub kind: String,
    /// Source for locally made packets, or empty.
    pub source: String,
    /// Scope as printed.
    pub scope: String,
}

/// Routes of both families in a table (`main`, a number, `all`).
pub fn routes(ns: &Ns, table: &str) -> Vec<Route> {
    ["-4", "-6"].iter().flat_map(|family| family_routes(ns, family, table)).collect()
}

/// Routes of one family (`-4`, `-6`) in a table.
pub fn family_routes(ns: &Ns, family: &str, table: &str) -> Vec<Route> {
    json(ns, &format!("-details {family} route show table {table}"))
        .iter()
        .map(|r| Route {
            dst: text(r, "dst"),
            gateway: match r["gateway"].as_str() {
                Some(gateway) => gateway.to_owned(),
                None => text(&r["via"], "host"),
            },
            dev: text(r, "dev"),
            proto: text(r, "protocol"),
            kind: match r["type"].as_str() {
                Some(kind) => kind.to_owned(),
                None => "unicast".to_owned(),
            },
            source: text(r, "prefsrc"),
            scope: text(r, "scope"),
        })
        .collect()
}

/// A neighbour.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The address.
    pub ip: IpAddr,
    /// The link.
    pub dev: String,
    /// Its MAC, or empty.
    pub mac: String,
    /// Whether it is permanent.
    pub permanent: bool,
}

/// Neighbours of both families.
pub fn neighbours(ns: &Ns) -> Vec<Neighbour> {
    ["-4", "-6"]
        .iter()
        .flat_map(|family| json(ns, &format!("{family} neigh show nud all")))
        .filter_map(|n| {
            let ip = n["dst"].as_str()?.parse().ok()?;
            let permanent = n["state"].as_array().is_some_and(|s| s.iter().any(|s| s == "PERMANENT"));
            Some(Neighbour { ip, dev: text(&n, "dev"), mac: text(&n, "lladdr"), permanent })
        })
        .collect()
}

/// Rules of both families, as `ip rule` prints them in text, with the family in front.
pub fn rules(ns: &Ns) -> Vec<String> {
    ["-4", "-6"]
        .iter()
        .flat_map(|family| {
            let out = ns.must(&format!("ip -N {family} rule show"));
            out.stdout
                .lines()
                .map(|l| format!("{family} {}", l.split_whitespace().collect::<Vec<_>>().join(" ")))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Everything that a restart must not have touched, as text: links, addresses, routes, rules, permanent neighbours.
pub fn snapshot(ns: &Ns) -> String {
    let mut lines = Vec::new();
    for l in links(ns) {
        lines.push(format!("link {} {} {} {} up={} {}", l.index, l.name, l.mac, l.mtu, l.up, l.alias));
    }
    for a in addresses(ns) {
        lines.push(format!("address {} {}/{}", a.dev, a.ip, a.prefix));
    }
    for r in routes(ns, "all") {
        // A cached or learnt route of a flow is the kernel's own business.
        if r.kind != "multicast" {
            lines.push(format!("route {r:?}"));
        }
    }
    lines.extend(rules(ns).into_iter().map(|r| format!("rule {r}")));
    lines.extend(neighbours(ns).into_iter().filter(|n| n.permanent).map(|n| format!("neighbour {n:?}")));
    lines.sort();
    lines.join("\n")
}
