//! ADD and DEL of one attachment that overtake each other.

use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Instant;

use nix::sys::signal::Signal;
use overlane_suites::exec::{self, Running};
use overlane_suites::monitor::Monitor;
use overlane_suites::runtime::{Runtime, Sandbox};
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{books, ip, packet};
use serde_json::json;

use crate::{live, node, settled};

/// Starts a call without waiting for its end.
fn start(runtime: &Runtime, verb: &str, sandbox: &Sandbox) -> Running {
    let mut command = runtime.command(verb, Some(sandbox));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = runtime.ns.spawn(command);
    let input = runtime.config(&json!({})).to_string();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    Running::new(child)
}

/// Waits until the plugin has begun, which is when it opens a socket at the latest, or is over.
fn begun(call: &mut Running) {
    let open = |pid: i32| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(Result::ok);
        fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|to| to.to_string_lossy().starts_with("socket:"))
    };
    while call.alive() && !open(call.pid) {
        std::hint::spin_loop();
    }
}

/// Starts a call whose way to the agent takes `delay`: the plugin has begun by then, and the agent knows nothing of it.
fn start_slow(runtime: &Runtime, verb: &str, sandbox: &Sandbox, delay: std::time::Duration) -> Running {
    let inner = runtime.command(verb, Some(sandbox));
    let mut command = std::process::Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=connect"]);
    command.args(["-e", &format!("inject=connect:delay_enter={}", delay.as_micros())]).arg(inner.get_program());
    command.env_clear().envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = runtime.ns.spawn(command);
    let input = runtime.config(&json!({})).to_string();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    Running::new(child)
}

fn over(call: &mut Running) {
    eventually(secs(100), "end of a call", || ensure(!call.alive(), || "still runs".into()));
}

/// Pods are wired side by side: between the making of one pod's link and its last route, another's link is made.
#[test]
fn adds_do_not_wait_for_each_other() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    let mut overlaps = 0;
    for _ in 0..10 {
        let monitor = Monitor::start(&node.ns);
        let mut sandboxes: Vec<Sandbox> = (0..8).map(|_| Sandbox::new()).collect();
        std::thread::scope(|scope| {
            for sandbox in &mut sandboxes {
                scope.spawn(|| runtime.add(sandbox).must());
            }
        });
        overlaps += overlapping(&monitor.finish(), &sandboxes);
        for sandbox in &sandboxes {
            runtime.del(sandbox).must();
        }
        if overlaps > 0 {
            break;
        }
    }
    assert!(overlaps > 0, "of eighty ADDs, eight at a time, no two were at work at once");
    settled(&node, &[]);
}

/// How many pods' links were made while another pod was being wired.
fn overlapping(events: &[String], sandboxes: &[Sandbox]) -> usize {
    let spans = sandboxes.iter().map(|sandbox| {
        let link = sandbox.host_link();
        let of_link: Vec<usize> = (0..events.len()).filter(|at| events[*at].contains(&link)).collect();
        // The last route: an IPv6 one.
        let routed = of_link.iter().rev().find(|at| events[**at].contains("metric 111")).copied();
        (of_link.first().copied().unwrap_or(0), routed.unwrap_or(0))
    });
    let spans: Vec<(usize, usize)> = spans.collect();
    spans.iter().filter(|one| spans.iter().any(|other| other.0 < one.0 && one.0 < other.1)).count()
}

#[test]
fn an_add_that_comes_late_is_refused() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    for known in [false, true] {
        let mut sandbox = Sandbox::new();
        if known {
            // The agent has heard of the attachment before.
            runtime.add(&mut sandbox).must();
            runtime.del(&sandbox).must();
            sandbox.result = None;
        }
        let mut late = start_slow(&runtime, "ADD", &sandbox, secs(2));
        std::thread::sleep(secs(1));
        assert!(late.alive());
        runtime.del(&sandbox).must();
        over(&mut late);
        settled(&node, &[]);
        assert!(ip::link(&sandbox.net.ns, "eth0").is_none(), "the runtime ended this attachment after its ADD began");
        runtime.add(&mut sandbox).must();
        settled(&node, &[&sandbox]);
        runtime.del(&sandbox).must();
        settled(&node, &[]);
    }
}

#[test]
fn a_del_that_comes_late_ends_nothing_newer() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    runtime.add(&mut sandbox).must();
    let mut late = start_slow(&runtime, "DEL", &sandbox, secs(3));
    std::thread::sleep(secs(1));
    runtime.del(&sandbox).must();
    runtime.add(&mut sandbox).must();
    assert!(late.alive(), "the machine is too slow for this test's order of things");
    over(&mut late);
    std::thread::sleep(millis(300));
    settled(&node, &[&sandbox]);
    books::reachable(&node.ns, &[live(&sandbox)], secs(2));
    runtime.check(&sandbox).must();
    runtime.del(&sandbox).must();
    settled(&node, &[]);
}

#[test]
fn an_add_that_arrives_after_its_del_is_refused() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    let agent = node.take_agent();
    for round in 0..5 {
        let mut sandbox = Sandbox::new();
        // The plugin takes its time stamp, connects and waits: the agent sees ADD and DEL only when it wakes.
        agent.signal(Signal::SIGSTOP);
        let mut add = start(&runtime, "ADD", &sandbox);
        std::thread::sleep(millis(30));
        let mut del = start(&runtime, "DEL", &sandbox);
        std::thread::sleep(millis(30 + round));
        agent.signal(Signal::SIGCONT);
        over(&mut add);
        over(&mut del);
        settled(&node, &[]);
        runtime.add(&mut sandbox).must();
        settled(&node, &[&sandbox]);
        books::reachable(&node.ns, &[live(&sandbox)], secs(2));
        runtime.del(&sandbox).must();
        settled(&node, &[]);
    }
}

#[test]
fn a_del_ends_a_running_add_and_the_next_add_stands() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    for round in 0..30u64 {
        let mut sandbox = Sandbox::new();
        let mut add = start(&runtime, "ADD", &sandbox);
        begun(&mut add);
        std::thread::sleep(std::time::Duration::from_micros(round * 200));
        runtime.del(&sandbox).must();
        // The first ADD may still run: it began earlier, and must not disturb the second.
        let began = Instant::now();
        let second = runtime.add(&mut sandbox);
        assert!(second.out.ok(), "round {round}, {:?} after DEL: {}", began.elapsed(), second.out);
        over(&mut add);
        settled(&node, &[&sandbox]);
        for to in sandbox.ips() {
            packet::ping(&node.ns, to, 56, secs(1)).unwrap();
        }
        runtime.del(&sandbox).must();
    }
    settled(&node, &[]);
}

#[test]
fn a_plugin_stopped_before_it_asks_comes_too_late() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    for delay in [0u64, 300, 700, 1500, 3000] {
        let sandbox = Sandbox::new();
        let mut add = start(&runtime, "ADD", &sandbox);
        std::thread::sleep(std::time::Duration::from_micros(delay));
        let caught = add.alive() && exec::signal(add.pid, Signal::SIGSTOP);
        runtime.del(&sandbox).must();
        if caught {
            exec::signal(add.pid, Signal::SIGCONT);
        }
        over(&mut add);
        // If the plugin had not even taken its time stamp when it was stopped, its ADD is the later one and stands:
        // then a DEL ends it as any other.
        runtime.del(&sandbox).must();
        settled(&node, &[]);
    }
}
