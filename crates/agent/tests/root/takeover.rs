//! Must catch: a restart that touches a running pod, forgets one, or keeps one that is gone.

use std::process::{Command, Stdio};

use overlane_api::tombstone::{Mode, Tombstone};

use crate::client::{attachment, now_ns};
use crate::world::{Objects, Pod, World, eventually};

#[test]
fn a_restart_writes_nothing_that_is_right() {
    let mut world = World::new(&Objects::dual());
    let pods: Vec<Pod> = (0..3).map(|_| Pod::new()).collect();
    let endpoints: Vec<_> =
        pods.iter().enumerate().map(|(n, pod)| world.client.add(&format!("c{n}"), &pod.path())).collect();
    world.kill();
    // The kernel's own addresses, which it tries first.
    eventually("no address is being tried", || {
        world.run("ip -6 address show tentative").trim().is_empty().then_some(())
    });
    let before = world.run("nft -a list table inet overlane");
    let watch = |what: &str| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &world.ns]).args(what.split(' ')).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut monitors = [watch("ip monitor link route neigh rule"), watch("nft monitor")];
    std::thread::sleep(std::time::Duration::from_millis(200));
    world.start();
    world.ready();
    std::thread::sleep(std::time::Duration::from_millis(500));
    for monitor in &mut monitors {
        monitor.kill().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut monitor.stdout.take().unwrap(), &mut text).unwrap();
        monitor.wait().unwrap();
        assert_eq!(text.trim(), "", "the kernel was written to");
    }
    let strip = |text: &str| {
        let counted = text.lines().filter(|line| !line.contains("packets"));
        counted.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(strip(&before), strip(&world.run("nft -a list table inet overlane")));
    for (n, pod) in pods.iter().enumerate() {
        world.client.check(&format!("c{n}"), &pod.path(), &endpoints[n].addresses).unwrap();
    }
    // What comes next gets another address.
    let more = Pod::new();
    let endpoint = world.client.add("more", &more.path());
    assert!(endpoints.iter().all(|e| e.addresses[0] != endpoint.addresses[0]));
}

#[test]
fn without_a_cluster_a_restarted_agent_serves() {
    let mut world = World::new(&Objects::dual());
    eventually("the view is on file", || world.dir.path().join("run/view.json").exists().then_some(()));
    world.kill();
    // Files that cannot be read stand for an API server that is away.
    std::fs::write(world.dir.path().join("objects/all.yaml"), "kind: [").unwrap();
    world.start();
    world.ready();
    let pod = Pod::new();
    world.client.add("offline", &pod.path());
    let routes = world.routes();
    assert!(routes.contains("10.244.2.0/24 via 10.224.0.5"), "{routes}");
}

#[test]
fn a_del_without_agent_is_honoured() {
    let mut world = World::new(&Objects::dual());
    let pods = [Pod::new(), Pod::new()];
    world.client.add("gone", &pods[0].path());
    world.client.add("stays", &pods[1].path());
    world.kill();
    pods[0].run("ip link del eth0");
    let bury = |id: &str| {
        let tombstone = Tombstone::new(attachment(id), "overlane".into(), now_ns(), Mode::Interface);
        let path = world.dir.path().join("run/tombstones").join(tombstone.file_name());
        std::fs::write(path, serde_json::to_vec(&tombstone).unwrap()).unwrap();
    };
    bury("gone");
    world.start();
    world.ready();
    eventually("the lease is gone", || (world.leases("active") == ["stays"]).then_some(()));
    // One that comes while the agent runs (it was stopped, say).
    let tombstone = Tombstone::new(attachment("stays"), "overlane".into(), now_ns(), Mode::Interface);
    let path = world.dir.path().join("run/tombstones").join(tombstone.file_name());
    std::fs::write(&path, serde_json::to_vec(&tombstone).unwrap()).unwrap();
    world.empty();
    eventually("the tombstone is removed", || (!path.exists()).then_some(()));
}

