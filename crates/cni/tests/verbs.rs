//! Must catch: a request that lacks what the runtime said, a descriptor that does not arrive, a result in the wrong
//! shape, an answer that is not passed on as it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::time::Duration;

use common::*;
use expect_test::expect;
use nix::time::{ClockId, clock_gettime};
use overlane_api::socket::{Call, HANDOVER, HANDOVER_MS, Outcome};
use serde_json::{Value, json};

/// What CHECK and DEL get back.
fn prev_result() -> Value {
    json!({
        "interfaces": [{"name": "ovlpabcdefghijk"}, {"name": "eth0", "sandbox": "/x"}],
        "ips": [{"address": "10.244.2.2/32", "interface": 1}, {"address": "fd00::2/128", "interface": 1}],
    })
}

/// The request as text, without what differs from call to call.
fn shown(seen: &Seen) -> String {
    let mut request = seen.request.clone();
    request.plugin_version = "V".to_owned();
    let began = match &mut request.call {
        Call::Add(call) => {
            call.deadline_ns = 0;
            call.netns_path = "PATH".to_owned();
            &mut call.began_ns
        }
        Call::Check(call) => {
            call.netns_path = "PATH".to_owned();
            &mut 1
        }
        Call::Del(call) => &mut call.began_ns,
        Call::Gc(call) => &mut call.began_ns,
        Call::Status | Call::Ipam(_) => &mut 1,
    };
    assert!(std::mem::take(began) > 0);
    serde_json::to_string_pretty(&request).unwrap()
}

