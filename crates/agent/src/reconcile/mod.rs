//! The one thread that makes the kernel agree with what is known: view and leases to input, input to plan, plan to
//! kernel.
//!
//! A change of the view is applied at once; the kernel's own news and the clock lead to an audit, which compares
//! everything and repairs what drifted.

mod audit;
mod egress;
mod fabric;
mod flows;
mod gateways;
pub mod input;
mod pass;
mod runtime_side;
mod segment;
pub mod status;
pub mod sysctls;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use overlane_core::cidr::Cidr;
use overlane_core::cluster::RoutingState;
use overlane_core::family::Family;
use overlane_datapath::events::Event;
use overlane_datapath::node::{HeldTunnel, Segment, TunnelGround, TunnelKind, Underlay};
use overlane_datapath::rtnl::route::Route;

use crate::node::Node;
use crate::offload::Offload;
use crate::prober::Prober;
use crate::watch::view::View;

use egress::EgressWay;
use gateways::Gateways;
use runtime_side::RuntimeSide;
use status::{Fabric, Problem};
use sysctls::Sysctls;

/// A reason to look.
#[derive(Debug)]
pub enum Wake {
    /// The cluster said something; when it did.
    View(Box<View>, Instant),
    /// The kernel changed.
    Kernel(BTreeSet<Event>),
    /// The fabric answers otherwise than before.
    Fabric,
}

/// A burst of the kernel's news ends in one audit, so long after its first word.
const SETTLE: Duration = Duration::from_millis(200);
/// Audits for the kernel's news are no closer than this: our own changes are news too.
const SPACING: Duration = Duration::from_secs(2);
/// A pass that failed is tried again after this; each time in a row the pause doubles, up to the audits' interval.
const RETRY: Duration = Duration::from_secs(1);

/// The reconciler shows that it lives at least this often.
const BEAT: Duration = Duration::from_secs(10);
/// A pass that takes longer is followed by a rest as long as itself, up to the second figure.
const LIGHT: Duration = Duration::from_millis(10);
const HEAVY: Duration = Duration::from_millis(250);

/// What routes stand on.
type RouteGround = (BTreeMap<Family, Underlay>, Option<TunnelGround>);

/// Makes the kernel agree.
pub struct Reconciler {
    node: Arc<Node>,
    prober: Arc<Prober>,
    view: Option<Box<View>>,
    underlays: BTreeMap<Family, Underlay>,
    /// Whether a node is to be told by the MAC of its frames.
    segment: Segment,
    /// How often peers were looked up to learn that.
    asked: usize,
    sysctls: Sysctls,
    /// Links whose pods are off the network because their block is another node's, with that node.
    cut: BTreeMap<String, String>,
    /// What was wrong with the store when it was opened.
    store_fault: Option<String>,
    /// The routes, but for pods', as the last pass left them; `None` before the first.
    routes: Option<BTreeSet<Route>>,
    /// On what ground the kernel holds just those; `None` if it may not.
    routes_held: Option<RouteGround>,
    /// What the last pass left of the tunnel, if it did all.
    tunnel_held: Option<HeldTunnel>,
    /// How pod packets cross nodes, as the last pass that all went well of made it.
    routing: Option<RoutingState>,
    /// The same of pod CIDRs.
    pod_cidrs: Vec<Cidr>,
    /// Blocks that an earlier agent sent bare packets to, of which nothing else is known yet.
    sent_bare: Option<BTreeSet<Cidr>>,
    /// What leads into the tunnel, once that is known.
    tunnel_kind: Option<TunnelKind>,
    /// What was found of flows when they were last counted, and when.
    scarce: BTreeSet<Problem>,
    flows_counted: Option<Instant>,
    /// How packets left the cluster after the last pass.
    egress: Option<EgressWay>,
    gateways: Gateways,
    offload: Offload,
    /// Whether this node has egress addresses, and which; `None` where it is no gateway.
    gateway: Option<(bool, String)>,
    /// What the fabric is known to do with bare packets of pods, where it is asked.
    fabric: Option<(Fabric, Instant)>,
    runtime_side: RuntimeSide,
    audited: Option<Instant>,
    audit_at: Instant,
    /// When a pass has something to look at that nobody tells of.
    pass_at: Option<Instant>,
    /// The pause after the next pass that fails.
    retry: Duration,
}

