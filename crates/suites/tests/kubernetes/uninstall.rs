//! The end: refused while pods run, and nothing is left after it.

use overlane_suites::kube::Cluster;
use overlane_suites::wait::secs;

use crate::{cluster, idle};

#[test]
fn z_uninstall_refuses_while_pods_run_and_then_leaves_nothing() {
    let cluster = cluster();
    cluster.apply(&idle("last", 2)).must();
    cluster.await_ready("default", "app=last", 2, secs(60));
    let refused = cluster.overlane(&["uninstall"]);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stdout.contains("default/last-") || refused.stdout.contains("coredns"), "{refused}");
    cluster.overlane(&["status"]).must();

    let forced = cluster.overlane(&["uninstall", "--force"]).must();
    assert!(forced.stdout.contains("run on without a network"), "{forced}");
    nothing_is_left(&cluster);
    cluster.kubectl(&["delete", "deployment", "last"]).must();
}

/// Installed again at once, and its daemons taken away by somebody who leaves the nodes as they are (`helm uninstall`):
/// they are cleaned up nevertheless, by the image.
#[test]
fn zz_nodes_are_cleaned_up_whose_agents_are_gone() {
    let cluster = cluster();
    cluster.overlane(&["install", "--timeout", "120"]).must();
    cluster.apply(&idle("last", 1)).must();
    cluster.await_ready("default", "app=last", 1, secs(60));
    cluster.kubectl(&["delete", "-n", "kube-system", "ds/overlane-agent", "deploy/overlane-controller"]).must();
    cluster.await_gone("kube-system", "app.kubernetes.io/name=overlane-agent");
    let refused = cluster.overlane(&["uninstall"]);
    assert_eq!(refused.code, Some(1), "{refused}");
    let forced = cluster.overlane(&["uninstall", "--force"]).must();
    let image = concat!("overlane:", env!("CARGO_PKG_VERSION"));
    assert!(forced.stderr.contains(image), "by which image: {forced}");
    nothing_is_left(&cluster);
    cluster.kubectl(&["delete", "deployment", "last"]).must();
}

fn nothing_is_left(cluster: &Cluster) {
    for node in cluster.nodes() {
        let here = |words: &[&str]| cluster.on(&node, words);
        let links = here(&["ip", "-br", "link"]).must().stdout;
        assert!(!links.contains("ovl"), "{node}: {links}");
        for family in ["-4", "-6"] {
            let routes = here(&["ip", family, "route", "show", "table", "all", "proto", "111"]).must().stdout;
            assert_eq!(routes, "", "{node}: routes are left");
        }
        assert_ne!(here(&["nft", "list", "table", "inet", "overlane"]).code, Some(0), "{node}: our table is left");
        let files =
            here(&["sh", "-c", "ls /etc/cni/net.d /opt/cni/bin; ls -d /run/overlane 2>/dev/null; true"]).must().stdout;
        assert!(!files.contains("overlane") && !files.contains("loopback"), "{node}: {files}");
        let forwarding = here(&["cat", "/proc/sys/net/ipv4/ip_forward"]).must().stdout;
        // kube-proxy does not set it, and a new namespace has it off.
        assert_eq!(forwarding.trim(), "0", "{node}: a sysctl of ours is left");
        let object = cluster.get(&["node", &node]).to_string();
        assert!(!object.contains("OverlaneIsUp") && !object.contains("OverlaneNetwork"), "{node}: a condition is left");
    }
    for kind in ["crds", "clusterroles", "clusterrolebindings", "validatingadmissionpolicies"] {
        let all = cluster.kubectl(&["get", kind, "-o", "name"]).must().stdout;
        assert!(!all.contains("overlane"), "{kind} are left: {all}");
    }
    for kind in ["ds", "deploy", "pdb", "sa", "roles", "rolebindings", "leases", "pods"] {
        let all = cluster.kubectl(&["get", kind, "-n", "kube-system", "-o", "name"]).must().stdout;
        assert!(!all.contains("overlane"), "{kind} are left: {all}");
    }
}
