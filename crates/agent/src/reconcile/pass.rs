//! One pass: everything that is known is planned and applied.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::slice::from_ref;
use std::time::Instant;

use overlane_core::cidr::Cidr;
use overlane_core::cluster::{ClusterPlan, Routing};
use overlane_core::family::Family;
use overlane_core::ipam::{Lease, LeaseKind, LeaseState};
use overlane_core::plan::{Mac, NodeInput, NodePlan, Note, RouteAction, RouteSpec, plan};
use overlane_datapath::netlink::Socket;
use overlane_datapath::nft::{self, Table};
use overlane_datapath::node::{self, Applied, AwayRoutes, PodRoutes, TunnelGround, Underlay};

use super::input::{node_input, own_blocks, witnessed};
use super::runtime_side::RuntimeSide;
use super::status::{Problem, Reason, Status};
use super::{Reconciler, audit, flows, gateways};
use crate::calls::{pod_spec, removed, retiring};
use crate::conflist;
use crate::gate::Env;
use crate::policy::Ground;
use crate::prober::{self, Manner, Verdict};
use crate::watch::view::View;

/// What a pass found out.
#[derive(Default)]
pub(super) struct Outcome {
    problems: BTreeSet<Problem>,
    /// Something failed that may succeed the next time.
    again: bool,
}

impl Outcome {
    pub(super) fn problem(&mut self, reason: Reason, message: String) {
        self.problems.insert((reason, message));
    }

    pub(super) fn failed(&mut self, what: &str, error: &dyn std::fmt::Display) {
        tracing::warn!(%error, "{what}");
        self.problems.insert((Reason::ApplyFailed, format!("{what}: {error}")));
        self.again = true;
    }
}

impl Reconciler {
    /// Whether all went well.
    pub(super) fn pass(&mut self, audit: bool) -> bool {
        let Some(view) = self.view.take() else {
            self.node.gate.close("nothing is known of the cluster yet".to_owned());
            return true;
        };
        let mut outcome = Outcome::default();
        if let Some(fault) = &self.store_fault {
            outcome.problems.insert((Reason::StoreDamaged, fault.clone()));
        }
        speak_of(&view, &self.node.ledger.holding(&view.lost.keys().copied().collect()), &mut outcome);
        let held = match view.cluster.clone() {
            Some(cluster) => self.apply(&view, &cluster, audit, &mut outcome),
            None => {
                let reason = view.findings.first().map_or("there is no ClusterNetwork yet".to_owned(), |finding| {
                    format!("the ClusterNetwork is not valid: {finding}")
                });
                self.node.gate.close(reason);
                own_blocks(&view, None, &self.node.ledger.leases())
            }
        };
        self.view = Some(view);
        if audit || !self.runtime_side.plugin {
            self.runtime_side = RuntimeSide::keep(&self.node.config);
        }
        outcome.problems.extend(self.runtime_side.problems.iter().cloned());
        outcome.problems.extend(self.scarce.iter().cloned());
        outcome.problems.extend(self.offload.fault().map(|fault| (Reason::ChecksumOffloadBroken, fault)));
        self.node.set_status(Status {
            problems: outcome.problems,
            segment: self.segment,
            underlay_mac: self.mac(),
            routing: self.routing.clone(),
            pod_cidrs: self.pod_cidrs.clone(),
            fabric: self.fabric.as_ref().map(|(fabric, _)| fabric.clone()),
            gateway: self.gateway.clone(),
            held,
        });
        // A configuration without its plugin would make the node look ready, and fail every pod.
        if self.runtime_side.plugin {
            conflist::keep(&self.node);
        }
        !outcome.again
    }

