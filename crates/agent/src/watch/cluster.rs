//! The watches on an API server.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use overlane_api::crd::{ClusterNetwork, EgressGateway, NAMESPACE, NodeNetworkConfig, NodeState, PodSlice};
use overlane_api::policy::ClusterNetworkPolicy;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{Sender, UnboundedReceiver};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::follow::{Word, follow, jitter};
use super::item::{Change, Item};
use super::masq_maps::{LABEL, NAMES};
use super::shelf::{self, Shelves};
use crate::metrics::Metrics;

/// How many ConfigMap watches there are.
pub const WATCHES: usize = NAMES.len() + 1;
/// Objects a page: 5,000 NodeNetworkConfigs come in ten pages, none of which is big.
const PAGE: u32 = 500;
/// The same of PodSlices, which speak of 250 pods each.
const SLICES: u32 = 25;
/// How long until an API server that knows no EgressGateways is asked again, at most three halves of this.
const UNKNOWN: Duration = Duration::from_secs(20);
/// The same of one that does not answer.
const AWAY: Duration = Duration::from_secs(2);
/// How long the answer to a question for one pod is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Starts every watch; they run until the listener goes.
pub fn start(client: &Client, node: &str, shelves: &Shelves, to: &Sender<Word<Item>>) {
    let paged = || watcher::Config::default().page_size(PAGE);
    let named = |name: &str| paged().fields(&format!("metadata.name={name}"));

    let fold = |event| Some(Item::cluster(Change::from(event)));
    tokio::spawn(follow("ClusterNetwork", Api::<ClusterNetwork>::all(client.clone()), paged(), to.clone(), fold));

    let configs = Api::<NodeNetworkConfig>::namespaced(client.clone(), NAMESPACE);
    let fold = |event| Some(Item::config(Change::from(event)));
    tokio::spawn(follow("NodeNetworkConfigs", configs, paged(), to.clone(), fold));

    let fold = |event| Some(Item::node(Change::from(event)));
    tokio::spawn(follow("Node", Api::<Node>::all(client.clone()), named(node), to.clone(), fold));

    let fold = |event| Some(Item::state(Change::from(event)));
    tokio::spawn(follow("NodeState", Api::<NodeState>::all(client.clone()), named(node), to.clone(), fold));

    tokio::spawn(if_known("EgressGateways", Api::<EgressGateway>::all(client.clone()), to.clone(), Item::gateway));
    let shelf = shelves.cluster_policies();
    let keep = move |change| {
        shelf.note(&change, shelf::cluster_policy);
        Item::cluster_policy(change)
    };
    let api = Api::<ClusterNetworkPolicy>::all(client.clone());
    tokio::spawn(if_known("ClusterNetworkPolicies", api, to.clone(), keep));

    let shelf = shelves.policies();
    let fold = move |event| {
        let change = Change::from(event);
        shelf.note(&change, shelf::policy);
        Some(Item::policy(change))
    };
    tokio::spawn(follow("NetworkPolicies", Api::<NetworkPolicy>::all(client.clone()), paged(), to.clone(), fold));

    let labelled = paged().labels(&format!("{}={}", LABEL.0, LABEL.1));
    let selections = NAMES.iter().map(|name| named(name)).chain([labelled]);
    for (watch, selection) in selections.enumerate() {
        let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
        let fold = move |event| Some(Item::map(watch, Change::from(event)));
        tokio::spawn(follow("masquerade ConfigMaps", maps, selection, to.clone(), fold));
    }
}

/// Follows objects of a kind that the API server may not know, as while an older version is installed: then there are
/// none.
async fn if_known<K>(
    what: &'static str,
    api: Api<K>,
    to: Sender<Word<Item>>,
    item: impl Fn(Change<K>) -> Item + Send + 'static,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    loop {
        let (words, pause) = match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => break,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                (vec![Ok(item(Change::Begin)), Ok(item(Change::Done))], UNKNOWN)
            }
            Err(error) => (vec![Err(error.to_string())], AWAY),
        };
        for said in words {
            if to.send(Word { what, said }).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(pause / 2 + jitter(pause)).await;
    }
    let fold = move |event| Some(item(Change::from(event)));
    follow(what, api, watcher::Config::default().page_size(PAGE), to, fold).await;
}

