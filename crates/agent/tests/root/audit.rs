//! Must catch: drift that stays, or a repair that nobody counted.

use crate::world::{Objects, Pod, World, eventually, reaches, sh};

/// What drifts, the command that makes it drift, and whether it is right again.
type Case<'a> = (&'static str, String, Box<dyn Fn() -> bool + 'a>);

#[test]
fn what_drifts_is_repaired_and_counted() {
    let mut objects = Objects::dual();
    objects.extra = String::new();
    let world = World::new(&objects);
    let pod = Pod::new();
    let endpoint = world.client.add("a", &pod.path());
    let ns = &world.ns;
    let v4 = endpoint.addresses.iter().find(|a| a.is_ipv4()).unwrap();
    let link = &endpoint.host_ifname;
    let has = |command: &str, part: &str| world.run(command).contains(part);

    let cases: Vec<Case> = vec![
        (
            "route",
            format!("ip -n {ns} route del 10.244.2.0/24 metric 111"),
            Box::new(|| has("ip route show proto 111", "10.244.2.0/24 via")),
        ),
        (
            "route",
            format!("ip -n {ns} route del {v4} metric 111"),
            Box::new(|| has("ip route show proto 111", &v4.to_string())),
        ),
        (
            "neighbour",
            format!("ip -n {ns} neigh del {v4} dev {link}"),
            Box::new(|| has(&format!("ip neigh show dev {link}"), &v4.to_string())),
        ),
        (
            "link",
            format!("ip -n {ns} link set {link} alias nonsense"),
            Box::new(|| has(&format!("ip link show {link}"), "overlane:default/pod-a:a")),
        ),
        (
            "nft-element",
            format!("ip netns exec {ns} nft flush set inet overlane pod4"),
            Box::new(|| has("nft list set inet overlane pod4", &v4.to_string())),
        ),
        (
            "nft-structure",
            format!("ip netns exec {ns} nft delete table inet overlane"),
            Box::new(|| world.try_run("nft list set inet overlane pod4").1.contains(&v4.to_string())),
        ),
    ];
    for (kind, break_it, is_right) in cases {
        let metric = format!("overlane_repairs_total{{kind=\"{kind}\"}}");
        let before = world.metric(&metric);
        sh(&break_it);
        eventually(&format!("{break_it} is repaired"), || is_right().then_some(()));
        eventually(&format!("{break_it} is counted as {kind}"), || (world.metric(&metric) > before).then_some(()));
    }
    assert!(reaches(&pod.name, &world.ns, "10.224.0.4".parse().unwrap()));
    // And then rests: the next audits find nothing.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let total = || {
        world
            .run("curl -s http://127.0.0.1:9470/metrics")
            .lines()
            .filter(|l| l.starts_with("overlane_repairs_total"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = total();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(before, total());
}

#[test]
fn sysctls_are_kept_by_the_clock() {
    let mut world = World::bare();
    world.flags = vec![
        "--objects".into(),
        world.dir.path().join("objects").display().to_string(),
        "--audit-interval".into(),
        "1".into(),
    ];
    world.say(&Objects::dual());
    world.start();
    world.ready();
    assert_eq!(world.run("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    world.run("sysctl -qw net.ipv4.ip_forward=0");
    eventually("forwarding is on again", || {
        (world.run("cat /proc/sys/net/ipv4/ip_forward").trim() == "1").then_some(())
    });
    eventually("counted", || (world.metric("overlane_repairs_total{kind=\"sysctl\"}") >= 1.0).then_some(()));
}

#[test]
fn foreign_things_are_left_alone() {
    let mut world = World::bare();
    for command in [
        "ip link add ovlpabc type veth peer name theirs",
        "ip link add ovlpaaaaaaaaaaa type bridge",
        "ip route add 10.99.0.0/16 dev under",
        "ip route add 10.98.0.0/16 dev under proto 4 metric 111",
        "ip route add 10.97.0.0/16 dev under proto 111 metric 5",
        "nft add table inet docker",
        "nft add chain inet docker keep",
    ] {
        world.run(command);
    }
    let seen = |world: &World| {
        [
            world.run("ip -br link show ovlpaaaaaaaaaaa") + &world.run("ip -br link show ovlpabc"),
            world.run("ip route show 10.99.0.0/16"),
            world.run("ip route show 10.98.0.0/16"),
            world.run("ip route show 10.97.0.0/16"),
            world.run("nft list table inet docker"),
        ]
    };
    let before = seen(&world);
    world.flags = vec!["--objects".into(), world.dir.path().join("objects").display().to_string()];
    world.say(&Objects::dual());
    world.start();
    world.ready();
    let pod = Pod::new();
    world.client.add("a", &pod.path());
    world.client.del("a");
    world.restart();
    assert_eq!(before, seen(&world));
}

#[test]
fn the_logs_filter_changes_while_running() {
    let world = World::new(&Objects::dual());
    assert_eq!(world.put("/debug/log?filter=overlane_agent%3Ddebug").trim(), "ok");
    assert!(world.put("/debug/log?filter=a%3Db%3Dc").contains("log filter"));
    world.client.del("nobody");
    eventually("debug lines", || world.log().contains("nothing to end").then_some(()));
}
