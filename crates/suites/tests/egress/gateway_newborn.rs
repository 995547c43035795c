//! Pods that speak from their first instruction on.
//!
//! Must catch: a pod that leaves by its node because nobody has decided on it yet
//! (`tests/mutants/newborn-undecided.mutant`).

use overlane_suites::far::Far;
use overlane_suites::lab::Pod;
use overlane_suites::probe;
use overlane_suites::wait::{ensure, eventually, holds, secs};

use super::office::Office;
use super::{FAMILIES, address_like};

/// Runs a chosen pod whose program does nothing but send a datagram to each of these, again and again.
fn speak(office: &Office, name: &str, node: usize, to: &[(std::net::IpAddr, u16)]) {
    // No program is started, no name looked up: the shell itself sends.
    let sends: String = to.iter().map(|(ip, port)| format!("echo x >/dev/udp/{ip}/{port}; ")).collect();
    let script = format!("while :; do {sends} sleep 0.01; done 2>/dev/null");
    let node = &office.nodes[node].name;
    let words = [name, "--node", node, "--labels", "way=office", "--no-wait", "--", "bash", "-c", &script];
    office.lab.cli("run", &words).must();
}

/// Where these pods send to: the host outside, in the families of the cluster.
fn outside(office: &Office, port: u16) -> Vec<(std::net::IpAddr, u16)> {
    office.slot(0).iter().map(|like| (address_like(&office.internet, *like), port)).collect()
}

#[test]
fn a_chosen_pod_is_never_seen_as_another() {
    for families in FAMILIES {
        let office = Office::new(2, families, &[1], &[]);
        office.open(1);
        let far = Far::on(&office.internet);
        let count = office.slot(0).len();
        for number in 0..20 {
            let (name, port) = (format!("newborn-{number}"), probe::port());
            speak(&office, &name, number % 2, &outside(&office, port));
            eventually(secs(20), &format!("{name} is heard"), || {
                let heard = far.udp(port);
                ensure(heard.len() >= count, || format!("{heard:?}"))
            });
            far.only(&office.slot(0)).unwrap_or_else(|e| panic!("{name}: {e}"));
            office.lab.delete_pod(&name);
        }
        println!("{families}: {:?}", far.sources());
        far.only(&office.slot(0)).unwrap();
    }
}

/// While the API is away, an agent cannot know a new pod's labels: it speaks inside of the cluster, and to nobody else.
#[test]
fn a_pod_that_nobody_has_decided_on_is_not_heard_outside() {
    for families in FAMILIES {
        let office = Office::new(2, families, &[1], &[]);
        office.open(1);
        let friend: Pod = office.run("friend", 0, false);
        let (far, inside) = (Far::on(&office.internet), Far::on(&friend.ns));
        office.lab.api_up(false);
        let port = probe::port();
        let own = friend.ips.iter().map(|ip| (*ip, port));
        for (number, name) in ["early", "later"].iter().enumerate() {
            speak(&office, name, number, &outside(&office, port).into_iter().chain(own.clone()).collect::<Vec<_>>());
        }
        let pods = ["early", "later"].map(|name| office.lab.pod(name));
        eventually(secs(20), "both speak to a pod", || {
            let heard = inside.udp(port);
            let all = pods.iter().flat_map(|pod| &pod.ips).all(|ip| heard.contains_key(ip));
            ensure(all, || format!("{heard:?}"))
        });
        holds(secs(3), "nobody else hears them", || far.only(&office.slot(0)));
        office.lab.api_up(true);
        eventually(secs(20), "they leave by the gateway", || {
            let heard = far.udp(port);
            ensure(heard.len() == office.slot(0).len(), || format!("{heard:?}"))
        });
        far.only(&office.slot(0)).unwrap();
    }
}
