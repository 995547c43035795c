//! Does what was decided about one node: one action after another, up to the first that is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Error};
use overlane_api::crd::{NAMESPACE, NodeBlock, NodeNetworkConfig, NodeState, block_name};
use overlane_core::blocks::{Action, ConditionChange, Content, ObjectRef, Owner};
use overlane_core::cidr::Cidr;
use tokio::time::{Instant, timeout};

use crate::events::{Events, Subject};
use crate::metrics::Metrics;
use crate::slim::SlimNode;
use crate::watch::Object;
use crate::{objects, writes};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// How long after a decision its last action may begin. Well under any hold-down: what was free then is free now.
const DECISION_HOLDS: Duration = Duration::from_secs(20);

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All was done.
    Done,
    /// An action was refused, for things are not as they were: decide again.
    Refused(&'static str),
    /// A request failed: try again later.
    Failed(String),
    /// It was not to go on: the leader's office was lost, the view broke off, or too much time had passed.
    Stopped,
}

/// What became of a job.
#[derive(Debug)]
pub struct Outcome {
    /// What was learnt.
    pub facts: Vec<Object>,
    /// Whether the node's blocks were announced for the first time.
    pub announced: bool,
    /// How it ended.
    pub end: End,
}

/// A counter that moves on when everything that is under way has to stop.
#[derive(Clone, Debug, Default)]
pub struct Epoch(Arc<AtomicU64>);

