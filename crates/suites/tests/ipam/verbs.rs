//! What each verb answers and refuses, called as a main plugin calls it.

use overlane_suites::exec;
use overlane_suites::runtime::Sandbox;
use overlane_suites::wait::{ensure, eventually, secs};
use serde_json::{Value, json};

use crate::{addresses, gateways, leases, node, runtime, settled};

#[test]
fn every_version_has_its_shape() {
    let (_lock, node) = node(0);
    let mut ipam = runtime(&node, "overlane-ipam", "versions", &json!({"dns": {"nameservers": ["10.0.0.10"]}}));
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        ipam.version = version.to_owned();
        let mut sandbox = Sandbox::new();
        let result = ipam.add(&mut sandbox).must().json.expect("a result");
        assert_eq!(result["cniVersion"], version);
        assert!(result.get("interfaces").is_none(), "an IPAM plugin makes none: {result}");
        let ips = result["ips"].as_array().unwrap();
        assert_eq!(ips.len(), 2, "one address a family: {result}");
        for (ip, (family, length, everything)) in ips.iter().zip([("4", "/24", "0.0.0.0/0"), ("6", "/80", "::/0")]) {
            assert!(ip["address"].as_str().unwrap().ends_with(length), "{result}");
            assert!(ip.get("interface").is_none(), "{result}");
            assert_eq!(ip["version"].as_str(), version.starts_with("0.").then_some(family), "{result}");
            let routes = result["routes"].as_array().unwrap();
            assert!(routes.iter().any(|r| r["dst"] == everything && r["gw"] == ip["gateway"]), "{result}");
        }
        assert_eq!(result["dns"]["nameservers"][0], "10.0.0.10");
        settled(&node, &[&sandbox]);
        ipam.add(&mut Sandbox { result: None, ..Sandbox::new() }).must();
        if version != "0.3.1" {
            ipam.check(&sandbox).must();
            let other = json!({"prevResult": {"ips": [{"address": "10.244.0.250/24"}]}});
            let command = ipam.command("CHECK", Some(&sandbox));
            ipam.call(command, &ipam.config(&other).to_string()).refused(100);
        }
        assert_eq!(ipam.add(&mut Sandbox { id: sandbox.id.clone(), ..Sandbox::new() }).code(), Some(4), "added once");
        let gone = ipam.del(&sandbox).must();
        assert!(gone.out.stdout.trim().is_empty(), "{}", gone.out);
        ipam.del(&sandbox).must();
        if version != "0.3.1" {
            assert!(ipam.check(&sandbox).code().is_some(), "there is no lease any more");
        }
        // The other one's runtime forgot it: its namespace is gone with the value.
        settled(&node, &[]);
    }
}

#[test]
fn a_gateway_is_one_a_network_and_block_and_no_pods() {
    let (_lock, node) = node(0);
    let (one, two) = ("gateways-one", "gateways-two");
    let mut sandboxes: Vec<Sandbox> = (0..3).map(|_| Sandbox::new()).collect();
    for (sandbox, network) in sandboxes.iter_mut().zip([one, one, two]) {
        runtime(&node, "overlane-ipam", network, &json!({})).add(sandbox).must();
    }
    let [a, b, c] = sandboxes.try_into().ok().unwrap();
    assert_eq!(gateways(&a), gateways(&b));
    assert!(gateways(&c).iter().all(|gateway| !gateways(&a).contains(gateway)));
    let held = addresses(&leases(&node, "gateway"));
    for gateway in gateways(&a).iter().chain(&gateways(&c)) {
        assert!(held.contains(gateway), "{gateway} is on file: {held:?}");
        assert!(![&a, &b, &c].iter().any(|s| s.ips().contains(gateway)), "{gateway} is no pod's");
    }
    let before = gateways(&a);
    let ipam = runtime(&node, "overlane-ipam", one, &json!({}));
    for sandbox in [&a, &b, &c] {
        ipam.del(sandbox).must();
    }
    settled(&node, &[]);
    // As it is on a bridge that stays: through the end of all its pods, GC, and the end of the agent.
    ipam.gc(&[]).must();
    let agent = node.take_agent();
    agent.kill();
    agent.start();
    let mut again = Sandbox::new();
    ipam.add(&mut again).must();
    assert_eq!(gateways(&again), before);
    ipam.del(&again).must();
    settled(&node, &[]);
}

