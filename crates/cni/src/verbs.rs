//! The verbs: each one a question to the agent.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use overlane_api::cni::{
    AddResult, Env, Invocation, IpamResult, NetConf, PodSide, PortMapping, PrevResult, VersionReport, code, parse,
};
use overlane_api::socket::{
    AddCall, Attachment, Call, CheckCall, DelCall, Failure, GcCall, HANDOVER, HANDOVER_MS, Outcome, PodRef, Request,
    Response,
};
use overlane_datapath::netns::Netns;
use overlane_datapath::owned;

use crate::agent::{self, AgentError};
use crate::clock;
use crate::error::PluginError;
use crate::fallback;

/// What goes to standard output.
pub(crate) enum Answer {
    /// Nothing: the verb has no result.
    Nothing,
    /// ADD's result.
    Result(Box<AddResult>),
    /// ADD's result as an IPAM plugin.
    Ipam(Box<IpamResult>),
    /// VERSION's result.
    Versions(VersionReport),
}

/// Serves one call that began at `began_ns`.
pub(crate) fn run(env: &Env, stdin: &[u8], began_ns: u64) -> Result<Answer, PluginError> {
    match parse(env, stdin)? {
        Invocation::Version { echo } => Ok(Answer::Versions(VersionReport::echoing(echo))),
        Invocation::Add { conf, attachment, netns, pod } => add(conf, attachment, &netns, pod, began_ns),
        Invocation::Del { conf, attachment, netns } => {
            let call = DelCall { attachment, network: conf.name.clone(), began_ns };
            match ask(&conf.socket, Call::Del(call.clone()), None, began_ns, conf.timeouts.del) {
                Err(error) if agent_is_out(&error) => {
                    fallback::del(&conf, call, netns.as_deref())?;
                    Ok(Answer::Nothing)
                }
                outcome => done(outcome),
            }
        }
        Invocation::Check { conf, attachment, netns, prev } => check(&conf, attachment, &netns, &prev, began_ns),
        Invocation::Gc { conf, valid } => {
            let call = Call::Gc(GcCall { network: conf.name.clone(), valid, began_ns });
            done(ask(&conf.socket, call, None, began_ns, conf.timeouts.gc))
        }
        Invocation::Status { conf } => status(&conf.socket, &Call::Status, began_ns, conf.timeouts.status),
    }
}

/// How often an agent that is just being replaced is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// Asks whether an ADD could be served. The runtime asks every few seconds, and a node is not to be called unready for the
/// length of an upgrade, which would take its pods out of every Service: an agent that ended in good order is as good as
/// there for a while, one that was there a moment ago (its socket is, and nobody listens) is waited for.
pub(crate) fn status(socket: &Path, call: &Call, began_ns: u64, timeout: Duration) -> Result<Answer, PluginError> {
    let deadline_ns = clock::after(began_ns, timeout);
    loop {
        match ask(socket, call.clone(), None, began_ns, timeout) {
            Err(PluginError::Agent(error)) if error.may_come_back() && is_handed_over(socket, began_ns) => {
                return Ok(Answer::Nothing);
            }
            Err(PluginError::Agent(error)) if error.may_come_back() && clock::until(deadline_ns) > AGAIN => {
                std::thread::sleep(AGAIN);
            }
            outcome => return done(outcome).map_err(not_available),
        }
    }
}

/// Whether the last agent has left word that it would come back, not long ago.
fn is_handed_over(socket: &Path, now_ns: u64) -> bool {
    let word = std::fs::read_to_string(socket.with_file_name(HANDOVER)).ok();
    let at_ms: Option<u64> = word.and_then(|word| word.trim().parse().ok());
    let now_ms = now_ns / 1_000_000;
    at_ms.is_some_and(|at_ms| at_ms <= now_ms && now_ms - at_ms < HANDOVER_MS)
}

/// An agent that does not answer is what STATUS asks about.
fn not_available(error: PluginError) -> PluginError {
    match error {
        PluginError::Agent(error) => PluginError::NotAvailable(error),
        other => other,
    }
}

fn add(
    conf: NetConf,
    attachment: Attachment,
    netns: &str,
    pod: Option<PodRef>,
    began_ns: u64,
) -> Result<Answer, PluginError> {
    let opened = pod_netns(netns)?;
    let ifname = attachment.ifname.clone();
    let call = Call::Add(AddCall {
        attachment,
        network: conf.name.clone(),
        netns_path: netns.to_owned(),
        began_ns,
        deadline_ns: clock::after(began_ns, conf.timeouts.add),
        pod,
        ports: conf.runtime_config.port_mappings.iter().filter_map(PortMapping::to_agent).collect(),
        bandwidth: conf.runtime_config.bandwidth.and_then(|limits| limits.to_agent()),
    });
    match ask(&conf.socket, call, Some(opened.as_fd()), began_ns, conf.timeouts.add)? {
        Outcome::Added(endpoint) => {
            let pod = PodSide { ifname: &ifname, netns, gateway_v4: owned::GATEWAY_V4, gateway_v6: owned::GATEWAY_V6 };
            let result = AddResult::new(&endpoint, pod, conf.result_dns(), conf.prev_result);
            Ok(Answer::Result(Box::new(result.shaped(conf.version))))
        }
        _ => Err(AgentError::OtherQuestion.into()),
    }
}

fn check(
    conf: &NetConf,
    attachment: Attachment,
    netns: &str,
    prev: &PrevResult,
    began_ns: u64,
) -> Result<Answer, PluginError> {
    let opened = pod_netns(netns)?;
    let expected = prev.addresses_of(&attachment.ifname)?;
    let network = conf.name.clone();
    let call = Call::Check(CheckCall { attachment, network, netns_path: netns.to_owned(), expected });
    done(ask(&conf.socket, call, Some(opened.as_fd()), began_ns, conf.timeouts.check))
}

/// Opens the pod's namespace. The node's own is refused: a pod on the host's network never comes to CNI, and what we do
/// in there would be done to the node.
pub(crate) fn pod_netns(path: &str) -> Result<Netns, PluginError> {
    let opened = Netns::open(path)?;
    if opened.inode() == Netns::current()?.inode() {
        return Err(PluginError::OwnNetns { path: path.to_owned() });
    }
    Ok(opened)
}

/// Asks the agent behind a socket; a call that began at `began_ns` waits for `timeout` from then on.
pub(crate) fn ask(
    socket: &Path,
    call: Call,
    descriptor: Option<BorrowedFd<'_>>,
    began_ns: u64,
    timeout: Duration,
) -> Result<Outcome, PluginError> {
    let request = Request { protocol: call.protocol(), plugin_version: env!("CARGO_PKG_VERSION").to_owned(), call };
    let Response { outcome, .. } = agent::ask(socket, &request, descriptor, clock::after(began_ns, timeout))?;
    match outcome {
        Outcome::Failed(failure) => Err(PluginError::Refused(failure)),
        outcome => Ok(outcome),
    }
}

/// What a verb without a result answers.
pub(crate) fn done(outcome: Result<Outcome, PluginError>) -> Result<Answer, PluginError> {
    match outcome? {
        Outcome::Done => Ok(Answer::Nothing),
        _ => Err(AgentError::OtherQuestion.into()),
    }
}

/// Whether no agent has dealt with the call: it did not answer, or it refused the protocol, having changed nothing.
pub(crate) fn agent_is_out(error: &PluginError) -> bool {
    matches!(error, PluginError::Agent(_) | PluginError::Refused(Failure { code: code::PROTOCOL_MISMATCH, .. }))
}
