//! kill -9 of the agent and of the plugin after each system call, then at random; judged from outside.
//!
//! Must catch: a lease that is written down only after its link was made, so that an agent killed in between gives
//! the address to a second pod.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use overlane_suites::agent::Agent;
use overlane_suites::books::{self, Live};
use overlane_suites::exec;
use overlane_suites::runtime::{Answer, Runtime, Sandbox};
use overlane_suites::shared::SharedLab;
use overlane_suites::tracer::Tracer;
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{NodeHandle, Ns};
use serde_json::{Value, json};

static LAB: SharedLab<2> = SharedLab::new();

/// A node whose agent is ours, with two pods that live through everything.
struct Stage {
    node: NodeHandle,
    runtime: Runtime,
    agent: Agent,
    canaries: Vec<Sandbox>,
    _lock: MutexGuard<'static, ()>,
}

impl Stage {
    fn new(number: usize) -> Stage {
        let (lock, node) = LAB.node(number);
        let agent = node.take_agent();
        let runtime = node.runtime();
        let mut canaries = vec![Sandbox::new(), Sandbox::new()];
        for canary in &mut canaries {
            runtime.add(canary).must();
        }
        Stage { node, runtime, agent, canaries, _lock: lock }
    }

    fn lives<'a>(&'a self, more: &[&'a Sandbox]) -> Vec<Live> {
        let all = self.canaries.iter().chain(more.iter().copied());
        all.map(|s| Live { name: s.pod.clone(), ns: s.net.ns.clone(), ips: s.ips() }).collect()
    }

    /// No address twice at this very moment; books in balance soon; canaries and `more` reachable.
    fn judge(&self, more: &[&Sandbox], dead: &[&Sandbox], what: &str) {
        let live = self.lives(more);
        let dead: Vec<(String, Ns)> = dead.iter().map(|s| (s.pod.clone(), s.net.ns.clone())).collect();
        // Two owners at any moment are a failure; what is merely not yet tidied up has a while.
        if !dead.is_empty() {
            let mut all: Vec<(String, Ns)> = live.iter().map(|l| (l.name.clone(), l.ns.clone())).collect();
            all.extend(dead.iter().cloned());
            let doubled = books::doubled(&all);
            assert!(doubled.is_empty(), "{what}: {doubled:?}");
        }
        let began = Instant::now();
        loop {
            let found = books::faults(&self.node.ns, &live, &dead);
            if found.is_empty() {
                break;
            }
            assert!(began.elapsed() < secs(15), "{what}: {}", found.join("; "));
            std::thread::sleep(millis(20));
        }
        books::reachable(&self.node.ns, &live, secs(3));
    }

    /// Ends all pods and proves that the block is whole again: as many ADDs as it has addresses succeed, each with
    /// its own, and the next is refused.
    fn finish(mut self) {
        for canary in &self.canaries {
            self.runtime.del(canary).must();
        }
        self.canaries.clear();
        self.judge(&[], &[], "after the last DEL");
        let mut all: Vec<Sandbox> = (0..254).map(|_| Sandbox::new()).collect();
        for sandbox in &mut all {
            let answer = self.runtime.add(sandbox);
            assert!(answer.out.ok(), "an address was leaked: {}\n{}", answer.out, self.node.state());
        }
        let ips: BTreeSet<IpAddr> = all.iter().flat_map(Sandbox::ips).collect();
        assert_eq!(ips.len(), 508, "each address once");
        self.runtime.add(&mut Sandbox::new()).refused(102);
        for sandbox in &all {
            self.runtime.del(sandbox).must();
        }
        self.judge(&[], &[], "after the block was emptied");
    }
}

/// Starts a call; the caller waits for it.
fn start(runtime: &Runtime, verb: &str, sandbox: &Sandbox) -> std::process::Child {
    let extra = sandbox.result.as_ref().map_or_else(|| json!({}), |result| json!({"prevResult": result}));
    let mut command = runtime.command(verb, Some(sandbox));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = runtime.ns.spawn(command);
    let input = runtime.config(&extra).to_string();
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
    child
}