impl Reconciler {
    /// Has done nothing yet.
    pub fn new(node: Arc<Node>, prober: Arc<Prober>, gateways: Arc<Prober>, store_fault: Option<String>) -> Self {
        let sysctls = Sysctls::new(&node.config.run_dir);
        let audit_at = Instant::now() + node.config.audit_interval;
        let offload = Offload::new(&node.config.run_dir);
        let gateways = Gateways::new(gateways, &node.config.run_dir, &node.boot_id, node.started);
        Self {
            node,
            prober,
            view: None,
            underlays: BTreeMap::new(),
            segment: Segment::default(),
            asked: 0,
            sysctls,
            cut: BTreeMap::new(),
            store_fault,
            routes: None,
            routes_held: None,
            tunnel_held: None,
            routing: None,
            pod_cidrs: Vec::new(),
            sent_bare: None,
            tunnel_kind: None,
            scarce: BTreeSet::new(),
            flows_counted: None,
            egress: None,
            gateways,
            offload,
            gateway: None,
            fabric: None,
            runtime_side: RuntimeSide::default(),
            audited: None,
            audit_at,
            pass_at: None,
            retry: RETRY,
        }
    }

    /// Runs until the senders are gone.
    pub fn run(mut self, wakes: &Receiver<Wake>) {
        loop {
            self.node.reconciler.beat();
            let next = self.pass_at.map_or(self.audit_at, |at| at.min(self.audit_at));
            let nap = next.saturating_duration_since(Instant::now()).min(BEAT);
            let first = wakes.recv_timeout(nap);
            if matches!(first, Err(RecvTimeoutError::Disconnected)) {
                return;
            }
            let mut heard = None;
            let mut answers = self.offload.has_news();
            for wake in first.into_iter().chain(wakes.try_iter()) {
                match wake {
                    Wake::View(view, at) => {
                        self.view = Some(view);
                        heard.get_or_insert(at);
                    }
                    Wake::Kernel(events) => self.news(&events),
                    Wake::Fabric => answers = true,
                }
            }
            let audit = Instant::now() >= self.audit_at;
            let due = self.pass_at.is_some_and(|at| Instant::now() >= at);
            if heard.is_none() && !answers && !audit && !due {
                continue;
            }
            self.pass_at = self.pass_at.filter(|_| !due);
            let began = Instant::now();
            let done = self.pass(audit);
            let took = began.elapsed();
            if let Some(heard) = heard {
                self.node.metrics.apply.observe(heard.elapsed().as_secs_f64());
            }
            self.schedule(audit, done);
            // While thousands of nodes join, half of the time is left to the pods.
            std::thread::sleep(took.saturating_sub(LIGHT).min(HEAVY));
        }
    }

    fn schedule(&mut self, audit: bool, done: bool) {
        let now = Instant::now();
        if audit {
            self.audited = Some(now);
            self.audit_at = now + self.node.config.audit_interval;
        }
        if let Some(at) = self.gateways.next_step() {
            self.audit_at = self.audit_at.min(at);
        }
        if done {
            self.retry = RETRY;
        } else {
            self.audit_at = self.audit_at.min(now + self.retry);
            self.retry = (self.retry * 2).min(self.node.config.audit_interval.max(RETRY));
        }
    }

    /// Brings the next audit forward if the news could be of drift.
    fn news(&mut self, events: &BTreeSet<Event>) {
        let telling = |event: &Event| match event {
            // Their going is judged where it is heard.
            Event::LinkGone { ours, .. } | Event::LinkChanged { ours, .. } => *ours || self.underlay_link(event),
            Event::NetnsGone { .. } => false,
            Event::Addresses | Event::Routes | Event::Neighbours | Event::Nft | Event::Lost => true,
        };
        if !events.iter().any(telling) {
            return;
        }
        let now = Instant::now();
        let earliest = self.audited.map_or(now, |at| at + SPACING);
        self.audit_at = self.audit_at.min(earliest.max(now + SETTLE));
    }

    fn underlay_link(&self, event: &Event) -> bool {
        let (Event::LinkGone { name, .. } | Event::LinkChanged { name, .. }) = event else { return false };
        self.underlays.values().any(|underlay| underlay.link == *name)
    }
}
