//! Network policy on this node: from what the cluster says and which pods are here to the plan that the packet filter holds.
//!
//! A plan is made when a pod comes, in the ADD's own transaction, and when the cluster says something new. A pod that is not
//! known yet is in no plan, and nothing of it passes until it is.

mod flows;
pub mod log;
mod thread;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use overlane_core::cidr::Cidr;
use overlane_core::ipam::{Lease, LeaseKind, LeaseState, PodName};
use overlane_core::labels::Labels;
use overlane_core::policy::{Direction, NamedPort, OwnPod, Planner, Policy, PolicyPlan, Profile, Used};
use overlane_core::ports::Protocol;
use tokio::sync::mpsc::UnboundedSender;

use crate::leaving::PodFacts;
use crate::ledger::Ledger;
use crate::watch::policies::Slices;

pub use thread::{Wake, run};
use world::Known;

/// How long an ADD waits until it is known who its pod is. What is longer would have the runtime give up.
const PATIENCE: Duration = Duration::from_secs(3);
/// A pod that nobody has told of is asked for again after this.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What network policy depends on in the cluster, known in full.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The policies.
    pub policies: Vec<Arc<Policy>>,
    /// Labels of namespaces; empty where there are no policies.
    pub namespaces: BTreeMap<String, Labels>,
    /// This node's pods, by namespace and name; the same.
    pub pods: BTreeMap<(String, String), PodFacts>,
    /// Other nodes and their pods; the same.
    pub slices: Slices,
    /// Blocks by node, of those that have slices: a slice speaks of pods in these alone.
    pub blocks: BTreeMap<String, Vec<Cidr>>,
}

/// What it depends on besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ground {
    /// Whether network policy is in force at all.
    pub policed: bool,
    /// What nodes' own packets bear where they come in the tunnel, with the node's address.
    pub aliases: BTreeMap<IpAddr, IpAddr>,
    /// Where pods' addresses are.
    pub pod_space: BTreeSet<Cidr>,
}

/// Who a pod of this node is.
enum Who {
    /// A pod that policies may select.
    Pod(Arc<Profile>, Ended),
    /// Nobody whom policies are for.
    Nobody,
    /// Not known yet.
    Unknown,
}

type Ended = bool;

#[derive(Default)]
struct Inner {
    view: Option<View>,
    ground: Ground,
    known: Known,
    planner: Option<Planner>,
    plan: Option<Arc<PolicyPlan>>,
    /// The plan is not of what is known now.
    stale: bool,
}

/// Makes the plans.
pub struct Engine {
    node: String,
    ledger: Arc<Ledger>,
    inner: Mutex<Inner>,
    news: Condvar,
    /// Where to ask for pods by namespace and name.
    asked: OnceLock<UnboundedSender<(String, String)>>,
    wake: OnceLock<std::sync::mpsc::Sender<Wake>>,
}

impl Engine {
    /// Knows nothing yet.
    pub fn new(node: &str, ledger: Arc<Ledger>) -> Self {
        Self {
            node: node.to_owned(),
            ledger,
            inner: Mutex::default(),
            news: Condvar::new(),
            asked: OnceLock::new(),
            wake: OnceLock::new(),
        }
    }

