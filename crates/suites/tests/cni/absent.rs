//! The agent is dead, or alive and silent.

use nix::sys::signal::Signal;
use overlane_suites::runtime::Sandbox;
use overlane_suites::wait::{ensure, eventually, secs};
use overlane_suites::{books, ip};

use crate::{live, node, settled};

#[test]
fn without_an_agent() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    let mut old = Sandbox::new();
    let mut kept = Sandbox::new();
    runtime.add(&mut old).must();
    runtime.add(&mut kept).must();
    let agent = node.take_agent();
    agent.kill();
    let mut fresh = Sandbox::new();
    let answer = runtime.add(&mut fresh).refused(11);
    println!("ADD with no agent answered after {:?}", answer.out.took);
    assert!(answer.out.took < secs(25), "in its time limit: {}", answer.out);
    runtime.status().refused(50);
    // One that ends in good order, as in an upgrade, is about to have a successor: the node stays ready.
    agent.start();
    agent.signal(Signal::SIGTERM);
    eventually(secs(10), "the agent's end", || ensure(!agent.alive(), || "it lives".to_owned()));
    agent.kill();
    runtime.status().must();
    agent.start();
    runtime.status().must();
    agent.kill();
    runtime.status().refused(50);
    assert!(!runtime.check(&kept).out.ok());
    let answer = runtime.del(&old).must();
    println!("DEL with no agent answered after {:?}", answer.out.took);
    assert!(answer.out.took < secs(15), "{}", answer.out);
    assert!(ip::link(&old.net.ns, "eth0").is_none(), "DEL with no agent removes the link");
    runtime.del(&old).must();
    runtime.del(&fresh).must();
    books::reachable(&node.ns, &[live(&kept)], secs(2));
    agent.start();
    settled(&node, &[&kept]);
    books::reachable(&node.ns, &[live(&kept)], secs(2));
    // The same id and interface, at once.
    runtime.add(&mut old).must();
    runtime.add(&mut fresh).must();
    settled(&node, &[&kept, &old, &fresh]);
    for sandbox in [&kept, &old, &fresh] {
        runtime.del(sandbox).must();
    }
    settled(&node, &[]);
}

#[test]
fn with_an_agent_that_hangs() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    let mut kept = Sandbox::new();
    let mut old = Sandbox::new();
    runtime.add(&mut kept).must();
    runtime.add(&mut old).must();
    let agent = node.take_agent();
    agent.signal(Signal::SIGSTOP);
    let mut fresh = Sandbox::new();
    let answer = runtime.add(&mut fresh).refused(11);
    println!("ADD with a stopped agent answered after {:?}", answer.out.took);
    assert!(answer.out.took < secs(25), "in its time limit: {}", answer.out);
    let answer = runtime.del(&old).must();
    println!("DEL with a stopped agent answered after {:?}", answer.out.took);
    runtime.status().refused(50);
    agent.signal(Signal::SIGCONT);
    // What the agent finds in its socket now was given up by the plugin: it must lead to nothing.
    settled(&node, &[&kept]);
    std::thread::sleep(secs(1));
    settled(&node, &[&kept]);
    runtime.add(&mut fresh).must();
    settled(&node, &[&kept, &fresh]);
    books::reachable(&node.ns, &[live(&kept), live(&fresh)], secs(2));
    runtime.del(&kept).must();
    runtime.del(&fresh).must();
    settled(&node, &[]);
}