fn finish(child: std::process::Child, verb: &str, each: impl FnMut(&std::process::Child)) -> Answer {
    let out = exec::finish(child, verb.to_owned(), b"", Instant::now(), secs(120), each);
    assert!(!out.timed_out, "{out}");
    let json = serde_json::from_str::<Value>(&out.stdout).ok();
    Answer { out, json }
}

/// One call during which the agent dies after its `n`th system call and is started again at once, as a supervisor
/// does. Returns the answer and whether the agent got that far.
fn call_with_kill(stage: &Stage, verb: &str, sandbox: &Sandbox, n: u64) -> (Answer, bool) {
    let tracer = stage.agent.doomed_after(n);
    let call = start(&stage.runtime, verb, sandbox);
    let pid = i32::try_from(call.id()).unwrap();
    // Until the agent is dead, or the call is over and what it left to be done behind its answer is done too.
    let mut quiet_since = Instant::now();
    let mut last = 0;
    loop {
        if tracer.reached() {
            break;
        }
        let count = tracer.count();
        if count != last || exec::alive(pid) {
            (last, quiet_since) = (count, Instant::now());
        }
        if quiet_since.elapsed() > millis(120) {
            break;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    let reached = tracer.end();
    stage.agent.kill();
    stage.agent.launch();
    let answer = finish(call, verb, |_| ());
    stage.node.agent_ready();
    (answer, reached)
}

#[test]
fn agent_killed_after_each_call_of_an_add() {
    let stage = Stage::new(0);
    let mut deaths = 0;
    for n in 1..2000 {
        let mut sandbox = Sandbox::new();
        let (answer, reached) = call_with_kill(&stage, "ADD", &sandbox, n);
        let what = format!("agent killed after system call {n} of an ADD ({})", answer.out);
        if answer.out.ok() {
            sandbox.result = answer.json.clone();
            stage.judge(&[&sandbox], &[], &what);
        } else {
            assert!(answer.code().is_some(), "{what}");
            replay(&stage, &mut sandbox, n, &what);
        }
        stage.runtime.del(&sandbox).must();
        stage.judge(&[], &[&sandbox], &what);
        if !reached {
            break;
        }
        deaths = n;
    }
    println!("an ADD and what follows it: the agent died after each of {deaths} system calls");
    assert!((10..1900).contains(&deaths), "{deaths} deaths: the calls were not followed");
    stage.finish();
}

/// What a runtime does after a failed ADD: end it and begin anew, or, if it died as well, forget it all.
fn replay(stage: &Stage, sandbox: &mut Sandbox, n: u64, what: &str) {
    match n % 3 {
        0 => {
            stage.runtime.del(sandbox).must();
            stage.judge(&[], &[sandbox], what);
            let again = stage.runtime.add(sandbox);
            assert!(again.out.ok(), "{what}: the same id again: {}", again.out);
        }
        1 => {
            // A new sandbox while the old one was not ended yet.
            let mut next = Sandbox::new();
            let again = stage.runtime.add(&mut next);
            assert!(again.out.ok(), "{what}: the next sandbox: {}", again.out);
            stage.runtime.del(sandbox).must();
            *sandbox = next;
        }
        _ => {
            // The runtime lost all memory of it: the end of the namespace is the proof.
            *sandbox = Sandbox::new();
            let again = stage.runtime.add(sandbox);
            assert!(again.out.ok(), "{what}: another sandbox: {}", again.out);
        }
    }
    stage.judge(&[sandbox], &[], what);
}

#[test]
fn agent_killed_after_each_call_of_a_del() {
    let stage = Stage::new(0);
    let mut deaths = 0;
    for n in 1..2000 {
        let mut sandbox = Sandbox::new();
        stage.runtime.add(&mut sandbox).must();
        let (answer, reached) = call_with_kill(&stage, "DEL", &sandbox, n);
        let what = format!("agent killed after system call {n} of a DEL ({})", answer.out);
        if !answer.out.ok() {
            assert!(answer.code().is_some(), "{what}");
            let again = stage.runtime.del(&sandbox);
            assert!(again.out.ok(), "{what}: DEL again: {}", again.out);
        }
        stage.judge(&[], &[&sandbox], &what);
        if !reached {
            break;
        }
        deaths = n;
    }
    println!("a DEL and what follows it: the agent died after each of {deaths} system calls");
    assert!((10..1900).contains(&deaths), "{deaths} deaths: the calls were not followed");
    stage.finish();
}

/// One call whose plugin dies after its `n`th system call. Returns whether it got that far.
fn plugin_killed(stage: &Stage, verb: &str, sandbox: &mut Sandbox, n: u64) -> bool {
    // A shell that waits for us, then becomes the plugin: exec keeps the pid and the tracer.
    let inner = stage.runtime.command(verb, Some(sandbox));
    let mut command = Command::new("sh");
    command.arg("-c").arg("kill -STOP $$; exec \"$0\"").arg(inner.get_program());
    command.env_clear().envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = stage.runtime.ns.spawn(command);
    let pid = i32::try_from(child.id()).unwrap();
    eventually(secs(5), "a stopped shell", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        ensure(stat.contains(") T "), || stat.clone())
    });
    let extra = sandbox.result.as_ref().map_or_else(|| json!({}), |result| json!({"prevResult": result}));
    let mut stdin = child.stdin.take().unwrap();
    let _ = std::io::Write::write_all(&mut stdin, stage.runtime.config(&extra).to_string().as_bytes());
    drop(stdin);
    let tracer = Tracer::kill_after(pid, n);
    exec::signal(pid, nix::sys::signal::Signal::SIGCONT);
    let began = Instant::now();
    // Nobody but the tracer may wait for it before its end.
    while exec::alive(pid) {
        assert!(began.elapsed() < secs(60), "the plugin does not end");
        std::thread::sleep(Duration::from_micros(500));
    }
    let reached = tracer.end();
    let mut stdout = String::new();
    let _ = std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut stdout);
    // The tracer may have reaped it: then there is nothing left to wait for.
    let _ = child.wait();
    if verb == "ADD" {
        let result = serde_json::from_str::<Value>(&stdout).ok();
        sandbox.result = result.filter(|r| r["interfaces"].is_array());
    }
    reached
}

