//! Who speaks to a host, by address, counted by the host's packet filter: also what no program there takes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::nft;
use crate::ns::Ns;

/// Counts TCP, UDP and echo requests that reach a namespace, by their source, until it is dropped.
pub struct Far {
    ns: Ns,
    table: String,
}

impl Far {
    /// Starts at nought.
    pub fn on(ns: &Ns) -> Far {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let table = format!("inet far{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut script = format!("table {table} {{\n");
        let mut rules = String::new();
        for (v, ip, icmp) in [(4, "ip", "icmp"), (6, "ip6", "icmpv6")] {
            for proto in ["tcp", "udp"] {
                script += &format!(" set {proto}{v} {{ typeof {ip} saddr . th dport; size 65535; flags dynamic; }}\n");
                rules += &format!("  meta l4proto {proto} update @{proto}{v} {{ {ip} saddr . th dport counter }}\n");
            }
            script += &format!(" set echo{v} {{ typeof {ip} saddr; size 65535; flags dynamic; }}\n");
            rules += &format!("  {icmp} type echo-request update @echo{v} {{ {ip} saddr counter }}\n");
        }
        script += &format!(" chain in {{\n  type filter hook prerouting priority -400;\n{rules} }}\n}}\n");
        let out = ns.feed(&["nft", "-f", "-"], &script);
        assert!(out.ok(), "in {}: {out}", ns.label);
        Far { ns: ns.clone(), table }
    }

    /// Packets by source: of every kind.
    pub fn sources(&self) -> BTreeMap<IpAddr, u64> {
        self.count(|_, _| true)
    }

    /// Packets by source: of UDP to this port.
    pub fn udp(&self, port: u16) -> BTreeMap<IpAddr, u64> {
        self.count(|proto, to| proto == "udp" && to == Some(u64::from(port)))
    }

    /// How many streams of UDP each source has: by the ports that they go to.
    pub fn speakers(&self) -> BTreeMap<IpAddr, usize> {
        let mut found = BTreeMap::new();
        for (source, _) in self.keys("udp") {
            *found.entry(source).or_default() += 1;
        }
        found
    }

    /// Packets by source: echo requests.
    pub fn echoes(&self) -> BTreeMap<IpAddr, u64> {
        self.count(|proto, _| proto == "echo")
    }

    /// An error that names whoever else than these has been heard.
    pub fn only(&self, expected: &[IpAddr]) -> Result<(), String> {
        let mut others = self.sources();
        others.retain(|source, _| !expected.contains(source));
        crate::wait::ensure(others.is_empty(), || {
            format!("{} heard others than {expected:?}: {others:?}", self.ns.label)
        })
    }

    fn keys(&self, kind: &str) -> Vec<(IpAddr, Option<u64>)> {
        let mut found = Vec::new();
        for object in nft::list(&self.ns, &format!("table {}", self.table)) {
            let Some(set) = object.get("set") else { continue };
            if set["name"].as_str().unwrap_or_default().starts_with(kind) {
                found.extend(set["elem"].as_array().into_iter().flatten().map(|element| key(&element["elem"]["val"])));
            }
        }
        found
    }

    fn count(&self, counts: impl Fn(&str, Option<u64>) -> bool) -> BTreeMap<IpAddr, u64> {
        let mut found = BTreeMap::new();
        for object in nft::list(&self.ns, &format!("table {}", self.table)) {
            let Some(set) = object.get("set") else { continue };
            let proto = set["name"].as_str().unwrap_or_default().trim_end_matches(['4', '6']);
            for element in set["elem"].as_array().into_iter().flatten() {
                let element = &element["elem"];
                let (source, port) = key(&element["val"]);
                if counts(proto, port) {
                    *found.entry(source).or_default() += element["counter"]["packets"].as_u64().unwrap_or_default();
                }
            }
        }
        found
    }
}

/// A source, alone or with a port.
fn key(value: &Value) -> (IpAddr, Option<u64>) {
    let address = |text: &Value| text.as_str().and_then(|text| text.parse().ok());
    let found = match value["concat"].as_array() {
        Some(parts) => address(&parts[0]).map(|source| (source, parts[1].as_u64())),
        None => address(value).map(|source| (source, None)),
    };
    found.unwrap_or_else(|| panic!("no source in {value}"))
}

impl Drop for Far {
    fn drop(&mut self) {
        self.ns.sh(&["nft", "delete table", &self.table]);
    }
}
