//! Whether peers are told by the MAC of their frames: only where the nodes' segment is seen to keep it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use overlane_core::family::Family;
use overlane_core::plan::{Mac, Peer};
use overlane_datapath::node::{self, Segment};

use super::Reconciler;
use super::pass::Outcome;

/// So many peers of a family are looked up to learn what kind of segment it is.
const SAMPLE: usize = 3;
/// So often the answer is looked for soon after.
const MOST_ASKED: usize = 20;

impl Reconciler {
    /// Strikes the MACs of peers that cannot be told by them: all, unless the segment keeps MACs, else those that are
    /// reached through a gateway.
    pub(super) fn judge_segment(&mut self, peers: &mut [Peer], audit: bool, outcome: &mut Outcome) {
        let told: BTreeMap<IpAddr, Mac> = peers
            .iter()
            .filter_map(|peer| Some((peer, peer.mac?)))
            .flat_map(|(peer, mac)| peer.node_ips.values().map(move |ip| (*ip, mac)))
            .filter(|(ip, _)| self.is_on_link(*ip))
            .collect();
        if self.segment != Segment::KeepsMacs || audit {
            match node::segment(&told, self.underlays.values()) {
                // Entries come and go; what was once seen stays true until the opposite is seen.
                Ok(Segment::Unknown) => {}
                Ok(segment) => {
                    if segment != self.segment {
                        tracing::info!(?segment, "the nodes' segment");
                    }
                    self.segment = segment;
                }
                Err(error) => outcome.failed("read the neighbour table", &error),
            }
        }
        if self.segment == Segment::Unknown {
            self.look_up(&told);
            // The answer is there in a moment, for which everything need not be audited; where nobody answers, the
            // clock's audits ask again.
            if !told.is_empty() && self.asked < MOST_ASKED {
                self.asked += 1;
                self.pass_at = Some(Instant::now() + super::SETTLE);
            }
        }
        for peer in peers {
            let known = peer.node_ips.values().all(|ip| told.contains_key(ip));
            if self.segment != Segment::KeepsMacs || !known {
                peer.mac = None;
            }
        }
    }

    fn look_up(&self, told: &BTreeMap<IpAddr, Mac>) {
        for (family, underlay) in &self.underlays {
            for ip in told.keys().filter(|ip| Family::of(ip) == *family).take(SAMPLE) {
                if let Err(error) = node::look_up(underlay.node_ip, *ip) {
                    tracing::debug!(%error, node = %ip, "look up a peer's MAC");
                }
            }
        }
    }

    pub(super) fn is_on_link(&self, ip: IpAddr) -> bool {
        let underlay = self.underlays.get(&Family::of(&ip));
        underlay.is_some_and(|underlay| underlay.on_link.iter().any(|network| network.contains(ip)))
    }
}