#[test]
fn plugin_killed_after_each_of_its_calls() {
    let stage = Stage::new(1);
    for verb in ["ADD", "DEL"] {
        let mut deaths = 0;
        for n in 1..2000 {
            let mut sandbox = Sandbox::new();
            if verb == "DEL" {
                stage.runtime.add(&mut sandbox).must();
            }
            let reached = plugin_killed(&stage, verb, &mut sandbox, n);
            let what = format!("plugin killed after system call {n} of {verb}");
            // The runtime saw the plugin die: it ends the attachment, and again, as kubelet and containerd both do.
            stage.runtime.del(&sandbox).must();
            stage.judge(&[], &[&sandbox], &what);
            sandbox.result = None;
            let again = stage.runtime.add(&mut sandbox);
            assert!(again.out.ok(), "{what}: the same id again: {}", again.out);
            stage.judge(&[&sandbox], &[], &what);
            stage.runtime.del(&sandbox).must();
            if !reached {
                break;
            }
            deaths = n;
        }
        println!("{verb}: the plugin died after each of {deaths} system calls");
        assert!((10..1900).contains(&deaths), "{deaths} deaths: the calls were not followed");
    }
    stage.finish();
}

/// A small generator; the seed is printed, so that a run can be repeated.
struct Chance(u64);

