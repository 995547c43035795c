//! The watches. Each object is folded to what decisions need of it before the next page is read.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use overlane_api::crd::{ClusterNetwork, EgressGateway, NAMESPACE, NodeBlock, NodeNetworkConfig, NodeState};
use overlane_api::policy::ClusterNetworkPolicy;
use overlane_core::blocks::{Claim, ConfigView, NodeView, StateView};
use overlane_core::cidr::Cidr;
use overlane_core::policy::PolicyNode;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::objects;
use crate::policies::{PolicyFact, policy_key};
use crate::slices::{Digester, PodFact, SeenSlice, SlimSlice};
use crate::slim::SlimNode;

/// Nodes a page: at some 60 KiB each a page is over 1 MiB of text, and is in memory several times.
const NODES_A_PAGE: u32 = 20;
/// Objects of ours a page.
const OURS_A_PAGE: u32 = 200;
/// Pods a page: some 10 KiB each.
const PODS_A_PAGE: u32 = 100;
/// Policies a page: most are small, but one may have a megabyte.
const POLICIES_A_PAGE: u32 = 50;
/// Slices a page: those of full nodes have some 30 KiB.
const SLICES_A_PAGE: u32 = 50;
/// Pods that policies may tell of: those that never will be are not even sent.
const LIVE_PODS: &str = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";

/// A watch is asked for anew after this: a server that went silent is not waited for longer.
const WATCH_SECONDS: u32 = 60;

/// Pauses after errors: they double. One controller is no herd, so there is no jitter.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);
/// Errors of a watch that are farther apart are two outages.
const OUTAGE_MS: u64 = 30_000;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Nodes.
    Nodes,
    /// NodeBlocks.
    Blocks,
    /// NodeStates.
    States,
    /// NodeNetworkConfigs.
    Configs,
    /// ClusterNetworks.
    Clusters,
    /// EgressGateways.
    Gateways,
    /// Pods.
    Pods,
    /// PodSlices.
    Slices,
    /// NetworkPolicies.
    Policies,
    /// ClusterNetworkPolicies.
    ClusterPolicies,
}

impl Source {
    /// Those that blocks and gateways are decided by.
    pub const ALL: [Self; 6] = [Self::Nodes, Self::Blocks, Self::States, Self::Configs, Self::Clusters, Self::Gateways];

    /// Whether the cluster may be without the kind: Helm updates programs, but no definitions. Then there are no objects
    /// of it, and nodes get their blocks all the same.
    fn may_be_unknown(self) -> bool {
        matches!(self, Self::Gateways | Self::ClusterPolicies)
    }
}

/// An object as it is now, or its end.
#[derive(Clone, Debug)]
pub enum Object {
    /// A Node, and what policies can tell of it.
    Node(NodeView, PolicyNode),
    /// A Node's end: name and UID.
    NodeGone(String, String),
    /// A NodeBlock.
    Block(Claim),
    /// A NodeBlock's end: block and UID.
    BlockGone(Cidr, String),
    /// A NodeState.
    State(StateView),
    /// A NodeState's end: name and UID.
    StateGone(String, String),
    /// A NodeNetworkConfig.
    Config(ConfigView),
    /// A NodeNetworkConfig's end: name and UID.
    ConfigGone(String, String),
    /// A ClusterNetwork.
    Cluster(Box<ClusterNetwork>),
    /// A ClusterNetwork's end.
    ClusterGone(String),
    /// An EgressGateway.
    Gateway(Box<EgressGateway>),
    /// An EgressGateway's end: name and UID.
    GatewayGone(String, String),
    /// A Pod that policies can tell of.
    Pod(Box<PodFact>),
    /// A Pod that they cannot, or not any more: namespace and name.
    PodGone(String),
    /// A PodSlice.
    Slice(SeenSlice),
    /// A PodSlice's end: name and UID.
    SliceGone(String, String),
    /// A policy of that source.
    Policy(Source, Box<PolicyFact>),
    /// A policy's end: namespace and name.
    PolicyGone(String),
}

impl Object {
    /// A Node.
    pub fn node(mut node: SlimNode) -> Self {
        let labels = node.metadata.labels.take().unwrap_or_default();
        let addresses = node.addresses().collect();
        Self::Node(node.view(objects::now_ms()), PolicyNode { labels, addresses })
    }
}