#[test]
fn a_namespace_that_ends_without_del_frees_its_lease() {
    let mut world = World::new(&Objects::dual());
    let mut pods = [Pod::new(), Pod::new(), Pod::new()];
    for (n, pod) in pods.iter().enumerate() {
        world.client.add(&format!("c{n}"), &pod.path());
    }
    pods[0].end();
    eventually("c0 is freed", || (world.leases("active") == ["c1", "c2"]).then_some(()));
    // The same while no agent looks.
    world.kill();
    pods[1].end();
    eventually("the link is gone", || (world.links().len() == 1).then_some(()));
    world.start();
    world.ready();
    assert_eq!(world.leases("active"), ["c2"]);
    // A link that a person removed proves nothing: the pod lives, and its address is its own.
    let link = world.links().remove(0);
    world.run(&format!("ip link del {link}"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(world.leases("active"), ["c2"]);
    assert!(world.client.check("c2", &pods[2].path(), &[]).unwrap_err().details.contains("is missing"));
    pods[2].end();
    world.empty();
}

#[test]
fn a_reboot_ends_all_leases() {
    let mut world = World::new(&Objects::dual());
    let mut pod = Pod::new();
    world.client.add("old", &pod.path());
    world.kill();
    pod.end();
    std::fs::write(world.dir.path().join("boot_id"), "boot-2\n").unwrap();
    world.start();
    world.ready();
    world.empty();
}

#[test]
fn a_damaged_store_loses_no_pod() {
    let mut world = World::new(&Objects::dual());
    let pods: Vec<Pod> = (0..4).map(|_| Pod::new()).collect();
    let endpoints: Vec<_> =
        pods.iter().enumerate().map(|(n, pod)| world.client.add(&format!("c{n}"), &pod.path())).collect();
    let file = world.dir.path().join("run/leases.log");
    for (round, line) in [1_usize, 2, 4, 6].into_iter().enumerate() {
        world.kill();
        let mut bytes = std::fs::read(&file).unwrap();
        let starts: Vec<usize> = std::iter::once(0)
            .chain(bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(n, _)| n + 1))
            .collect();
        let at = starts[line.min(starts.len() - 2)] + 20;
        bytes[at] ^= 4;
        std::fs::write(&file, bytes).unwrap();
        world.start();
        world.ready();
        let mut active = world.leases("active");
        active.sort();
        assert_eq!(active, ["c0", "c1", "c2", "c3"], "round {round}: {}", world.log());
        for (n, pod) in pods.iter().enumerate() {
            world.client.check(&format!("c{n}"), &pod.path(), &endpoints[n].addresses).unwrap();
        }
        let aside = std::fs::read_dir(world.dir.path().join("run")).unwrap().flatten();
        let aside = aside.filter(|f| f.file_name().to_string_lossy().contains("damaged")).count();
        assert_eq!(aside, round + 1);
        assert!(world.log().contains("leases.log"), "the file is named");
    }
    // The whole file gone: the kernel is the only witness.
    world.kill();
    std::fs::remove_file(&file).unwrap();
    world.start();
    world.ready();
    assert_eq!(world.leases("active").len(), 4);
    for n in 0..4 {
        world.client.del(&format!("c{n}"));
    }
    world.empty();
}

#[test]
fn a_second_agent_and_a_newer_store_are_refused() {
    let mut world = World::new(&Objects::dual());
    let mut second = world.command();
    second.args(["--metrics-addr", "off"]);
    let args: Vec<_> = second.get_args().map(|a| a.to_owned()).collect();
    // The flag may be given once: take the last.
    let mut command = Command::new("ip");
    let cut = args.iter().position(|a| a == "127.0.0.1:9470").unwrap();
    command.args(args.iter().enumerate().filter(|(n, _)| *n != cut && *n + 1 != cut).map(|(_, a)| a));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("is in use by process"), "{text}");

    world.kill();
    let file = world.dir.path().join("run/leases.log");
    let json = br#"{"format":2,"bootId":"boot-1"}"#;
    let line = format!("{:08x} {}\n", crc32fast::hash(json), String::from_utf8_lossy(json));
    std::fs::write(&file, &line).unwrap();
    let output = world.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is of format 2"), "{output:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), line);
}
