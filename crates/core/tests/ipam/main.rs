//! Must catch: an address given to a second pod, an address that no sequence of calls ever frees again, and a log
//! that gives another state than the one it was written from.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod cases;
mod delegated;
mod model;
mod order;
mod refusals;
mod replay;
mod size;

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::ipam::{AddRequest, Attachment, Block, Event, Ipam, Lease, LeaseKind, LeaseState, NetnsId, Refusal};

/// Start of every test's time, in milliseconds.
const START: u64 = 1_000_000;
const COOL_DOWN: u64 = 30_000;
const MS: u64 = 1_000_000;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn blocks(given: &[(&str, u32)]) -> Vec<Block> {
    given.iter().map(|(text, pair)| Block { cidr: cidr(text), pair: *pair }).collect()
}

fn attachment(name: &str) -> Attachment {
    Attachment { container_id: name.to_owned(), ifname: "eth0".to_owned() }
}

fn request(name: &str, began_ns: u64) -> AddRequest {
    AddRequest {
        kind: LeaseKind::Interface,
        ports: Vec::new(),
        bandwidth: overlane_core::rate::Bandwidth::default(),
        attachment: attachment(name),
        network: "net".to_owned(),
        pod: None,
        link: format!("{name}-{began_ns}"),
        netns: NetnsId { nsid: None, inode: 0, path: format!("/run/netns/{name}") },
        began_ns,
    }
}

/// A node and what was written down of it.
struct Node {
    ipam: Ipam,
    log: Vec<Event>,
    now: u64,
}

impl Node {
    fn new(families: &[Family], given: &[(&str, u32)]) -> Self {
        let mut ipam = Ipam::new(families.to_vec(), COOL_DOWN);
        ipam.set_blocks(blocks(given));
        Self { ipam, log: Vec::new(), now: START }
    }

    fn dual() -> Self {
        Self::new(&Family::ALL, &[("10.244.2.0/24", 0), ("fd12:3456:789a:0:2::/80", 0)])
    }

    fn v4(block: &str) -> Self {
        Self::new(&[Family::V4], &[(block, 0)])
    }

    fn apply(&mut self, event: Event) {
        self.ipam.apply(&event).unwrap();
        self.log.push(event);
    }

    fn ns(&self) -> u64 {
        self.now * MS
    }

    /// An ADD that begins now and succeeds.
    fn start(&mut self, name: &str) -> Lease {
        let event = self.ipam.add(&request(name, self.ns()), self.now).unwrap();
        let Event::Began(lease) = &event else { panic!("{event:?}") };
        let lease = (**lease).clone();
        self.apply(event);
        let active = self.ipam.activate(lease.id).unwrap();
        self.apply(active);
        lease
    }

    /// An ADD that began then and fails.
    fn refused(&self, name: &str, began_ns: u64) -> Refusal {
        self.ipam.add(&request(name, began_ns), self.now).unwrap_err()
    }

    fn del(&mut self, name: &str, began_ns: u64) -> Vec<Event> {
        let events = self.ipam.del(LeaseKind::Interface, &attachment(name), began_ns, self.now);
        for event in &events {
            self.apply(event.clone());
        }
        events
    }

    /// A DEL that begins now, to its very end.
    fn stop(&mut self, name: &str) {
        let id = self.ipam.by_attachment(&attachment(name)).unwrap().id;
        assert_eq!(self.del(name, self.ns()).len(), 1);
        let freed = self.ipam.free(id, self.now).unwrap();
        self.apply(freed);
    }

    fn addresses(&mut self, name: &str) -> String {
        let texts: Vec<String> = self.start(name).addresses.iter().map(ToString::to_string).collect();
        texts.join(",")
    }

    fn state(&self, name: &str) -> Option<LeaseState> {
        self.ipam.by_attachment(&attachment(name)).map(|lease| lease.state)
    }
}