/// A word from a watch.
#[derive(Clone, Debug)]
pub enum Word {
    /// A full list begins.
    Listing(Source),
    /// An object of that list.
    Listed(Object),
    /// The full list ends; what it did not show is gone.
    Complete(Source),
    /// A change.
    Changed(Object),
    /// The API server cannot be heard.
    Deaf(Source, String),
}

/// When each source last said that the API server cannot be heard.
#[derive(Debug, Default)]
pub struct Deaf(BTreeMap<Source, u64>);

impl Deaf {
    /// Logs one word an outage: while it lasts, errors are seconds apart.
    pub fn hear(&mut self, source: Source, reason: &str, now_ms: u64) {
        let before = self.0.insert(source, now_ms);
        if before.is_none_or(|before| now_ms.saturating_sub(before) > OUTAGE_MS) {
            tracing::warn!(?source, reason, "the API server cannot be heard");
        }
    }
}

fn paged(size: u32) -> watcher::Config {
    watcher::Config::default().page_size(size).timeout(WATCH_SECONDS)
}

/// A watch that may not always be. It ends when it is dropped.
pub struct Watch {
    words: Receiver<Word>,
    _tasks: JoinSet<()>,
}

/// Waits for words of it; for ever, where there is none.
pub async fn of_watch(watch: &mut Option<Watch>, inbox: &mut Vec<Word>) -> usize {
    match watch {
        Some(watch) => watch.words.recv_many(inbox, 512).await,
        None => std::future::pending().await,
    }
}

/// Starts the watches of policies.
pub fn start_policies(client: &Client) -> Watch {
    let (to, words) = channel(1024);
    let mut tasks = JoinSet::new();
    let gone = |metadata: &ObjectMeta| Some(Object::PolicyGone(policy_key(metadata)));
    let policies: Api<NetworkPolicy> = Api::all(client.clone());
    let source = Source::Policies;
    tasks.spawn(follow(source, policies, paged(POLICIES_A_PAGE), [to.clone()].into(), move |policy, there| {
        if !there {
            return gone(&policy.metadata);
        }
        Some(Object::Policy(source, Box::new(PolicyFact::namespaced(&policy))))
    }));
    let policies: Api<ClusterNetworkPolicy> = Api::all(client.clone());
    let source = Source::ClusterPolicies;
    tasks.spawn(follow(source, policies, paged(POLICIES_A_PAGE), [to].into(), move |policy, there| {
        if !there {
            return gone(&policy.metadata);
        }
        Some(Object::Policy(source, Box::new(PolicyFact::cluster(&policy, objects::now_ms()))))
    }));
    Watch { words, _tasks: tasks }
}

/// Starts the watch of Pods.
pub fn start_pods(client: &Client) -> Watch {
    let (to, words) = channel(1024);
    let mut tasks = JoinSet::new();
    let pods: Api<Pod> = Api::all(client.clone());
    let live = paged(PODS_A_PAGE).fields(LIVE_PODS);
    tasks.spawn(follow(Source::Pods, pods, live, [to].into(), |pod, there| {
        let fact = if there { PodFact::of(&pod) } else { None };
        Some(fact.map_or_else(|| Object::PodGone(PodFact::key(&pod)), |fact| Object::Pod(Box::new(fact))))
    }));
    Watch { words, _tasks: tasks }
}

/// The watches that always run. They end when they are dropped.
pub struct Watches {
    /// Words by which blocks and gateways are decided.
    pub words: Receiver<Word>,
    /// Words by which slices are, but for those of Pods.
    pub slice_words: Receiver<Word>,
    _tasks: JoinSet<()>,
}

