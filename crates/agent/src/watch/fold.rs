//! Folds what the sources say into one view.
//!
//! Pure: time comes in, a view goes out. What an explicit deletion removes goes at once; what a new list merely does
//! not name any more (a store restored from the past, a compacted one) is kept for a while, unless somebody else was
//! given its block.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use overlane_api::convert::{self, ConvertError};
use overlane_api::crd::{CLUSTER_NETWORK, ClusterNetworkSpec, NAMESPACE, NodeStateSpec, OutboundType};
use overlane_core::cidr::{Cidr, outermost};
use overlane_core::cluster::{ClusterPlan, Finding, NetworkPolicy, RoutingState, validate};
use overlane_core::family::Family;
use overlane_core::masq::{MasqFragment, merge};
use overlane_core::plan::Peer;

use super::item::{Change, ClusterWord, Item, Named, NodeConfig, NodeFacts};
use super::leavers::Leavers;
use super::policies::Policies;
use super::view::{Own, View};
use crate::policy;

/// How long what is missing is kept.
pub const KEEP_MS: u64 = 60_000;
/// How long nodes are waited for that have not said what their pods are like, when there are policies for the first time.
const SLICES_MS: u64 = 30_000;

/// A node's configuration and since when no list names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub(super) config: NodeConfig,
    pub(super) missing_since: Option<u64>,
    /// Why what it says now means nothing; `config` is what it said before.
    pub(super) fault: Option<ConvertError>,
}

impl Entry {
    pub(super) fn new(config: NodeConfig) -> Self {
        Self { config, missing_since: None, fault: None }
    }

    fn next(before: Option<&Self>, now: Result<NodeConfig, ConvertError>) -> Self {
        match now {
            Ok(config) => Self::new(config),
            Err(fault) => {
                let config = before.map(|entry| entry.config.clone()).unwrap_or_default();
                Self { config, missing_since: None, fault: Some(fault) }
            }
        }
    }
}

/// Data of a ConfigMap by key.
pub type MapData = Vec<(String, String)>;

/// Everything that was heard.
#[derive(Debug)]
pub struct Fold {
    own_name: String,
    watches: usize,
    heard: BTreeSet<Source>,
    pub(super) cluster: Option<ClusterNetworkSpec>,
    pub(super) routing: Option<RoutingState>,
    plan: Option<Arc<ClusterPlan>>,
    findings: Vec<Finding>,
    pub(super) configs: BTreeMap<String, Entry>,
    listing: Option<BTreeMap<String, Entry>>,
    /// By watch and name.
    pub(super) maps: BTreeMap<(usize, String), MapData>,
    listed_maps: BTreeMap<usize, BTreeSet<String>>,
    pub(super) node: Option<NodeFacts>,
    /// Blocks that were given to this node in this boot.
    pub(super) known: BTreeSet<Cidr>,
    /// The node's addresses as the controller last told them: what is routed by them stays routed while it says nothing.
    pub(super) told_ips: BTreeMap<Family, IpAddr>,
    /// The own NodeState as the API has it; `None` while it is not known, then present or absent.
    state: Option<Option<Box<NodeStateSpec>>>,
    state_listed: bool,
    peers: Option<Arc<Vec<Peer>>>,
    pub(super) leavers: Leavers,
    policies: Policies,
    /// Every node had said what its pods are like, or was waited for, until when.
    settled: bool,
    slices_due: Option<u64>,
    was_complete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Cluster,
    Configs,
    Maps(usize),
    Node,
    Gateways,
}

/// What a word changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing that anybody acts upon yet.
    None,
    /// The view.
    View,
    /// The own NodeState in the API.
    State,
}

impl Fold {
    /// Nothing heard. `watches` is how many watches for ConfigMaps there are.
    pub fn new(own_name: &str, watches: usize) -> Self {
        Self {
            own_name: own_name.to_owned(),
            watches,
            heard: BTreeSet::new(),
            cluster: None,
            routing: None,
            plan: None,
            findings: Vec::new(),
            configs: BTreeMap::new(),
            listing: None,
            maps: BTreeMap::new(),
            listed_maps: BTreeMap::new(),
            node: None,
            known: BTreeSet::new(),
            told_ips: BTreeMap::new(),
            state: None,
            state_listed: false,
            peers: None,
            leavers: Leavers::default(),
            policies: Policies::default(),
            settled: false,
            slices_due: None,
            was_complete: false,
        }
    }