impl Epoch {
    /// Stops what is under way.
    pub fn advance(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// What it stands at.
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Does jobs. Cheap to clone.
#[derive(Clone)]
pub struct Executor {
    client: Client,
    events: Events,
    metrics: Metrics,
    epoch: Epoch,
}

/// Why an action was not done.
enum Refusal {
    /// What it rested on is no more; what a look told instead.
    Stale(Option<Box<Object>>),
    Failed(String),
}

impl Executor {
    /// One that stops when the epoch moves on.
    pub fn new(client: Client, events: Events, metrics: Metrics, epoch: Epoch) -> Self {
        Self { client, events, metrics, epoch }
    }

    /// Does a node's actions. Nothing of it is retried here.
    pub async fn run(self, actions: Vec<Action>) -> Outcome {
        let begun = (self.epoch.now(), Instant::now());
        let mut outcome = Outcome { facts: Vec::new(), announced: false, end: End::Done };
        for action in actions {
            if self.epoch.now() != begun.0 || begun.1.elapsed() > DECISION_HOLDS {
                outcome.end = End::Stopped;
                break;
            }
            let kind = kind(&action);
            let announces = matches!(&action, Action::WriteConfig { current: None, .. });
            let result = timeout(REQUEST, self.act(action, &mut outcome.facts)).await;
            let result = result.unwrap_or_else(|_| Err(Refusal::Failed(format!("no answer in {REQUEST:?}"))));
            match result {
                Ok(()) => outcome.announced |= announces,
                Err(Refusal::Stale(fact)) => {
                    self.metrics.conflict(kind);
                    outcome.facts.extend(fact.map(|fact| *fact));
                    outcome.end = End::Refused(kind);
                    break;
                }
                Err(Refusal::Failed(reason)) => {
                    self.metrics.failure(kind);
                    outcome.end = End::Failed(format!("{kind}: {reason}"));
                    break;
                }
            }
        }
        outcome
    }

    async fn act(&self, action: Action, facts: &mut Vec<Object>) -> Result<(), Refusal> {
        match action {
            Action::ConfirmNode { node, uid } => self.confirm_node(&node, uid.as_deref()).await,
            Action::ConfirmUnclaimed { block } => match self.read_block(&block).await? {
                Object::BlockGone(..) => Ok(()),
                found => Err(stale(found)),
            },
            Action::Assign { block, pool, over, owner } => self.assign(block, pool, over, &owner, facts).await,
            Action::Release { block, object, at_ms } => {
                let patch = writes::release(&object, at_ms);
                let claim = self.patch_block("release", &block, &patch).await?;
                facts.extend(claim);
                Ok(())
            }
            Action::DeleteClaim { block, object } => {
                self.metrics.write("delete-nodeblock");
                let deleted = self.blocks().delete(&block_name(&block), &writes::delete(&object)).await;
                self.gone(deleted.map(drop), || self.read_block(&block)).await?;
                facts.push(Object::BlockGone(block, object.uid));
                Ok(())
            }
            Action::WriteConfig { node, node_uid, current, rebind, content } => {
                self.write_config(&node, &node_uid, current, rebind, &content, facts).await
            }
            Action::DeleteConfig { node, object } => {
                self.metrics.write("delete-nodenetworkconfig");
                let deleted = self.configs().delete(&node, &writes::delete(&object)).await;
                self.gone(deleted.map(drop), || self.read_config(&node)).await?;
                facts.push(Object::ConfigGone(node, object.uid));
                Ok(())
            }
            Action::SetPodCidrs { node, uid, cidrs } => {
                self.metrics.write("patch-node");
                let patch = Patch::Merge(writes::pod_cidrs(&uid, &cidrs));
                let patched = self.nodes().patch(&node, &PatchParams::default(), &patch).await;
                facts.push(self.node_fact(&node, patched).await?);
                Ok(())
            }
            Action::DeleteState { node, object } => {
                self.metrics.write("delete-nodestate");
                let states: Api<NodeState> = Api::all(self.client.clone());
                match states.delete(&node, &writes::delete(&object)).await {
                    Ok(_) => {
                        facts.push(Object::StateGone(node, object.uid));
                        Ok(())
                    }
                    // Its agent lives and has spoken again, which the watch will tell.
                    Err(error) if is_stale(&error) => Err(Refusal::Stale(None)),
                    Err(error) => Err(failed(&error)),
                }
            }
            Action::RemoveStartupTaint { node, uid, index } => {
                self.metrics.write("patch-node");
                let patch = writes::without_startup_taint(&uid, index).map_err(|e| Refusal::Failed(e.to_string()))?;
                let patched = self.nodes().patch(&node, &PatchParams::default(), &Patch::Json::<()>(patch)).await;
                facts.push(self.node_fact(&node, patched).await?);
                tracing::info!(node, "the agent is ready: the startup taint is gone");
                Ok(())
            }
            Action::SetConditions { node, uid, changes } => self.set_conditions(&node, &uid, &changes, facts).await,
        }
    }

    async fn confirm_node(&self, node: &str, uid: Option<&str>) -> Result<(), Refusal> {
        let found = self.read_node(node).await?;
        let is = if let Object::Node(view, _) = &found { Some(view.object.uid.as_str()) } else { None };
        if is == uid { Ok(()) } else { Err(stale(found)) }
    }

    async fn assign(
        &self,
        block: Cidr,
        pool: Option<Cidr>,
        over: Option<ObjectRef>,
        owner: &Owner,
        facts: &mut Vec<Object>,
    ) -> Result<(), Refusal> {
        let claim = if let Some(over) = over {
            self.patch_block("rebind", &block, &writes::assign(pool, owner, &over)).await?
        } else {
            self.metrics.write("create-nodeblock");
            let object = writes::new_block(&block, pool, owner);
            let made = self.blocks().create(&PostParams::default(), &object).await;
            self.block_fact(&block, made).await?
        };
        tracing::debug!(node = owner.node, %block, "a block was claimed");
        facts.extend(claim);
        Ok(())
    }

    async fn patch_block(&self, why: &str, block: &Cidr, patch: &serde_json::Value) -> Result<Option<Object>, Refusal> {
        self.metrics.write(if why == "release" { "release-nodeblock" } else { "assign-nodeblock" });
        let name = block_name(block);
        let patched = self.blocks().patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        self.block_fact(block, patched).await
    }

    async fn block_fact(&self, block: &Cidr, answer: kube::Result<NodeBlock>) -> Result<Option<Object>, Refusal> {
        match answer {
            Ok(object) => Ok(objects::claim(&object).map(Object::Block)),
            Err(error) if is_stale(&error) => Err(stale(self.read_block(block).await?)),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn write_config(
        &self,
        node: &str,
        node_uid: &str,
        current: Option<ObjectRef>,
        rebind: bool,
        content: &Content,
        facts: &mut Vec<Object>,
    ) -> Result<(), Refusal> {
        let current = match current {
            Some(current) => current,
            None => {
                self.metrics.write("create-nodenetworkconfig");
                let made = self.configs().create(&PostParams::default(), &writes::new_config(node, node_uid)).await;
                self.config_fact(node, made, facts).await?
            }
        };
        // The blocks before the Node's UID: an agent of the new machine must not see the old one's blocks as its own.
        self.metrics.write("patch-nodenetworkconfig-status");
        let patch = Patch::Merge(writes::announce(content, &current));
        let announced = self.configs().patch_status(node, &PatchParams::default(), &patch).await;
        let current = self.config_fact(node, announced, facts).await?;
        if rebind {
            self.metrics.write("patch-nodenetworkconfig");
            let patch = Patch::Merge(writes::rebind(node, node_uid, &current));
            let bound = self.configs().patch(node, &PatchParams::default(), &patch).await;
            self.config_fact(node, bound, facts).await?;
        }
        Ok(())
    }

    async fn config_fact(
        &self,
        node: &str,
        answer: kube::Result<NodeNetworkConfig>,
        facts: &mut Vec<Object>,
    ) -> Result<ObjectRef, Refusal> {
        match answer {
            Ok(object) => {
                let view = objects::config(&object);
                let is = view.object.clone();
                facts.push(Object::Config(view));
                Ok(is)
            }
            Err(error) if is_stale(&error) => Err(stale(self.read_config(node).await?)),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn set_conditions(
        &self,
        node: &str,
        uid: &str,
        changes: &[ConditionChange],
        facts: &mut Vec<Object>,
    ) -> Result<(), Refusal> {
        self.metrics.write("patch-node-status");
        let patch = Patch::Strategic(writes::conditions(uid, changes, objects::now_ms()));
        let patched = self.nodes().patch_status(node, &PatchParams::default(), &patch).await;
        facts.push(self.node_fact(node, patched).await?);
        for change in changes {
            tracing::info!(
                node,
                condition = change.kind.as_str(),
                status = change.status,
                reason = change.reason,
                "{}",
                change.message
            );
            if change.warn {
                self.events.warn(Subject::node(node, uid), change.reason, &change.message).await;
            }
        }
        Ok(())
    }

    async fn node_fact(&self, node: &str, answer: kube::Result<SlimNode>) -> Result<Object, Refusal> {
        match answer {
            Ok(object) => Ok(Object::node(object)),
            Err(error) if is_stale(&error) => Err(stale(self.read_node(node).await?)),
            Err(error) => Err(failed(&error)),
        }
    }

    /// A deletion: of what is gone already is success.
    async fn gone<F>(&self, answer: kube::Result<()>, read: impl FnOnce() -> F) -> Result<(), Refusal>
    where
        F: Future<Output = Result<Object, Refusal>>,
    {
        match answer {
            Ok(()) => Ok(()),
            Err(Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) if is_stale(&error) => Err(stale(read().await?)),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn read_node(&self, node: &str) -> Result<Object, Refusal> {
        let found = self.nodes().get_opt(node).await.map_err(|error| failed(&error))?;
        Ok(found.map_or_else(|| Object::NodeGone(node.to_owned(), String::new()), Object::node))
    }

    async fn read_block(&self, block: &Cidr) -> Result<Object, Refusal> {
        let found = self.blocks().get_opt(&block_name(block)).await.map_err(|error| failed(&error))?;
        let claim = found.and_then(|object| objects::claim(&object));
        Ok(claim.map_or_else(|| Object::BlockGone(*block, String::new()), Object::Block))
    }

    async fn read_config(&self, node: &str) -> Result<Object, Refusal> {
        let found = self.configs().get_opt(node).await.map_err(|error| failed(&error))?;
        let view = found.map(|object| objects::config(&object));
        Ok(view.map_or_else(|| Object::ConfigGone(node.to_owned(), String::new()), Object::Config))
    }

    fn nodes(&self) -> Api<SlimNode> {
        Api::all(self.client.clone())
    }

    fn blocks(&self) -> Api<NodeBlock> {
        Api::all(self.client.clone())
    }

    fn configs(&self) -> Api<NodeNetworkConfig> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }
}

/// The API refused it because the object is not, or is no more, what the write says that it is.
fn is_stale(error: &Error) -> bool {
    matches!(error, Error::Api(status) if matches!(status.code, 404 | 409 | 422))
}

fn stale(found: Object) -> Refusal {
    Refusal::Stale(Some(Box::new(found)))
}

fn failed(error: &Error) -> Refusal {
    Refusal::Failed(error.to_string())
}

/// What an action is called in metrics and logs.
fn kind(action: &Action) -> &'static str {
    match action {
        Action::ConfirmNode { .. } => "confirm-node",
        Action::ConfirmUnclaimed { .. } => "confirm-unclaimed",
        Action::Assign { over: None, .. } => "claim-block",
        Action::Assign { .. } => "assign-block",
        Action::WriteConfig { .. } => "write-config",
        Action::DeleteConfig { .. } => "delete-config",
        Action::SetPodCidrs { .. } => "set-pod-cidrs",
        Action::Release { .. } => "release-block",
        Action::DeleteClaim { .. } => "delete-claim",
        Action::DeleteState { .. } => "delete-state",
        Action::RemoveStartupTaint { .. } => "remove-startup-taint",
        Action::SetConditions { .. } => "set-conditions",
    }
}
