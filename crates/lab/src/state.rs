//! What a lab remembers of itself, so that any later command, and a daemon that starts again, finds everything.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_datapath::mac::{self, Mac};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::LabError;
use crate::fabric::Underlay;
use crate::files;
use crate::kubernetes::KubernetesPrograms;
use crate::names::LabName;
use crate::paths::{LabPaths, ROOT};
use crate::process::ProcessId;
use crate::vnet::VnetWish;

/// Version of the records' format.
pub const FORMAT: u32 = 1;

/// A lab.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The lab's name.
    pub name: LabName,
    /// The VNet that it is in.
    pub vnet: LabName,
    /// Families of the nodes' addresses, the primary one first: `IPv4`, `IPv6`.
    pub families: Vec<String>,
    /// How many nodes `up` was asked for.
    pub nodes: u32,
    /// The ClusterNetwork `default`, as an object of the API.
    pub cluster_network: Value,
    /// Most pods that a kubelet here says it runs.
    pub max_pods: u32,
    /// MTU of the VNet, where asked for, in bytes.
    pub mtu: Option<u32>,
    /// What lies between the nodes of the VNet, where asked for.
    #[serde(default)]
    pub underlay: Option<Underlay>,
    /// Packets of a hundred that the VNet loses, where asked for.
    #[serde(default)]
    pub loss: Option<u32>,
    /// Further arguments of every agent.
    pub agent_args: Vec<String>,
    /// Further arguments of every controller.
    pub controller_args: Vec<String>,
    /// How many controllers run.
    pub controllers: u32,
    /// The programs of the real API, for a lab that has it.
    #[serde(default)]
    pub kubernetes: Option<KubernetesPrograms>,
    /// The daemon, once it has started.
    pub daemon: Option<ProcessId>,
    /// Where the API is served, once it is.
    pub api: Option<ApiRecord>,
    /// Whether all nodes that were asked for have been made: from then on they come and go by command only.
    #[serde(default)]
    pub complete: bool,
}

/// Where a lab's API is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiRecord {
    /// Inside the VNet, for agents and controllers.
    pub vnet_url: String,
    /// On this machine's loopback, for kubectl. The path holds a secret: whoever may create pods here runs programs as
    /// root.
    pub local_url: String,
}

impl LabRecord {
    /// Whether pods' packets cross nodes in a tunnel alone, by what `up` was asked for.
    pub fn tunnels(&self) -> bool {
        self.cluster_network["spec"]["routing"] == "vxlan"
    }

    /// Its pod CIDRs, by what `up` was asked for.
    pub fn pod_cidrs(&self) -> Vec<Cidr> {
        let listed = self.cluster_network["spec"]["podCIDRs"].as_array();
        listed.into_iter().flatten().filter_map(|cidr| cidr.as_str()?.parse().ok()).collect()
    }

    /// What it asks of its VNet.
    pub fn vnet_wish(&self) -> VnetWish {
        VnetWish { mtu: self.mtu, underlay: self.underlay, loss: self.loss }
    }

    /// The families that its pods have.
    pub fn pod_families(&self) -> Vec<Family> {
        let listed = self.cluster_network["spec"]["ipFamilies"].as_array();
        let found: Vec<Family> =
            listed.into_iter().flatten().filter_map(|family| family.as_str()?.parse().ok()).collect();
        if found.is_empty() { self.families().unwrap_or_default() } else { found }
    }

    /// The families of the nodes as values.
    pub fn families(&self) -> Result<Vec<Family>> {
        self.families.iter().map(|text| text.parse().context("read the lab's families")).collect()
    }

    /// In what this lab is not as `other` is asked for; what only a running lab knows is left out.
    pub fn differences(&self, other: &Self) -> Result<Vec<String>> {
        let fields = |record: &Self| -> Result<Value> {
            let asked = Self { daemon: None, api: None, complete: false, ..record.clone() };
            serde_json::to_value(asked).context("encode a lab's record")
        };
        let (mine, theirs) = (fields(self)?, fields(other)?);
        let mine =
            mine.as_object().into_iter().flatten().filter(|(key, value)| theirs.get(key.as_str()) != Some(value));
        let told = mine.map(|(key, value)| {
            let name = key.replace('_', "-");
            match (value, theirs.get(key.as_str())) {
                // One word says which; a list or an object says too much.
                (Value::Number(has), Some(asked)) => format!("{name}: {has}, asked for {asked}"),
                _ => name,
            }
        });
        Ok(told.collect())
    }

    /// Reads a lab's record; an error that lists the labs there are if there is none.
    pub fn load(name: &LabName) -> Result<Self> {
        Self::find(name)?.ok_or_else(|| LabError::NotUp { lab: name.to_string(), exist: labs() }.into())
    }

    /// Reads a lab's record, if there is one.
    pub fn find(name: &LabName) -> Result<Option<Self>> {
        files::read_json(&LabPaths::of(name).record())
    }

    /// Writes it.
    pub fn save(&self) -> Result<()> {
        files::write_json(&LabPaths::of(&self.name).record(), self)
    }
}

/// Names of the labs that have a directory.
pub fn labs() -> Vec<String> {
    files::names(Path::new(ROOT)).into_iter().filter(|name| name.parse::<LabName>().is_ok()).collect()
}

/// A node's machine: what stays the same until it is thrown away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    /// Name of the Node object.
    pub name: String,
    /// Its number.
    pub number: u32,
    /// Host number on the node subnet.
    pub host: u32,
    /// MAC of `eth0`, as `02:...`.
    pub mac: String,
    /// `spec.providerID`.
    pub provider_id: String,
    /// Addresses, one a family, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Boot id; another one after each reboot.
    pub boot_id: String,
}

impl NodeRecord {
    /// All nodes of a lab, by number.
    pub fn all(paths: &LabPaths) -> Result<Vec<Self>> {
        let mut nodes = Vec::new();
        for name in files::names(&paths.nodes()) {
            nodes.extend(files::read_json::<Self>(&paths.node(&name).record())?);
        }
        nodes.sort_by_key(|node| node.number);
        Ok(nodes)
    }

    /// One node; an error that lists the nodes there are if it is not among them.
    pub fn load(lab: &LabName, name: &str) -> Result<Self> {
        let all = Self::all(&LabPaths::of(lab))?;
        let exist = all.iter().map(|node| node.name.clone()).collect();
        all.into_iter().find(|node| node.name == name).ok_or_else(|| {
            LabError::Unknown { kind: "node", name: name.to_owned(), lab: lab.to_string(), exist }.into()
        })
    }

    /// The MAC as bytes.
    pub fn mac_bytes(&self) -> Option<Mac> {
        mac::parse(&self.mac)
    }
}