    /// Whether every source has been heard in full. Pods and namespaces are heard only where there are gateways; those that come
    /// later count once they are.
    pub fn complete(&self) -> bool {
        let knows_leavers = self.was_complete || self.leavers.are_known();
        self.heard.len() == 4 + self.watches && knows_leavers
    }

    /// Whether it matters what labels this node's pods have.
    pub fn asks_pods(&self) -> bool {
        self.leavers.asks_pods() || self.asks_slices()
    }

    /// Whether it matters what other nodes' pods are like.
    pub fn asks_slices(&self) -> bool {
        self.policies.any() && self.is_policed()
    }

    fn is_policed(&self) -> bool {
        self.plan.as_ref().is_none_or(|plan| plan.network_policy() == NetworkPolicy::Overlane)
    }

    /// Whether every other node has said what its pods are like, or long enough was waited for that. Before, pods that policies
    /// allow would be nobody: what runs is not cut for it.
    fn has_slices(&mut self, now_ms: u64) -> bool {
        if !self.policies.any() {
            (self.settled, self.slices_due) = (false, None);
            return true;
        }
        let slices = self.policies.slices();
        let mut nodes = self.configs.keys().filter(|name| **name != self.own_name);
        if !self.settled && !nodes.all(|name| slices.contains_key(name)) {
            let due = *self.slices_due.get_or_insert(now_ms.saturating_add(SLICES_MS));
            if now_ms < due {
                return false;
            }
        }
        self.settled = true;
        true
    }

    /// Whether [`Self::policy_news`] waits for nodes to say what their pods are like.
    pub const fn waits_for_slices(&self) -> bool {
        self.slices_due.is_some() && !self.settled
    }

    /// What network policy depends on, if anything of it is new and all of it is known.
    pub fn policy_news(&mut self, now_ms: u64) -> Option<policy::View> {
        let heard = self.policies.are_heard() && (!self.policies.any() || self.leavers.are_heard());
        if !heard || !self.has_slices(now_ms) || !self.policies.take_news() {
            return None;
        }
        let slices = self.policies.slices();
        let blocks = self.configs.iter().filter(|(name, _)| slices.contains_key(*name));
        let blocks = blocks.map(|(name, entry)| {
            let blocks = entry.config.blocks.iter().map(|block| block.cidr);
            (name.clone(), blocks.collect())
        });
        Some(policy::View {
            policies: self.policies.all(),
            namespaces: self.leavers.namespaces().clone(),
            pods: self.leavers.pods().clone(),
            slices: slices.clone(),
            blocks: blocks.collect(),
        })
    }

    /// The own NodeState in the API, once that is known.
    pub fn state(&self) -> Option<Option<&NodeStateSpec>> {
        self.state.as_ref().map(Option::as_deref)
    }

    /// Takes a word.
    pub fn take(&mut self, item: Item, now_ms: u64) -> Effect {
        match item {
            Item::Cluster(change) => self.take_cluster(change),
            Item::Config(change) => self.take_config(change, now_ms),
            Item::Maps(watch, change) => self.take_map(watch, change),
            Item::Node(change) => self.take_node(change),
            Item::State(change) => self.take_state(change),
            Item::Gateway(change) => {
                let first = change == Change::Done && self.heard.insert(Source::Gateways);
                viewed(self.leavers.take_gateway(change, now_ms) || first)
            }
            Item::Namespace(change) => {
                let news = self.leavers.take_namespace(change);
                self.of_pods(news)
            }
            Item::Pod(change) => {
                let news = self.leavers.take_pod(change);
                self.of_pods(news)
            }
            // The watch may have told of a later one by now.
            Item::FoundPod(name, facts) => {
                let known = self.leavers.pods().get(&name).is_some_and(|known| known.uid == facts.uid);
                let news = !known && self.leavers.take_pod(Change::Applied((name, facts)));
                self.of_pods(news)
            }
            Item::NoPods => {
                let news = self.leavers.forget_pods();
                self.of_pods(news)
            }
            Item::Policy(change) => {
                self.policies.take_policy(change);
                Effect::None
            }
            Item::ClusterPolicy(change) => {
                self.policies.take_cluster_policy(change);
                Effect::None
            }
            Item::Slice(change) => {
                self.policies.take_slice(change);
                Effect::None
            }
            Item::NoSlices => {
                self.policies.forget_slices();
                (self.settled, self.slices_due) = (false, None);
                Effect::None
            }
        }
    }

