//! CHECK: what is there against what ADD made, each difference named.

use std::os::fd::OwnedFd;

use overlane_api::cni::code;
use overlane_api::socket::{CheckCall, Failure, Outcome};
use overlane_core::ipam::{Lease, LeaseKind, LeaseState};
use overlane_core::plan::PodElement;
use overlane_datapath::netns::Netns;

use super::{attachment, failure, namespace, pod_elements, pod_spec};
use crate::node::Node;

/// Serves a CHECK.
pub fn serve(node: &Node, call: &CheckCall, fd: Option<OwnedFd>) -> Result<Outcome, Failure> {
    let ns = namespace(node, fd, &call.netns_path)?;
    let attachment = attachment(&call.attachment);
    let lease = node.ledger.by_attachment(&attachment).filter(|lease| lease.kind == LeaseKind::Interface);
    let Some(lease) = lease else {
        return Err(failure(code::UNKNOWN_CONTAINER, format!("{attachment} is not attached to {}", call.network)));
    };
    let faults = faults(node, call, &lease, &ns)?;
    if faults.is_empty() {
        return Ok(Outcome::Done);
    }
    let msg = format!("{attachment}: {}", faults[0]);
    Err(Failure { code: code::CHECK_FAILED, msg, details: faults.join("; ") })
}

fn faults(node: &Node, call: &CheckCall, lease: &Lease, ns: &Netns) -> Result<Vec<String>, Failure> {
    let mut faults = Vec::new();
    if lease.state != LeaseState::Active {
        faults.push(format!("the lease is in state {:?}", lease.state).to_lowercase());
        return Ok(faults);
    }
    if lease.network != call.network {
        faults.push(format!("it was attached to network {}, not {}", lease.network, call.network));
    }
    if lease.netns.inode != 0 && lease.netns.inode != ns.inode() {
        faults.push("it was attached in another network namespace".to_owned());
    }
    for address in &call.expected {
        if !lease.addresses.contains(address) {
            faults.push(format!("prevResult has address {address}, the lease has not"));
        }
    }
    for address in &lease.addresses {
        if !call.expected.is_empty() && !call.expected.contains(address) {
            faults.push(format!("the lease has address {address}, prevResult has not"));
        }
    }
    let env = node.gate.env();
    if let Some(peer) = env.cut.get(&lease.link) {
        faults.push(format!("its block was given to node {peer}; the pod was taken off the network"));
        return Ok(faults);
    }
    let kernel = |error: &dyn std::error::Error| failure(code::KERNEL_REFUSED, error.to_string());
    let spec = pod_spec(lease, &env);
    let host = node.wirer.check_host(&spec).map_err(|error| kernel(&error))?;
    let pod = node.wirer.check_pod(ns, &spec).map_err(|error| kernel(&error))?;
    faults.extend(host.iter().chain(&pod).map(ToString::to_string));
    let Some(table) = node.members.table() else {
        return Err(failure(code::TRY_AGAIN_LATER, "the packet filter was not looked at yet"));
    };
    if !table.is_as_written().map_err(|error| kernel(&error))? {
        faults.push("the rules of nft table inet overlane are not as they were written".to_owned());
    }
    let missing = table.missing(&pod_elements(lease)).map_err(|error| kernel(&error))?;
    faults.extend(missing.iter().map(|element| match element {
        PodElement::Source(pod) => format!("nft element of {} on {} is missing", pod.address, pod.link),
        PodElement::Delegated(address) => format!("nft element of {address} is missing"),
        PodElement::Decided(address) | PodElement::Exit(_, address) => {
            format!("nft element of how {address} leaves the cluster is missing")
        }
        PodElement::Port(port) => format!("nft element of port {}/{} is missing", port.host_port, port.protocol),
    }));
    Ok(faults)
}
