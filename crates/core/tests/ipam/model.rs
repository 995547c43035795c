//! Random sequences against a model that keeps everything in plain lists and looks at all of it every time.

mod best;
mod random;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlane_core::family::Family;
use overlane_core::ipam::{AddRequest, Attachment, Event, Ipam, Lease, LeaseKind, LeaseState, NetnsId, Refusal};

use super::replay::rebuilt;
use super::{COOL_DOWN, MS, START};
use steps::{CONTAINERS, Step, layout, name};

struct World {
    families: Vec<Family>,
    ipam: Ipam,
    log: Vec<Event>,
    now: u64,
    links: u32,
    /// The model: leases, when which address was freed last, when the latest DEL of an attachment began.
    leases: Vec<Lease>,
    freed: BTreeMap<IpAddr, u64>,
    dels: BTreeMap<Attachment, u64>,
}

impl World {
    fn new(families: Vec<Family>) -> Self {
        let mut ipam = Ipam::new(families.clone(), COOL_DOWN);
        ipam.set_blocks(layout(0));
        Self {
            families,
            ipam,
            log: Vec::new(),
            now: START,
            links: 0,
            leases: Vec::new(),
            freed: BTreeMap::new(),
            dels: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Add(container, inode, age) => self.add(*container, *inode, *age),
            Step::Activate(container) => {
                let Some(id) = self.id(*container) else {
                    return;
                };
                let event = self.ipam.activate(id);
                let wiring = self.leases.iter().any(|lease| lease.id == id && lease.state == LeaseState::Wiring);
                assert_eq!(event, wiring.then_some(Event::Activated { id }));
                self.apply(event);
            }
            Step::Del(container, age) => self.del(*container, *age),
            Step::Drain(container) => {
                let Some(id) = self.id(*container) else {
                    return;
                };
                let event = self.ipam.drain(id, self.now);
                self.apply(event);
            }
            Step::Free(container) => {
                let Some(id) = self.id(*container) else {
                    return;
                };
                let event = self.ipam.free(id, self.now);
                let draining = self.leases.iter().any(|lease| lease.id == id && lease.state == LeaseState::Draining);
                assert_eq!(event.is_some(), draining);
                self.apply(event);
            }
            Step::Gc(valid, age) => self.gc(*valid, *age),
            Step::Wait(by) => self.now += by,
            Step::Blocks(number) => self.ipam.set_blocks(layout(*number)),
            Step::Replay => self.ipam = rebuilt(&self.ipam, &self.families, &self.log),
            Step::Compact => {
                self.log = self.ipam.snapshot();
                self.ipam = rebuilt(&self.ipam, &self.families, &self.log);
            }
        }
    }

    fn id(&self, container: u8) -> Option<u64> {
        self.ipam.by_attachment(&name(container)).map(|lease| lease.id)
    }

    fn ns(&self, age: u64) -> u64 {
        (self.now - age) * MS
    }