    fn apply(&mut self, view: &View, cluster: &ClusterPlan, audit: bool, outcome: &mut Outcome) -> BTreeSet<Cidr> {
        let node = std::sync::Arc::clone(&self.node);
        // A block that another node may have gives no new address.
        let blocks: Vec<_> =
            view.own.blocks.iter().filter(|block| !view.contested.contains_key(&block.cidr)).copied().collect();
        max_pods(view, &blocks, outcome);
        node.ledger.set_blocks(cluster.families().to_vec(), blocks.clone());

        let mut node_ips = view.own.node_ips.clone();
        node_ips.extend(node.config.node_ips.iter());
        self.find_underlays(&node_ips, outcome);

        let leases = node.ledger.leases();
        let own = own_blocks(view, Some(cluster), &leases);
        let witnesses = if view.complete { Vec::new() } else { self.witnesses(view, &own, outcome) };
        let mut input = node_input(view, cluster, &node_ips, &leases, witnesses);
        self.judge_segment(&mut input.peers, audit, outcome);
        self.hear_gateways(view, &mut input);
        let verdicts = self.prober.verdicts();
        input.beyond = self.beyond(&input.peers);
        input.passing = self.passing(&verdicts, outcome);
        let plan = plan(&input);
        note(&plan, outcome);
        self.hear_fabric(&input, &plan, &verdicts, outcome);
        node.policy.stand_on(ground(&plan));

        let links = self.underlays.values().map(|underlay| underlay.link.clone()).collect();
        let (drifted, result) = self.sysctls.keep(cluster.families(), &links);
        node.metrics.repaired("sysctl", drifted);
        if let Err(error) = result {
            outcome.failed("set the node's sysctls", &error);
        }
        let (mtu, in_tunnel) = self.mtus(&plan);
        let away = if view.complete { AwayRoutes::Planned } else { AwayRoutes::Kept };
        if audit {
            // What was written may have drifted.
            (self.routes_held, self.tunnel_held) = (None, None);
        }
        // What comes out of a tunnel meets the rules for it from its first packet.
        let guarded = plan.tunnel.is_none() || node::tunnel_index().is_some() || {
            self.begin_table(&plan, &leases);
            self.apply_nft(&plan, outcome)
        };
        let tunnel = guarded.then(|| self.keep_tunnel(&plan, in_tunnel, away, outcome)).flatten();
        let exits = self.open_exits(&plan, tunnel, outcome);
        let unreached = exits.iter().flat_map(|exits| exits.out_of_reach.iter().cloned()).collect::<Vec<_>>();
        self.judge_gateways(view, &unreached, outcome);
        self.begin_table(&plan, &leases);
        let decided = self.decide_exits(view, outcome);
        let written = self.apply_nft(&plan, outcome);
        self.close_exits(&input, &plan, tunnel, exits, written, outcome);
        self.settle_gateways(&input, &plan, decided && written, audit, outcome);
        self.gateway = gateways::told(&plan);
        self.cut_off(&plan, &leases, outcome);
        // Routes that lead into a tunnel stay while it cannot be looked at.
        let routed = (tunnel.is_some() || plan.tunnel.as_ref().is_none_or(|tunnel| !tunnel.carries_pods))
            && self.apply_routes(&plan, tunnel, away, &verdicts, outcome);
        // Asked only once the way is there.
        if routed {
            if let Some((tunnel, ground)) = plan.tunnel.as_ref().filter(|tunnel| tunnel.carries_pods).zip(tunnel) {
                self.offload.test(ground.index, tunnel);
            }
            let other_way = cluster.routing() == Routing::Auto;
            self.prober.want(&plan.probes, Manner { size: mtu, other_way, every: prober::INTERVAL, newcomers: 1 });
        }
        if plan.tunnel.is_none() {
            self.end_tunnel(outcome);
        }
        let mut node_ips =
            plan.tunnel.as_ref().filter(|_| tunnel.is_some()).map(|t| t.addresses.clone()).unwrap_or_default();
        // An address that no link has cannot be a route's source.
        node_ips.extend(self.underlays.iter().map(|(family, underlay)| (*family, underlay.node_ip)));
        let env = Env { mtu, node_ips, families: cluster.families().to_vec(), cut: self.cut.clone() };
        let tunnel_missing = plan.tunnel.as_ref().is_some_and(|tunnel| tunnel.carries_pods) && tunnel.is_none();
        // An audit must know which pods are to stay off the network.
        node.gate.set(env, self.closed(view, &blocks, written, tunnel_missing));
        // What still goes in the tunnel is not sent as native routing has it.
        let tunnelled = |route: &RouteSpec| {
            let is_block = route.destination.prefix_len() < route.destination.family().bits();
            is_block && matches!(route.action, RouteAction::Tunnel { .. })
        };
        if !outcome.again && (cluster.routing() != Routing::Native || !plan.routes.iter().any(tunnelled)) {
            self.routing.clone_from(&view.routing);
        }
        if !outcome.again {
            self.pod_cidrs = cluster.pod_cidrs().collect();
        }
        if audit && written {
            audit::run(&node, outcome_failed(outcome));
            self.count_flows(&input, &plan);
        }
        own
    }

