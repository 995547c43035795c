//! The last complete view on file, so that an agent that starts without an API server knows the cluster.
//!
//! Written whole and renamed; of this boot only.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use overlane_api::convert::{mac, mac_text, routing_state, routing_words};
use overlane_api::crd::{ClusterNetworkSpec, RoutingState};
use overlane_core::family::Family;
use overlane_core::ipam::Block;
use serde::{Deserialize, Serialize};

use super::fold::{Entry, Fold, MapData};
use super::item::{NodeConfig, NodeFacts};

/// File name in the run dir.
pub const FILE: &str = "view.json";
/// The format that this build writes and reads; another one is passed over, the API server knows it all.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    format: u32,
    boot_id: String,
    #[serde(default)]
    cluster: Option<ClusterNetworkSpec>,
    #[serde(default)]
    routing: Option<RoutingState>,
    #[serde(default)]
    node: Option<NodeFacts>,
    #[serde(default)]
    known: Vec<String>,
    #[serde(default)]
    told_ips: Vec<IpAddr>,
    #[serde(default)]
    nodes: Vec<CachedNode>,
    #[serde(default)]
    maps: Vec<CachedMap>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CachedNode {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    mac: String,
    /// Each with its pair number.
    blocks: Vec<(String, u32)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ips: Vec<IpAddr>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CachedMap {
    watch: usize,
    name: String,
    data: MapData,
}

/// The file's bytes.
pub fn encode(fold: &Fold, boot_id: &str) -> anyhow::Result<Vec<u8>> {
    let nodes = fold.configs.iter().filter(|(_, entry)| entry.missing_since.is_none());
    let cached = Cached {
        format: FORMAT,
        boot_id: boot_id.to_owned(),
        cluster: fold.cluster.clone(),
        routing: fold.routing.as_ref().map(routing_words),
        node: fold.node.clone(),
        known: fold.known.iter().map(ToString::to_string).collect(),
        told_ips: fold.told_ips.values().copied().collect(),
        nodes: nodes.map(|(name, entry)| cached_node(name, &entry.config)).collect(),
        maps: fold
            .maps
            .iter()
            .map(|((watch, name), data)| CachedMap { watch: *watch, name: name.clone(), data: data.clone() })
            .collect(),
    };
    serde_json::to_vec(&cached).context("encode the view")
}

fn cached_node(name: &str, config: &NodeConfig) -> CachedNode {
    CachedNode {
        name: name.to_owned(),
        uid: config.node_uid.to_string(),
        mac: config.mac.as_ref().map(mac_text).unwrap_or_default(),
        blocks: config.blocks.iter().map(|block| (block.cidr.to_string(), block.pair)).collect(),
        ips: config.node_ips.values().copied().collect(),
    }
}

/// Writes the file, whole or not at all.
pub fn write(dir: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let path = dir.join(FILE);
    let fresh = path.with_extension("json.new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(|| format!("create {}", fresh.display()))?;
    file.write_all(bytes).with_context(|| format!("write {}", fresh.display()))?;
    std::fs::rename(&fresh, &path).with_context(|| format!("replace {}", path.display()))
}

/// Reads the file into a fold that has heard nothing yet. `false` if there is nothing that counts.
pub fn load(dir: &Path, boot_id: &str, fold: &mut Fold) -> anyhow::Result<bool> {
    let path = dir.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let cached: Cached = serde_json::from_slice(&bytes).with_context(|| format!("decode {}", path.display()))?;
    if cached.format != FORMAT || cached.boot_id != boot_id {
        return Ok(false);
    }
    if let Some(spec) = cached.cluster {
        fold.put_in_force(spec, cached.routing.as_ref().map(routing_state));
    }
    fold.node = cached.node;
    fold.known = cached.known.iter().filter_map(|text| text.parse().ok()).collect();
    fold.told_ips = cached.told_ips.iter().map(|ip| (Family::of(ip), *ip)).collect();
    for node in cached.nodes {
        let blocks =
            node.blocks.iter().filter_map(|(text, pair)| Some(Block { cidr: text.parse().ok()?, pair: *pair }));
        let config = NodeConfig {
            blocks: blocks.collect(),
            node_uid: node.uid.into(),
            node_ips: node.ips.iter().map(|ip| (Family::of(ip), *ip)).collect(),
            mac: mac("mac", &node.mac).unwrap_or_default(),
        };
        fold.configs.insert(node.name, Entry::new(config));
    }
    fold.maps = cached.maps.into_iter().map(|map| ((map.watch, map.name), map.data)).collect();
    Ok(true)
}
