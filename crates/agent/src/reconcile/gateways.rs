//! Egress gateways: which of them answer, which slots are at this node, by which the pods leave.
//!
//! What a pass finds it compares with what the one before left, which is on file as well: connections by a way that is
//! over are ended, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use overlane_core::cidr::Cidr;
use overlane_core::plan::{ExitPlan, GatewayPlan, NodeInput, NodePlan, Place};
use overlane_datapath::netlink::NetlinkError;
use overlane_datapath::nft::PodChange;
use overlane_datapath::{conntrack, node};
use serde::{Deserialize, Serialize};

use super::Reconciler;
use super::pass::Outcome;
use super::status::Reason;
use crate::leaving;
use crate::prober::{self, Manner, Prober, Verdict};
use crate::watch::view::View;

/// File name in the run dir.
const FILE: &str = "gateways.json";
/// How gateways are asked. Whether full packets fit is the tunnel's business; who comes later has to show that it stays.
const MANNER: Manner =
    Manner { size: 100, other_way: true, every: Duration::from_millis(500), newcomers: prober::AGAIN };
/// A node that has just come up answers no questions before everybody has noticed that it was gone: within two seconds.
const HUSHED: Duration = Duration::from_millis(2_500);
/// And it is a gateway no sooner than others take it for one: they hear it ten times first.
const COMING_UP: Duration = Duration::from_millis(8_000);
/// Whose an address is, is said at once and after these: a word may be lost.
const SAID: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(1)];

/// What a pass left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Left {
    boot_id: String,
    slots: BTreeMap<u8, SlotLeft>,
    /// By which slots pods leave of which that is known.
    pods: BTreeMap<IpAddr, BTreeSet<u8>>,
    /// Nodes that answer as gateways, this one among them if it is one.
    answering: BTreeSet<String>,
    /// Egress addresses of this node.
    held: BTreeSet<IpAddr>,
}

/// What of a slot decides how its flows go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlotLeft {
    place: String,
    by: Vec<IpAddr>,
    /// Destinations; all where there are none.
    to: Vec<String>,
}

/// Flows that have to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Doom {
    /// All that leave the cluster.
    All,
    /// Those to these networks.
    To(BTreeSet<Cidr>),
}

/// What is known of gateways.
#[derive(Debug)]
pub(super) struct Gateways {
    prober: Arc<Prober>,
    file: PathBuf,
    /// What the last pass left; `None` where there are no gateways.
    left: Option<Left>,
    /// Whom each question is put to.
    asked: BTreeMap<Cidr, String>,
    /// Before this, this node does not answer who asks for a gateway.
    answers_at: Instant,
    /// Before this, this node is none.
    ready_at: Instant,
    /// Of which pods flows have to be ended.
    doomed: BTreeMap<IpAddr, Doom>,
    /// Egress addresses of this node, for those who say so.
    held: Arc<Mutex<BTreeSet<IpAddr>>>,
}

impl Gateways {
    pub(super) fn new(prober: Arc<Prober>, run_dir: &Path, boot_id: &str, started: Instant) -> Self {
        let file = run_dir.join(FILE);
        let read = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Left>(&bytes).ok());
        let left = read.filter(|left| left.boot_id == boot_id);
        // Who was one before in this boot goes on.
        let (answers_at, ready_at) =
            if left.is_some() { (started, started) } else { (started + HUSHED, started + COMING_UP) };
        let (asked, doomed, held) = (BTreeMap::new(), BTreeMap::new(), Arc::default());
        Self { prober, file, left, asked, answers_at, ready_at, doomed, held }
    }

    /// When this node's part changes by itself, if that is still to come.
    pub(super) fn next_step(&self) -> Option<Instant> {
        let steps = [self.answers_at, self.ready_at].into_iter().filter(|at| *at > Instant::now());
        steps.min().filter(|_| self.left.is_some())
    }

    /// Nodes that are no gateways now. Who has not been heard yet is none, if any is: a slot does not leave a node that
    /// answers for one that may not. Where none was, as where a gateway is new, all of them may be.
    fn silent(&self, named: &BTreeSet<&str>, own: &str) -> BTreeSet<String> {
        let verdicts = self.prober.verdicts();
        let verdict = |node: &str| {
            let question = self.asked.iter().find(|(_, asked)| *asked == node).map(|(question, _)| question);
            question.and_then(|question| verdicts.get(question).copied()).unwrap_or(Verdict::Unknown)
        };
        let answering = self.left.as_ref().map(|left| &left.answering).filter(|answering| !answering.is_empty());
        let is_silent = |node: &&str| match verdict(node) {
            Verdict::Fails => true,
            Verdict::Passes => false,
            Verdict::Unknown => answering.is_some_and(|answering| !answering.contains(*node)),
        };
        let others = named.iter().copied().filter(|node| *node != own);
        let mut silent: BTreeSet<String> = others.filter(is_silent).map(str::to_owned).collect();
        if Instant::now() < self.ready_at {
            silent.insert(own.to_owned());
        }
        silent
    }

    fn write(&self) -> std::io::Result<()> {
        let Some(left) = &self.left else {
            return match std::fs::remove_file(&self.file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        };
        let fresh = self.file.with_extension("json.new");
        std::fs::write(&fresh, serde_json::to_vec(left)?)?;
        std::fs::rename(&fresh, &self.file)
    }

    fn doom(&mut self, pod: IpAddr, flows: Doom) {
        let doomed = self.doomed.entry(pod).or_insert_with(|| Doom::To(BTreeSet::new()));
        match (doomed, flows) {
            (Doom::To(before), Doom::To(more)) => before.extend(more),
            (doomed, Doom::All) => *doomed = Doom::All,
            (Doom::All, Doom::To(_)) => {}
        }
    }
}

