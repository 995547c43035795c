//! Must catch: a lease that a cut or a flipped byte makes up, doubles, or silently loses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;

use overlane_agent::ledger::{BeginError, Ledger};
use overlane_agent::store::{FILE, Found, Report, Store};
use overlane_core::family::Family;
use overlane_core::ipam::{AddRequest, Attachment, Block, Event, Ipam, Lease, LeaseKind, NetnsId, Refusal};
use proptest::prelude::*;

const BLOCK: &str = "10.244.1.0/29";

fn open(dir: &Path, boot: &str) -> (Ipam, Store, Report) {
    let mut ipam = Ipam::new(vec![Family::V4], 30_000);
    ipam.set_blocks(vec![Block { cidr: BLOCK.parse().unwrap(), pair: 0 }]);
    let (store, report) = Store::open(dir, boot, &mut ipam).unwrap();
    (ipam, store, report)
}

fn request(n: u64, began_ns: u64) -> AddRequest {
    AddRequest {
        kind: LeaseKind::Interface,
        attachment: Attachment { container_id: format!("c{n}"), ifname: "eth0".into() },
        network: "overlane".into(),
        pod: None,
        ports: Vec::new(),
        bandwidth: overlane_core::rate::Bandwidth::default(),
        link: format!("ovlp{n}x{began_ns}"),
        netns: NetnsId { nsid: Some(i32::try_from(n).unwrap()), inode: 100 + n, path: format!("/run/netns/{n}") },
        began_ns,
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Add(u64),
    Activate(u64),
    Del(u64),
    Free(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = (0..4_u8, 0..8_u64).prop_map(|(kind, n)| match kind {
        0 => Op::Add(n),
        1 => Op::Activate(n),
        2 => Op::Del(n),
        _ => Op::Free(n),
    });
    proptest::collection::vec(op, 1..25)
}

/// Runs the operations; the leases after each record that was written.
fn play(ipam: &mut Ipam, store: &mut Store, ops: &[Op]) -> Vec<Vec<Lease>> {
    let mut states = vec![ipam.leases().cloned().collect::<Vec<_>>()];
    for (step, op) in ops.iter().enumerate() {
        let now = 1_000 * u64::try_from(step).unwrap();
        let (n, id) = match *op {
            Op::Add(n) | Op::Activate(n) | Op::Del(n) | Op::Free(n) => {
                (n, ipam.by_attachment(&request(n, 0).attachment).map_or(0, |lease| lease.id))
            }
        };
        let events: Vec<Event> = match op {
            Op::Add(_) => ipam.add(&request(n, now + 1), now).into_iter().collect(),
            Op::Activate(_) => ipam.activate(id).into_iter().collect(),
            Op::Del(_) => ipam.del(LeaseKind::Interface, &request(n, 0).attachment, now + 1, now),
            Op::Free(_) => {
                let draining = ipam.leases().find(|lease| lease.state == overlane_core::ipam::LeaseState::Draining);
                let id = draining.map_or(0, |lease| lease.id);
                ipam.free(id, now).into_iter().collect()
            }
        };
        for event in events {
            store.append(&event).unwrap();
            ipam.apply(&event).unwrap();
            states.push(ipam.leases().cloned().collect());
        }
    }
    states
}

fn sound(ipam: &Ipam) {
    let mut addresses = BTreeSet::new();
    for lease in ipam.leases() {
        for address in &lease.addresses {
            assert!(addresses.insert(*address), "{address} has two owners");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_cut_gives_a_state_that_was(ops in ops()) {
        let dir = tempfile::tempdir().unwrap();
        let (mut ipam, mut store, report) = open(dir.path(), "b");
        prop_assert_eq!(report.found, Found::Nothing);
        let states = play(&mut ipam, &mut store, &ops);
        let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
        let header = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
        // Every byte is `store::log`'s own test; here each cut is a whole opening.
        for cut in (header..=bytes.len()).step_by(3) {
            let other = tempfile::tempdir().unwrap();
            std::fs::write(other.path().join(FILE), &bytes[..cut]).unwrap();
            let (back, _, report) = open(other.path(), "b");
            prop_assert!(report.damage.is_empty() && report.conflicts.is_empty());
            sound(&back);
            let whole = bytes[header..cut].iter().filter(|b| **b == b'\n').count();
            let leases: Vec<Lease> = back.leases().cloned().collect();
            // A record that lacks only its newline counts as well. (The first records are of the empty store.)
            let skip = bytes[header..].iter().filter(|b| **b == b'\n').count() + 1 - states.len();
            let at = whole.saturating_sub(skip);
            prop_assert!(leases == states[at] || states.get(at + 1) == Some(&leases), "cut at {cut}");
        }
        // And a second opening finds the same, compact.
        let (again, _, report) = open(dir.path(), "b");
        prop_assert!(report.intact());
        prop_assert_eq!(again.leases().collect::<Vec<_>>(), ipam.leases().collect::<Vec<_>>());
        let (none, _, report) = open(dir.path(), "another boot");
        prop_assert_eq!(report.found, Found::OtherBoot);
        prop_assert_eq!(none.leases().count(), 0);
    }

    #[test]
    fn a_flipped_bit_is_told_and_doubles_nothing(ops in ops(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let dir = tempfile::tempdir().unwrap();
        let (mut ipam, mut store, _) = open(dir.path(), "b");
        play(&mut ipam, &mut store, &ops);
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, &bytes).unwrap();
        let (back, _, report) = open(dir.path(), "b");
        sound(&back);
        let same = back.leases().eq(ipam.leases());
        prop_assert!(same || !report.intact(), "a loss that nobody is told of");
        if !report.damage.is_empty() {
            let aside = report.aside.unwrap();
            prop_assert_eq!(std::fs::read(aside).unwrap(), bytes);
        }
    }
}

#[test]
fn the_ledger_waits_for_what_is_ending() {
    let dir = tempfile::tempdir().unwrap();
    let (ipam, store, _) = open(dir.path(), "b");
    let ledger = Ledger::new(ipam, store);
    let forever = u64::MAX;
    let leases: Vec<Lease> = (0..6).map(|n| ledger.begin(&request(n, 1 + n), forever, || false).unwrap()).collect();
    for lease in &leases {
        assert!(ledger.activate(lease.id).unwrap());
        assert!(ledger.leave(lease.id).is_none());
    }
    // Full, and nothing is ending: at once.
    let refused = ledger.begin(&request(9, 99), forever, || false).unwrap_err();
    assert!(
        matches!(refused, BeginError::Refused(Refusal::Full { usable: 6, leased: 6, draining: 0, .. })),
        "{refused}"
    );
    // One is ending: the next ADD waits for it, and gives up with its deadline or its plugin.
    let ended = ledger.del(LeaseKind::Interface, &leases[0].attachment, 100);
    assert_eq!(ended.ours.len(), 1);
    let soon = overlane_agent::clock::boot_ns() + 50_000_000;
    assert!(ledger.begin(&request(9, 101), soon, || false).is_err());
    assert!(ledger.begin(&request(9, 101), forever, || true).is_err());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ledger.begin(&request(9, 102), forever, || false));
        std::thread::sleep(std::time::Duration::from_millis(30));
        ledger.free(leases[0].id).unwrap();
        let lease = waiting.join().unwrap().unwrap();
        assert_eq!(lease.addresses, leases[0].addresses);
        // A DEL while the ADD runs leaves the lease in its hands.
        let ended = ledger.del(LeaseKind::Interface, &lease.attachment, 200);
        assert_eq!((ended.ours.len(), ended.running.as_slice()), (0, &[lease.id][..]));
        assert!(!ledger.activate(lease.id).unwrap());
        assert_eq!(ledger.leave(lease.id).map(|l| l.id), Some(lease.id));
    });
}