/// Starts them.
pub fn start(client: &Client, digester: Digester) -> Watches {
    let (to, words) = channel(1024);
    let (to_slices, slice_words) = channel(1024);
    let mut tasks = JoinSet::new();
    let slices: Api<SlimSlice> = Api::all(client.clone());
    let config = paged(SLICES_A_PAGE);
    tasks.spawn(follow(Source::Slices, slices, config, [to_slices.clone()].into(), move |slice, there| {
        let seen = digester.seen(&slice);
        Some(if there { Object::Slice(seen) } else { Object::SliceGone(seen.node, seen.object.uid) })
    }));
    let nodes: Api<SlimNode> = Api::all(client.clone());
    let both = [to.clone(), to_slices].into();
    let to: Box<[_]> = [to].into();
    tasks.spawn(follow(Source::Nodes, nodes, paged(NODES_A_PAGE), both, |node, there| {
        Some(if there {
            Object::node(node)
        } else {
            Object::NodeGone(objects::name(&node.metadata), node.metadata.uid.unwrap_or_default())
        })
    }));
    let blocks: Api<NodeBlock> = Api::all(client.clone());
    tasks.spawn(follow(Source::Blocks, blocks, paged(OURS_A_PAGE), to.clone(), |block, there| {
        let claim = objects::claim(&block)?;
        Some(if there { Object::Block(claim) } else { Object::BlockGone(claim.cidr, claim.object.uid) })
    }));
    let states: Api<NodeState> = Api::all(client.clone());
    tasks.spawn(follow(Source::States, states, paged(OURS_A_PAGE), to.clone(), |state, there| {
        let view = objects::state(&state);
        Some(if there { Object::State(view) } else { Object::StateGone(view.node, view.object.uid) })
    }));
    let configs: Api<NodeNetworkConfig> = Api::namespaced(client.clone(), NAMESPACE);
    tasks.spawn(follow(Source::Configs, configs, paged(OURS_A_PAGE), to.clone(), |config, there| {
        let view = objects::config(&config);
        Some(if there { Object::Config(view) } else { Object::ConfigGone(view.node, view.object.uid) })
    }));
    let clusters: Api<ClusterNetwork> = Api::all(client.clone());
    tasks.spawn(follow(Source::Clusters, clusters, paged(OURS_A_PAGE), to.clone(), |cluster, there| {
        Some(if there {
            Object::Cluster(Box::new(cluster))
        } else {
            Object::ClusterGone(objects::name(&cluster.metadata))
        })
    }));
    let gateways: Api<EgressGateway> = Api::all(client.clone());
    tasks.spawn(follow(Source::Gateways, gateways, paged(OURS_A_PAGE), to, |gateway, there| {
        Some(if there {
            Object::Gateway(Box::new(gateway))
        } else {
            Object::GatewayGone(objects::name(&gateway.metadata), gateway.metadata.uid.unwrap_or_default())
        })
    }));
    Watches { words, slice_words, _tasks: tasks }
}

async fn follow<K>(
    source: Source,
    api: Api<K>,
    config: watcher::Config,
    to: Box<[Sender<Word>]>,
    fold: impl Fn(K, bool) -> Option<Object>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = pin!(watcher::watcher(api, config));
    let mut pause = FIRST;
    let (mut begun, mut unknown) = (false, false);
    while let Some(event) = events.next().await {
        let failed = event.is_err();
        // That a list begins is no sign that the server answers.
        if !matches!(event, Err(_) | Ok(Event::Init)) {
            (pause, unknown) = (FIRST, false);
        }
        let mut words = Vec::new();
        match event {
            // Of a kind that may be unknown, a list begins with its first answer.
            Ok(Event::Init) if source.may_be_unknown() => begun = true,
            Ok(Event::Init) => words.push(Word::Listing(source)),
            Ok(Event::InitApply(object)) => {
                words.extend(std::mem::take(&mut begun).then_some(Word::Listing(source)));
                words.extend(fold(object, true).map(Word::Listed));
            }
            Ok(Event::InitDone) => {
                words.extend(std::mem::take(&mut begun).then_some(Word::Listing(source)));
                words.push(Word::Complete(source));
            }
            Ok(Event::Apply(object)) => words.extend(fold(object, true).map(Word::Changed)),
            Ok(Event::Delete(object)) => words.extend(fold(object, false).map(Word::Changed)),
            Err(error) if source.may_be_unknown() && is_unknown(&error) => {
                if !std::mem::replace(&mut unknown, true) {
                    tracing::info!(?source, "the cluster has no such kind, and so none of it");
                    words.extend([Word::Listing(source), Word::Complete(source)]);
                }
            }
            Err(error) => words.push(Word::Deaf(source, error.to_string())),
        }
        for word in words {
            if tell(&to, word).await.is_err() {
                return;
            }
        }
        if failed {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }
}

/// Tells everybody who is to hear it.
async fn tell(to: &[Sender<Word>], word: Word) -> Result<(), SendError<Word>> {
    let Some((last, others)) = to.split_last() else { return Ok(()) };
    for other in others {
        other.send(word.clone()).await?;
    }
    last.send(word).await
}

fn is_unknown(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}