    /// What follows from news of pods or namespaces.
    fn of_pods(&mut self, news: bool) -> Effect {
        self.policies.note(news);
        viewed(news && self.leavers.asks_pods())
    }

    fn take_cluster(&mut self, change: Change<Named<Box<ClusterWord>>>) -> Effect {
        match change {
            Change::Listed((name, word)) | Change::Applied((name, word)) if name == CLUSTER_NETWORK => {
                self.set_cluster(*word);
                Effect::View
            }
            Change::Done => {
                self.heard.insert(Source::Cluster);
                Effect::View
            }
            // A ClusterNetwork that is gone leaves what is networked as it is.
            _ => Effect::None,
        }
    }

    /// What the controller has put in force counts: it may refuse a spec that is valid in itself, for what nodes have.
    /// What is asked for counts only where nothing was in force yet and nobody has refused it: the first nodes do not
    /// wait for a status.
    fn set_cluster(&mut self, word: ClusterWord) {
        self.findings = validate(&convert::cluster_spec(&word.asked)).err().unwrap_or_default();
        let first = (self.cluster.is_none() && !word.refused).then_some(word.asked);
        if let Some(spec) = word.in_force.or(first) {
            self.put_in_force(spec, word.routing);
        }
    }

    pub(super) fn put_in_force(&mut self, mut spec: ClusterNetworkSpec, routing: Option<RoutingState>) {
        // A controller of an older version leaves them in what it put in force, and knows nothing of them.
        if spec.outbound_type != OutboundType::UserDefinedRouting {
            spec.egress.next_hops.clear();
            spec.egress.keep_pod_address = false;
        }
        match validate(&convert::cluster_spec(&spec)) {
            Ok(plan) => {
                let told = routing.filter(|told| told.sends == plan.routing());
                self.routing = Some(told.unwrap_or_else(|| RoutingState::settled(plan.routing())));
                self.plan = Some(Arc::new(plan));
                self.cluster = Some(spec);
            }
            Err(findings) => self.findings = findings,
        }
    }

    fn take_config(&mut self, change: Change<Named<Result<NodeConfig, ConvertError>>>, now_ms: u64) -> Effect {
        match change {
            Change::Begin => {
                self.listing = Some(BTreeMap::new());
                return Effect::None;
            }
            Change::Listed((name, config)) => {
                let entry = Entry::next(self.configs.get(&name), config);
                self.listing.get_or_insert_default().insert(name, entry);
                return Effect::None;
            }
            Change::Done => {
                let listed = self.listing.take().unwrap_or_default();
                let before = std::mem::replace(&mut self.configs, listed);
                for (name, mut old) in before {
                    old.missing_since.get_or_insert(now_ms);
                    self.configs.entry(name).or_insert(old);
                }
                let present: Vec<Cidr> = self
                    .configs
                    .values()
                    .filter(|entry| entry.missing_since.is_none())
                    .flat_map(|entry| entry.config.blocks.iter().map(|block| block.cidr))
                    .collect();
                self.drop_displaced(present.into_iter());
                self.heard.insert(Source::Configs);
            }
            Change::Applied((name, config)) => {
                let entry = Entry::next(self.configs.get(&name), config);
                if self.configs.get(&name) == Some(&entry) {
                    return Effect::None;
                }
                let blocks: Vec<Cidr> = entry.config.blocks.iter().map(|block| block.cidr).collect();
                self.configs.insert(name, entry);
                self.drop_displaced(blocks.into_iter());
            }
            Change::Gone((name, _)) => {
                if self.configs.remove(&name).is_none() {
                    return Effect::None;
                }
            }
        }
        self.peers = None;
        let asks = self.asks_slices();
        self.policies.note(asks);
        Effect::View
    }

