//! What `nft -j` says about a namespace.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::ns::Ns;

/// Family and name of the product's table.
pub const TABLE: &str = "inet overlane";

/// The objects of `nft -j list ...`; empty if there is no such table.
pub fn list(ns: &Ns, what: &str) -> Vec<Value> {
    let words: Vec<&str> = ["nft", "-j", "list"].into_iter().chain(what.split_whitespace()).collect();
    let out = ns.sh(&words);
    if !out.ok() && out.stderr.contains("No such file or directory") {
        return Vec::new();
    }
    assert!(out.ok(), "in {}: {out}", ns.label);
    let value: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e} in {out}"));
    value["nftables"].as_array().cloned().unwrap_or_default()
}

/// Packets of a counter of a table, such as `bridge tap`; 0 where there is none.
pub fn packets(ns: &Ns, table: &str, counter: &str) -> u64 {
    let counters = list(ns, &format!("counters table {table}"));
    let named = counters.iter().filter_map(|object| object.get("counter")).filter(|c| c["name"] == counter);
    named.filter_map(|c| c["packets"].as_u64()).sum()
}

/// Whether the product's table is there.
pub fn present(ns: &Ns) -> bool {
    ns.must("nft list tables").stdout.lines().any(|l| l.trim() == format!("table {TABLE}"))
}

/// Elements of every set and map of the product's table, by set; the parts of a concatenation joined by ` . `.
pub fn elements(ns: &Ns) -> BTreeMap<String, BTreeSet<String>> {
    let mut sets = BTreeMap::new();
    for object in list(ns, &format!("table {TABLE}")) {
        let Some(set) = object.get("set").or_else(|| object.get("map")) else { continue };
        let name = set["name"].as_str().unwrap_or_default().to_owned();
        let elements = set["elem"].as_array().cloned().unwrap_or_default();
        sets.insert(name, elements.iter().map(key).collect());
    }
    sets
}

fn key(element: &Value) -> String {
    match element {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        // A map's element is a pair of key and value.
        Value::Array(pair) => pair.first().map(key).unwrap_or_default(),
        Value::Object(object) => {
            if let Some(elem) = object.get("elem") {
                return key(&elem["val"]);
            }
            if let Some(parts) = object.get("concat").and_then(Value::as_array) {
                return parts.iter().map(key).collect::<Vec<_>>().join(" . ");
            }
            if let Some(prefix) = object.get("prefix") {
                return format!("{}/{}", key(&prefix["addr"]), prefix["len"]);
            }
            element.to_string()
        }
        other => other.to_string(),
    }
}

/// Elements of the pod source check, both families: `link . mac . address`.
pub fn pod_elements(ns: &Ns) -> BTreeSet<String> {
    let mut sets = elements(ns);
    let mut all = sets.remove("pod4").unwrap_or_default();
    all.extend(sets.remove("pod6").unwrap_or_default());
    all
}

/// Packets by named counter of the product's table.
pub fn counters(ns: &Ns) -> BTreeMap<String, u64> {
    list(ns, &format!("counters table {TABLE}"))
        .iter()
        .filter_map(|o| {
            let counter = o.get("counter")?;
            Some((counter["name"].as_str()?.to_owned(), counter["packets"].as_u64()?))
        })
        .collect()
}

/// Packets of a named counter that must exist.
pub fn counter(ns: &Ns, name: &str) -> u64 {
    let all = counters(ns);
    *all.get(name).unwrap_or_else(|| panic!("no counter `{name}` in {}; there are {:?}", ns.label, all.keys()))
}

/// The whole ruleset but the product's table, as text, counters left out.
pub fn foreign_text(ns: &Ns) -> String {
    let tables = ns.must("nft list tables").stdout;
    let mut text = String::new();
    for table in tables.lines().map(|l| l.trim().trim_start_matches("table ").to_owned()) {
        if table != TABLE {
            text += &ns.must(&format!("nft -s list table {table}")).stdout;
        }
    }
    text
}

/// The product's table as text, without counter values; sets, chains and elements in order of their names.
pub fn own_text(ns: &Ns) -> String {
    let structure = ns.sh(&["nft", "-s", "-t", "list", "table", "inet", "overlane"]).stdout;
    let body = structure.trim_start_matches("table inet overlane {\n").trim_end_matches("}\n").to_owned();
    let mut blocks: Vec<&str> = body.split("\n\n").map(|block| block.trim_matches('\n')).collect();
    blocks.sort_unstable();
    format!("{}\n{:#?}", blocks.join("\n"), elements(ns))
}

/// Conntrack entries of both families that name the address.
pub fn conntrack_with(ns: &Ns, address: std::net::IpAddr) -> Vec<String> {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let out = ns.sh(&["conntrack", "-L", "-f", family]);
    assert!(out.ok(), "in {}: {out}", ns.label);
    let needle = format!("={address} ");
    out.stdout.lines().filter(|l| l.contains(&needle)).map(str::to_owned).collect()
}
