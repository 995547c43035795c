//! Must catch: a DEL that fails, or leaves no word, because no agent is there to serve it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::*;
use overlane_api::socket::Response;
use overlane_api::tombstone::Tombstone;
use serde_json::json;

#[test]
fn del_leaves_word_for_the_next_agent() {
    let site = Site::new();
    let done = call("DEL", "", &site.conf("1.0.0", json!({})));
    done.is_quiet();
    done.at_once();
    let [tombstone] = site.tombstones().try_into().unwrap();
    let began = tombstone["beganNs"].as_u64().unwrap();
    assert!(began > 0);
    assert_eq!(
        tombstone,
        json!({
            "format": 1,
            "attachment": {"containerId": "c0ffee", "ifname": "eth0"},
            "network": "overlane",
            "beganNs": began,
            "mode": "interface",
        })
    );
    let dir = site.dir.path().join("tombstones");
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let entry = std::fs::read_dir(&dir).unwrap().next().unwrap().unwrap();
    assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let read = Tombstone::parse(&std::fs::read(entry.path()).unwrap()).unwrap();
    assert_eq!(entry.file_name().to_str().unwrap(), read.file_name());
}

#[test]
fn del_again_and_with_a_namespace_that_is_gone() {
    let site = Site::new();
    let conf = site.conf("0.4.0", json!({}));
    for netns in ["", "/run/netns/there-is-no-such-namespace", "/etc/passwd", "relative", "/proc/self/ns/net"] {
        call("DEL", netns, &conf).is_quiet();
    }
    // Each is a word of its own: an agent that deletes what it has read takes no newer one away.
    let tombstones = site.tombstones();
    assert_eq!(tombstones.len(), 5);
    assert!(tombstones.iter().all(|tombstone| tombstone["attachment"] == tombstones[0]["attachment"]));
}

#[test]
fn del_with_an_agent_that_hangs_or_ends_or_speaks_otherwise() {
    let hanging = Site::new();
    let _silent = hanging.listen();
    let done = call("DEL", "", &hanging.hasty("1.0.0", json!({})));
    done.is_quiet();
    done.waited();
    assert_eq!(hanging.tombstones().len(), 1);

    let refused = || overlane_api::socket::frame(&Response::refusal(99).unwrap()).unwrap();
    for answer in [Vec::new(), vec![0, 0, 0, 1, b'x'], refused()] {
        let site = Site::new();
        let agent = serve(site.listen(), move |_| answer);
        call("DEL", "", &site.conf("1.0.0", json!({}))).is_quiet();
        agent.join().unwrap();
        assert_eq!(site.tombstones().len(), 1);
    }
}

#[test]
fn del_makes_the_run_directory_if_it_must() {
    let site = Site::new();
    let run_dir = site.dir.path().join("not/yet");
    call("DEL", "", &site.conf("1.0.0", json!({"runDir": run_dir}))).is_quiet();
    assert_eq!(std::fs::read_dir(run_dir.join("tombstones")).unwrap().count(), 1);
}

/// A word that cannot be left is no success: the runtime must try again.
#[test]
fn del_that_can_leave_no_word_fails() {
    let site = Site::new();
    std::fs::write(site.dir.path().join("tombstones"), "a file").unwrap();
    let object = call("DEL", "", &site.conf("1.0.0", json!({}))).fails(5);
    assert!(object["msg"].as_str().unwrap().contains("tombstones"), "{object}");
}

#[test]
fn names_go_nowhere_near_the_file_system() {
    let site = Site::new();
    let id = "a".repeat(3000);
    let conf = site.conf("1.0.0", json!({"name": "n.."}));
    call_with("DEL", &[("CNI_CONTAINERID", &id)], conf.to_string().as_bytes()).is_quiet();
    assert_eq!(site.tombstones()[0]["attachment"]["containerId"], id);
}
