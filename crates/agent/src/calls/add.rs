//! ADD: a lease, then the packet filter's elements, then the link; whole or not at all.
//!
//! Whatever ends the call early undoes it: the guard that holds the lease hands it to the reaper unless the plugin has
//! its answer.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use overlane_api::cni::code;
use overlane_api::socket::{self, AddCall, Endpoint, Failure, Outcome, PortProtocol};
use overlane_core::ipam::{AddRequest, Lease, LeaseKind, LeaseState, NetnsId, PodName, Refusal};
use overlane_core::ports::{PortMapping, Protocol};
use overlane_core::rate::{Bandwidth, RateLimit};
use overlane_datapath::netns::Netns;
use overlane_datapath::{conntrack, mac};
use overlane_datapath::{owned, pod};

use super::{attachment, failure, namespace, pod_spec};
use crate::clock;
use crate::gate::Env;
use crate::ledger::BeginError;
use crate::node::Node;
use crate::server::Connection;
use crate::server::frame::Delivery;

/// Serves an ADD; gives the metric's outcome label.
pub fn serve(node: &Node, call: AddCall, fd: Option<OwnedFd>, conn: &Connection<'_>, since: Instant) -> String {
    let deadline_ns = call.deadline_ns;
    match wire(node, call, fd, conn) {
        Ok((guard, endpoint)) => {
            let lease = &guard.lease;
            tracing::info!(addresses = ?lease.addresses, link = %lease.link, took = ?since.elapsed(), "added");
            deliver(guard, Outcome::Added(endpoint), conn, deadline_ns)
        }
        Err(failure) => super::answer(conn, Err(failure)),
    }
}

/// A lease that ends with this value unless it is kept.
pub(super) struct Guard<'a> {
    node: &'a Node,
    pub(super) lease: Lease,
    kept: bool,
}

impl<'a> Guard<'a> {
    /// Begins a lease; waits inside the deadline for what is just ending.
    pub(super) fn begin(
        node: &'a Node,
        request: &AddRequest,
        deadline_ns: u64,
        conn: &Connection<'_>,
    ) -> Result<Self, Failure> {
        let lease = node.ledger.begin(request, deadline_ns, || conn.gone()).map_err(refused)?;
        let guard = Guard { node, lease, kept: false };
        node.prove_by_newcomer(&guard.lease);
        Ok(guard)
    }

    /// Notes that all is in place, unless a DEL came, the plugin hung up or its deadline has passed.
    pub(super) fn activate(&self, conn: &Connection<'_>, deadline_ns: u64) -> Result<(), Failure> {
        if conn.gone() {
            return Err(failure(code::TRY_AGAIN_LATER, "the plugin hung up; its ADD was undone"));
        }
        in_time(deadline_ns)?;
        match self.node.ledger.activate(self.lease.id) {
            Ok(true) => Ok(()),
            Ok(false) => Err(superseded(&self.lease)),
            Err(error) => Err(failure(code::IO_FAILURE, error.to_string())),
        }
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.kept {
            // A DEL that came after the activation left the lease in this call's hands.
            self.node.retire(self.node.ledger.leave(self.lease.id).into_iter().collect());
        } else {
            self.node.metrics.undone.inc();
            self.node.undo(&self.lease);
        }
    }
}

fn wire<'a>(
    node: &'a Node,
    call: AddCall,
    fd: Option<OwnedFd>,
    conn: &Connection<'_>,
) -> Result<(Guard<'a>, Endpoint), Failure> {
    let deadline_ns = call.deadline_ns;
    in_time(deadline_ns)?;
    let ns = namespace(node, fd, &call.netns_path)?;
    let env = node.gate.enter().map_err(not_ready)?;
    let request = request(call, &ns)?;
    let guard = Guard::begin(node, &request, deadline_ns, conn)?;
    let lease = &guard.lease;
    know(node, lease, deadline_ns);
    node.admit(lease).map_err(|error| {
        // The kernel still has the port of a pod that is just ending.
        if error.0.is_taken() && !lease.ports.is_empty() {
            return failure(code::TRY_AGAIN_LATER, format!("a port of the node is still another pod's: {error}"));
        }
        kernel(&error)
    })?;
    // What was sent to such a port before went to the node itself, and the kernel would keep it there.
    let udp = lease.ports.iter().filter(|port| port.protocol == Protocol::Udp);
    let udp: Vec<_> = udp.map(|port| (port.bound_to(), port.host_port)).collect();
    conntrack::forget_udp_to(&udp).map_err(|error| kernel(&error))?;
    still_wanted(node, lease)?;
    let spec = pod_spec(lease, &env);
    node.wirer.wire(&ns, &spec).map_err(|error| kernel(&error))?;
    // The descriptor would keep the namespace alive.
    drop(ns);
    guard.activate(conn, deadline_ns)?;
    let endpoint = endpoint(lease, &env);
    Ok((guard, endpoint))
}

/// Waits until it is known what network policy says of the pod; one of which that is not known starts cut off.
pub(super) fn know(node: &Node, lease: &Lease, deadline_ns: u64) {
    let left = Duration::from_nanos(deadline_ns.saturating_sub(clock::boot_ns()));
    if !node.policy.wait_for(lease, left) {
        node.metrics.isolated.inc();
        tracing::warn!(attachment = %lease.attachment, addresses = ?lease.addresses, "the pod is cut off until it is known what network policy says of it");
    }
}