/// Flows of slots, as one word or the other has them.
fn flows_of<'a>(slots: impl IntoIterator<Item = &'a SlotLeft>) -> Doom {
    let mut networks = BTreeSet::new();
    for slot in slots {
        if slot.to.is_empty() {
            return Doom::All;
        }
        networks.extend(slot.to.iter().filter_map(|text| text.parse::<Cidr>().ok()));
    }
    Doom::To(networks)
}

fn slots_left(plan: &GatewayPlan) -> BTreeMap<u8, SlotLeft> {
    let place = |place: &Place| match place {
        Place::Here => "here".to_owned(),
        Place::At { node, .. } => format!("at {node}"),
        Place::Nowhere => "nowhere".to_owned(),
    };
    let left = |exit: &ExitPlan| SlotLeft {
        place: place(&exit.place),
        by: exit.addresses.values().copied().collect(),
        to: exit.destinations.iter().map(ToString::to_string).collect(),
    };
    plan.exits.iter().map(|exit| (exit.number, left(exit))).collect()
}

fn gateway_plan(plan: &NodePlan) -> Option<&GatewayPlan> {
    plan.egress.as_ref().and_then(|egress| egress.gateways.as_ref())
}

impl Reconciler {
    /// Whether slots are where the last pass left them.
    pub(super) fn gateways_stay(&self, plan: &NodePlan) -> bool {
        let left = self.gateways.left.as_ref().map(|left| &left.slots);
        left == gateway_plan(plan).map(slots_left).as_ref()
    }

    /// What the plan has to know of gateways.
    pub(super) fn hear_gateways(&mut self, view: &View, input: &mut NodeInput) {
        let own = self.node.config.node.clone();
        if let Some(selection) = &view.selection {
            input.gateways.clone_from(&selection.gateways);
            let named = selection.gateways.iter().flat_map(|gateway| &gateway.nodes).map(String::as_str).collect();
            input.silent = self.gateways.silent(&named, &own);
            input.asks_gateways = selection.chooses();
        }
        input.hushed = Instant::now() < self.gateways.answers_at;
        input.name = own;
    }

    /// Decides for each pod by which slots it leaves, before the packet filter asks. Whether that is done.
    pub(super) fn decide_exits(&mut self, view: &View, outcome: &mut Outcome) -> bool {
        let node = Arc::clone(&self.node);
        let mut held = node.leaving.hold_alone();
        held.clone_from(&view.selection);
        let Some(table) = node.members.table() else { return false };
        let known = table.decided();
        // What an agent before this one left is on file.
        let before = match &self.gateways.left {
            Some(left) if known.is_empty() => left.pods.clone(),
            _ => known.clone(),
        };
        let leases = node.ledger.leases();
        let wanted = held.as_deref().map(|selection| leaving::wanted(selection, &leases)).unwrap_or_default();
        let addresses: BTreeSet<&IpAddr> = known.keys().chain(wanted.keys()).collect();
        let changed = addresses.into_iter().filter(|address| known.get(address) != wanted.get(address));
        let changes = changed.map(|address| PodChange::Decide(*address, wanted.get(address).cloned())).collect();
        if let Err(error) = node.members.change(changes) {
            outcome.failed("write how pods leave the cluster", &error);
            return false;
        }
        for (address, slots) in &wanted {
            // Of whom nothing was known it left as its node, before there were gateways, or not at all.
            if before.get(address).map_or(!slots.is_empty(), |before| before != slots) {
                let was = before.get(address).filter(|was| !was.is_empty());
                let both = was.into_iter().flatten().chain(slots);
                self.gateways.doom(*address, self.flows(view, &both.copied().collect()));
            }
        }
        if view.selection.is_none() {
            for (address, slots) in before.iter().filter(|(_, slots)| !slots.is_empty()) {
                self.gateways.doom(*address, self.flows(view, slots));
            }
        }
        true
    }

