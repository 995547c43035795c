//! The decision about a name under which there is no Node.

use super::alloc::Allocator;
use super::view::{ConfigView, StateView};
use super::{Action, Settings, Verdict};

/// Withdraws at once, gives back, and in the end deletes the word of the agent that nobody hears any more.
pub(super) fn decide(
    name: &str,
    alloc: &Allocator,
    state: Option<&StateView>,
    config: Option<&ConfigView>,
    settings: &Settings,
    now_ms: u64,
) -> Verdict {
    let mut verdict = Verdict::default();
    let node = || name.to_owned();
    if let Some(config) = config {
        verdict.actions.push(Action::DeleteConfig { node: node(), object: config.object.clone() });
    }
    for claim in alloc.of_node(name).filter(|claim| claim.is_live()) {
        let object = claim.object.clone();
        verdict.actions.push(Action::Release { block: claim.cidr, object, at_ms: now_ms });
    }
    if let Some((state, since)) = state.and_then(|state| Some((state, state.obsolete_since_ms?))) {
        let due = since.saturating_add(settings.hold_down_ms);
        if due <= now_ms {
            verdict.actions.push(Action::DeleteState { node: node(), object: state.object.clone() });
        } else {
            verdict.retry_at(due);
        }
    }
    if !verdict.actions.is_empty() {
        verdict.actions.insert(0, Action::ConfirmNode { node: node(), uid: None });
    }
    verdict
}