/// Answers, and sees to it that the answer is read: a plugin that died before that has no pod.
pub(super) fn deliver(guard: Guard<'_>, outcome: Outcome, conn: &Connection<'_>, deadline_ns: u64) -> String {
    let node = guard.node;
    if let Err(error) = conn.answer(outcome) {
        tracing::warn!(%error, "undone: the plugin was gone before its answer");
        return "gone".to_owned();
    }
    // From here on a DEL need not wait for this call.
    let lease = guard.lease.clone();
    guard.keep();
    let left = Duration::from_nanos(deadline_ns.saturating_sub(clock::boot_ns()));
    if conn.delivery(left) == Delivery::Unread {
        tracing::warn!(link = %lease.link, "undone: the plugin died with its answer unread");
        node.metrics.undone.inc();
        node.end(lease.id);
        return "gone".to_owned();
    }
    "ok".to_owned()
}

pub(super) fn in_time(deadline_ns: u64) -> Result<(), Failure> {
    if clock::boot_ns() < deadline_ns {
        return Ok(());
    }
    Err(failure(code::TRY_AGAIN_LATER, "the plugin's deadline has passed; nothing was kept"))
}

pub(super) fn still_wanted(node: &Node, lease: &Lease) -> Result<(), Failure> {
    match node.ledger.lease(lease.id) {
        Some(now) if now.state == LeaseState::Wiring => Ok(()),
        _ => Err(superseded(lease)),
    }
}

fn superseded(lease: &Lease) -> Failure {
    failure(code::TRY_AGAIN_LATER, format!("a DEL of {} came while its ADD ran; the ADD was undone", lease.attachment))
}

fn request(call: AddCall, ns: &Netns) -> Result<AddRequest, Failure> {
    let attachment = attachment(&call.attachment);
    Ok(AddRequest {
        kind: LeaseKind::Interface,
        link: owned::pod_link_name(&attachment.container_id, &attachment.ifname, call.began_ns),
        attachment,
        network: call.network,
        pod: call.pod.map(pod_name),
        ports: call.ports.into_iter().map(port).collect(),
        bandwidth: call.bandwidth.map(limits).unwrap_or_default(),
        netns: netns_id(ns, call.netns_path)?,
        began_ns: call.began_ns,
    })
}

fn limits(of: socket::Bandwidth) -> Bandwidth {
    Bandwidth {
        ingress: RateLimit::new(of.ingress_rate, of.ingress_burst),
        egress: RateLimit::new(of.egress_rate, of.egress_burst),
    }
}

/// What the namespace is known by from now on, also once it is gone.
pub(super) fn netns_id(ns: &Netns, path: String) -> Result<NetnsId, Failure> {
    let nsid = pod::netnsid_assign(ns).map_err(|error| kernel(&error))?;
    Ok(NetnsId { nsid: Some(nsid), inode: ns.inode(), path })
}

pub(super) fn pod_name(of: socket::PodRef) -> PodName {
    PodName { namespace: of.namespace, name: of.name, uid: of.uid }
}

fn port(of: socket::PortMap) -> PortMapping {
    let protocol = match of.protocol {
        PortProtocol::Tcp => Protocol::Tcp,
        PortProtocol::Udp => Protocol::Udp,
        PortProtocol::Sctp => Protocol::Sctp,
    };
    PortMapping { protocol, host_ip: of.host_ip, host_port: of.host_port, pod_port: of.pod_port }
}

fn endpoint(lease: &Lease, env: &Env) -> Endpoint {
    Endpoint {
        host_ifname: lease.link.clone(),
        host_mac: mac::text(owned::HOST_MAC),
        mac: mac::text(owned::pod_mac(&lease.link)),
        mtu: env.mtu,
        addresses: lease.addresses.clone(),
    }
}

pub(super) fn not_ready(reason: String) -> Failure {
    Failure {
        code: code::TRY_AGAIN_LATER,
        msg: format!("this node cannot give an address yet: {reason}"),
        details: String::new(),
    }
}

pub(super) fn kernel(error: &dyn std::error::Error) -> Failure {
    failure(code::KERNEL_REFUSED, error.to_string())
}

pub(super) fn refused(error: BeginError) -> Failure {
    let (code, details) = match &error {
        BeginError::Ledger(_) => (code::IO_FAILURE, "the lease store cannot be written; nothing was kept"),
        BeginError::Refused(refusal) => match refusal {
            Refusal::Full { .. } => {
                (code::NO_ADDRESS, "end pods on this node, or lower the kubelet's maxPods below the block's size")
            }
            Refusal::AlreadyActive { lease } if lease.state == LeaseState::Active => {
                (code::INVALID_ENVIRONMENT, "an attachment is added once; DEL it first")
            }
            Refusal::PortTwice { .. } => (code::INVALID_NETWORK_CONFIG, "name the port once"),
            Refusal::PortTaken { .. } => (code::TRY_AGAIN_LATER, "it is free again once that pod is gone"),
            _ => (code::TRY_AGAIN_LATER, ""),
        },
    };
    Failure { code, msg: error.to_string(), details: details.to_owned() }
}