    /// What is missing and overlaps a block that somebody is known to have, is over.
    fn drop_displaced(&mut self, present: impl Iterator<Item = Cidr>) {
        let present = outermost(present);
        // None of these lies in another: what overlaps is right before or right behind.
        let taken = |block: &Cidr| {
            let around = present.range(..=block).next_back().into_iter().chain(present.range(block..).next());
            around.into_iter().any(|other| other.overlaps(block))
        };
        self.configs
            .retain(|_, e| e.missing_since.is_none() || !e.config.blocks.iter().any(|block| taken(&block.cidr)));
    }

    /// Gives up what has been missing for too long.
    pub fn expire(&mut self, now_ms: u64) -> Effect {
        let before = self.configs.len();
        let is_over = |since: u64| now_ms >= since.saturating_add(KEEP_MS);
        self.configs.retain(|_, entry| !entry.missing_since.is_some_and(is_over));
        let gateways = self.leavers.expire(now_ms);
        if self.configs.len() == before && !gateways {
            return Effect::None;
        }
        self.peers = None;
        Effect::View
    }

    /// When [`Self::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<u64> {
        let configs = self.configs.values().filter_map(|entry| entry.missing_since);
        configs.chain(self.leavers.missing_since()).min().map(|since| since.saturating_add(KEEP_MS))
    }

    fn take_map(&mut self, watch: usize, change: Change<Named<MapData>>) -> Effect {
        match change {
            Change::Begin => {
                self.listed_maps.insert(watch, BTreeSet::new());
                return Effect::None;
            }
            Change::Listed((name, data)) => {
                self.listed_maps.entry(watch).or_default().insert(name.clone());
                self.maps.insert((watch, name), data);
                return Effect::None;
            }
            Change::Done => {
                let listed = self.listed_maps.remove(&watch).unwrap_or_default();
                self.maps.retain(|(of, name), _| *of != watch || listed.contains(name));
                self.heard.insert(Source::Maps(watch));
            }
            Change::Applied((name, data)) => {
                if self.maps.insert((watch, name), data.clone()) == Some(data) {
                    return Effect::None;
                }
            }
            Change::Gone((name, _)) => _ = self.maps.remove(&(watch, name)),
        }
        Effect::View
    }

    fn take_node(&mut self, change: Change<NodeFacts>) -> Effect {
        match change {
            Change::Listed(facts) | Change::Applied(facts) => {
                if self.node.as_ref() == Some(&facts) {
                    return Effect::None;
                }
                self.node = Some(facts);
            }
            Change::Done => _ = self.heard.insert(Source::Node),
            // A Node that is gone while its machine runs may come back under its name; nothing follows from it.
            Change::Begin | Change::Gone(_) => return Effect::None,
        }
        Effect::View
    }

    fn take_state(&mut self, change: Change<Box<NodeStateSpec>>) -> Effect {
        match change {
            Change::Begin => {
                self.state_listed = false;
                return Effect::None;
            }
            Change::Listed(spec) => {
                self.state_listed = true;
                self.state = Some(Some(spec));
                return Effect::None;
            }
            Change::Applied(spec) => self.state = Some(Some(spec)),
            Change::Gone(_) => self.state = Some(None),
            Change::Done if !self.state_listed => self.state = Some(None),
            Change::Done => {}
        }
        Effect::State
    }

    /// The view as of now. Remembers the own blocks that are fit to be used.
    pub fn view(&mut self) -> View {
        self.was_complete |= self.complete();
        if let Some(entry) = self.configs.get(&self.own_name)
            && !entry.config.node_ips.is_empty()
        {
            self.told_ips.clone_from(&entry.config.node_ips);
        }
        let own = self.own();
        self.known.extend(own.blocks.iter().map(|block| block.cidr));
        let (lost, contested) = self.conflicts();
        let (masq, masq_faults) = self.masquerade();
        let own_name = self.own_name.clone();
        let faults = self.configs.iter().filter(|(name, _)| **name != own_name);
        let peer_faults =
            faults.filter_map(|(name, e)| Some(format!("NodeNetworkConfig {name}: {}", e.fault.as_ref()?))).collect();
        View {
            complete: self.complete(),
            cluster: self.plan.clone(),
            routing: self.routing.clone(),
            findings: self.findings.clone(),
            own,
            peers: self.peers(),
            lost,
            contested,
            known: self.known.clone(),
            peer_faults,
            masq,
            masq_faults,
            selection: self.leavers.selection(),
            gateway_faults: self.leavers.faults().to_vec(),
            max_pods: self.node.as_ref().and_then(|node| node.max_pods),
        }
    }

    fn own(&self) -> Own {
        let node = self.node.as_ref();
        let mut ips = BTreeMap::new();
        for ip in node.into_iter().flat_map(|node| node.addresses.iter().copied()) {
            ips.entry(Family::of(&ip)).or_insert(ip);
        }
        ips.extend(self.told_ips.iter());
        let Some(entry) = self.configs.get(&self.own_name) else {
            let missing = format!("there is no NodeNetworkConfig {}", self.own_name);
            return Own { missing: Some(missing), node_ips: ips, ..Own::default() };
        };
        let config = &entry.config;
        // The configuration of an earlier machine of this name is not this one's: its blocks count only if they were
        // this machine's before, under another Node object.
        let theirs = node.map(|node| node.uid.as_str()).filter(|uid| !uid.is_empty());
        let foreign = !config.node_uid.is_empty() && theirs.is_some_and(|uid| *uid != *config.node_uid);
        let mut blocks = config.blocks.to_vec();
        let mut missing = None;
        if foreign {
            blocks.retain(|block| self.known.contains(&block.cidr));
            missing = blocks.is_empty().then(|| {
                format!(
                    "NodeNetworkConfig {} speaks of an earlier Node of this name (UID {})",
                    self.own_name, config.node_uid
                )
            });
        } else if blocks.is_empty() {
            missing = Some(format!("NodeNetworkConfig {} names no block yet", self.own_name));
        }
        ips.extend(config.node_ips.iter());
        Own { blocks, node_ips: ips, missing, fault: entry.fault.as_ref().map(ToString::to_string) }
    }

    fn conflicts(&self) -> (BTreeMap<Cidr, String>, BTreeMap<Cidr, String>) {
        let mut lost = BTreeMap::new();
        let mut contested = BTreeMap::new();
        let ours: BTreeSet<Cidr> =
            self.configs.get(&self.own_name).into_iter().flat_map(|e| e.config.blocks.iter().map(|b| b.cidr)).collect();
        for block in ours.union(&self.known) {
            let others = self.configs.iter().filter(|(name, e)| **name != self.own_name && e.missing_since.is_none());
            let owner = others.into_iter().find(|(_, e)| e.config.blocks.iter().any(|b| b.cidr.overlaps(block)));
            let Some((name, _)) = owner else { continue };
            let list = if ours.contains(block) { &mut contested } else { &mut lost };
            list.insert(*block, name.clone());
        }
        (lost, contested)
    }

    fn masquerade(&self) -> (overlane_core::masq::MasqConfig, Vec<String>) {
        let mut faults = Vec::new();
        let mut fragments: Vec<MasqFragment> = Vec::new();
        let mut seen = BTreeSet::new();
        for ((_, name), data) in &self.maps {
            // One map may be heard by two watches.
            if !seen.insert(name) {
                continue;
            }
            for (key, text) in data {
                match convert::masq_fragment(&format!("{NAMESPACE}/{name}"), key, text) {
                    Ok(fragment) => fragments.push(fragment),
                    Err(fault) => faults.push(fault.to_string()),
                }
            }
        }
        let (config, findings) = merge(&fragments);
        faults.extend(findings.iter().map(ToString::to_string));
        (config, faults)
    }

    fn peers(&mut self) -> Arc<Vec<Peer>> {
        let (own, configs) = (&self.own_name, &self.configs);
        let make = || Arc::new(configs.iter().filter(|(n, _)| *n != own).map(|(n, e)| e.config.peer(n)).collect());
        Arc::clone(self.peers.get_or_insert_with(make))
    }
}

const fn viewed(news: bool) -> Effect {
    if news { Effect::View } else { Effect::None }
}
