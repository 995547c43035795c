//! Must catch: an address given beyond the block, twice, or while another node has it.

use overlane_api::cni::code;

use crate::world::{Objects, Pod, World, eventually, reaches};

fn small() -> Objects {
    let mut objects = Objects::dual();
    objects.own[0].0 = "10.244.1.0/28".into();
    objects
}

#[test]
fn a_full_block_is_refused_with_the_reason() {
    let world = World::new(&small());
    let pods: Vec<Pod> = (0..14).map(|_| Pod::new()).collect();
    for (n, pod) in pods.iter().enumerate() {
        world.client.add(&format!("c{n}"), &pod.path());
    }
    let one_more = Pod::new();
    let failure = world.client.try_add("c14", &one_more.path()).unwrap_err();
    assert_eq!(failure.code, code::NO_ADDRESS);
    for part in ["10.244.1.0/28", "14 usable", "14 leased", "0 draining"] {
        assert!(failure.msg.contains(part), "{failure:?} does not say {part}");
    }
    let status = world.client.status().unwrap_err();
    assert_eq!(status.code, code::NOT_AVAILABLE);
    assert!(status.msg.contains("10.244.1.0/28"), "{status:?}");
    // What is just being given up is waited for, and a rest is cut short before an ADD is refused.
    world.client.del("c3");
    world.client.add("c14", &one_more.path());
    world.client.del("c5");
    world.client.status().unwrap();
}

#[test]
fn more_pods_than_addresses_is_a_condition() {
    let mut objects = Objects::dual();
    let node = |max_pods: u32| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: n1, uid: u1}}\nstatus: {{capacity: {{pods: '{max_pods}'}}}}\n---\n"
        )
    };
    objects.extra = node(254);
    let world = World::new(&objects);
    let told = || {
        let reasons = world.state()["degraded"].as_array().unwrap().clone();
        reasons.into_iter().find(|r| r["reason"] == "MaxPodsExceedBlock")
    };
    assert_eq!(told(), None, "254 addresses for 254 pods");
    objects.extra = node(255);
    world.say(&objects);
    let message = eventually("told", told).to_string();
    assert!(message.contains("255 pods") && message.contains("254 IPv4"), "{message}");
    assert!((world.metric("overlane_degraded{reason=\"MaxPodsExceedBlock\"}") - 1.0).abs() < 0.1);
    // It serves all the same.
    let pod = Pod::new();
    world.client.add("c", &pod.path());
    objects.extra = node(250);
    world.say(&objects);
    eventually("it is over", || told().is_none().then_some(()));
}

#[test]
fn a_block_given_to_another_takes_its_pods_off_the_network() {
    let mut objects = Objects::dual();
    let world = World::new(&objects);
    let pod = Pod::new();
    let endpoint = world.client.add("cut", &pod.path());
    let online = |pod: &Pod| reaches(&pod.name, &world.ns, "10.224.0.4".parse().unwrap());
    assert!(online(&pod));
    // The block goes: its pods keep it, no new one gets an address.
    let blocks = std::mem::take(&mut objects.own);
    objects.own = Vec::new();
    world.say(&objects);
    eventually("no more addresses", || world.client.status().err());
    assert!(online(&pod));
    world.client.check("cut", &pod.path(), &endpoint.addresses).unwrap();
    assert_eq!(world.state()["heldBlocks"].as_array().unwrap().len(), 2);
    // It is given to another node.
    let theirs =
        blocks.iter().map(|(block, ip)| (block.clone(), ip.replace(".4", ".9").replace("::4", "::9"))).collect();
    objects.peers.push(("n9".into(), theirs));
    world.say(&objects);
    eventually("degraded", || {
        let state = world.state();
        let reasons = state["degraded"].as_array().unwrap().clone();
        reasons.iter().any(|r| r["reason"] == "BlockLost").then_some(())
    });
    let routes = world.routes();
    assert!(!routes.contains("ovlp"), "{routes}");
    assert!(routes.contains("10.244.1.0/24 via 10.224.0.9"), "{routes}");
    assert!(!world.run("nft list set inet overlane pod4").contains(&endpoint.host_ifname));
    assert!(!online(&pod));
    let failure = world.client.check("cut", &pod.path(), &endpoint.addresses).unwrap_err();
    assert!(failure.msg.contains("n9"), "{failure:?}");
    assert_eq!(world.metric("overlane_leases_cut"), 1.0);
    // And comes back.
    objects.peers.pop();
    objects.own = blocks;
    world.say(&objects);
    eventually("on the network again", || online(&pod).then_some(()));
    world.client.check("cut", &pod.path(), &endpoint.addresses).unwrap();
}

#[test]
fn routes_and_masquerade_follow_within_a_second() {
    let mut objects = Objects::dual();
    let world = World::new(&objects);
    let routes = || world.routes();
    assert!(routes().contains("10.244.2.0/24 via 10.224.0.5"), "{}", routes());
    assert!(routes().contains("fd12:3456:789a:0:2::/80 via fd10:224::5"), "{}", routes());
    objects.peers.push(("n3".into(), vec![("10.244.3.0/24".into(), "10.224.0.6".into())]));
    objects.extra = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: azure-ip-masq-agent-config, namespace: kube-system}\ndata:\n  ip-masq-agent: |\n    nonMasqueradeCIDRs: [192.168.7.0/24]\n  bad: |\n    nonMasqueradeCIDRs: [192.168.8.1/24]\n".into();
    world.say(&objects);
    let since = std::time::Instant::now();
    eventually("route", || routes().contains("10.244.3.0/24 via 10.224.0.6").then_some(()));
    eventually("masquerade", || world.run("nft list table inet overlane").contains("192.168.7.0/24").then_some(()));
    assert!(since.elapsed().as_millis() < 1500, "{:?}", since.elapsed());
    let state = world.state();
    let bad = state["degraded"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["reason"] == "InvalidMasqueradeConfig")
        .unwrap()
        .clone();
    assert!(bad["message"].as_str().unwrap().contains("azure-ip-masq-agent-config/bad"), "{bad}");
    assert!(!world.run("nft list table inet overlane").contains("192.168.8.0"));
    objects.peers.clear();
    world.say(&objects);
    eventually("no routes to peers", || (!routes().contains("via")).then_some(()));
}
