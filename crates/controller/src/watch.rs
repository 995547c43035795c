//! The five watches. Each object is folded to what decisions need of it before the next page is read.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use overlane_api::crd::{ClusterNetwork, NAMESPACE, NodeBlock, NodeNetworkConfig, NodeState};
use overlane_core::blocks::{Claim, ConfigView, NodeView, StateView};
use overlane_core::cidr::Cidr;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::objects;
use crate::slim::SlimNode;

/// Nodes a page: at some 60 KiB each a page is over 1 MiB of text, and is in memory several times.
const NODES_A_PAGE: u32 = 20;
/// Objects of ours a page.
const OURS_A_PAGE: u32 = 200;

/// A watch is asked for anew after this: a server that went silent is not waited for longer.
const WATCH_SECONDS: u32 = 60;

/// Pauses after errors: they double. One controller is no herd, so there is no jitter.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// The sources of a decision.
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
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Nodes, Self::Blocks, Self::States, Self::Configs, Self::Clusters];
}

/// An object as it is now, or its end.
#[derive(Debug)]
pub enum Object {
    /// A Node.
    Node(NodeView),
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
}

/// A word from a watch.
#[derive(Debug)]
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

/// Starts all watches. They end when the set is dropped.
pub fn start(client: &Client) -> (Receiver<Word>, JoinSet<()>) {
    let (to, from) = channel(1024);
    let mut tasks = JoinSet::new();
    let paged = |size| watcher::Config::default().page_size(size).timeout(WATCH_SECONDS);
    let nodes: Api<SlimNode> = Api::all(client.clone());
    tasks.spawn(follow(Source::Nodes, nodes, paged(NODES_A_PAGE), to.clone(), |node, there| {
        let view = node.view(objects::now_ms());
        Some(if there { Object::Node(view) } else { Object::NodeGone(view.name, view.object.uid) })
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
    tasks.spawn(follow(Source::Clusters, clusters, paged(OURS_A_PAGE), to, |cluster, there| {
        Some(if there {
            Object::Cluster(Box::new(cluster))
        } else {
            Object::ClusterGone(objects::name(&cluster.metadata))
        })
    }));
    (from, tasks)
}

async fn follow<K>(
    source: Source,
    api: Api<K>,
    config: watcher::Config,
    to: Sender<Word>,
    fold: impl Fn(K, bool) -> Option<Object>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = pin!(watcher::watcher(api, config));
    let mut pause = FIRST;
    while let Some(event) = events.next().await {
        let failed = event.is_err();
        // That a list begins is no sign that the server answers.
        if !matches!(event, Err(_) | Ok(Event::Init)) {
            pause = FIRST;
        }
        let word = match event {
            Ok(Event::Init) => Some(Word::Listing(source)),
            Ok(Event::InitApply(object)) => fold(object, true).map(Word::Listed),
            Ok(Event::InitDone) => Some(Word::Complete(source)),
            Ok(Event::Apply(object)) => fold(object, true).map(Word::Changed),
            Ok(Event::Delete(object)) => fold(object, false).map(Word::Changed),
            Err(error) => Some(Word::Deaf(source, error.to_string())),
        };
        if let Some(word) = word
            && to.send(word).await.is_err()
        {
            return;
        }
        if failed {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }
}