#[test]
fn add_hands_over_the_namespace_and_prints_the_result() {
    let (site, holder) = (Site::new(), Holder::new());
    let agent = serve(site.listen(), answering(Outcome::Added(endpoint())));
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1;X=y";
    let conf = site.conf("1.1.0", json!({}));
    let env = [("CNI_NETNS", holder.path()), ("CNI_ARGS", args.to_owned())];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    let done = call_with("ADD", &env, conf.to_string().as_bytes());
    let seen = agent.join().unwrap();
    assert_eq!(seen.descriptors.len(), 1);
    assert_eq!(inode(format!("/proc/self/fd/{}", seen.descriptors[0])), inode(holder.path()));
    expect![[r#"
        {
          "protocol": 1,
          "pluginVersion": "V",
          "call": {
            "verb": "ADD",
            "attachment": {
              "containerId": "c0ffee",
              "ifname": "eth0"
            },
            "network": "overlane",
            "netnsPath": "PATH",
            "beganNs": 0,
            "deadlineNs": 0,
            "pod": {
              "namespace": "shop",
              "name": "web-0",
              "uid": "u-1"
            }
          }
        }"#]]
    .assert_eq(&shown(&seen));
    let Call::Add(add) = &seen.request.call else { panic!("{:?}", seen.request) };
    assert_eq!(add.deadline_ns - add.began_ns, 60_000_000_000);
    assert_eq!(done.output.status.code(), Some(0), "{:?}", done.output);
    expect![[r#"
        {
          "cniVersion": "1.1.0",
          "interfaces": [
            {
              "name": "ovlpabcdefghijk",
              "mac": "02:6f:76:6c:00:01",
              "mtu": 1450
            },
            {
              "name": "eth0",
              "mac": "02:11:22:33:44:55",
              "mtu": 1450,
              "sandbox": "PATH"
            }
          ],
          "ips": [
            {
              "interface": 1,
              "address": "10.244.2.2/32",
              "gateway": "169.254.1.1"
            },
            {
              "interface": 1,
              "address": "fd12:3456:789a:0:2::2/128",
              "gateway": "fe80::1"
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "169.254.1.1"
            },
            {
              "dst": "::/0",
              "gw": "fe80::1"
            }
          ],
          "dns": {}
        }
    "#]]
    .assert_eq(&done.stdout().replace(&holder.path(), "PATH"));
}

#[test]
fn add_answers_in_the_version_asked_for() {
    let holder = Holder::new();
    for (version, ip_version, mtu) in
        [("0.3.1", true, false), ("0.4.0", true, false), ("1.0.0", false, false), ("1.1.0", false, true)]
    {
        let site = Site::new();
        let agent = serve(site.listen(), answering(Outcome::Added(endpoint())));
        let result = call("ADD", &holder.path(), &site.conf(version, json!({}))).json();
        agent.join().unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0].get("version").is_some(), ip_version, "{result}");
        assert_eq!(result["interfaces"][1].get("mtu").is_some(), mtu, "{result}");
        assert_eq!(result["interfaces"][1]["sandbox"], holder.path());
        assert_eq!(result["ips"][1]["interface"], 1);
    }
}

#[test]
fn dns_comes_from_the_runtime_or_else_from_the_configuration() {
    let holder = Holder::new();
    let fixed = json!({"dns": {"nameservers": ["192.0.2.1"]}});
    let both = json!({"dns": {"nameservers": ["192.0.2.1"]}, "runtimeConfig": {"dns": {
        "servers": ["10.0.0.10"], "searches": ["svc.cluster.local"], "options": ["ndots:5"]}}});
    let wanted = json!({"nameservers": ["10.0.0.10"], "search": ["svc.cluster.local"], "options": ["ndots:5"]});
    for (more, want) in [(json!({}), json!({})), (fixed.clone(), fixed["dns"].clone()), (both, wanted)] {
        let site = Site::new();
        let agent = serve(site.listen(), answering(Outcome::Added(endpoint())));
        let result = call("ADD", &holder.path(), &site.conf("1.0.0", more)).json();
        agent.join().unwrap();
        assert_eq!(result["dns"], want);
    }
}

#[test]
fn the_agents_error_is_printed_as_it_is() {
    let (site, holder) = (Site::new(), Holder::new());
    let agent = serve(site.listen(), answering(failing(102, "no address is free", "254 of 254 are leased")));
    let object = call("ADD", &holder.path(), &site.conf("0.4.0", json!({}))).fails(102);
    agent.join().unwrap();
    let want =
        json!({"cniVersion": "0.4.0", "code": 102, "msg": "no address is free", "details": "254 of 254 are leased"});
    assert_eq!(object, want);
}

#[test]
fn del_asks_the_agent_and_leaves_no_word() {
    let site = Site::new();
    let agent = serve(site.listen(), answering(Outcome::Done));
    call("DEL", "", &site.conf("0.4.0", json!({"prevResult": prev_result()}))).is_quiet();
    let seen = agent.join().unwrap();
    assert!(seen.descriptors.is_empty());
    assert_eq!(site.tombstones(), Vec::<Value>::new());
    expect![[r#"
        {
          "protocol": 1,
          "pluginVersion": "V",
          "call": {
            "verb": "DEL",
            "attachment": {
              "containerId": "c0ffee",
              "ifname": "eth0"
            },
            "network": "overlane",
            "beganNs": 0
          }
        }"#]]
    .assert_eq(&shown(&seen));
}

#[test]
fn del_that_the_agent_refuses_fails() {
    let site = Site::new();
    let agent = serve(site.listen(), answering(failing(101, "delete link", "")));
    call("DEL", "", &site.conf("1.0.0", json!({}))).fails(101);
    agent.join().unwrap();
    assert_eq!(site.tombstones(), Vec::<Value>::new());
}

#[test]
fn check_sends_what_add_promised() {
    let (site, holder) = (Site::new(), Holder::new());
    let agent = serve(site.listen(), answering(Outcome::Done));
    call("CHECK", &holder.path(), &site.conf("0.4.0", json!({"prevResult": prev_result()}))).is_quiet();
    let seen = agent.join().unwrap();
    assert_eq!(inode(format!("/proc/self/fd/{}", seen.descriptors[0])), inode(holder.path()));
    expect![[r#"
        {
          "protocol": 1,
          "pluginVersion": "V",
          "call": {
            "verb": "CHECK",
            "attachment": {
              "containerId": "c0ffee",
              "ifname": "eth0"
            },
            "network": "overlane",
            "netnsPath": "PATH",
            "expected": [
              "10.244.2.2",
              "fd00::2"
            ]
          }
        }"#]]
    .assert_eq(&shown(&seen));
}

#[test]
fn check_fails_with_the_agents_words() {
    let (site, holder) = (Site::new(), Holder::new());
    let agent = serve(site.listen(), answering(failing(100, "the default route is gone", "")));
    call("CHECK", &holder.path(), &site.conf("1.1.0", json!({"prevResult": prev_result()}))).fails(100);
    agent.join().unwrap();
}

#[test]
fn gc_sends_the_list() {
    let site = Site::new();
    let agent = serve(site.listen(), answering(Outcome::Done));
    let list = json!([{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}]);
    let conf = site.conf("1.1.0", json!({"cni.dev/valid-attachments": list}));
    // GC names no container.
    let env = [("CNI_CONTAINERID", ""), ("CNI_IFNAME", "")];
    call_with("GC", &env, conf.to_string().as_bytes()).is_quiet();
    expect![[r#"
        {
          "protocol": 1,
          "pluginVersion": "V",
          "call": {
            "verb": "GC",
            "network": "overlane",
            "valid": [
              {
                "containerId": "a",
                "ifname": "eth0"
              },
              {
                "containerId": "b",
                "ifname": "net1"
              }
            ],
            "beganNs": 0
          }
        }"#]]
    .assert_eq(&shown(&agent.join().unwrap()));
}

#[test]
fn status() {
    let site = Site::new();
    let env = [("CNI_CONTAINERID", ""), ("CNI_IFNAME", "")];
    let conf = site.conf("1.1.0", json!({})).to_string();
    let absent = call_with("STATUS", &env, conf.as_bytes()).fails(50);
    assert!(absent["msg"].as_str().unwrap().contains("connect"), "{absent}");

    let agent = serve(site.listen(), answering(Outcome::Done));
    call_with("STATUS", &env, conf.as_bytes()).is_quiet();
    agent.join().unwrap();

    // Nobody listens at the socket that is there: another agent is about to.
    let hasty = site.hasty("1.1.0", json!({})).to_string();
    call_with("STATUS", &env, hasty.as_bytes()).fails(50);
    let socket = site.socket();
    let next = std::thread::spawn({
        let site_socket = socket.clone();
        move || {
            std::thread::sleep(std::time::Duration::from_millis(500));
            std::fs::remove_file(&site_socket).unwrap();
            serve(std::os::unix::net::UnixListener::bind(&site_socket).unwrap(), answering(Outcome::Done))
        }
    });
    call_with("STATUS", &env, conf.as_bytes()).is_quiet();
    next.join().unwrap().join().unwrap();

    // One that ended in good order has left word; another comes soon.
    let word = site.socket().with_file_name(HANDOVER);
    let boot_ms = u64::try_from(Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap()).as_millis()).unwrap();
    for (at_ms, is_good) in [(boot_ms, true), (boot_ms.saturating_sub(HANDOVER_MS), false), (boot_ms * 2, false)] {
        std::fs::write(&word, at_ms.to_string()).unwrap();
        let answer = call_with("STATUS", &env, hasty.as_bytes());
        if is_good {
            answer.is_quiet()
        } else {
            drop(answer.fails(50))
        };
    }
    for nonsense in ["", "x", "-1"] {
        std::fs::write(&word, nonsense).unwrap();
        call_with("STATUS", &env, hasty.as_bytes()).fails(50);
    }

    std::fs::remove_file(site.socket()).unwrap();
    let agent = serve(site.listen(), answering(failing(50, "the pool is empty", "")));
    assert_eq!(call_with("STATUS", &env, conf.as_bytes()).fails(50)["msg"], "the pool is empty");
    agent.join().unwrap();

    std::fs::remove_file(site.socket()).unwrap();
    let _silent = site.listen();
    let conf = site.hasty("1.1.0", json!({})).to_string();
    call_with("STATUS", &env, conf.as_bytes()).fails(50);
}

#[test]
fn version_echoes_and_needs_nothing_else() {
    let mut command = plugin();
    command.env("CNI_COMMAND", "VERSION");
    let done = feed(command, br#"{"cniVersion":"0.4.0"}"#);
    let want = json!({"cniVersion": "0.4.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]});
    assert_eq!((done.json(), done.output.status.code()), (want, Some(0)));
    for garbage in ["", "garbage", "[]", r#"{"cniVersion":7}"#] {
        let mut command = plugin();
        command.env("CNI_COMMAND", "VERSION");
        assert_eq!(feed(command, garbage.as_bytes()).json()["cniVersion"], "1.1.0");
    }
}

#[test]
fn a_long_request_arrives_whole() {
    let site = Site::new();
    let agent = serve(site.listen(), answering(Outcome::Done));
    let list: Vec<_> = (0..9000).map(|n| json!({"containerID": format!("{n:064}"), "ifname": "eth0"})).collect();
    let conf = site.conf("1.1.0", json!({"cni.dev/valid-attachments": list})).to_string();
    call_with("GC", &[], conf.as_bytes()).is_quiet();
    let Call::Gc(gc) = agent.join().unwrap().request.call else { panic!() };
    assert_eq!(gc.valid.len(), 9000);
}

/// Must catch: limits that an older agent would pass over in silence; a call without any that it would refuse.
#[test]
fn limits_are_asked_of_an_agent_that_knows_them() {
    for (limits, protocol, asked) in [
        (
            json!({"IngressRate": 1000, "IngressBurst": u32::MAX, "EgressRate": 0}),
            3,
            json!({"ingressRate": 1000, "ingressBurst": u32::MAX, "egressRate": 0, "egressBurst": 0}),
        ),
        (json!({"IngressRate": 0, "IngressBurst": u32::MAX}), 1, Value::Null),
    ] {
        let (site, holder) = (Site::new(), Holder::new());
        let agent = serve(site.listen(), answering(Outcome::Added(endpoint())));
        let conf = site.conf("1.1.0", json!({"runtimeConfig": {"bandwidth": limits}}));
        let path = holder.path();
        call_with("ADD", &[("CNI_NETNS", path.as_str())], conf.to_string().as_bytes());
        let seen = serde_json::to_value(&agent.join().unwrap().request).unwrap();
        assert_eq!((&seen["protocol"], &seen["call"]["bandwidth"]), (&json!(protocol), &asked), "{seen}");
    }
}

/// Must catch: host ports that an older agent would pass over in silence; a call without any that it would refuse.
#[test]
fn ports_are_asked_of_an_agent_that_knows_them() {
    let mapping = json!({"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "10.0.0.4"});
    let named_only = json!({"hostPort": 0, "containerPort": 80, "protocol": "tcp"});
    for (mappings, protocol, ports) in [
        (
            json!([mapping, named_only]),
            2,
            json!([{"protocol": "udp", "hostIp": "10.0.0.4", "hostPort": 53, "podPort": 5353}]),
        ),
        (json!([named_only]), 1, Value::Null),
    ] {
        let (site, holder) = (Site::new(), Holder::new());
        let agent = serve(site.listen(), answering(Outcome::Added(endpoint())));
        let conf = site.conf("1.1.0", json!({"runtimeConfig": {"portMappings": mappings}}));
        let env = [("CNI_NETNS", holder.path())];
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        call_with("ADD", &env, conf.to_string().as_bytes());
        let seen = serde_json::to_value(&agent.join().unwrap().request).unwrap();
        assert_eq!((&seen["protocol"], &seen["call"]["ports"]), (&json!(protocol), &ports), "{seen}");
    }
}
