//! A machine that others do not hear any more, while everything on it runs on.

use crate::ip;
use crate::lab::{Lab, NodeHandle};
use crate::ns::Ns;

/// How a machine falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Its link has no carrier.
    Carrier,
    /// The segment drops its frames, both ways; nothing tells it.
    Frames,
}

/// A node of a lab without its network, until this is dropped.
pub struct Outage {
    router: Ns,
    port: String,
    cut: Cut,
}

impl Outage {
    /// Begins at once.
    pub fn of(lab: &Lab, node: &NodeHandle, cut: Cut) -> Outage {
        let router = lab.router();
        let port = port_of(&router, node);
        match cut {
            Cut::Carrier => drop(router.must(&format!("ip link set {port} down"))),
            Cut::Frames => {
                let script = format!(
                    "table bridge cut-{port} {{\n chain in {{\n  type filter hook prerouting priority -400;\n  \
                     iifname {port} drop\n }}\n chain out {{\n  type filter hook postrouting priority 400;\n  \
                     oifname {port} drop\n }}\n}}\n"
                );
                let out = router.feed(&["nft", "-f", "-"], &script);
                assert!(out.ok(), "{out}");
            }
        }
        Outage { router, port, cut }
    }

    /// Ends it now.
    pub fn end(self) {}
}

impl Drop for Outage {
    fn drop(&mut self) {
        match self.cut {
            Cut::Carrier => drop(self.router.sh(&["ip", "link", "set", &self.port, "up"])),
            Cut::Frames => drop(self.router.sh(&["nft", &format!("delete table bridge cut-{}", self.port)])),
        }
    }
}

/// The router's end of the link to a node: a veth knows the number of its other end.
pub fn port_of(router: &Ns, node: &NodeHandle) -> String {
    let shown = ip::json(&node.ns, "link show dev eth0");
    let peer = shown.first().and_then(|link| link["link_index"].as_u64());
    let found = ip::links(router).into_iter().find(|link| Some(link.index) == peer);
    found.unwrap_or_else(|| panic!("{}: no other end of eth0 in the router: {shown:?}", node.name)).name
}
