//! Pure IPAM: addresses for interfaces that another plugin makes.
//!
//! The lease is all that there is of ours, with one element of the packet filter an address, so that the pod's packets
//! are not taken for forged ones. No link is looked at: it lives until its DEL, a GC, or the end of its namespace.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use overlane_api::cni::code;
use overlane_api::socket::{Failure, GatewayMode, IpamAddCall, IpamCheckCall, LeasedAddress, Outcome};
use overlane_core::family::Family;
use overlane_core::ipam::{AddRequest, Lease, LeaseKind, LeaseState};
use overlane_core::rate::Bandwidth;
use overlane_datapath::owned;

use super::add::{Guard, deliver, in_time, kernel, know, netns_id, not_ready, pod_name, refused, still_wanted};
use super::{attachment, failure, namespace, pod_elements};
use crate::node::Node;
use crate::server::Connection;

/// Serves an ADD; gives the metric's outcome label.
pub fn add(node: &Node, call: IpamAddCall, fd: Option<OwnedFd>, conn: &Connection<'_>, since: Instant) -> String {
    let deadline_ns = call.deadline_ns;
    match lease(node, call, fd, conn) {
        Ok((guard, addresses)) => {
            tracing::info!(addresses = ?guard.lease.addresses, network = %guard.lease.network, took = ?since.elapsed(), "leased");
            deliver(guard, Outcome::Leased(addresses), conn, deadline_ns)
        }
        Err(failure) => super::answer(conn, Err(failure)),
    }
}

fn lease<'a>(
    node: &'a Node,
    call: IpamAddCall,
    fd: Option<OwnedFd>,
    conn: &Connection<'_>,
) -> Result<(Guard<'a>, Vec<LeasedAddress>), Failure> {
    let IpamAddCall { deadline_ns, gateway, .. } = call;
    in_time(deadline_ns)?;
    let ns = namespace(node, fd, &call.netns_path)?;
    node.gate.enter().map_err(not_ready)?;
    let request = AddRequest {
        kind: LeaseKind::Ipam,
        attachment: attachment(&call.attachment),
        network: call.network,
        pod: call.pod.map(pod_name),
        link: String::new(),
        ports: Vec::new(),
        bandwidth: Bandwidth::default(),
        netns: netns_id(&ns, call.netns_path)?,
        began_ns: call.began_ns,
    };
    // The descriptor would keep the namespace alive.
    drop(ns);
    let guard = Guard::begin(node, &request, deadline_ns, conn)?;
    let lease = &guard.lease;
    let addresses = match gateway {
        GatewayMode::LinkLocal => lease.addresses.iter().map(|address| link_local(*address)).collect(),
        GatewayMode::Block => of_block(node, lease)?,
    };
    know(node, lease, deadline_ns);
    node.admit(lease).map_err(|error| kernel(&error))?;
    still_wanted(node, lease)?;
    guard.activate(conn, deadline_ns)?;
    Ok((guard, addresses))
}

fn link_local(address: IpAddr) -> LeasedAddress {
    let gateway = match address {
        IpAddr::V4(_) => owned::GATEWAY_V4.into(),
        IpAddr::V6(_) => owned::GATEWAY_V6.into(),
    };
    LeasedAddress { address, prefix_len: Family::of(&address).bits(), gateway }
}

fn of_block(node: &Node, lease: &Lease) -> Result<Vec<LeasedAddress>, Failure> {
    let gateways = node.ledger.gateways(&lease.network, &lease.addresses).map_err(|error| {
        let failure = refused(error);
        Failure { msg: format!("give network {} a gateway: {}", lease.network, failure.msg), ..failure }
    })?;
    let given = lease.addresses.iter().zip(gateways);
    Ok(given.map(|(address, (gateway, prefix_len))| LeasedAddress { address: *address, prefix_len, gateway }).collect())
}

/// Serves a CHECK: the lease is there, with these addresses, and the packet filter knows them.
pub fn check(node: &Node, call: &IpamCheckCall) -> Result<Outcome, Failure> {
    let attachment = attachment(&call.attachment);
    let lease = node.ledger.by_attachment(&attachment).filter(|lease| lease.kind == LeaseKind::Ipam);
    let Some(lease) = lease else {
        let msg = format!("{attachment} has no lease of network {}", call.network);
        return Err(failure(code::UNKNOWN_CONTAINER, msg));
    };
    let faults = faults(node, call, &lease)?;
    let Some(first) = faults.first() else { return Ok(Outcome::Done) };
    let msg = format!("{attachment}: {first}");
    Err(Failure { code: code::CHECK_FAILED, msg, details: faults.join("; ") })
}

fn faults(node: &Node, call: &IpamCheckCall, lease: &Lease) -> Result<Vec<String>, Failure> {
    if lease.state != LeaseState::Active {
        return Ok(vec![format!("the lease is in state {:?}", lease.state).to_lowercase()]);
    }
    let mut faults = Vec::new();
    if lease.network != call.network {
        faults.push(format!("the lease is of network {}, not {}", lease.network, call.network));
    }
    for address in call.expected.iter().filter(|address| !lease.addresses.contains(address)) {
        faults.push(format!("prevResult has address {address}, the lease has not"));
    }
    for address in lease.addresses.iter().filter(|address| !call.expected.contains(address)) {
        faults.push(format!("the lease has address {address}, prevResult has not"));
    }
    if let Some(peer) = node.gate.env().cut.get(&lease.link) {
        faults.push(format!("its block was given to node {peer}; what it sends is dropped"));
        return Ok(faults);
    }
    let Some(table) = node.members.table() else {
        return Err(failure(code::TRY_AGAIN_LATER, "the packet filter was not looked at yet"));
    };
    let missing = table.missing(&pod_elements(lease)).map_err(|error| kernel(&error))?;
    if !missing.is_empty() {
        faults.push("the packet filter does not know the lease's addresses".to_owned());
    }
    Ok(faults)
}