    /// From now on pods are asked for there.
    pub fn ask_at(&self, asked: UnboundedSender<(String, String)>) {
        let _ = self.asked.set(asked);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread look again.
    pub fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            let _ = wake.send(Wake::News);
        }
    }

    /// The cluster has said something new.
    fn see(&self, view: View) {
        let mut inner = self.lock();
        inner.known.see(&self.node, &view);
        inner.view = Some(view);
        inner.stale = true;
        drop(inner);
        self.news.notify_all();
    }

    /// What a plan stands on besides, as the reconciler sees it.
    pub fn stand_on(&self, ground: Ground) {
        let mut inner = self.lock();
        if inner.ground == ground {
            return;
        }
        inner.known.stand_on(&ground);
        // What is not followed any more is old when it counts again.
        if !ground.policed && inner.view.as_ref().is_some_and(|view| !view.policies.is_empty()) {
            inner.view = None;
        }
        inner.ground = ground;
        inner.stale = true;
        drop(inner);
        self.news.notify_all();
        self.wake();
    }

    /// A pod comes: the next plan has it.
    pub fn comes(&self) {
        self.lock().stale = true;
    }

    /// Pods went: some plan soon is without them.
    pub fn went(&self) {
        self.lock().stale = true;
        self.wake();
    }

    /// Waits until it is known who a lease's pod is, at most until the deadline, and less than that. Whether it is.
    pub fn wait_for(&self, lease: &Lease, left: Duration) -> bool {
        let until = Instant::now() + PATIENCE.min(left / 2);
        let mut ask = Instant::now();
        let mut inner = self.lock();
        loop {
            if !matches!(inner.who(lease), Who::Unknown) {
                return true;
            }
            let now = Instant::now();
            if now >= until {
                return false;
            }
            if now >= ask {
                ask = now + ASK_AGAIN;
                if let (Some(asked), Some(pod)) = (self.asked.get(), &lease.pod) {
                    let _ = asked.send((pod.namespace.clone(), pod.name.clone()));
                }
            }
            let nap = until.min(ask).saturating_duration_since(now);
            inner = self.news.wait_timeout(inner, nap).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The plan that was made last.
    fn last(&self) -> Option<Arc<PolicyPlan>> {
        let inner = self.lock();
        inner.plan.clone().filter(|_| inner.ground.policed)
    }

    /// The plan of what is known now; `None` while too little is, or where there is no network policy. `used` tells which numbers
    /// the kernel uses, if it can be read.
    pub fn plan(&self, used: impl FnOnce() -> Option<Used>) -> Option<Arc<PolicyPlan>> {
        let mut inner = self.lock();
        if !inner.ground.policed || inner.view.is_none() {
            return None;
        }
        if inner.stale || inner.plan.is_none() {
            inner.stale = false;
            let leases = self.ledger.leases();
            inner.compile(&leases, used);
        }
        inner.plan.clone()
    }
}

impl Inner {
    fn who(&self, lease: &Lease) -> Who {
        if !self.ground.policed {
            return Who::Nobody;
        }
        match (&self.view, &lease.pod) {
            (None, _) => Who::Unknown,
            (Some(_), None) => Who::Nobody,
            (Some(view), Some(_)) if view.policies.is_empty() => Who::Nobody,
            (Some(view), Some(pod)) => view.who(pod),
        }
    }

    fn compile(&mut self, leases: &[Lease], used: impl FnOnce() -> Option<Used>) {
        let here =
            leases.iter().filter(|lease| lease.kind != LeaseKind::Gateway && lease.state != LeaseState::Draining);
        let mut own = Vec::new();
        let mut nobodies = Vec::new();
        let mut peers = Vec::new();
        for lease in here {
            match self.who(lease) {
                Who::Pod(profile, ended) => {
                    if !ended {
                        peers.push((Arc::clone(&profile), lease.addresses.clone()));
                    }
                    own.push(OwnPod { profile, addresses: lease.addresses.clone() });
                }
                Who::Nobody => nobodies.extend(&lease.addresses),
                Who::Unknown => tracing::debug!(attachment = %lease.attachment, "isolated: not known yet"),
            }
        }
        self.known.own(&peers);
        let Some(view) = &self.view else { return };
        let planner = self.planner.get_or_insert_with(|| Planner::from_used(used().unwrap_or_default()));
        let began = Instant::now();
        let mut plan = planner.plan(self.known.world(), &own, &view.policies);
        let free = |address: &IpAddr| Direction::ALL.map(|direction| ((direction, *address), None));
        plan.pods.extend(nobodies.iter().flat_map(free));
        tracing::debug!(
            took = ?began.elapsed(),
            policies = view.policies.len(),
            classes = plan.classes.len(),
            hosts = plan.hosts.len(),
            pods = plan.pods.len(),
            "network policy planned"
        );
        self.plan = Some(Arc::new(plan));
    }
}

impl View {
    fn who(&self, pod: &PodName) -> Who {
        let facts = self.pods.get(&(pod.namespace.clone(), pod.name.clone()));
        let Some(facts) = facts.filter(|facts| facts.are_of(pod)) else { return Who::Unknown };
        // A namespace whose labels are not known is not known to be selected or not.
        if !self.namespaces.contains_key(&pod.namespace) {
            return Who::Unknown;
        }
        let port = |(name, protocol, port): &(String, u8, u16)| {
            let protocol =
                [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.number() == *protocol)?;
            Some(NamedPort { name: name.clone(), protocol, port: *port })
        };
        let profile = Profile {
            namespace: pod.namespace.clone(),
            labels: facts.labels.clone(),
            ports: facts.ports.iter().filter_map(port).collect(),
        };
        Who::Pod(Arc::new(profile), facts.ended)
    }
}
