//! The log of what network policy drops, or would drop: the packet filter gives the packets, few a second; whose policy it was
//! is told by the plan.

use std::net::IpAddr;
use std::time::Duration;

use overlane_core::policy::{Direction, PolicyPlan};
use overlane_core::ports::Protocol;
use overlane_datapath::nflog::{Log, Logged};

use crate::node::Node;

/// How long one look waits, milliseconds.
const WAIT: u16 = 10_000;
/// Where the log cannot be had, it is asked for again after this.
const RETRY: Duration = Duration::from_secs(60);

/// Runs for ever.
pub fn run(node: &Node) {
    let mut told = false;
    loop {
        match follow(node) {
            Ok(never) => match never {},
            Err(error) if told => tracing::debug!(%error, "the log of network policy"),
            Err(error) => {
                tracing::warn!(%error, "what network policy drops cannot be logged");
                told = true;
            }
        }
        std::thread::sleep(RETRY);
    }
}

fn follow(node: &Node) -> Result<std::convert::Infallible, overlane_datapath::netlink::NetlinkError> {
    let mut log = Log::open()?;
    loop {
        for packet in log.wait(WAIT.into())? {
            if let Some(plan) = node.policy.last() {
                tell(node, &plan, &packet);
            }
        }
    }
}

fn tell(node: &Node, plan: &PolicyPlan, packet: &Logged) {
    let Logged { from, to, protocol, ports } = *packet;
    let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|known| known.number() == protocol);
    let about = known.zip(ports.map(|(_, to)| to));
    for (direction, own, other) in [(Direction::Egress, from, to), (Direction::Ingress, to, from)] {
        let Some((class, outcome)) = plan.judged(direction, own, other, about) else { continue };
        let by = outcome.audited.or(outcome.policy.filter(|_| !outcome.allowed));
        let Some(policy) = by.and_then(|index| class.policies.get(index)) else { continue };
        let verdict = if outcome.allowed { "would be denied" } else { "denied" };
        let protocol = known.map_or_else(|| protocol.to_string(), |known| known.to_string());
        let (from_port, to_port) = ports.unzip();
        tracing::info!(
            target: "policy",
            %policy, %direction, pod = pod(node, own), %from, from_port, %to, to_port, protocol,
            "{verdict}"
        );
    }
}

/// The pod of this node that has an address.
fn pod(node: &Node, address: IpAddr) -> Option<String> {
    let lease = node.ledger.leases().into_iter().find(|lease| lease.addresses.contains(&address))?;
    lease.pod.map(|pod| format!("{}/{}", pod.namespace, pod.name))
}