    /// Flows of slots, by what they are for now and by what they were for.
    fn flows(&self, view: &View, slots: &BTreeSet<u8>) -> Doom {
        let before = self.gateways.left.iter().flat_map(|left| &left.slots);
        let of_view = view.selection.iter().flat_map(|selection| &selection.gateways);
        let now: Vec<SlotLeft> = of_view
            .filter(|gateway| gateway.slots.is_empty() || gateway.slots.iter().any(|slot| slots.contains(&slot.number)))
            .map(|gateway| SlotLeft {
                to: gateway.destinations.iter().map(ToString::to_string).collect(),
                ..SlotLeft::default()
            })
            .collect();
        flows_of(before.filter(|(number, _)| slots.contains(number)).map(|(_, slot)| slot).chain(&now))
    }

    /// Brings egress addresses where their slots are, ends flows by ways that are over, and has the gateways asked.
    /// `written`: the packet filter is as planned.
    pub(super) fn settle_gateways(
        &mut self,
        input: &NodeInput,
        plan: &NodePlan,
        written: bool,
        audit: bool,
        outcome: &mut Outcome,
    ) {
        let gateways = gateway_plan(plan);
        if !written || gateways.is_none() && self.gateways.left.is_none() && self.routes.is_some() {
            return;
        }
        let held = addresses(plan);
        let named = input.gateways.iter().flat_map(|gateway| &gateway.nodes);
        let now = gateways.map(|plan| Left {
            boot_id: self.node.boot_id.clone(),
            slots: slots_left(plan),
            pods: self.node.members.table().map(|table| table.decided()).unwrap_or_default(),
            answering: named.filter(|node| !input.silent.contains(*node)).cloned().collect(),
            held: held.clone(),
        });
        let answering = |left: &Option<Left>| left.as_ref().map(|left| left.answering.clone()).unwrap_or_default();
        // A node that had this node's addresses meanwhile may have said so.
        let others = answering(&now) != answering(&self.gateways.left);
        if !self.keep_addresses(&held, others || audit, outcome) {
            return;
        }
        if let (Some(now), Some(before)) = (&now, &self.gateways.left) {
            let changed = |number: &&u8| before.slots.get(number) != now.slots.get(number);
            let mut doomed = Vec::new();
            for (address, slots) in &now.pods {
                let both = slots.iter().filter(changed).flat_map(|n| [before.slots.get(n), now.slots.get(n)]).flatten();
                doomed.push((*address, flows_of(both)));
            }
            for (address, flows) in doomed.into_iter().filter(|(_, flows)| *flows != Doom::To(BTreeSet::new())) {
                self.gateways.doom(address, flows);
            }
        }
        if let Err(error) = self.end_flows(input, plan) {
            outcome.failed("end connections by a gateway that is theirs no more", &error);
            return;
        }
        self.tell_moves(now.as_ref());
        if self.gateways.left != now {
            self.gateways.left = now;
            if let Err(error) = self.gateways.write() {
                outcome.failed("note where egress gateways are", &error);
            }
        }
        self.gateways.asked = gateways.map(|plan| plan.asked.clone()).unwrap_or_default();
        self.gateways.prober.want(&gateways.map(|plan| plan.probes.clone()).unwrap_or_default(), MANNER);
    }

