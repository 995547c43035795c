//! Random policies in a lab, judged by packets.
//!
//! A round is random labels and policies for a lab of random pods, then packets of every protocol between pods, nodes and
//! hosts outside; each has to fare as the reference has it (`overlane-policy-reference`), and so has its answer.
//! `OVERLANE_POLICY_PROBES` is how many packets there are (1,000), `OVERLANE_POLICY_SEED` what all follows from, and
//! `OVERLANE_POLICY_ROUNDS` (as a failure prints it) which rounds of one lab to do alone.

use std::time::Instant;

use overlane_policy_reference::generate::Size;

use crate::ground::{Ground, Layout};
use crate::round;
use crate::tally::Tally;

const FAMILIES: [&str; 4] = ["ipv4,ipv6", "ipv4", "ipv6,ipv4", "ipv6"];
const ROUTING: [&str; 3] = ["native", "native", "vxlan"];
/// Packets of a round.
const SHOTS: usize = 25;
/// Rounds in one lab.
const ROUNDS: usize = 10;
const SIZE: Size = Size { namespaces: 0, nodes: 0, pods: 0, policies: 8, cluster_policies: 5 };

/// What to do in one lab.
struct Task {
    layout: Layout,
    rounds: Vec<u64>,
}

/// A number from the environment.
pub fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")),
        Err(_) => default,
    }
}

/// `FAMILIES/ROUTING/SEED/ROUND,ROUND...`
fn one_lab(text: &str) -> Option<Task> {
    let [families, routing, seed, rounds] = text.split('/').collect::<Vec<_>>().try_into().ok()?;
    let rounds = rounds.split(',').map(|round| round.parse().ok()).collect::<Option<_>>()?;
    let (families, routing) = (families.to_owned(), routing.to_owned());
    Some(Task { layout: Layout { families, routing, seed: seed.parse().ok()? }, rounds })
}

fn tasks(probes: usize, seed: u64) -> Vec<Task> {
    let rounds: Vec<u64> = (0..probes.div_ceil(SHOTS) as u64).map(|round| seed * 1_000_000 + round).collect();
    let task = |(at, rounds): (usize, &[u64])| Task {
        layout: Layout {
            families: FAMILIES[at % FAMILIES.len()].to_owned(),
            routing: ROUTING[at % ROUTING.len()].to_owned(),
            seed: seed * 1000 + at as u64,
        },
        rounds: rounds.to_vec(),
    };
    rounds.chunks(ROUNDS).enumerate().map(task).collect()
}

fn run(task: &Task, tally: &mut Tally) -> Vec<String> {
    let ground = Ground::new(&task.layout);
    let mut found = Vec::new();
    for (number, seed) in task.rounds.iter().enumerate() {
        let began = Instant::now();
        let written = round::apply(&ground, *seed, SIZE);
        let applied = began.elapsed();
        let differences = round::probe(&ground, &written, *seed, SHOTS, tally);
        println!("round {seed}: in force after {applied:.2?}, tried after {:.2?}", began.elapsed());
        let so_far: Vec<String> = task.rounds[..=number].iter().map(u64::to_string).collect();
        let Layout { families, routing, seed: lab } = &task.layout;
        let again = format!(
            "alone: OVERLANE_POLICY_ROUNDS={families}/{routing}/{lab}/{seed}, after those before it: .../{}",
            so_far.join(",")
        );
        found.extend(differences.into_iter().map(|difference| format!("{difference}\n    {again}")));
    }
    found
}

#[test]
fn every_packet_fares_as_the_reference_has_it() {
    overlane_suites::clean::begin();
    let mut tally = Tally::new();
    if let Ok(text) = std::env::var("OVERLANE_POLICY_ROUNDS") {
        let task = one_lab(&text)
            .unwrap_or_else(|| panic!("OVERLANE_POLICY_ROUNDS={text} is no FAMILIES/ROUTING/SEED/ROUNDS"));
        let found = run(&task, &mut tally);
        assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
        return;
    }
    let (probes, seed) = (number("OVERLANE_POLICY_PROBES", 1000), number("OVERLANE_POLICY_SEED", 1));
    println!("OVERLANE_POLICY_SEED={seed}, {probes} packets");
    let mut found = Vec::new();
    for task in tasks(probes as usize, seed) {
        found.extend(run(&task, &mut tally));
        // A fault that is everywhere needs not be shown a thousand times.
        assert!(found.len() < 20, "{} differences:\n{}", found.len(), found.join("\n"));
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    tally.must_be_broad();
}

/// Without policies everything passes: whoever finds a packet denied elsewhere has not merely failed to see it.
#[test]
fn without_policies_everything_passes() {
    for (families, routing) in [("ipv4,ipv6", "native"), ("ipv6", "native"), ("ipv4,ipv6", "vxlan")] {
        let ground = Ground::new(&Layout { families: families.to_owned(), routing: routing.to_owned(), seed: 7 });
        let mut tally = Tally::new();
        let began = Instant::now();
        let found = round::probe(&ground, &ground.cluster(), 7, 1000, &mut tally);
        println!("{families} {routing}: 1,000 packets in {:.2?}", began.elapsed());
        assert_eq!(tally.allowed, tally.probes);
        assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    }
}