    fn closed(
        &self,
        view: &View,
        blocks: &[overlane_core::ipam::Block],
        written: bool,
        tunnel_missing: bool,
    ) -> Option<String> {
        if self.underlays.is_empty() {
            return Some("no interface has an address that the node is known by".to_owned());
        }
        if !written {
            return Some("the packet filter's table could not be written".to_owned());
        }
        if tunnel_missing {
            return Some("the tunnel to other nodes could not be made".to_owned());
        }
        if blocks.is_empty() {
            let contested =
                view.contested.iter().next().map(|(block, peer)| format!("block {block} is also node {peer}'s"));
            return contested.or_else(|| view.own.missing.clone()).or_else(|| Some("there is no block".to_owned()));
        }
        None
    }

    /// What peers may tell this node by; nothing where the families have different links.
    fn mac(&self) -> Option<Mac> {
        let macs: BTreeSet<_> = self.underlays.values().map(|underlay| underlay.mac).collect();
        if macs.len() == 1 { macs.into_iter().next().flatten() } else { None }
    }

    fn find_underlays(&mut self, node_ips: &BTreeMap<Family, IpAddr>, outcome: &mut Outcome) {
        let mut found: BTreeMap<Family, Underlay> = BTreeMap::new();
        for (family, ip) in node_ips {
            match node::underlay(*ip) {
                Ok(underlay) => _ = found.insert(*family, underlay),
                Err(error) => outcome.failed("find the node's interface", &error),
            }
        }
        if found != self.underlays {
            for underlay in found.values() {
                tracing::info!(address = %underlay.node_ip, link = %underlay.link, mtu = underlay.mtu, "the node's interface");
            }
        }
        self.underlays = found;
    }

    fn witnesses(&self, view: &View, own: &BTreeSet<Cidr>, outcome: &mut Outcome) -> Vec<overlane_core::plan::Peer> {
        match Socket::route().and_then(|mut socket| node::observed_routes(&mut socket)) {
            Ok(routes) => witnessed(&routes, view, own),
            Err(error) => {
                outcome.failed("read the routes that are there", &error);
                Vec::new()
            }
        }
    }

    /// The table, with the pods that there are when it is made.
    fn begin_table(&self, plan: &NodePlan, leases: &[Lease]) {
        let node = &self.node;
        let first = node.members.table().is_none();
        node.members.begin(|| Table::new(plan.pod_elements()));
        if first {
            node.policy.wake();
            // A DEL that came since the leases were read found no table to take its elements from.
            let over =
                leases.iter().filter(|l| node.ledger.lease(l.id).is_none_or(|l| l.state == LeaseState::Draining));
            let over: Vec<Lease> = over.cloned().collect();
            if let Err(error) = node.members.change(removed(&over)) {
                tracing::debug!(%error, "elements of pods that ended during the start");
            }
        }
    }

    /// Whether the table holds what a pod's first packet must meet.
    fn apply_nft(&self, plan: &NodePlan, outcome: &mut Outcome) -> bool {
        let Some(table) = self.node.members.table() else { return false };
        let primary = self.underlays.iter().map(|(family, underlay)| (*family, underlay.link.clone())).collect();
        match table.apply(plan, &primary) {
            Ok(applied) => {
                if applied != nft::Applied::default() {
                    tracing::debug!(?applied, "packet filter");
                }
                // It may have become something that policy can be put in force in.
                self.node.policy.wake();
                true
            }
            Err(error) => {
                outcome.failed("write the packet filter", &error);
                false
            }
        }
    }

