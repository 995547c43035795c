//! The last complete view on file, so that an agent that starts without an API server knows the cluster.
//!
//! Written whole and renamed; of this boot only.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use overlane_api::convert::{mac, mac_text, routing_state, routing_words};
use overlane_api::crd::{ClusterNetworkSpec, EgressGatewayStatus, RoutingState};
use overlane_core::family::Family;
use overlane_core::ipam::Block;
use overlane_core::labels::Labels;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fold::{Entry, Fold, MapData};
use super::item::{NodeConfig, NodeFacts};
use crate::leaving::PodFacts;

/// File name in the run dir.
pub const FILE: &str = "view.json";
/// The same of what is known of who leaves by egress gateways.
pub const LEAVING: &str = "leaving.json";
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

/// Who leaves by egress gateways: a file of its own, which is small and changes with every pod.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CachedLeaving {
    format: u32,
    boot_id: String,
    gateways: Vec<(String, EgressGatewayStatus)>,
    namespaces: Vec<(String, Labels)>,
    /// With namespace and name.
    pods: Vec<(String, String, PodFacts)>,
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

/// The bytes of [`LEAVING`]; `None` where there are no gateways, or it is not known yet who leaves by them.
pub fn encode_leaving(fold: &Fold, boot_id: &str) -> anyhow::Result<Option<Vec<u8>>> {
    if !fold.asks_pods() || !fold.leavers.are_heard() {
        return Ok(None);
    }
    serde_json::to_vec(&cached_leaving(fold, boot_id)).map(Some).context("encode who leaves by egress gateways")
}

fn cached_leaving(fold: &Fold, boot_id: &str) -> CachedLeaving {
    // Conditions are for people.
    let of = |status: &EgressGatewayStatus| EgressGatewayStatus { conditions: Vec::new(), ..status.clone() };
    let pod =
        |((namespace, name), facts): (&(String, String), &PodFacts)| (namespace.clone(), name.clone(), facts.clone());
    CachedLeaving {
        format: FORMAT,
        boot_id: boot_id.to_owned(),
        gateways: fold.leavers.gateways.items().iter().map(|(name, status)| (name.clone(), of(status))).collect(),
        namespaces: fold
            .leavers
            .namespaces
            .items()
            .iter()
            .map(|(name, labels)| (name.clone(), labels.clone()))
            .collect(),
        pods: fold.leavers.pods.items().iter().map(pod).collect(),
    }
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

/// Writes [`LEAVING`], or takes it away.
pub fn write_leaving(dir: &Path, bytes: Option<&[u8]>) -> anyhow::Result<()> {
    let Some(bytes) = bytes else {
        let path = dir.join(LEAVING);
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("delete {}", path.display()))
            }
            _ => Ok(()),
        };
    };
    write_file(dir.join(LEAVING), bytes)
}

/// Writes the view's file, whole or not at all.
pub fn write(dir: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_file(dir.join(FILE), bytes)
}

fn write_file(path: PathBuf, bytes: &[u8]) -> anyhow::Result<()> {
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
    let Some(cached) = read_file::<Cached>(&dir.join(FILE))? else { return Ok(false) };
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
    if let Some(CachedLeaving { gateways, namespaces, pods, .. }) = load_leaving(dir, boot_id)? {
        fold.leavers.gateways.load(gateways.into_iter().map(|(name, status)| (name, Box::new(status))));
        fold.leavers.namespaces.load(namespaces);
        fold.leavers.pods.load(pods.into_iter().map(|(namespace, name, facts)| ((namespace, name), facts)));
        fold.leavers.select();
    }
    Ok(true)
}

fn load_leaving(dir: &Path, boot_id: &str) -> anyhow::Result<Option<CachedLeaving>> {
    let cached = read_file::<CachedLeaving>(&dir.join(LEAVING))?;
    Ok(cached.filter(|cached| cached.format == FORMAT && cached.boot_id == boot_id))
}

/// What a file says; `None` where there is none.
fn read_file<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    serde_json::from_slice(&bytes).map(Some).with_context(|| format!("decode {}", path.display()))
}
