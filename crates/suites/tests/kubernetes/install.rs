//! The installation, and what it leaves a user to look at.

use overlane_suites::kube::{condition, name};
use overlane_suites::wait::{ensure, eventually, secs};

use crate::cluster;

#[test]
fn a_installs_and_every_node_is_ready() {
    let cluster = cluster();
    let refused = cluster.overlane(&["install", "--network-dataplane", "ebpf", "--max-pods", "3"]);
    assert_eq!(refused.code, Some(2), "{refused}");
    assert!(refused.stderr.contains("dataplane-supported") && refused.stderr.contains("max-pods-range"), "{refused}");
    assert!(cluster.list(&["crds"]).is_empty(), "a refused installation has changed something");

    // As clouds do it, which wait for a network: the node is tainted until somebody takes that back.
    let wait = r#"{"status":{"conditions":[{"type":"NetworkUnavailable","status":"True","reason":"NoRouteCreated"}]}}"#;
    cluster.kubectl(&["patch", "node", "node-0", "--subresource=status", "-p", wait]).must();
    // And those whose controller runs in the cluster: it has not looked at the node yet, and waits for a network itself.
    let uninitialized = "node.cloudprovider.kubernetes.io/uninitialized";
    cluster.kubectl(&["taint", "node", "node-1", &format!("{uninitialized}=true:NoSchedule")]).must();
    let words = "install --network-plugin azure --network-plugin-mode overlay --network-dataplane azure \
                 --outbound-type loadBalancer --timeout 120";
    let routing = std::env::var("OVERLANE_ROUTING").unwrap_or_else(|_| "native".to_owned());
    let words = words.split_whitespace().chain(["--routing", &routing]);
    let out = cluster.overlane(&words.collect::<Vec<_>>()).must();
    assert!(out.stdout.contains("nodes ready"), "{out}");
    assert_eq!(cluster.get(&["clusternetwork", "default"])["status"]["applied"]["routing"], routing);
    for node in cluster.list(&["nodes"]) {
        assert_eq!(condition(&node, "Ready").unwrap().0, "True", "{node}");
    }
    eventually(secs(20), "node-0 has a network", || {
        let node = cluster.get(&["node", "node-0"]);
        let (unavailable, reason) = condition(&node, "NetworkUnavailable").unwrap();
        let taints = node["spec"]["taints"].to_string();
        let over = unavailable == "False" && reason == "OverlaneIsUp" && !taints.contains("network-unavailable");
        ensure(over, || format!("{unavailable} {reason} {taints}"))
    });
    cluster.kubectl(&["taint", "node", "node-1", &format!("{uninitialized}-")]).must();
    cluster.await_ready("kube-system", "k8s-app=kube-dns", 2, secs(60));
}

#[test]
fn b_the_seeds_commands_work_as_printed() {
    let cluster = cluster();
    // Seed 003: the pod CIDR around each node's block.
    let path = "-o=jsonpath={.items[*].status.networkContainers[*].subnetAddressSpace}";
    let out = cluster.kubectl(&["get", "nodenetworkconfigs", "-A", path]).must();
    assert!(out.stdout.contains("10.244.0.0/16"), "{out}");
    let short = cluster.kubectl(&["get", "nnc", "-A", path]).must();
    assert_eq!(short.stdout, out.stdout);
    // Seed 001: the pods' addresses.
    let columns = "-o=custom-columns=NAME:.metadata.name,IPs:.status.podIPs[*].ip,NODE:.spec.nodeName,READY:.status.conditions[?(@.type==\"Ready\")].status";
    let out = cluster.kubectl(&["get", "pods", "-n", "kube-system", columns]).must();
    assert!(out.stdout.lines().any(|line| line.starts_with("coredns") && line.contains("10.244.")), "{out}");
    let out = cluster.kubectl(&["get", "nnc", "-n", "kube-system"]).must();
    assert!(out.stdout.contains("BLOCK") && out.stdout.contains("NODE IP"), "{out}");
}

#[test]
fn c_agents_have_what_they_need_and_no_more() {
    let cluster = cluster();
    let pod = cluster.list(&["pods", "-n", "kube-system", "-l", "app.kubernetes.io/name=overlane-agent"]).remove(0);
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["securityContext"]["privileged"], false);
    let pid = cluster.pod_pid("kube-system", &name(&pod));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let bits = u64::from_str_radix(effective, 16).unwrap();
    // CAP_NET_ADMIN is 12, CAP_NET_RAW 13, CAP_SYS_ADMIN 21 (include/uapi/linux/capability.h).
    assert_eq!(bits, 1 << 12 | 1 << 13 | 1 << 21, "capabilities of the agent: {effective}");
    let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:\t")).unwrap();
    assert_eq!(seccomp, "2", "a seccomp filter is in force");
}
