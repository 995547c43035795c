//! Must catch: a call that waits for a stuck agent for longer than its timeout, whichever step it is stuck in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::*;
use serde_json::{Value, json};

/// What CHECK and DEL get back.
fn prev_result() -> Value {
    json!({
        "interfaces": [{"name": "ovlpabcdefghijk"}, {"name": "eth0", "sandbox": "/x"}],
        "ips": [{"address": "10.244.2.2/32", "interface": 1}, {"address": "fd00::2/128", "interface": 1}],
    })
}

/// An agent stopped with its socket open looks like this: the kernel connects, nobody reads.
#[test]
fn an_agent_that_hangs_is_left_in_time() {
    let (site, holder) = (Site::new(), Holder::new());
    let _silent = site.listen();
    let prev = json!({"prevResult": prev_result(), "cni.dev/valid-attachments": []});
    for verb in ["ADD", "CHECK", "GC"] {
        let mut conf = site.hasty("1.1.0", prev.clone());
        if verb == "ADD" {
            conf["prevResult"] = Value::Null;
        }
        let done = call(verb, &holder.path(), &conf);
        let object = done.fails(11);
        assert!(object["msg"].as_str().unwrap().contains("in time"), "{object}");
        done.waited();
    }
}

#[test]
fn a_full_backlog_is_left_in_time() {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    use std::os::fd::AsRawFd;
    let (site, holder) = (Site::new(), Holder::new());
    let kind = (AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC);
    let listener = socket(kind.0, kind.1, kind.2, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&site.socket()).unwrap()).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(site.socket()).unwrap();
    let done = call("ADD", &holder.path(), &site.hasty("1.0.0", json!({})));
    done.fails(11);
    done.waited();
}

/// The send buffer of a socket is smaller than the longest request.
#[test]
fn a_long_request_to_an_agent_that_does_not_read_is_left_in_time() {
    let site = Site::new();
    let _silent = site.listen();
    let list: Vec<_> = (0..9000).map(|n| json!({"containerID": format!("{n:064}"), "ifname": "eth0"})).collect();
    let conf = site.hasty("1.1.0", json!({"cni.dev/valid-attachments": list})).to_string();
    let done = call_with("GC", &[], conf.as_bytes());
    done.fails(11);
    done.waited();
}