    fn end_flows(&mut self, input: &NodeInput, plan: &NodePlan) -> Result<(), NetlinkError> {
        let (mut all, mut some, mut networks) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (address, flows) in &self.gateways.doomed {
            match flows {
                Doom::All => all.push(Cidr::host_range(*address)),
                Doom::To(to) => {
                    some.push(Cidr::host_range(*address));
                    networks.extend(to);
                }
            }
        }
        let mut count = 0;
        if !all.is_empty() {
            count += conntrack::forget_from(&all, &self.inside(input, plan))?;
        }
        if !some.is_empty() {
            count += conntrack::forget_to(&some, &overlane_core::cidr::outermost(networks))?;
        }
        if count > 0 {
            let pods = self.gateways.doomed.len();
            tracing::info!(flows = count, pods, "pods leave by another way: flows by the former one were ended");
        }
        self.gateways.doomed.clear();
        Ok(())
    }

    /// Whether flows by addresses that are given up are over. `say`: those that stay are said to be this node's, too.
    fn keep_addresses(&self, wanted: &BTreeSet<IpAddr>, say: bool, outcome: &mut Outcome) -> bool {
        let kept = match node::keep_egress_ips(wanted, &self.underlays) {
            Ok(kept) => kept,
            Err(error) => {
                outcome.failed("read the node's addresses", &error);
                return false;
            }
        };
        for refused in &kept.failed {
            outcome.failed("give the node its egress addresses", refused);
        }
        self.gateways.held.lock().unwrap_or_else(PoisonError::into_inner).clone_from(wanted);
        let before = self.gateways.left.iter().flat_map(|left| &left.held);
        let gone: BTreeSet<IpAddr> = before.chain(&kept.removed).filter(|ip| !wanted.contains(ip)).copied().collect();
        if !gone.is_empty() {
            tracing::info!(addresses = ?gone, "egress addresses given up");
            if let Err(error) = conntrack::forget(&gone.into_iter().collect::<Vec<_>>()) {
                outcome.failed("end flows by egress addresses that are another node's", &error);
                return false;
            }
        }
        if !kept.added.is_empty() {
            tracing::info!(addresses = ?kept.added, "egress addresses taken");
        }
        if !kept.added.is_empty() || say && !wanted.is_empty() {
            self.announce();
        }
        self.node.metrics.egress_ips.set(i64::try_from(wanted.len()).unwrap_or(i64::MAX));
        true
    }

    /// Says whose the egress addresses are, as long as they are.
    fn announce(&self) {
        let (held, underlays) = (Arc::clone(&self.gateways.held), self.underlays.clone());
        let say = move || {
            for pause in SAID {
                std::thread::sleep(pause);
                let held = held.lock().unwrap_or_else(PoisonError::into_inner).clone();
                node::announce_all(&held, &underlays);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("announce".to_owned()).spawn(say) {
            tracing::warn!(%error, "say whose the egress addresses are");
        }
    }

    fn tell_moves(&self, now: Option<&Left>) {
        let before = self.gateways.left.as_ref();
        for (slot, SlotLeft { place, by, .. }) in now.iter().flat_map(|now| &now.slots) {
            if before.and_then(|left| left.slots.get(slot)).is_none_or(|left| left.place != *place) {
                tracing::info!(slot, place, addresses = ?by, "egress gateway");
            }
        }
    }

    /// What is wrong with gateways.
    pub(super) fn judge_gateways(&self, view: &View, out_of_reach: &[String], outcome: &mut Outcome) {
        for fault in &view.gateway_faults {
            outcome.problem(Reason::PlanIncomplete, fault.clone());
        }
        for node in out_of_reach {
            let text = format!(
                "egress gateways at node {node} get no route: this kernel has no routes that encapsulate (CONFIG_LWTUNNEL), or \
                 the tunnel could not be made; pods that leave by them are cut"
            );
            outcome.problem(Reason::PlanIncomplete, text);
        }
    }
}

/// Egress addresses that are this node's.
pub(super) fn addresses(plan: &NodePlan) -> BTreeSet<IpAddr> {
    let slots = gateway_plan(plan).into_iter().flat_map(|plan| &plan.exits);
    let here = slots.filter(|exit| exit.place == Place::Here);
    here.flat_map(|exit| exit.addresses.values().copied()).collect()
}

/// What the API is told of the addresses that this node has: reason and message; nothing where it is no gateway.
pub(super) fn told(plan: &NodePlan) -> Option<(bool, String)> {
    gateway_plan(plan).filter(|plan| plan.gateway)?;
    let addresses: Vec<String> = addresses(plan).iter().map(ToString::to_string).collect();
    let message = if addresses.is_empty() { "other nodes have them".to_owned() } else { addresses.join(", ") };
    Some((!addresses.is_empty(), message))
}
