//! Who leaves by egress gateways, as the cluster says it: gateways, the labels of namespaces and of this node's pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use overlane_api::convert;
use overlane_api::crd::EgressGatewayStatus;
use overlane_core::egress::Gateway;
use overlane_core::labels::Labels;

use super::fold::KEEP_MS;
use super::item::{Change, Named};
use super::kept::Kept;
use crate::leaving::{PodFacts, Selection};

/// What was heard, and what follows from it.
#[derive(Debug, Default)]
pub struct Leavers {
    pub(super) gateways: Kept<String, Box<EgressGatewayStatus>>,
    pub(super) namespaces: Kept<String, Labels>,
    pub(super) pods: Kept<(String, String), PodFacts>,
    /// Gateways that no list names any more, and since when.
    missing: BTreeMap<String, u64>,
    selection: Option<Arc<Selection>>,
    faults: Vec<String>,
}

impl Leavers {
    /// Whether it matters what labels pods have.
    pub fn asks_pods(&self) -> bool {
        self.gateways.items().values().any(|status| status.applied.is_some())
    }

    /// Whether that is known, where it matters.
    pub fn are_known(&self) -> bool {
        !self.asks_pods() || self.selection.is_some()
    }

    /// Whether every source of it was heard.
    pub fn are_heard(&self) -> bool {
        self.pods.heard() && self.namespaces.heard()
    }

    /// What says who leaves by what; `None` where there are no gateways.
    pub fn selection(&self) -> Option<Arc<Selection>> {
        self.selection.clone()
    }

    /// Gateways that cannot be understood, and why.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Takes a word of gateways; whether anything follows. One that a list merely does not name is kept for a while: its
    /// pods would leave as their nodes.
    pub fn take_gateway(&mut self, change: Change<Named<Box<EgressGatewayStatus>>>, now_ms: u64) -> bool {
        match &change {
            Change::Applied((name, _)) | Change::Gone((name, _)) => _ = self.missing.remove(name),
            Change::Begin | Change::Listed(_) | Change::Done => {}
        }
        if change != Change::Done {
            let news = self.gateways.take(change);
            return self.follow(news);
        }
        let before = self.gateways.items().clone();
        let news = self.gateways.take(change);
        for (name, status) in before {
            if self.gateways.items().contains_key(&name) {
                self.missing.remove(&name);
            } else {
                self.gateways.keep(name.clone(), status);
                self.missing.entry(name).or_insert(now_ms);
            }
        }
        self.follow(news)
    }

    /// The same of namespaces.
    pub fn take_namespace(&mut self, change: Change<Named<Labels>>) -> bool {
        let news = self.namespaces.take(change);
        self.follow(news)
    }

    /// The same of pods.
    pub fn take_pod(&mut self, change: Change<((String, String), PodFacts)>) -> bool {
        let news = self.pods.take(change);
        self.follow(news)
    }

    /// What is known of namespaces.
    pub const fn namespaces(&self) -> &BTreeMap<String, Labels> {
        self.namespaces.items()
    }

    /// What is known of this node's pods, by namespace and name.
    pub const fn pods(&self) -> &BTreeMap<(String, String), PodFacts> {
        self.pods.items()
    }

    /// Pods and namespaces are not followed any more.
    pub fn forget_pods(&mut self) -> bool {
        self.namespaces.clear();
        self.pods.clear();
        self.follow(true)
    }

    fn follow(&mut self, news: bool) -> bool {
        if news {
            self.select();
        }
        news
    }

    /// Gives up gateways that have been missing for too long; whether there were any.
    pub fn expire(&mut self, now_ms: u64) -> bool {
        let overdue = self.missing.iter().filter(|(_, since)| now_ms >= since.saturating_add(KEEP_MS));
        let names: Vec<String> = overdue.map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.missing.remove(name);
            self.gateways.forget(name);
        }
        self.follow(!names.is_empty())
    }

    /// Since when gateways are missing.
    pub fn missing_since(&self) -> impl Iterator<Item = u64> + '_ {
        self.missing.values().copied()
    }

    /// Works out what is selected. Until pods and namespaces are heard, what was in force stays.
    pub(super) fn select(&mut self) {
        if !self.asks_pods() {
            (self.selection, self.faults) = (None, Vec::new());
            return;
        }
        if !self.are_heard() {
            return;
        }
        let mut gateways = Vec::new();
        self.faults.clear();
        for (name, status) in self.gateways.items() {
            match convert::gateway(name, status) {
                Ok(gateway) => gateways.extend(gateway),
                Err(fault) => {
                    self.faults.push(format!("EgressGateway {name}: {fault}; pods that it chooses are cut"));
                    gateways.extend(without_slots(name, status));
                }
            }
        }
        self.selection = Some(Arc::new(Selection {
            gateways,
            namespaces: self.namespaces.items().clone(),
            pods: self.pods.items().clone(),
        }));
    }
}

/// What a gateway is known to choose, with nowhere to go.
fn without_slots(name: &str, status: &EgressGatewayStatus) -> Option<Gateway> {
    let mut bare = status.clone();
    bare.slots.clear();
    if let Some(applied) = &mut bare.applied {
        applied.destination_cidrs.clear();
    }
    convert::gateway(name, &bare).ok().flatten()
}
