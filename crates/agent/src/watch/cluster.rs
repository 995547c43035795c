//! The watches on an API server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use kube::api::ListParams;
use kube::runtime::watcher;
use kube::{Api, Client};
use overlane_api::crd::{ClusterNetwork, EgressGateway, NAMESPACE, NodeNetworkConfig, NodeState};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::follow::{Word, follow, jitter};
use super::item::{Change, Item};
use super::masq_maps::{LABEL, NAMES};
use crate::metrics::Metrics;

/// How many ConfigMap watches there are.
pub const WATCHES: usize = NAMES.len() + 1;
/// Objects a page: 5,000 NodeNetworkConfigs come in ten pages, none of which is big.
const PAGE: u32 = 500;
/// How long until an API server that knows no EgressGateways is asked again, at most three halves of this.
const UNKNOWN: Duration = Duration::from_secs(20);
/// The same of one that does not answer.
const AWAY: Duration = Duration::from_secs(2);

/// Starts every watch; they run until the listener goes.
pub fn start(client: &Client, node: &str, to: &Sender<Word<Item>>) {
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

    tokio::spawn(gateways(client.clone(), to.clone()));

    let labelled = paged().labels(&format!("{}={}", LABEL.0, LABEL.1));
    let selections = NAMES.iter().map(|name| named(name)).chain([labelled]);
    for (watch, selection) in selections.enumerate() {
        let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
        let fold = move |event| Some(Item::map(watch, Change::from(event)));
        tokio::spawn(follow("masquerade ConfigMaps", maps, selection, to.clone(), fold));
    }
}

/// Follows EgressGateways. Where the API server does not know of such, as while an older version is installed, there are
/// none.
async fn gateways(client: Client, to: Sender<Word<Item>>) {
    const WHAT: &str = "EgressGateways";
    let api = Api::<EgressGateway>::all(client);
    loop {
        let (words, pause) = match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => break,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                (vec![Ok(Item::Gateway(Change::Begin)), Ok(Item::Gateway(Change::Done))], UNKNOWN)
            }
            Err(error) => (vec![Err(error.to_string())], AWAY),
        };
        for said in words {
            if to.send(Word { what: WHAT, said }).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(pause / 2 + jitter(pause)).await;
    }
    let fold = |event| Some(Item::gateway(Change::from(event)));
    follow(WHAT, api, watcher::Config::default().page_size(PAGE), to, fold).await;
}

/// Follows the node's pods, and namespaces, as long as it matters what labels they have.
pub async fn pods(client: Client, node: String, to: Sender<Word<Item>>, mut asked: watch::Receiver<bool>) {
    let paged = || watcher::Config::default().page_size(PAGE);
    loop {
        if asked.wait_for(|asked| *asked).await.is_err() {
            return;
        }
        let mut watches = JoinSet::new();
        let here = paged().fields(&format!("spec.nodeName={node}"));
        let fold = |event| Some(Item::pod(Change::from(event)));
        watches.spawn(follow("Pods", Api::<Pod>::all(client.clone()), here, to.clone(), fold));
        let fold = |event| Some(Item::namespace(Change::from(event)));
        watches.spawn(follow("Namespaces", Api::<Namespace>::all(client.clone()), paged(), to.clone(), fold));
        if asked.wait_for(|asked| !*asked).await.is_err() {
            return;
        }
        watches.shutdown().await;
        if to.send(Word { what: "Pods", said: Ok(Item::NoPods) }).await.is_err() {
            return;
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