impl Chance {
    fn new() -> Chance {
        let seed = match std::env::var("OVERLANE_SEED") {
            Ok(seed) => seed.parse().expect("OVERLANE_SEED is a number"),
            Err(_) => u64::from(std::process::id()),
        };
        println!("OVERLANE_SEED={seed}");
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n.max(1)
    }
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Agent,
    Plugin,
}

impl Victim {
    /// Kills it while a call is under way, somewhere within `usual`; whether the call still ran.
    fn kill(self, stage: &Stage, call: &std::process::Child, after: Duration) -> bool {
        std::thread::sleep(after);
        let pid = i32::try_from(call.id()).unwrap();
        match self {
            Victim::Agent => {
                exec::signal(stage.agent.pid(), nix::sys::signal::Signal::SIGKILL);
                // Dead while the plugin still waits: the kill landed inside the call.
                let inside = exec::alive(pid);
                stage.agent.kill();
                stage.agent.launch();
                inside
            }
            Victim::Plugin => {
                let inside = exec::alive(pid);
                exec::signal(pid, nix::sys::signal::Signal::SIGKILL);
                inside
            }
        }
    }
}

#[test]
fn agent_killed_at_random_moments() {
    at_random_moments(Victim::Agent);
}

#[test]
fn plugin_killed_at_random_moments() {
    at_random_moments(Victim::Plugin);
}

fn at_random_moments(victim: Victim) {
    const CALLS: u32 = 500;
    const KILLS: u32 = 200;
    let stage = Stage::new(1);
    let mut chance = Chance::new();
    let mut pods: Vec<Sandbox> = Vec::new();
    let (mut done, mut landed, mut usual) = (0, 0, millis(8));
    while done < CALLS || landed < KILLS {
        assert!(done < CALLS * 10, "only {landed} of {KILLS} kills land inside a call");
        done += 1;
        let add = pods.len() < 3 || (pods.len() < 12 && chance.below(2) == 0);
        let verb = if add { "ADD" } else { "DEL" };
        let place = usize::try_from(chance.below(pods.len() as u64)).unwrap();
        let mut sandbox = if add { Sandbox::new() } else { pods.swap_remove(place) };
        let kill_it = CALLS.saturating_sub(done) < KILLS.saturating_sub(landed) * 3 || chance.below(5) < 3;
        let began = Instant::now();
        let call = start(&stage.runtime, verb, &sandbox);
        let span = usual.as_micros().max(500) as u64;
        let after = Duration::from_micros(chance.below(span));
        let inside = kill_it && victim.kill(&stage, &call, after);
        landed += u32::from(inside);
        let answer = finish(call, verb, |_| ());
        if !kill_it {
            usual = (usual * 3 + began.elapsed()) / 4;
        }
        let what = format!("call {done}, kill inside: {inside}: {}", answer.out);
        stage.node.agent_ready();
        // A plugin that died has said nothing, or all that it had to say.
        let said = answer.out.ok() || answer.code().is_some() || (victim == Victim::Plugin && inside);
        assert!(said, "{what}");
        match (add, answer.out.ok()) {
            (true, true) => {
                sandbox.result = answer.json;
                pods.push(sandbox);
            }
            // The runtime ends it, or has forgotten it: then the end of its namespace is the proof.
            (true, false) if chance.below(3) > 0 => drop(stage.runtime.del(&sandbox).must()),
            (false, false) => drop(stage.runtime.del(&sandbox).must()),
            // A plugin may die after the agent saw its answer taken, and before the runtime has it: that pod lives as
            // long as its namespace.
            _ => drop(sandbox),
        }
        if done % 10 == 0 {
            stage.judge(&pods.iter().collect::<Vec<_>>(), &[], &what);
        }
    }
    println!("{victim:?}: {done} calls, {landed} kills inside a call");
    stage.judge(&pods.iter().collect::<Vec<_>>(), &[], "at the end");
    for sandbox in &pods {
        stage.runtime.del(sandbox).must();
    }
    stage.finish();
}
