//! The thread that brings news of network policy into the kernel.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::View;
use super::flows::Judge;
use crate::node::Node;

/// A reason to look.
#[derive(Debug)]
pub enum Wake {
    /// The cluster said something; when it did.
    View(Box<View>, Instant),
    /// Something of this node is new.
    News,
}

/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Half of the time is left to others, at most so long.
const REST: Duration = Duration::from_millis(50);

/// Runs until the senders are gone.
pub fn run(node: &Arc<Node>, wakes: &Receiver<Wake>, own: Sender<Wake>) {
    let _ = node.policy.wake.set(own);
    let mut failed = false;
    let mut judge = Judge::default();
    loop {
        let first = match (failed, wakes.recv_timeout(RETRY)) {
            (_, Err(RecvTimeoutError::Disconnected)) => return,
            (false, Err(RecvTimeoutError::Timeout)) => continue,
            (_, first) => first.ok(),
        };
        let (mut heard, mut last) = (None, None);
        for wake in first.into_iter().chain(wakes.try_iter()) {
            if let Wake::View(view, at) = wake {
                heard.get_or_insert(at);
                last = Some(view);
            }
        }
        if let Some(view) = last {
            node.policy.see(*view);
        }
        let began = Instant::now();
        failed = match enforce(node, &mut judge) {
            Ok(done) => !done,
            Err(error) => {
                tracing::warn!("network policy, tried again: {error:#}");
                node.metrics.failed("policy");
                true
            }
        };
        if let Some(heard) = heard.filter(|_| !failed) {
            node.metrics.policy_apply.observe(heard.elapsed().as_secs_f64());
        }
        std::thread::sleep(began.elapsed().min(REST));
    }
}

/// Whether there is a table for it yet.
fn enforce(node: &Node, judge: &mut Judge) -> anyhow::Result<bool> {
    let Some(table) = node.members.table() else { return Ok(false) };
    node.members.police().context("put it in force")?;
    // What is in force by now may be later than this; then there is news of it.
    let Some(plan) = node.policy.last() else { return Ok(true) };
    let ended = judge.judge(table, &plan).context("judge flows again")?;
    if ended > 0 {
        node.metrics.flows_cut.inc_by(u64::try_from(ended).unwrap_or(u64::MAX));
        tracing::info!(ended, "flows that network policy does not allow any more");
    }
    Ok(true)
}