#[test]
fn link_local_gateways_take_no_address() {
    let (_lock, node) = node(0);
    let before = leases(&node, "gateway").len();
    let ipam = runtime(&node, "overlane-ipam", "link-local", &json!({"gateway": "link-local"}));
    let mut sandbox = Sandbox::new();
    let result = ipam.add(&mut sandbox).must().json.unwrap();
    let ips = result["ips"].as_array().unwrap();
    assert!(ips[0]["address"].as_str().unwrap().ends_with("/32") && ips[0]["gateway"] == "169.254.1.1", "{result}");
    assert!(ips[1]["address"].as_str().unwrap().ends_with("/128") && ips[1]["gateway"] == "fe80::1", "{result}");
    assert_eq!(leases(&node, "gateway").len(), before);
    ipam.check(&sandbox).must();
    ipam.del(&sandbox).must();
    settled(&node, &[]);
}

#[test]
fn gc_ends_what_is_not_named_of_this_network_and_of_pure_ipam() {
    let (_lock, node) = node(0);
    let mut own = node.runtime();
    own.network = "shared-name".to_owned();
    let ipam = runtime(&node, "overlane-ipam", "shared-name", &json!({}));
    let other = runtime(&node, "overlane-ipam", "other-name", &json!({}));
    let mut pod = Sandbox::new();
    let (mut kept, mut lost, mut stranger) = (Sandbox::new(), Sandbox::new(), Sandbox::new());
    own.add(&mut pod).must();
    ipam.add(&mut kept).must();
    ipam.add(&mut lost).must();
    other.add(&mut stranger).must();
    own.gc(&[&pod]).must();
    settled(&node, &[&kept, &lost, &stranger]);
    ipam.gc(&[&kept]).must();
    settled(&node, &[&kept, &stranger]);
    own.check(&pod).must();
    // The main plugin's DEL of a container that it does not have ends no lease of another kind.
    own.del(&kept).must();
    settled(&node, &[&kept, &stranger]);
    ipam.del(&pod).must();
    own.check(&pod).must();
    own.del(&pod).must();
    ipam.del(&kept).must();
    other.del(&stranger).must();
    settled(&node, &[]);
}

#[test]
fn configurations_that_cannot_be_meant_are_refused() {
    let (_lock, node) = node(0);
    let ipam = runtime(&node, "overlane-ipam", "wrong", &json!({}));
    let sandbox = Sandbox::new();
    let try_with = |config: &Value| ipam.call(ipam.command("ADD", Some(&sandbox)), &config.to_string());
    let mut config = ipam.config(&json!({}));
    config["ipam"]["gateway"] = json!("first");
    let answer = try_with(&config).refused(7);
    assert!(
        answer.message().contains("ipam.gateway") && answer.message().contains("link-local"),
        "{}",
        answer.message()
    );
    let mut config = ipam.config(&json!({}));
    config.as_object_mut().unwrap().remove("ipam");
    assert!(try_with(&config).refused(7).message().contains("ipam"));
    let mut config = ipam.config(&json!({}));
    config["name"] = json!("");
    assert!(try_with(&config).refused(7).message().contains("name"));
    ipam.status().must();
    settled(&node, &[]);
}

#[test]
fn del_without_an_agent_frees_the_address_later() {
    let (_lock, node) = node(1);
    let ipam = runtime(&node, "overlane-ipam", "agentless", &json!({}));
    let (mut old, mut kept) = (Sandbox::new(), Sandbox::new());
    ipam.add(&mut old).must();
    ipam.add(&mut kept).must();
    let agent = node.take_agent();
    agent.kill();
    ipam.add(&mut Sandbox::new()).refused(11);
    ipam.status().refused(50);
    ipam.del(&old).must();
    agent.start();
    eventually(secs(10), "the tombstone is honoured", || {
        let held = leases(&node, "ipam").len();
        ensure(held == 1, || format!("{held} leases"))
    });
    settled(&node, &[&kept]);
    ipam.check(&kept).must();
    ipam.del(&kept).must();
    settled(&node, &[]);
}

#[test]
fn a_node_with_such_leases_is_not_uninstalled() {
    let (_lock, node) = node(1);
    let ipam = runtime(&node, "overlane-ipam", "uninstalled", &json!({}));
    let mut sandbox = Sandbox::new();
    ipam.add(&mut sandbox).must();
    let agent = node.take_agent();
    let (words, env) = (exec::cmdline(agent.pid()), exec::environ(agent.pid()));
    agent.kill();
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]).arg("--uninstall").env_clear().envs(env);
    let out = node.ns.run(|| exec::run(command, b"", secs(60)));
    assert!(!out.ok() && out.stdout.contains(&sandbox.id) && out.stdout.contains("--force"), "{out}");
    agent.start();
    ipam.check(&sandbox).must();
    ipam.del(&sandbox).must();
    settled(&node, &[]);
}
