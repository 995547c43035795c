//! CHECK fails on each fault that it exists for.

use overlane_suites::faults::{self, Fault, Target};
use overlane_suites::runtime::{Runtime, Sandbox};
use overlane_suites::wait::{ensure, eventually, secs};
use serde_json::json;

use crate::{node, settled};

/// CHECK right after each fault. The audit may repair what the node can see, so a fault is planted over and over while
/// CHECK runs; a pass counts only if the fault is gone for good by then.
pub fn check_sees(runtime: &Runtime, sandbox: &Sandbox, fault: &Fault) {
    fault.plant();
    let mut answer = None;
    for _ in 0..10 {
        let result = json!({"prevResult": sandbox.result});
        let command = runtime.command("CHECK", Some(sandbox));
        let got = runtime.watched(command, &runtime.config(&result).to_string(), |_| fault.insist());
        if !got.out.ok() {
            answer = Some(got);
            break;
        }
        fault.insist();
    }
    let answer = answer.unwrap_or_else(|| panic!("CHECK passes ten times with this broken: {}", fault.name));
    let json = answer.json.as_ref().unwrap_or_else(|| panic!("{}: {}", fault.name, answer.out));
    assert!(json["code"].as_u64().is_some_and(|c| c >= 100), "{}: {}", fault.name, answer.out);
    assert!(json["msg"].as_str().is_some_and(|m| !m.is_empty()), "{}: {}", fault.name, answer.out);
}

#[test]
fn check_fails_on_each_fault_of_the_pod() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    runtime.add(&mut sandbox).must();
    let names: Vec<String> = faults::pod_side(&Target::of(&node.ns, &sandbox)).into_iter().map(|f| f.name).collect();
    runtime.del(&sandbox).must();
    assert!(names.len() >= 8, "{names:?}");
    for number in 0..names.len() {
        // A new sandbox for each: one fault often takes other objects with it.
        let mut sandbox = Sandbox::new();
        runtime.add(&mut sandbox).must();
        runtime.check(&sandbox).must();
        check_sees(&runtime, &sandbox, &faults::pod_side(&Target::of(&node.ns, &sandbox))[number]);
        runtime.del(&sandbox).must();
    }
    settled(&node, &[]);
}

#[test]
fn check_fails_on_each_fault_of_the_node() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    runtime.add(&mut sandbox).must();
    runtime.check(&sandbox).must();
    for fault in faults::host_side(&Target::of(&node.ns, &sandbox)) {
        check_sees(&runtime, &sandbox, &fault);
        eventually(secs(30), &format!("repair of {}", fault.name), || ensure(!fault.still(), || "still broken".into()));
        eventually(secs(5), &format!("CHECK after repair of {}", fault.name), || {
            let answer = runtime.check(&sandbox);
            ensure(answer.out.ok(), || answer.out.to_string())
        });
    }
    runtime.del(&sandbox).must();
    for number in 0..2 {
        let mut sandbox = Sandbox::new();
        runtime.add(&mut sandbox).must();
        check_sees(&runtime, &sandbox, &faults::link_gone(&Target::of(&node.ns, &sandbox))[number]);
        runtime.del(&sandbox).must();
    }
    settled(&node, &[]);
}

#[test]
fn check_compares_the_result() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let (mut a, mut b) = (Sandbox::new(), Sandbox::new());
    runtime.add(&mut a).must();
    runtime.add(&mut b).must();
    let swapped = json!({"prevResult": b.result});
    let answer = runtime.call(runtime.command("CHECK", Some(&a)), &runtime.config(&swapped).to_string());
    assert!(!answer.out.ok() && answer.code().is_some(), "CHECK of one pod with another's result: {}", answer.out);
    runtime.del(&a).must();
    runtime.del(&b).must();
    let answer =
        runtime.call(runtime.command("CHECK", Some(&a)), &runtime.config(&json!({"prevResult": a.result})).to_string());
    assert!(!answer.out.ok() && answer.code().is_some(), "CHECK after DEL: {}", answer.out);
    settled(&node, &[]);
}
