//! The program under the name `loopback`: what container runtimes run for each pod before the pod's own network.
//!
//! The agent puts it there only where the node has no such plugin, so that a bare runtime works. It does what the
//! reference plugin of that name does: `lo` is up.

use overlane_api::cni::{AddResult, Env, Invocation, VersionReport, parse};
use overlane_datapath::loopback;

use crate::error::PluginError;
use crate::verbs::{Answer, pod_netns};

/// The name.
pub(crate) const NAME: &str = "loopback";

/// Serves one call.
pub(crate) fn run(env: &Env, stdin: &[u8]) -> Result<Answer, PluginError> {
    match parse(env, stdin)? {
        Invocation::Version { echo } => Ok(Answer::Versions(VersionReport::echoing(echo))),
        Invocation::Add { conf, attachment, netns, .. } => {
            loopback::set_up(&pod_netns(&netns)?, &attachment.ifname)?;
            let result = AddResult::of_loopback(&attachment.ifname, &netns, conf.prev_result);
            Ok(Answer::Result(Box::new(result.shaped(conf.version))))
        }
        Invocation::Check { attachment, netns, .. } => {
            if loopback::is_up(&pod_netns(&netns)?, &attachment.ifname)? {
                return Ok(Answer::Nothing);
            }
            Err(PluginError::LoopbackDown { ifname: attachment.ifname })
        }
        // It goes with the namespace.
        Invocation::Del { .. } | Invocation::Gc { .. } | Invocation::Status { .. } => Ok(Answer::Nothing),
    }
}
