//! The program under the name `overlane-ipam`: what another main plugin runs for the addresses of the pods that it
//! wires itself.
//!
//! It looks at no link and changes nothing in a pod: the addresses are the agent's to give, and what bears them is the
//! main plugin's.

use std::os::fd::AsFd;

use overlane_api::cni::{Env, IpamInvocation, IpamResult, VersionReport, parse_ipam};
use overlane_api::socket::{Call, DelCall, GcCall, IpamAddCall, IpamCall, IpamCheckCall, Outcome};
use overlane_api::tombstone::Mode;

use crate::agent::AgentError;
use crate::clock;
use crate::error::PluginError;
use crate::fallback;
use crate::verbs::{Answer, agent_is_out, ask, done, pod_netns, status};

/// The name.
pub(crate) const NAME: &str = overlane_api::cni::IPAM_TYPE;

/// Serves one call that began at `began_ns`.
pub(crate) fn run(env: &Env, stdin: &[u8], began_ns: u64) -> Result<Answer, PluginError> {
    match parse_ipam(env, stdin)? {
        IpamInvocation::Version { echo } => Ok(Answer::Versions(VersionReport::echoing(echo))),
        IpamInvocation::Add { conf, attachment, netns, pod } => {
            let opened = pod_netns(&netns)?;
            let call = Call::Ipam(IpamCall::Add(IpamAddCall {
                attachment,
                network: conf.name,
                netns_path: netns,
                began_ns,
                deadline_ns: clock::after(began_ns, conf.timeouts.add),
                pod,
                gateway: conf.gateway,
            }));
            match ask(&conf.socket, call, Some(opened.as_fd()), began_ns, conf.timeouts.add)? {
                Outcome::Leased(addresses) => {
                    let result = IpamResult::new(&addresses, conf.routes, conf.dns, conf.version);
                    Ok(Answer::Ipam(Box::new(result)))
                }
                _ => Err(AgentError::OtherQuestion.into()),
            }
        }
        IpamInvocation::Del { conf, attachment } => {
            let call = DelCall { attachment, network: conf.name, began_ns };
            let asked = Call::Ipam(IpamCall::Del(call.clone()));
            match ask(&conf.socket, asked, None, began_ns, conf.timeouts.del) {
                Err(error) if agent_is_out(&error) => {
                    fallback::leave_word(&conf.run_dir, call, Mode::Ipam)?;
                    Ok(Answer::Nothing)
                }
                outcome => done(outcome),
            }
        }
        IpamInvocation::Check { conf, attachment, expected } => {
            let call = Call::Ipam(IpamCall::Check(IpamCheckCall { attachment, network: conf.name, expected }));
            done(ask(&conf.socket, call, None, began_ns, conf.timeouts.check))
        }
        IpamInvocation::Gc { conf, valid } => {
            let call = Call::Ipam(IpamCall::Gc(GcCall { network: conf.name, valid, began_ns }));
            done(ask(&conf.socket, call, None, began_ns, conf.timeouts.gc))
        }
        IpamInvocation::Status { conf } => {
            status(&conf.socket, &Call::Ipam(IpamCall::Status), began_ns, conf.timeouts.status)
        }
    }
}
