//! A new version rolls out under running pods.

use std::time::Duration;

use overlane_suites::kube::{ips, name};
use overlane_suites::stream::Stream;
use overlane_suites::wait::secs;
use serde_json::Value;

use crate::{cluster, idle};

#[test]
fn m_no_packet_is_lost_while_agents_and_controllers_restart() {
    let cluster = cluster();
    let pinned = |node: &str| {
        let name = format!("stream-{node}");
        cluster
            .apply(&idle(&name, 1).replace("terminationGrace", &format!("nodeName: {node}\n      terminationGrace")))
            .must();
        cluster.await_ready("default", &format!("app={name}"), 1, secs(60)).remove(0)
    };
    let (near, far) = (&pinned("node-0"), &pinned("node-1"));
    let (near_ns, far_ns) = (cluster.pod_ns("default", &name(near)), cluster.pod_ns("default", &name(far)));
    let mut streams = Vec::new();
    for (from, into, to) in [(&near_ns, &far_ns, far), (&far_ns, &near_ns, near)] {
        for ip in ips(to) {
            streams.push((ip, Stream::start(from, into, ip, Duration::from_millis(1))));
        }
    }
    assert_eq!(streams.len(), 4, "both ways, both families");
    // When each node became what it is, ready.
    let since = || -> Vec<String> {
        let of = |node: &Value| {
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready").unwrap_or_default();
            format!("{}: {} since {}", name(node), ready["status"], ready["lastTransitionTime"])
        };
        cluster.list(&["nodes"]).iter().map(of).collect()
    };
    let before = since();
    cluster
        .kubectl(&["-n", "kube-system", "rollout", "restart", "ds/overlane-agent", "deploy/overlane-controller"])
        .must();
    for what in ["ds/overlane-agent", "deploy/overlane-controller"] {
        cluster.kubectl(&["-n", "kube-system", "rollout", "status", what, "--timeout=120s"]).must();
    }
    for (ip, stream) in streams {
        let report = stream.finish();
        println!("to {ip}: {report:?}");
        assert!(report.sent > 3_000, "the stream was short: {report:?}");
        assert_eq!((report.lost(), report.refused), (0, 0), "to {ip}: {report:?}");
    }
    // The kubelet asks every five seconds: a node that was called unready would have lost its pods from Services.
    std::thread::sleep(secs(6));
    assert_eq!(since(), before, "a node was called unready for a restart of its agent");
    cluster.kubectl(&["delete", "deployment", "stream-node-0", "stream-node-1", "--cascade=foreground"]).must();
}
