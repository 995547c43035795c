//! Must catch: an address or a link that stays behind when a call is cut short, superseded or doubled.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use overlane_api::cni::code;
use overlane_api::socket::Outcome;

use crate::client::now_ns;
use crate::world::{Objects, Pod, World, eventually};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_hundred_at_once_get_a_hundred_addresses() {
    let world = World::new(&Objects::dual());
    let pods: Vec<Pod> = (0..100).map(|_| Pod::new()).collect();
    let since = Instant::now();
    let pending: Vec<_> = pods
        .iter()
        .enumerate()
        .map(|(n, pod)| world.client.begin_add(&format!("c{n}"), &pod.path(), now_ns(), PATIENCE))
        .collect();
    let mut addresses = BTreeSet::new();
    for call in pending {
        let Outcome::Added(endpoint) = call.answer() else { panic!("refused") };
        for address in endpoint.addresses {
            assert!(addresses.insert(address), "{address} twice");
        }
    }
    println!("100 ADDs at once: {:?}", since.elapsed());
    assert_eq!(addresses.len(), 200);
    let since = Instant::now();
    for n in 0..pods.len() {
        world.client.del(&format!("c{n}"));
    }
    println!("100 DELs in a row: {:?}", since.elapsed());
    world.empty();
    println!("until the last address was free: {:?}", since.elapsed());
}

#[test]
fn a_del_supersedes_the_add_that_runs() {
    let world = World::new(&Objects::dual());
    let pod = Pod::new();
    let mut superseded = 0;
    for round in 0..60_u64 {
        let id = format!("c{round}");
        let began = now_ns();
        let add = world.client.begin_add(&id, &pod.path(), began, PATIENCE);
        std::thread::sleep(Duration::from_micros(round * 40));
        world.client.del_at(&id, began + 1);
        if let Outcome::Failed(failure) = add.answer() {
            assert_eq!(failure.code, code::TRY_AGAIN_LATER, "{failure:?}");
            superseded += 1;
        }
        // The same id and interface again at once: it waits for the old link's end.
        world.client.add(&id, &pod.path());
        world.client.del(&id);
    }
    println!("{superseded} of 60 ADDs were superseded");
    assert!(superseded > 0, "no DEL met a running ADD");
    world.empty();
}

#[test]
fn an_add_that_comes_after_its_own_del_is_refused() {
    let world = World::new(&Objects::dual());
    let pod = Pod::new();
    let began = now_ns();
    world.client.del_at("late", began + 1_000);
    let answer = world.client.begin_add("late", &pod.path(), began, PATIENCE).answer();
    assert!(matches!(answer, Outcome::Failed(f) if f.code == code::TRY_AGAIN_LATER));
    world.client.add("late", &pod.path());
    // A DEL that began before an ADD does not end it.
    world.client.del_at("late", began);
    world.client.check("late", &pod.path(), &[]).unwrap();
}

#[test]
fn a_plugin_that_hangs_up_has_no_pod() {
    let world = World::new(&Objects::dual());
    let pod = Pod::new();
    for round in 0..40_u64 {
        let add = world.client.begin_add(&format!("c{round}"), &pod.path(), now_ns(), PATIENCE);
        std::thread::sleep(Duration::from_micros(round * 50));
        drop(add);
        // Waits for what the other left; it must be gone within the deadline.
        world.client.add(&format!("d{round}"), &pod.path());
        world.client.del(&format!("d{round}"));
    }
    world.empty();
}

#[test]
fn a_plugin_that_dies_with_its_answer_unread_has_no_pod() {
    let world = World::new(&Objects::dual());
    let pod = Pod::new();
    let add = world.client.begin_add("unread", &pod.path(), now_ns(), PATIENCE);
    eventually("it is active", || (world.leases("active") == ["unread"]).then_some(()));
    drop(add);
    world.empty();
    assert!(world.log().contains("answer unread"), "{}", world.log());
}

#[test]
fn kill_9_at_random_leaves_no_address_with_two_owners_and_none_lost() {
    let mut world = World::new(&Objects::dual());
    let pods: Vec<Pod> = (0..6).map(|_| Pod::new()).collect();
    for round in 0..25_u64 {
        let began = now_ns();
        let pending: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(n, pod)| world.client.begin_add(&format!("r{round}-{n}"), &pod.path(), began, PATIENCE))
            .collect();
        std::thread::sleep(Duration::from_micros(300 * round));
        world.kill();
        let mut added = BTreeSet::new();
        for (n, call) in pending.into_iter().enumerate() {
            // An agent that died has not answered; what it answered holds.
            if let Ok(Outcome::Added(endpoint)) = call.try_answer() {
                added.insert((n, endpoint.addresses.clone()));
            }
        }
        world.start();
        world.ready();
        for (n, addresses) in &added {
            world.client.check(&format!("r{round}-{n}"), &pods[*n].path(), addresses).unwrap();
        }
        for n in 0..pods.len() {
            world.client.del(&format!("r{round}-{n}"));
        }
        world.empty();
    }
}