/// Follows the node's pods, and namespaces, as long as it matters what labels they have.
pub async fn pods(
    client: Client,
    node: String,
    shelves: Shelves,
    to: Sender<Word<Item>>,
    mut asked: watch::Receiver<bool>,
) {
    let paged = || watcher::Config::default().page_size(PAGE);
    loop {
        if asked.wait_for(|asked| *asked).await.is_err() {
            return;
        }
        let mut watches = JoinSet::new();
        let here = paged().fields(&format!("spec.nodeName={node}"));
        let shelf = shelves.pods();
        let fold = move |event| {
            let change = Change::from(event);
            shelf.note(&change, shelf::pod);
            Some(Item::pod(change))
        };
        watches.spawn(follow("Pods", Api::<Pod>::all(client.clone()), here, to.clone(), fold));
        let shelf = shelves.namespaces();
        let fold = move |event| {
            let change = Change::from(event);
            shelf.note(&change, shelf::namespace);
            Some(Item::namespace(change))
        };
        watches.spawn(follow("Namespaces", Api::<Namespace>::all(client.clone()), paged(), to.clone(), fold));
        if asked.wait_for(|asked| !*asked).await.is_err() {
            return;
        }
        watches.shutdown().await;
        shelves.pods().clear();
        shelves.namespaces().clear();
        if to.send(Word { what: "Pods", said: Ok(Item::NoPods) }).await.is_err() {
            return;
        }
    }
}

/// Follows what other nodes' pods are like, as long as that matters.
pub async fn slices(client: Client, shelves: Shelves, to: Sender<Word<Item>>, mut asked: watch::Receiver<bool>) {
    const WHAT: &str = "PodSlices";
    loop {
        if asked.wait_for(|asked| *asked).await.is_err() {
            return;
        }
        let shelf = shelves.slices();
        let fold = move |event| {
            let change = Change::from(event);
            shelf.note(&change, shelf::slice);
            Some(Item::slice(change))
        };
        let mut watches = JoinSet::new();
        let config = watcher::Config::default().page_size(SLICES);
        watches.spawn(follow(WHAT, Api::<PodSlice>::all(client.clone()), config, to.clone(), fold));
        if asked.wait_for(|asked| !*asked).await.is_err() {
            return;
        }
        watches.shutdown().await;
        shelves.slices().clear();
        if to.send(Word { what: WHAT, said: Ok(Item::NoSlices) }).await.is_err() {
            return;
        }
    }
}

/// Asks for pods of this node by name that an ADD is for and the watch has not told of.
pub async fn asked_pods(client: Client, to: Sender<Word<Item>>, mut names: UnboundedReceiver<(String, String)>) {
    while let Some(first) = names.recv().await {
        let mut asked = BTreeSet::from([first]);
        while let Ok(name) = names.try_recv() {
            asked.insert(name);
        }
        let answers = asked.into_iter().map(|(namespace, name)| {
            let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            async move { (tokio::time::timeout(PATIENCE, api.get_opt(&name)).await, name) }
        });
        for (answer, name) in futures::future::join_all(answers).await {
            match answer {
                Ok(Ok(Some(pod))) => {
                    let (key, facts) = shelf::pod(&pod);
                    let word = Word { what: "Pods", said: Ok(Item::FoundPod(key, facts)) };
                    if to.send(word).await.is_err() {
                        return;
                    }
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::debug!(%error, name, "ask for a pod"),
                Err(_) => tracing::debug!(name, "ask for a pod: no answer"),
            }
        }
    }
}

/// While some watch hears nothing, asks now and then whether the API server answers again: a watch that was taken up
/// where it broke off says nothing until there is news.
pub async fn listen_again(
    client: Client,
    node: String,
    deaf: watch::Sender<BTreeSet<&'static str>>,
    metrics: Arc<Metrics>,
) {
    let api: Api<NodeState> = Api::all(client);
    let mut is_deaf = deaf.subscribe();
    loop {
        if is_deaf.wait_for(|deaf| !deaf.is_empty()).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1) + jitter(Duration::from_secs(2))).await;
        if api.get_metadata_opt(&node).await.is_ok() {
            tracing::info!("the API server answers again");
            deaf.send_modify(BTreeSet::clear);
            metrics.api_connected.set(1);
        }
    }
}
