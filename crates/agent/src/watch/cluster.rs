//! The watches on an API server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::runtime::watcher;
use kube::{Api, Client};
use overlane_api::crd::{ClusterNetwork, NAMESPACE, NodeNetworkConfig, NodeState};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;

use super::follow::{Word, follow, jitter};
use super::item::{Change, Item};
use super::masq_maps::{LABEL, NAMES};
use crate::metrics::Metrics;

/// How many ConfigMap watches there are.
pub const WATCHES: usize = NAMES.len() + 1;
/// Objects a page: 5,000 NodeNetworkConfigs come in ten pages, none of which is big.
const PAGE: u32 = 500;

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

    let labelled = paged().labels(&format!("{}={}", LABEL.0, LABEL.1));
    let selections = NAMES.iter().map(|name| named(name)).chain([labelled]);
    for (watch, selection) in selections.enumerate() {
        let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
        let fold = move |event| Some(Item::map(watch, Change::from(event)));
        tokio::spawn(follow("masquerade ConfigMaps", maps, selection, to.clone(), fold));
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
