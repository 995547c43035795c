//! CNI's verbs. Each call runs on a thread of its own, from request to answer.

mod add;
mod check;
mod del;
mod gc;
mod ipam;
mod spec;
mod status;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use overlane_api::cni::code;
use overlane_api::socket::{self, Call, Failure, IpamCall, Outcome, PodRef};
use overlane_core::ipam::{Attachment, LeaseKind};
use overlane_datapath::netns::Netns;

use crate::node::Node;
use crate::server::{Connection, Serve};

pub use del::finish;
pub use spec::{added, pod_elements, pod_spec, removed, retiring};

/// Serves the calls of one node.
pub struct Calls {
    node: Arc<Node>,
}

impl Calls {
    /// Calls that act on `node`.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

impl Serve for Calls {
    fn serve(&self, call: Call, fd: Option<OwnedFd>, conn: &Connection<'_>) {
        let since = Instant::now();
        let (verb, outcome) = match call {
            Call::Add(call) => {
                let span =
                    tracing::info_span!("add", attachment = %shown(&call.attachment), pod = %pod(call.pod.as_ref()));
                ("ADD", span.in_scope(|| add::serve(&self.node, call, fd, conn, since)))
            }
            Call::Del(call) => {
                let span = tracing::info_span!("del", attachment = %shown(&call.attachment));
                ("DEL", span.in_scope(|| answer(conn, del::serve(&self.node, LeaseKind::Interface, &call))))
            }
            Call::Check(call) => {
                let span = tracing::info_span!("check", attachment = %shown(&call.attachment));
                ("CHECK", span.in_scope(|| answer(conn, check::serve(&self.node, &call, fd))))
            }
            Call::Gc(call) => {
                let span = tracing::info_span!("gc", network = %call.network);
                ("GC", span.in_scope(|| answer(conn, gc::serve(&self.node, LeaseKind::Interface, &call))))
            }
            Call::Status => ("STATUS", answer(conn, status::serve(&self.node))),
            Call::Ipam(call) => serve_ipam(&self.node, call, fd, conn, since),
        };
        self.node.metrics.served(verb, outcome, since);
    }
}

/// Serves a call of pure IPAM; gives the metric's verb and outcome label.
fn serve_ipam(
    node: &Node,
    call: IpamCall,
    fd: Option<OwnedFd>,
    conn: &Connection<'_>,
    since: Instant,
) -> (&'static str, String) {
    match call {
        IpamCall::Add(call) => {
            let span =
                tracing::info_span!("ipam-add", attachment = %shown(&call.attachment), pod = %pod(call.pod.as_ref()));
            ("IPAM-ADD", span.in_scope(|| ipam::add(node, call, fd, conn, since)))
        }
        IpamCall::Del(call) => {
            let span = tracing::info_span!("ipam-del", attachment = %shown(&call.attachment));
            ("IPAM-DEL", span.in_scope(|| answer(conn, del::serve(node, LeaseKind::Ipam, &call))))
        }
        IpamCall::Check(call) => {
            let span = tracing::info_span!("ipam-check", attachment = %shown(&call.attachment));
            ("IPAM-CHECK", span.in_scope(|| answer(conn, ipam::check(node, &call))))
        }
        IpamCall::Gc(call) => {
            let span = tracing::info_span!("ipam-gc", network = %call.network);
            ("IPAM-GC", span.in_scope(|| answer(conn, gc::serve(node, LeaseKind::Ipam, &call))))
        }
        IpamCall::Status => ("IPAM-STATUS", answer(conn, status::serve(node))),
    }
}

/// Sends an answer; gives the metric's outcome label.
fn answer(conn: &Connection<'_>, result: Result<Outcome, Failure>) -> String {
    let (label, outcome) = match result {
        Ok(outcome) => ("ok".to_owned(), outcome),
        Err(failure) => {
            tracing::info!(code = failure.code, "refused: {}", failure.msg);
            (failure.code.to_string(), Outcome::Failed(failure))
        }
    };
    if let Err(error) = conn.answer(outcome) {
        tracing::debug!(%error, "the plugin did not take its answer");
    }
    label
}

/// A failure without details.
fn failure(code: u32, msg: impl Into<String>) -> Failure {
    Failure { code, msg: msg.into(), details: String::new() }
}

fn attachment(of: &socket::Attachment) -> Attachment {
    Attachment { container_id: of.container_id.clone(), ifname: of.ifname.clone() }
}

fn shown(of: &socket::Attachment) -> String {
    format!("{}/{}", of.container_id, of.ifname)
}

fn pod(of: Option<&PodRef>) -> String {
    of.map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default()
}

/// The pod's namespace from the descriptor that came with a call.
fn namespace(node: &Node, fd: Option<OwnedFd>, path: &str) -> Result<Netns, Failure> {
    let bad = |reason: String| failure(code::INVALID_ENVIRONMENT, format!("CNI_NETNS={path}: {reason}"));
    let fd = fd.ok_or_else(|| bad("no descriptor came with the call".to_owned()))?;
    let ns = Netns::from_fd(fd).map_err(|error| bad(error.to_string()))?;
    if ns.inode() == node.host_inode {
        return Err(bad("this is the node's own network namespace".to_owned()));
    }
    Ok(ns)
}
