//! Must catch: a bad call that reaches the agent, another code than the spec's, output that is no JSON, a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use common::*;
use overlane_api::socket::{Outcome, PROTOCOL, Response};
use serde_json::json;

#[test]
fn no_agent_is_try_again_later_at_once() {
    let (site, holder) = (Site::new(), Holder::new());
    let prev =
        json!({"interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": [{"address": "10.0.0.1/32", "interface": 0}]});
    let refused = Site::new();
    drop(refused.listen());
    for site in [&site, &refused] {
        for verb in ["ADD", "CHECK", "GC"] {
            let mut conf = site.conf("1.1.0", json!({"cni.dev/valid-attachments": []}));
            if verb == "CHECK" {
                conf["prevResult"] = prev.clone();
            }
            let done = call(verb, &holder.path(), &conf);
            done.fails(11);
            done.at_once();
        }
    }
}

#[test]
fn what_is_no_network_namespace_of_a_pod() {
    let site = Site::new();
    // An agent would answer; it must not be asked.
    let _listener = site.listen();
    let conf = site.conf("1.1.0", json!({}));
    let file = site.dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let fifo = site.dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let inside = file.join("x");
    for (path, code) in [
        ("/run/netns/there-is-no-such-namespace", 3),
        ("/proc/4194305/ns/net", 3),
        (inside.to_str().unwrap(), 3),
        (file.to_str().unwrap(), 4),
        (fifo.to_str().unwrap(), 4),
        ("/dev/null", 4),
        ("/", 4),
        ("/proc/self/ns/mnt", 4),
        // The plugin's own, which is the node's.
        ("/proc/self/ns/net", 4),
    ] {
        let done = call("ADD", path, &conf);
        let object = done.fails(code);
        assert!(object["msg"].as_str().unwrap().contains("CNI_NETNS"), "{object}");
        done.at_once();
    }
}

#[test]
fn absent_environment() {
    let site = Site::new();
    let conf = site.conf("1.0.0", json!({})).to_string();
    let no_verb = feed(plugin(), conf.as_bytes());
    no_verb.fails(4);
    assert!(String::from_utf8_lossy(&no_verb.output.stderr).contains("the CNI plugin of Overlane"));
    let object = call_with("ADD", &[("CNI_CONTAINERID", ""), ("CNI_IFNAME", "")], conf.as_bytes()).fails(4);
    assert_eq!(object["cniVersion"], "1.0.0");
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        assert!(object["msg"].as_str().unwrap().contains(name), "{object}");
    }
    call_with("DEL", &[("CNI_CONTAINERID", "")], conf.as_bytes()).fails(4);
    call_with("HELLO", &[], conf.as_bytes()).fails(4);
}

#[test]
fn environment_that_is_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let mut command = plugin();
    let bad = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", bad).env("CNI_NETNS", "/x").env("CNI_IFNAME", "eth0");
    let site = Site::new();
    feed(command, site.conf("1.0.0", json!({})).to_string().as_bytes()).fails(4);
    let mut command = plugin();
    command.env("CNI_COMMAND", bad);
    feed(command, b"").fails(4);
}

#[test]
fn garbage_on_standard_input() {
    let holder = Holder::new();
    let env = [("CNI_NETNS", holder.path())];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        for (stdin, code) in [
            (&b""[..], 6),
            (b"garbage", 6),
            (b"\xff\xff", 6),
            (b"{\"cniVersion\":\"1.1.0\"", 6),
            (b"[1]", 6),
            (b"{}", 1),
            (br#"{"cniVersion":"9.9.9","name":"n","type":"t"}"#, 1),
            (br#"{"cniVersion":"1.1.0","type":"t"}"#, 7),
        ] {
            call_with(verb, &env, stdin).fails(code);
        }
    }
}

#[test]
fn verbs_that_the_version_does_not_have() {
    let site = Site::new();
    for (verb, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0"), ("STATUS", "0.4.0")] {
        let object = call(verb, "/x", &site.conf(version, json!({}))).fails(1);
        assert_eq!(object["cniVersion"], version);
    }
}

#[test]
fn endless_input_is_cut() {
    let site = Site::new();
    let mut conf = site.conf("1.1.0", json!({})).to_string();
    conf.push_str(&" ".repeat(2 << 20));
    call_with("STATUS", &[], conf.as_bytes()).fails(5);
    let mut command = plugin();
    command.env("CNI_COMMAND", "STATUS").stdin(std::fs::File::open("/dev/zero").unwrap());
    let output = command.output().unwrap();
    Outcomes { output, took: Duration::ZERO }.fails(5);
}

#[test]
fn input_that_cannot_be_read() {
    let mut command = plugin();
    command.env("CNI_COMMAND", "STATUS").stdin(std::fs::File::open("/").unwrap());
    let output = command.output().unwrap();
    Outcomes { output, took: Duration::ZERO }.fails(5);
}

#[test]
fn a_socket_path_that_no_socket_can_have() {
    let (site, holder) = (Site::new(), Holder::new());
    let path = format!("/{}", "a".repeat(200));
    call("ADD", &holder.path(), &site.conf("1.0.0", json!({"socket": path}))).fails(7);
}

#[test]
fn answers_that_are_none() {
    let holder = Holder::new();
    let other = serde_json::to_vec(&json!({"protocol": PROTOCOL + 7, "result": "in another shape"})).unwrap();
    let framed = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat();
    for (bytes, code, words) in [
        (Vec::new(), 11, "talk to the agent"),
        (vec![0, 0], 11, "talk to the agent"),
        (vec![0, 0, 0, 9, b'{'], 11, "talk to the agent"),
        (vec![0xff; 4], 103, "longer than"),
        (framed(b"garbage"), 103, "read the agent's answer"),
        (framed(b""), 103, "read the agent's answer"),
        (framed(&other), 103, "the agent speaks protocol 10"),
        (
            framed(&serde_json::to_vec(&Response { protocol: 1, outcome: Outcome::Done }).unwrap()),
            103,
            "something else",
        ),
    ] {
        let site = Site::new();
        let agent = serve(site.listen(), move |_| bytes);
        let done = call("ADD", &holder.path(), &site.conf("1.0.0", json!({})));
        agent.join().unwrap();
        let object = done.fails(code);
        assert!(object["msg"].as_str().unwrap().contains(words), "{object}");
        done.at_once();
    }
}

#[test]
fn an_agent_of_another_protocol_refuses() {
    let (site, holder) = (Site::new(), Holder::new());
    let agent = serve(site.listen(), |_| overlane_api::socket::frame(&Response::refusal(99).unwrap()).unwrap());
    let object = call("ADD", &holder.path(), &site.conf("1.0.0", json!({}))).fails(103);
    assert!(object["details"].as_str().unwrap().contains("upgrade"), "{object}");
    agent.join().unwrap();
    assert!(Response::refusal(PROTOCOL).is_none());
}

#[test]
fn a_closed_standard_output_is_no_panic() {
    for verb in ["VERSION", "ADD"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = plugin();
        command.env("CNI_COMMAND", verb).stdout(writer);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"{}").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn a_person_gets_an_explanation() {
    for flag in ["--help", "--version"] {
        let output = plugin().arg(flag).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("overlane-cni "));
    }
}
