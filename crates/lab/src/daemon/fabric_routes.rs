//! The table of a routed fabric: routes to nodes' blocks, as a cloud's route controller keeps them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::api::{Api, ListParams};
use nix::net::if_::if_nametoindex;
use overlane_api::crd::{CLUSTER_NETWORK, Carrier, ClusterNetwork, NAMESPACE, NodeNetworkConfig};
use overlane_core::cidr::Cidr;

use super::Cluster;
use crate::fabric::Underlay;
use crate::files;
use crate::names::Part;
use crate::netns;
use crate::paths::VnetPaths;
use crate::vnet::{self, VnetRecord};
use crate::wire::Wire;

const AGAIN: Duration = Duration::from_millis(300);

/// Keeps the table until the daemon ends; at once over where the fabric is one segment.
pub(super) async fn run(cluster: Arc<Cluster>) {
    let record = files::read_json::<VnetRecord>(VnetPaths::of(&cluster.record.vnet).record());
    if !matches!(record, Ok(Some(record)) if record.fabric.underlay == Underlay::Routed) {
        return;
    }
    loop {
        // A node that is just being made or ended: the next time.
        if let Err(error) = keep(&cluster).await {
            tracing::debug!("the fabric's table: {error:#}");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn keep(cluster: &Arc<Cluster>) -> Result<()> {
    let hosts: Vec<(Vec<IpAddr>, u32)> = {
        let nodes = cluster.nodes.lock().await;
        nodes.values().map(|machine| machine.record()).map(|record| (record.addresses, record.host)).collect()
    };
    let blocks = if bare(cluster).await? { blocks(cluster).await? } else { Vec::new() };
    let router = netns::path(&cluster.record.vnet, &Part::Router);
    let keep = move || {
        netns::run(&router, || {
            let (mut links, mut wanted) = (BTreeSet::new(), BTreeSet::new());
            for (addresses, host) in &hosts {
                let Ok(index) = if_nametoindex(vnet::port(*host).as_str()) else { continue };
                links.insert(index);
                let own = blocks.iter().filter(|(_, node_ip)| addresses.contains(node_ip));
                wanted.extend(own.map(|(block, node_ip)| (*block, index, *node_ip)));
            }
            Wire::open()?.fabric_routes(&links, &wanted)
        })
    };
    tokio::task::spawn_blocking(keep).await.context("a worker died")?
}

/// Whether nodes take bare packets of pods.
async fn bare(cluster: &Cluster) -> Result<bool> {
    let api: Api<ClusterNetwork> = Api::all(cluster.client.clone());
    let network = api.get_opt(CLUSTER_NETWORK).await?;
    let routing = network.and_then(|network| network.status).and_then(|status| status.routing);
    Ok(routing.map_or(!cluster.record.tunnels(), |routing| routing.accepts.contains(&Carrier::Native)))
}

/// Blocks with their node's address, as the controller has announced them.
async fn blocks(cluster: &Cluster) -> Result<Vec<(Cidr, IpAddr)>> {
    let api: Api<NodeNetworkConfig> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let configs = api.list(&ListParams::default()).await?.items;
    let containers =
        configs.into_iter().filter_map(|config| config.status).flat_map(|status| status.network_containers);
    Ok(containers
        .filter_map(|container| Some((container.primary_ip.parse().ok()?, container.node_ip.parse().ok()?)))
        .collect())
}