    /// Writes down, applies, and does the same to the model.
    fn apply(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.ipam.apply(&event).unwrap();
            match &event {
                Event::Began(lease) => self.leases.push((**lease).clone()),
                Event::Activated { id } => self.leases.iter_mut().filter(|lease| lease.id == *id).for_each(|lease| {
                    lease.state = LeaseState::Active;
                }),
                Event::Draining { id, del_ns, .. } => {
                    for lease in self.leases.iter_mut().filter(|lease| lease.id == *id) {
                        lease.state = LeaseState::Draining;
                        if let Some(del_ns) = del_ns {
                            let known = self.dels.entry(lease.attachment.clone()).or_default();
                            *known = (*known).max(*del_ns);
                        }
                    }
                }
                Event::Freed { id, at_ms } => {
                    let position = self.leases.iter().position(|lease| lease.id == *id).unwrap();
                    let lease = self.leases.remove(position);
                    self.freed.extend(lease.addresses.iter().map(|address| (*address, *at_ms)));
                }
                Event::Tombstone { attachment, began_ns, .. } => {
                    let known = self.dels.entry(attachment.clone()).or_default();
                    *known = (*known).max(*began_ns);
                }
                other => panic!("only in snapshots: {other:?}"),
            }
            self.log.push(event);
        }
    }

    fn add(&mut self, container: u8, inode: u8, age: u64) {
        self.links += 1;
        let request = AddRequest {
            kind: LeaseKind::Interface,
            ports: Vec::new(),
            bandwidth: overlane_core::rate::Bandwidth::default(),
            attachment: name(container),
            network: if container.is_multiple_of(4) { "other" } else { "net" }.to_owned(),
            pod: None,
            link: format!("link{}", self.links),
            netns: NetnsId { nsid: None, inode: inode.into(), path: String::new() },
            began_ns: self.ns(age),
        };
        let answer = self.ipam.add(&request, self.now);
        let draining = |lease: &&Lease| lease.state == LeaseState::Draining;
        let same_netns = |lease: &&Lease| inode != 0 && lease.netns.inode == u64::from(inode);
        let same = self.leases.iter().find(|lease| lease.attachment == request.attachment);
        let families: Vec<Family> = self.families.iter().copied().filter(|family| self.has(*family)).collect();
        if self.dels.get(&request.attachment).is_some_and(|del| request.began_ns <= *del) {
            assert!(matches!(answer, Err(Refusal::Superseded { .. })), "{answer:?}");
        } else if let Some(lease) = same {
            match answer {
                Err(Refusal::Busy { lease: id, .. }) => assert!(id == lease.id && draining(&lease)),
                Err(Refusal::AlreadyActive { lease: known }) => {
                    assert!(*known == *lease && !draining(&lease))
                }
                other => panic!("{other:?}"),
            }
        } else if self.leases.iter().filter(same_netns).any(|lease| draining(&lease)) {
            assert!(matches!(answer, Err(Refusal::Busy { .. })), "{answer:?}");
        } else if let Some(expected) = self.best(&families) {
            let event = answer.unwrap();
            let Event::Began(lease) = &event else { panic!("{event:?}") };
            assert_eq!(lease.addresses, expected);
            self.apply([event]);
        } else {
            assert!(matches!(answer, Err(Refusal::Full { .. })), "{answer:?}");
        }
    }

    fn del(&mut self, container: u8, age: u64) {
        let attachment = name(container);
        let began_ns = self.ns(age);
        let events = self.ipam.del(LeaseKind::Interface, &attachment, began_ns, self.now);
        let ends = self.leases.iter().find(|lease| {
            lease.attachment == attachment && lease.state != LeaseState::Draining && lease.began_ns <= began_ns
        });
        let expected = match ends {
            Some(lease) => vec![Event::Draining { id: lease.id, at_ms: self.now, del_ns: Some(began_ns) }],
            None if self.dels.get(&attachment).is_some_and(|known| *known >= began_ns) => {
                vec![]
            }
            None => vec![Event::Tombstone { attachment, began_ns, at_ms: self.now }],
        };
        assert_eq!(events, expected);
        self.apply(events);
    }

    fn gc(&mut self, valid: u16, age: u64) {
        let named: BTreeSet<Attachment> =
            (0..CONTAINERS).filter(|container| valid & (1 << container) != 0).map(name).collect();
        let began_ns = self.ns(age);
        let events = self.ipam.gc(LeaseKind::Interface, "net", &named, began_ns, self.now);
        let ended: BTreeSet<u64> = events
            .iter()
            .map(|event| match event {
                Event::Draining { id, .. } => *id,
                other => panic!("{other:?}"),
            })
            .collect();
        let over = |lease: &&Lease| {
            lease.network == "net"
                && !named.contains(&lease.attachment)
                && lease.began_ns <= began_ns
                && lease.state != LeaseState::Draining
        };
        assert_eq!(ended, self.leases.iter().filter(over).map(|lease| lease.id).collect());
        self.apply(events);
    }

    fn check(&self) {
        let known: Vec<&Lease> = self.ipam.leases().collect();
        let mut expected: Vec<&Lease> = self.leases.iter().collect();
        expected.sort_by_key(|lease| lease.id);
        assert_eq!(known, expected);
        let mut owned = BTreeSet::new();
        for lease in &self.leases {
            assert!(lease.addresses.iter().all(|address| owned.insert(*address)), "owned twice: {lease:?}");
            assert_eq!(self.ipam.by_link(&lease.link).map(|lease| lease.id), Some(lease.id));
            for address in &lease.addresses {
                assert_eq!(self.ipam.by_address(*address).map(|lease| lease.id), Some(lease.id));
            }
        }
        for usage in self.ipam.usage(self.now) {
            assert_eq!(usage.usable, usage.leased + usage.draining + usage.resting + usage.free, "{usage:?}");
            let inside = owned.iter().filter(|address| usage.block.cidr.contains(**address)).count() as u64;
            assert_eq!(usage.leased + usage.draining, inside);
        }
    }

    fn check_replay(&self) {
        assert_eq!(rebuilt(&self.ipam, &self.families, &self.log), self.ipam, "replay of the log");
        let snapshot = self.ipam.snapshot();
        assert_eq!(rebuilt(&self.ipam, &self.families, &snapshot), self.ipam, "replay of the snapshot");
    }

    /// Ends all there is, and looks whether every address came back.
    fn finish(&mut self) {
        self.now += 1_000;
        for container in 0..CONTAINERS {
            self.del(container, 0);
            self.take(&Step::Free(container));
        }
        assert_eq!(self.ipam.leases().count(), 0);
        self.now += COOL_DOWN;
        for usage in self.ipam.usage(self.now) {
            assert_eq!((usage.free, usage.leased + usage.draining + usage.resting), (usage.usable, 0));
        }
        self.check();
        self.check_replay();
    }
}
