//! The underlay's MTU changes under running pods.
//!
//! Must catch: packets that vanish because they do not fit any more.

use overlane_suites::wait::{ensure, eventually, secs};
use overlane_suites::{ip, packet};

use crate::{LINK, Stage};

#[test]
fn a_smaller_underlay_is_followed() {
    for (routing, overhead) in [("native", 0), ("vxlan", 50), ("auto", 50)] {
        println!("== {routing}");
        let stage = Stage::new(2, "ipv4,ipv6", &["--routing", routing]);
        let (a, c) = (&stage.pods[0], &stage.pods[2]);
        assert_eq!(ip::link(&a.ns, "eth0").unwrap().mtu, 1500 - overhead);
        let router = stage.lab.router();
        let ports = router.must("ip -o link show master br-nodes").stdout;
        let names = ports.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
        for node in &stage.nodes {
            node.ns.must("ip link set eth0 mtu 1400");
        }
        names.for_each(|name| drop(router.must(&format!("ip link set {name} mtu 1400"))));
        if overhead > 0 {
            for node in &stage.nodes {
                eventually(secs(10), "the tunnel's MTU", || {
                    let link = ip::link(&node.ns, LINK).ok_or("no link")?;
                    ensure(link.mtu == 1400 - overhead, || format!("mtu {}", link.mtu)).map_err(|_| "the old one")
                });
            }
        }
        let fresh = eventually(secs(20), "new pods have the new MTU", || {
            let pod = stage.lab.run_pod("fresh", &stage.nodes[1].name);
            let mtu = ip::link(&pod.ns, "eth0").unwrap().mtu;
            if mtu == 1400 - overhead {
                return Ok(pod);
            }
            stage.lab.delete_pod("fresh");
            Err(format!("mtu {mtu}"))
        });
        for to in c.ips.iter().chain(&fresh.ips) {
            let header = if to.is_ipv4() { 28 } else { 48 };
            // What filled the old one is told so, and cut by its sender; what fills the new one passes whole.
            let old = usize::try_from(1500 - overhead).unwrap() - header;
            eventually(secs(5), "a packet of the old size", || packet::ping(&a.ns, *to, old, secs(2)).map(|_| ()));
            let new = usize::try_from(1400 - overhead).unwrap() - header;
            packet::ping(&a.ns, *to, new, secs(2)).unwrap();
        }
        stage.check();
    }
}
