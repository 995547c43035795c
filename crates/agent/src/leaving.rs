//! By which egress gateways each pod of this node leaves the cluster.
//!
//! A pod is known by the labels of its object and of its namespace. One that is not known yet sends nothing out of the
//! cluster until it is; what is known outlives a restart, with the view on file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use overlane_api::policy;
use overlane_core::egress::{Gateway, slots_of};
use overlane_core::ipam::{Lease, LeaseKind, PodName};
use overlane_core::labels::Labels;
use overlane_datapath::nft::PodChange;
use serde::{Deserialize, Serialize};

/// Where the kubelet notes on a static pod's object what it calls the pod.
const STATIC_UID: &str = "kubernetes.io/config.hash";

/// What counts of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodFacts {
    /// Its UID.
    pub uid: String,
    /// Of a static pod's object: what the kubelet calls the pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub static_uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Its ports that have names, each with the protocol's number and its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<(String, u8, u16)>,
    /// It has ended: its address is nobody's to policies.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

impl PodFacts {
    /// What counts of the object.
    #[must_use]
    pub fn of(object: &Pod) -> Self {
        let static_uid = object.annotations().get(STATIC_UID).cloned().unwrap_or_default();
        let ports = policy::named_ports(object).into_iter();
        let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            uid: object.uid().unwrap_or_default(),
            static_uid,
            labels: object.labels().clone(),
            ports: ports.map(|port| (port.name, port.protocol.number(), port.port)).collect(),
            ended: matches!(phase, Some("Succeeded" | "Failed")),
        }
    }

    /// Whether they are of the pod that a lease names.
    #[must_use]
    pub fn are_of(&self, pod: &PodName) -> bool {
        pod.uid.is_empty() || pod.uid == self.uid || pod.uid == self.static_uid
    }
}

/// What says who leaves by which gateways.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// The gateways in force.
    pub gateways: Vec<Gateway>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// The pods of this node, by namespace and name.
    pub pods: BTreeMap<(String, String), PodFacts>,
}

impl Selection {
    /// The slots that a pod leaves by; `None` where that is not known. An attachment that is no pod's leaves by none.
    pub fn slots(&self, lease: &Lease) -> Option<BTreeSet<u8>> {
        let Some(pod) = &lease.pod else { return Some(BTreeSet::new()) };
        let namespace = self.namespaces.get(&pod.namespace)?;
        let facts = self.pods.get(&(pod.namespace.clone(), pod.name.clone()))?;
        facts.are_of(pod).then(|| slots_of(&self.gateways, namespace, &facts.labels, &pod.name))
    }

    /// Whether a pod of this node leaves by a gateway.
    pub fn chooses(&self) -> bool {
        self.pods.iter().any(|((namespace, name), facts)| {
            let labels = self.namespaces.get(namespace);
            labels.is_some_and(|labels| !slots_of(&self.gateways, labels, &facts.labels, name).is_empty())
        })
    }
}

/// The selection in force on this node; `None` where there are no gateways.
///
/// Who decides about a lease holds it meanwhile: ADDs together, and the reconciler alone, which looks at all leases that there
/// are.
#[derive(Debug, Default)]
pub struct Leaving {
    selection: RwLock<Option<Arc<Selection>>>,
}

impl Leaving {
    /// Holds it, to decide about one lease.
    pub fn hold(&self) -> RwLockReadGuard<'_, Option<Arc<Selection>>> {
        self.selection.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds it, to decide about all of them.
    pub fn hold_alone(&self) -> RwLockWriteGuard<'_, Option<Arc<Selection>>> {
        self.selection.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the packet filter is to be told of a lease.
pub fn decide(selection: &Selection, lease: &Lease) -> Vec<PodChange> {
    if lease.kind == LeaseKind::Gateway {
        return Vec::new();
    }
    let slots = selection.slots(lease);
    lease.addresses.iter().map(|address| PodChange::Decide(*address, slots.clone())).collect()
}

/// What leases should leave by, of those that it is known of.
pub fn wanted(selection: &Selection, leases: &[Lease]) -> BTreeMap<IpAddr, BTreeSet<u8>> {
    let mut wanted = BTreeMap::new();
    for lease in leases.iter().filter(|lease| lease.kind != LeaseKind::Gateway) {
        if let Some(slots) = selection.slots(lease) {
            wanted.extend(lease.addresses.iter().map(|address| (*address, slots.clone())));
        }
    }
    wanted
}