    /// Not with every audit: news of the kernel bring those forward, and this walks through all that it remembers.
    fn count_flows(&mut self, input: &NodeInput, plan: &NodePlan) {
        let node = &self.node;
        if self.flows_counted.is_some_and(|at| at.elapsed() < node.config.audit_interval) {
            return;
        }
        self.flows_counted = Some(Instant::now());
        let mut addresses: BTreeSet<IpAddr> = plan.node_ips.values().copied().collect();
        let mut sources: BTreeSet<Cidr> = input.own_blocks.iter().copied().collect();
        let egress = gateways::addresses(plan);
        if !egress.is_empty() {
            // Pods of any node leave by these.
            addresses.extend(egress);
            sources.extend(&plan.pod_space);
        }
        let sources: Vec<Cidr> = sources.into_iter().collect();
        match flows::look(&node.metrics, &sources, &addresses) {
            Ok(scarce) => self.scarce = scarce,
            Err(error) => tracing::warn!(%error, "count flows"),
        }
    }

    /// Takes pods off the network whose address another node was given, and puts them back when it is not so any more.
    fn cut_off(&mut self, plan: &NodePlan, leases: &[Lease], outcome: &mut Outcome) {
        let mut cut = BTreeMap::new();
        for note in &plan.notes {
            if let Note::PodOfPeer { link, peer, .. } = note {
                cut.insert(link.clone(), peer.clone());
            }
        }
        let pick = |wanted: &dyn Fn(&Lease) -> bool| -> Vec<Lease> {
            leases.iter().filter(|lease| lease.state == LeaseState::Active && wanted(lease)).cloned().collect()
        };
        let off = pick(&|lease| cut.contains_key(&lease.link) && !self.cut.contains_key(&lease.link));
        let on = pick(&|lease| !cut.contains_key(&lease.link) && self.cut.contains_key(&lease.link));
        // An ADD that is still at work has the link in hands: it is cut off once it is through.
        outcome.again |= leases.iter().any(|l| l.state == LeaseState::Wiring && cut.contains_key(&l.link));
        self.cut.retain(|link, _| leases.iter().any(|lease| lease.link == *link));
        for lease in &off {
            tracing::error!(attachment = %lease.attachment, addresses = ?lease.addresses, link = %lease.link, given_to = ?cut.get(&lease.link), "the pod's block was given to another node; it is taken off the network");
        }
        // Only what was done counts as done: the rest is tried again.
        let gone = self.node.members.change(removed(&off)).map_err(|error| error.to_string());
        match gone.and_then(|()| self.node.wirer.retire(&retiring(&off)).map_err(|error| error.to_string())) {
            Ok(()) => self.cut.extend(off.iter().filter_map(|l| Some((l.link.clone(), cut.get(&l.link)?.clone())))),
            Err(error) => outcome.failed("take pods of a lost block off the network", &error),
        }
        for lease in &on {
            match self.put_back(lease) {
                Ok(()) => _ = self.cut.remove(&lease.link),
                Err(error) => outcome.failed("put a pod back on the network", &error),
            }
        }
        self.node.metrics.leases_cut.set(i64::try_from(self.cut.len()).unwrap_or(i64::MAX));
    }

    fn put_back(&self, lease: &Lease) -> Result<(), String> {
        self.node.admit(lease).map_err(|error| error.to_string())?;
        let state = self.node.ledger.lease(lease.id).map(|lease| lease.state);
        if state != Some(LeaseState::Active) {
            // It ended meanwhile, and who ended it may have taken its elements away before they came again.
            return self.node.members.change(removed(from_ref(lease))).map_err(|error| error.to_string());
        }
        if lease.kind != LeaseKind::Interface {
            return Ok(());
        }
        self.node.wirer.repair_host(&pod_spec(lease, &self.node.gate.env())).map_err(|error| error.to_string())
    }

