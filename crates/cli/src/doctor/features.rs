//! What the kernel can do, tried in a namespace made for it that is gone afterwards.

use anyhow::Result;
use overlane_datapath::nft;
use overlane_lab::netns;
use overlane_lab::wire::{Peer, Wire};

use super::Finding;

/// What each feature is for, and rules that need it.
const RULES: [(&str, &str, &str); 6] = [
    ("nft tables", "everything", "chain a { type filter hook forward priority filter; }"),
    (
        "nft sets",
        "membership of pods",
        "set s { type ipv4_addr . ether_addr; }\nset i { type ipv6_addr; flags interval; }",
    ),
    ("nft maps", "verdicts by pod", "map m { type ifname . ipv4_addr : verdict; }"),
    (
        "nft masquerade",
        "the way out",
        "chain p { type nat hook postrouting priority srcnat; masquerade fully-random; }",
    ),
    (
        "nft fib",
        "local destinations",
        "chain f { type filter hook prerouting priority raw; fib daddr type local accept; }",
    ),
    (
        "conntrack",
        "answers come back",
        "chain c { type filter hook forward priority filter; ct state established ct status dnat accept; }",
    ),
];

/// Tries each feature.
pub fn examine(subject: &str) -> Vec<Finding> {
    match netns::run_in_new(|| Ok(try_all(subject))) {
        Ok(findings) => findings,
        Err(error) => {
            vec![Finding::bad(
                subject,
                "namespaces",
                format!("{error:#}"),
                "run as root, on a kernel with CONFIG_NET_NS",
            )]
        }
    }
}

fn try_all(subject: &str) -> Vec<Finding> {
    let mut missing: Vec<Finding> = Vec::new();
    for (name, purpose, rules) in RULES {
        if let Err(error) = nft::run("try", &format!("table inet try {{\n{rules}\n}}\ndelete table inet try\n")) {
            let remedy = format!("install nftables, and a kernel with {name} ({purpose})");
            missing.push(Finding::bad(subject, "kernel", format!("{name}: {error}"), remedy));
        }
    }
    if let Err(error) = veth() {
        missing.push(Finding::bad(subject, "kernel", format!("{error:#}"), "use a kernel with CONFIG_VETH"));
    }
    if missing.is_empty() {
        missing.push(Finding::good(subject, "kernel", "nft tables, sets, maps, masquerade, fib; conntrack; veth"));
    }
    missing
}

fn veth() -> Result<()> {
    let here = std::fs::File::open("/proc/thread-self/ns/net")?;
    Wire::open()?.veth("try0", None, 1500, &Peer { name: "try1", namespace: &here, mac: None })
}
