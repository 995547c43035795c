//! The ClusterNetwork of a running cluster is changed: to what cannot be, and to what can.

use overlane_suites::api::OVERLANE;
use overlane_suites::stream::Stream;
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Lab, ip, nft};
use serde_json::json;

use crate::{added, mesh};

#[test]
fn a_change_that_cannot_be_leaves_everything_as_it_was() {
    let lab = Lab::up(&["--nodes", "2"]);
    let (one, two) = (added(&lab.node(0).runtime()), added(&lab.node(1).runtime()));
    let stream = Stream::start(&one.net.ns, &two.net.ns, two.ips()[0], millis(2));
    let path = format!("{OVERLANE}/clusternetworks/default");
    let view = || -> Vec<String> {
        lab.nodes().iter().map(|node| format!("{}\n{}", ip::snapshot(&node.ns), nft::own_text(&node.ns))).collect()
    };
    let reason = || {
        let status = lab.api.get(&path)["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = status.into_iter().find(|condition| condition["type"] == "Ready").unwrap_or_default();
        ready["reason"].as_str().unwrap_or_default().to_owned()
    };
    let becomes = |wanted: &str| {
        eventually(secs(10), &format!("Ready says {wanted}"), || ensure(reason() == wanted, reason));
    };
    becomes("InForce");
    let asked = lab.api.get(&path)["spec"].clone();
    std::thread::sleep(secs(2));
    let before = view();
    for (spec, wanted) in [
        // Possible in itself, but nodes have blocks of the present one.
        (json!({"podCIDRs": ["10.96.0.0/12", "fd12:3456:789b::/64"]}), "Refused"),
        (json!({"podCIDRs": ["10.244.0.1/16", "fd12:3456:789a::/64"]}), "Invalid"),
        (json!({"podCIDRs": ["10.244.0.0/16"]}), "Invalid"),
    ] {
        lab.api.merge(&path, &json!({"spec": spec}));
        becomes(wanted);
        std::thread::sleep(secs(2));
        assert!(view() == before, "changed by {spec}");
        mesh(&[&one, &two], secs(5));
        let more = added(&lab.node(0).runtime());
        mesh(&[&more, &two], secs(5));
        lab.node(0).runtime().del(&more).must();
        lab.api.merge(&path, &json!({"spec": asked}));
        becomes("InForce");
    }
    // Gone, and made again as something else, which nobody has judged in the first moment.
    lab.api.delete(&path);
    let object = |pod_cidrs: [&str; 2]| {
        json!({
            "apiVersion": "overlane.io/v1alpha1", "kind": "ClusterNetwork", "metadata": {"name": "default"},
            "spec": {"podCIDRs": pod_cidrs, "serviceCIDRs": asked["serviceCIDRs"], "ipFamilies": asked["ipFamilies"]},
        })
    };
    lab.api.create(&format!("{OVERLANE}/clusternetworks"), &object(["10.96.0.0/12", "fd12:3456:789b::/64"]));
    becomes("Refused");
    std::thread::sleep(secs(2));
    assert!(view() == before, "changed by another ClusterNetwork of the name");
    // What can be: a larger pod CIDR around the present one.
    let larger = json!({"spec": {"podCIDRs": ["10.244.0.0/14", "fd12:3456:789a::/64"]}});
    lab.api.merge(&path, &larger);
    becomes("InForce");
    for node in lab.nodes() {
        eventually(secs(5), &format!("the larger pod CIDR on {}", node.name), || {
            let text = nft::own_text(&node.ns);
            ensure(text.contains("10.244.0.0/14") && !text.contains("10.244.0.0/16"), || text.clone())
        });
    }
    mesh(&[&one, &two], secs(5));
    let report = stream.finish();
    assert_eq!(report.lost(), 0, "{report:?}");
}