    /// Whether all were written.
    fn apply_routes(
        &mut self,
        plan: &NodePlan,
        tunnel: Option<TunnelGround>,
        away: AwayRoutes,
        verdicts: &BTreeMap<Cidr, Verdict>,
        outcome: &mut Outcome,
    ) -> bool {
        // At the start pods are held back by the gate; later their routes come and go with ADD and DEL, and audits look
        // at them pod by pod.
        let pods = if self.routes.is_some() { PodRoutes::LeftAlone } else { PodRoutes::Planned };
        let ground = (self.underlays.clone(), tunnel);
        let held = self.routes_held.take().filter(|held| *held == ground).and(self.routes.as_ref());
        let applied = match node::apply(plan, &self.underlays, tunnel, pods, away, held) {
            Ok(applied) => applied,
            Err(error) => {
                outcome.failed("read routes", &error);
                return false;
            }
        };
        let written = applied.failed.is_empty();
        if !applied.added.is_empty() || !applied.removed.is_empty() {
            tracing::debug!(added = applied.added.len(), removed = applied.removed.len(), "routes");
        }
        let asked = |block| plan.probes.targets.contains_key(block) && verdicts.get(block) != Some(&Verdict::Fails);
        // Whether a router leads there is known in a moment.
        for peer in applied.not_on_link.iter().filter(|peer| !asked(&peer.block)) {
            let text = format!(
                "block {} gets no route: its node {} is not on this node's link, and no router leads to the block",
                peer.block, peer.node_ip
            );
            outcome.problems.insert((Reason::PeerNotOnLink, text));
        }
        for block in &applied.out_of_reach {
            let text = format!(
                "block {block} gets no route: this kernel has no routes that encapsulate (CONFIG_LWTUNNEL), and the node has \
                 no address of the family that the tunnel's link uses outside"
            );
            outcome.problems.insert((Reason::PlanIncomplete, text));
        }
        for refused in &applied.failed {
            outcome.failed("write routes", refused);
        }
        self.routes_held = applied.whole.then_some(ground);
        self.count_repairs(applied);
        written
    }

    /// What was there after the last pass and had to be written again drifted; so did what came from elsewhere.
    fn count_repairs(&mut self, applied: Applied) {
        if let Some(routes) = &self.routes {
            let lost = applied.added.iter().filter(|route| routes.contains(route)).count();
            let strange = applied.removed.iter().filter(|route| !routes.contains(route)).count();
            self.node.metrics.repaired("route", lost + strange);
        }
        self.routes = Some(applied.desired);
    }
}

/// What network policy has to know of the node.
fn ground(plan: &NodePlan) -> Ground {
    let tunnel = plan.tunnel.iter().flat_map(|tunnel| &tunnel.nodes);
    Ground {
        policed: plan.policed,
        aliases: tunnel.map(|(inside, address)| (*inside, *address)).collect(),
        pod_space: plan.pod_space.clone(),
    }
}

fn outcome_failed(outcome: &mut Outcome) -> impl FnMut(&str, &dyn std::fmt::Display) + '_ {
    |what, error| outcome.failed(what, error)
}

/// What the view itself says is wrong.
fn speak_of(view: &View, in_use: &BTreeSet<Cidr>, outcome: &mut Outcome) {
    let problems = &mut outcome.problems;
    // A block of long ago that no pod is in any more is nobody's trouble.
    for (block, peer) in view.lost.iter().filter(|(block, _)| in_use.contains(block)) {
        problems.insert((Reason::BlockLost, format!("block {block} was given to node {peer}")));
    }
    for (block, peer) in &view.contested {
        problems.insert((
            Reason::BlockContested,
            format!("block {block} is also named by node {peer}; it gives no address"),
        ));
    }
    for finding in &view.findings {
        problems.insert((Reason::InvalidClusterNetwork, finding.to_string()));
    }
    if let Some(fault) = &view.own.fault {
        problems.insert((Reason::InvalidNodeNetworkConfig, fault.clone()));
    }
    for fault in &view.peer_faults {
        problems.insert((Reason::PlanIncomplete, fault.clone()));
    }
    for fault in &view.masq_faults {
        problems.insert((Reason::InvalidMasqueradeConfig, fault.clone()));
    }
}

fn note(plan: &NodePlan, outcome: &mut Outcome) {
    for note in &plan.notes {
        let reason = match note {
            Note::PodOfPeer { .. } => Reason::BlockLost,
            _ => Reason::PlanIncomplete,
        };
        outcome.problems.insert((reason, note.to_string()));
    }
}

fn max_pods(view: &View, blocks: &[overlane_core::ipam::Block], outcome: &mut Outcome) {
    let Some(max_pods) = view.max_pods else { return };
    for family in Family::ALL {
        let of_family = blocks.iter().filter(|block| block.cidr.family() == family);
        let usable: u64 = of_family.map(|block| u64::from(overlane_core::ipam::usable(&block.cidr))).sum();
        if usable > 0 && u64::from(max_pods) > usable {
            let text =
                format!("the kubelet runs up to {max_pods} pods, the node has {usable} {family} addresses for them");
            outcome.problems.insert((Reason::MaxPodsExceedBlock, text));
        }
    }
}
