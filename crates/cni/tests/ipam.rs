//! The program as `overlane-ipam`: its way to the agent, and what it does without one.
//!
//! Must catch: a DEL without an agent that leaves no word, or one that reads as that of an interface; an older agent's
//! refusal that is taken for success.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use common::*;
use overlane_api::socket::{Call, IpamCall, LeasedAddress, Outcome};
use serde_json::{Value, json};

/// A configuration of another main plugin; `more` goes into its section `ipam`.
fn conf(site: &Site, version: &str, more: Value) -> Value {
    let mut ipam = json!({"type": "overlane-ipam", "runDir": site.dir.path()});
    for (key, value) in more.as_object().unwrap() {
        ipam[key] = value.clone();
    }
    json!({"cniVersion": version, "name": "net", "type": "ptp", "ipam": ipam})
}

fn ipam(verb: &str, netns: &str, conf: &Value) -> Outcomes {
    let mut command: Command = plugin();
    command.arg0("/opt/cni/bin/overlane-ipam");
    command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", "c0ffee").env("CNI_IFNAME", "eth0");
    if !netns.is_empty() {
        command.env("CNI_NETNS", netns);
    }
    feed(command, conf.to_string().as_bytes())
}

#[test]
fn add_hands_over_the_namespace_and_answers_addresses() {
    let (site, holder) = (Site::new(), Holder::new());
    let leased = LeasedAddress {
        address: "10.244.2.5".parse().unwrap(),
        prefix_len: 24,
        gateway: "10.244.2.1".parse().unwrap(),
    };
    let agent = serve(site.listen(), answering(Outcome::Leased(vec![leased])));
    let done = ipam("ADD", &holder.path(), &conf(&site, "1.0.0", json!({})));
    assert_eq!(
        done.json(),
        json!({
            "cniVersion": "1.0.0",
            "ips": [{"address": "10.244.2.5/24", "gateway": "10.244.2.1"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.2.1"}],
        })
    );
    let seen = agent.join().unwrap();
    assert_eq!((seen.request.protocol, seen.descriptors.len()), (3, 1));
    let Call::Ipam(IpamCall::Add(call)) = seen.request.call else { panic!("{:?}", seen.request) };
    assert_eq!((call.network.as_str(), call.netns_path), ("net", holder.path()));
    ipam("ADD", "/proc/self/ns/net", &conf(&site, "1.0.0", json!({}))).fails(4);
}

#[test]
fn an_older_agent_refuses_and_del_goes_on_without_it() {
    let holder = Holder::new();
    for (verb, version) in [("ADD", "1.0.0"), ("STATUS", "1.1.0")] {
        let site = Site::new();
        let refusal = failing(103, "the agent serves protocol 1 to 2, the plugin speaks 3", "finish the upgrade");
        let agent = serve(site.listen(), answering(refusal));
        let error = ipam(verb, &holder.path(), &conf(&site, version, json!({}))).fails(103);
        assert!(error["msg"].as_str().unwrap().contains("the plugin speaks 3"), "{error}");
        assert_eq!(agent.join().unwrap().request.protocol, 3);
    }
    let site = Site::new();
    let agent = serve(site.listen(), answering(failing(103, "older", "")));
    ipam("DEL", "", &conf(&site, "1.0.0", json!({}))).is_quiet();
    agent.join().unwrap();
    assert_eq!(site.tombstones().len(), 1);
}

#[test]
fn without_an_agent() {
    let (site, holder) = (Site::new(), Holder::new());
    ipam("ADD", &holder.path(), &conf(&site, "1.0.0", json!({}))).fails(11);
    ipam("STATUS", "", &conf(&site, "1.1.0", json!({}))).fails(50);
    ipam("DEL", "/run/netns/there-is-no-such-namespace", &conf(&site, "1.0.0", json!({}))).is_quiet();
    ipam("DEL", "", &conf(&site, "0.4.0", json!({"gateway": "nonsense"}))).is_quiet();
    let tombstones = site.tombstones();
    assert_eq!(tombstones.len(), 2);
    for tombstone in tombstones {
        assert_eq!((&tombstone["mode"], &tombstone["network"]), (&json!("ipam"), &json!("net")));
    }
    ipam("DEL", "", &json!({"cniVersion": "1.0.0", "name": "net", "type": "ptp"})).fails(7);
    let versions = ipam("VERSION", "", &json!({"cniVersion": "0.4.0"})).json();
    assert_eq!(versions["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
}
