//! Must catch: an element that netlink adds and nft would write otherwise, membership or counters lost by a change of
//! structure, a foreign hand in the table that an audit does not see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use overlane_core::masq::MasqConfig;
use overlane_core::plan::{NodeMember, NodePlan, PeerMember, PodElement, PodMember, PortMember};
use overlane_datapath::nft::{Applied, Audit, NftError, PodChange, Table};
use overlane_datapath::render::element::{Element, of_plan};
use overlane_datapath::render::nft::Structure;

fn member(n: u16) -> [PodElement; 2] {
    let link = overlane_datapath::owned::pod_link_name("c", "eth0", n.into());
    let mac = overlane_datapath::owned::pod_mac(&link);
    let [high, low] = n.to_be_bytes();
    [format!("10.244.{high}.{low}"), format!("fd12:3456:789a:0:4::{n:x}")]
        .map(|address| PodElement::Source(PodMember { link: link.clone(), mac, address: ip(&address) }))
}

/// A plan whose ranges touch each other and the ends of the address space.
fn plan() -> NodePlan {
    let mac = Some([2, 0, 0x5e, 0, 0x53, 9]);
    let peer = |text: &str, mac| PeerMember { block: cidr(text), mac };
    NodePlan {
        pod_space: ["10.244.0.0/16", "fd12:3456:789a::/64"].map(cidr).into(),
        node_ips: [(V4, ip("10.224.0.4")), (V6, ip("fd10:224::4"))].into(),
        nodes: ["10.224.0.4", "10.224.0.5", "fd10:224::4"].map(|a| NodeMember { address: ip(a), mac: None }).into(),
        peers: [
            peer("10.244.5.0/24", mac),
            peer("10.244.6.0/24", mac),
            peer("10.244.7.128/25", mac),
            peer("10.244.7.1/32", mac),
            peer("10.244.8.0/24", None),
            peer("10.244.9.0/24", None),
            peer("10.244.16.0/20", None),
            peer("fd12:3456:789a:0:5::/80", mac),
            peer("fd12:3456:789a:0:8::/80", None),
            peer("fd12:3456:789a:0:9::/80", None),
        ]
        .into(),
        masquerade: Some(overlane_core::plan::MasqPlan {
            sources: ["10.244.4.0/24", "fd12:3456:789a:0:4::/80"].map(cidr).into(),
            except: ["10.0.0.0/8", "11.0.0.0/8", "192.0.2.7/32", "240.0.0.0/4", "fd00::/8", "ff00::/8", "::/8"]
                .map(cidr)
                .into(),
            node_ips: [(V4, ip("10.224.0.4")), (V6, ip("fd10:224::4"))].into(),
        }),
        ..NodePlan::default()
    }
}

fn primary() -> std::collections::BTreeMap<overlane_core::family::Family, String> {
    [(V4, "eth0".to_owned()), (V6, "eth0".to_owned())].into()
}

fn listing(ns: &Ns) -> String {
    ns.sh("nft list table inet overlane")
}

/// Elements are listed in hash order: as a set of words.
fn words(ns: &Ns) -> BTreeSet<String> {
    let text = ns.sh("nft -j list table inet overlane");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut words = BTreeSet::new();
    for object in value["nftables"].as_array().unwrap() {
        if let Some(set) = object.get("set") {
            for element in set["elem"].as_array().into_iter().flatten() {
                words.insert(format!("{} {element}", set["name"]));
            }
        }
    }
    words
}

#[test]
fn netlink_and_nft_make_the_same_elements() {
    let plan = plan();
    let pods: BTreeSet<PodElement> = (1..600).flat_map(member).collect();
    let elements: BTreeSet<Element> = of_plan(&plan).into_iter().chain(pods.iter().flat_map(Element::of_pod)).collect();

    let by_nft = Ns::new();
    let structure = Structure::of(&plan, &primary());
    let file = std::env::temp_dir().join(format!("overlane-elements-{}.nft", std::process::id()));
    std::fs::write(&file, structure.create(&elements)).unwrap();
    by_nft.sh(&format!("nft -f {}", file.display()));
    std::fs::remove_file(&file).unwrap();

    // The same structure with other members first, so that all elements go over netlink.
    let by_netlink = Ns::new();
    let table = Table::new(BTreeSet::new());
    let mut first = plan.clone();
    first.peers.retain(|p| p.mac.is_some());
    first.peers = first.peers.iter().map(|p| PeerMember { mac: Some([2; 6]), ..*p }).collect();
    first.nodes.clear();
    first.masquerade.as_mut().unwrap().except = [cidr("0.0.0.0/0")].into();
    by_netlink.run(|| {
        assert!(table.apply(&first, &primary()).unwrap().structure);
        assert!(!table.apply(&plan, &primary()).unwrap().structure);
        table.pods(&pods.iter().cloned().map(PodChange::Add).collect::<Vec<_>>()).unwrap();
    });
    let (expected, found) = (words(&by_nft), words(&by_netlink));
    assert_eq!(expected.difference(&found).collect::<Vec<_>>(), Vec::<&String>::new(), "missing");
    assert_eq!(found.difference(&expected).collect::<Vec<_>>(), Vec::<&String>::new(), "surplus");
    assert!(expected.len() > 1200);

    // Elements that nft wrote are found, not doubled, and removed.
    let table = Table::new(pods.clone());
    by_nft.run(|| {
        let applied = table.apply(&plan, &primary()).unwrap();
        assert_eq!((applied.added, applied.removed), (0, 0), "as nft wrote them");
        table.pods(&pods.iter().cloned().map(PodChange::Remove).collect::<Vec<_>>()).unwrap();
    });
    let of_pods = |ns: &Ns| words(ns).iter().filter(|w| w.starts_with("\"pod")).count();
    assert_eq!(of_pods(&by_nft), 0);
}

#[test]
fn ranges_turn_into_any_others() {
    let ns = Ns::new();
    let table = Table::new(BTreeSet::new());
    let lists: [&[&str]; 12] = [
        &["10.0.0.0/16"],
        &["10.0.0.0/8", "fd00::/16"],
        &["10.0.0.0/8", "11.0.0.0/8", "fd00::/8"],
        &["10.0.0.0/7"],
        &["10.1.0.0/16", "10.2.0.0/16", "10.4.0.0/16", "10.9.9.9/32"],
        &["0.0.0.0/0", "::/0"],
        &["255.255.255.255/32", "0.0.0.0/32", "::/128", "ffff::/16"],
        &["10.2.0.0/16", "10.3.0.0/16", "ffff::/17"],
        &["10.2.0.0/15", "::/1"],
        &[],
        &["128.0.0.0/1", "8000::/1"],
        &["0.0.0.0/1", "128.0.0.0/2", "::/1", "8000::/2"],
    ];
    // Forth, back, and every second one: each turns into several others.
    let order = (0..lists.len()).chain((0..lists.len()).rev()).chain((0..lists.len()).map(|n| n * 5 % lists.len()));
    for n in order {
        let mut plan = plan();
        plan.masquerade.as_mut().unwrap().except = lists[n].iter().map(|c| cidr(c)).collect();
        ns.run(|| table.apply(&plan, &primary()).unwrap());
        for (family, set) in [(V4, "masq_except4"), (V6, "masq_except6")] {
            let text = ns.sh(&format!("nft list set inet overlane {set}"));
            let elements = text.split_once("elements = {").map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            let found: BTreeSet<_> =
                elements.split(',').map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect();
            let wanted: BTreeSet<_> = lists[n]
                .iter()
                .map(|c| cidr(c))
                .filter(|c| c.family() == family)
                .map(|c| if c.prefix_len() == family.bits() { c.network().to_string() } else { c.to_string() })
                .collect();
            assert_eq!(found, wanted, "{:?}", lists[n]);
        }
    }
    assert_eq!(ns.run(|| table.audit().unwrap()), Audit::default());
}

#[test]
fn changes_may_be_repeated() {
    let ns = Ns::new();
    let table = Table::new(BTreeSet::new());
    let [v4, v6] = member(7);
    ns.run(|| {
        assert!(matches!(table.pods(&[PodChange::Add(v4.clone())]), Err(NftError::NotApplied)));
        table.apply(&plan(), &primary()).unwrap();
        for _ in 0..2 {
            table.pods(&[PodChange::Add(v4.clone()), PodChange::Add(v6.clone())]).unwrap();
            assert_eq!(table.missing(&[v4.clone(), v6.clone()]).unwrap(), []);
        }
        for _ in 0..2 {
            table.pods(&[PodChange::Remove(v4.clone()), PodChange::Remove(v6.clone())]).unwrap();
            assert_eq!(table.missing(&[v4.clone(), v6.clone()]).unwrap(), [v4.clone(), v6.clone()]);
        }
        assert_eq!(table.apply(&plan(), &primary()).unwrap(), Applied::default(), "nothing to do");
        assert_eq!(table.audit().unwrap(), Audit::default());
    });
}

#[test]
fn a_new_structure_keeps_members_and_counters() {
    let mut net = Net::new(&[V4, V6]);
    let pod = net.a.pod(1);
    let target = std::net::SocketAddr::new(net.b.address(V4), 7);
    pod.ns.sh("ip addr add 192.0.2.5/32 dev eth0");
    assert!(pod.ns.silent(Some(ip("192.0.2.5")), target));
    assert!(net.a.exceeds("spoofed", 0));
    let counted = net.a.counted("spoofed");

    net.a.input.masquerade = None;
    assert!(net.a.agree().0.structure);
    assert!(!listing(&net.a.ns).contains("masq"), "off leaves nothing");
    let held = net.a.ns.run(|| net.a.table.missing(&pod.members()).unwrap());
    assert_eq!(held, [], "the pod's elements are there");
    assert_eq!(net.a.counted("spoofed"), counted);
    assert_eq!(net.a.ns.run(|| net.a.table.counters().unwrap())["spoofed"].0, counted);

    net.a.input.masquerade = Some(MasqConfig::default());
    assert!(net.a.agree().0.structure);
    assert!(listing(&net.a.ns).contains("snat ip to 10.224.0.4"));
    assert_eq!(net.a.ns.run(|| net.a.table.audit().unwrap()), Audit::default());

    // Another process that starts anew finds everything as it should be, and writes nothing.
    let before = net.a.ns.sh("nft -a list table inet overlane");
    let again = Table::new(pod.members().into_iter().collect());
    assert_eq!(net.a.ns.run(|| again.apply(&net.a.plan(), &net.a.primary()).unwrap()), Applied::default());
    assert_eq!(net.a.ns.sh("nft -a list table inet overlane"), before);
}

/// Whatever a foreign hand does while the structure is written, it is not taken for ours.
#[test]
fn what_is_damaged_during_a_repair_is_repaired_in_the_end() {
    let ns = Ns::new();
    let table = Table::new(BTreeSet::new());
    ns.run(|| table.apply(&plan(), &primary()).unwrap());
    let whole = ns.sh("nft -s -t list table inet overlane");
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                // There is no such chain in the moment in which the table is replaced.
                ns.run(|| {
                    drop(
                        std::process::Command::new("nft")
                            .args(["flush", "chain", "inet", "overlane", "to_pod"])
                            .output(),
                    )
                });
            }
        });
        for _ in 0..20 {
            ns.run(|| table.audit().unwrap());
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    ns.run(|| table.audit().unwrap());
    assert_eq!(ns.sh("nft -s -t list table inet overlane"), whole);
    ns.run(|| assert_eq!(table.audit().unwrap(), Audit::default()));
}

#[test]
fn a_table_of_another_shape_is_replaced_whole() {
    let ns = Ns::new();
    ns.sh("nft 'table inet overlane { counter spoofed { packets 5 bytes 500 }; set pod4 { type inet_service; }; chain pre { type filter hook input priority 0; }; }'");
    let [v4, v6] = member(3);
    let table = Table::new([v4.clone(), v6.clone()].into());
    ns.run(|| {
        assert!(table.apply(&plan(), &primary()).unwrap().structure);
        assert_eq!(table.missing(&[v4, v6]).unwrap(), []);
        assert_eq!(table.counters().unwrap()["spoofed"], (5, 500));
        assert_eq!(table.audit().unwrap(), Audit::default());
    });
}

#[test]
fn an_audit_sees_and_repairs_each_fault() {
    let mut net = Net::new(&[V4, V6]);
    let pod = net.a.pod(1);
    let expected = words(&net.a.ns);
    let structure = Audit { structure: true, ..Audit::default() };
    let missing = |missing| Audit { missing, ..Audit::default() };
    let link = &pod.spec.link;
    let mac = overlane_datapath::mac::text(pod.spec.mac);
    let faults = [
        ("nft flush chain inet overlane from_pod".to_owned(), structure),
        ("nft add rule inet overlane pre accept".to_owned(), structure),
        ("nft insert rule inet overlane to_pod accept".to_owned(), structure),
        ("nft add chain inet overlane mine; nft add set inet overlane s '{ type ipv4_addr; }'".to_owned(), structure),
        (format!("nft delete element inet overlane pod4 '{{ \"{link}\" . {mac} . {} }}'", pod.address(V4)), missing(1)),
        ("nft flush set inet overlane peer4_24; nft flush set inet overlane masq_except6".to_owned(), missing(3)),
        (
            "nft add element inet overlane node4_any '{ 203.0.113.9 }'".to_owned(),
            Audit { surplus: 1, ..Audit::default() },
        ),
    ];
    for (fault, repaired) in faults {
        net.a.ns.sh(&fault);
        assert_eq!(net.a.ns.run(|| net.a.table.audit().unwrap()), repaired, "{fault}");
        assert_eq!(net.a.ns.run(|| net.a.table.audit().unwrap()), Audit::default(), "after {fault}");
        assert_eq!(words(&net.a.ns), expected, "{fault}");
    }
    net.a.ns.sh("nft delete table inet overlane");
    assert_eq!(net.a.ns.run(|| net.a.table.missing(&pod.members()).unwrap()).len(), 2);
    assert!(net.a.ns.run(|| net.a.table.audit().unwrap()).structure);
    assert_eq!(words(&net.a.ns), expected);
    // A pod that comes while the table is gone brings it back.
    net.a.ns.sh("nft delete table inet overlane");
    let second = net.a.pod(2);
    let both: Vec<_> = pod.members().into_iter().chain(second.members()).collect();
    assert_eq!(net.a.ns.run(|| net.a.table.missing(&both).unwrap()), []);
    assert_eq!(net.a.ns.run(|| net.a.table.audit().unwrap()), Audit::default());
}

/// Must catch: a port that the kernel holds otherwise than nft and we write it; one pod's going that takes another's
/// ports along.
#[test]
fn ports_lead_to_pods() {
    use overlane_core::ports::Protocol;
    let ns = Ns::bare();
    let port = |host_ip: Option<&str>, host_port, address: &str| {
        let host_ip = host_ip.map(ip);
        PodElement::Port(PortMember { protocol: Protocol::Udp, host_ip, host_port, address: ip(address), pod_port: 53 })
    };
    let one = [port(None, 5300, "10.244.4.1"), port(Some("10.0.0.4"), 5300, "10.244.4.1"), port(None, 5300, "fd12::1")];
    let other = [port(None, 5301, "10.244.4.2")];
    let table = Table::new(one.iter().cloned().collect());
    ns.run(|| {
        table.apply(&plan(), &BTreeMap::new()).unwrap();
        assert_eq!(table.missing(&one).unwrap(), [], "written by nft, read over netlink");
        assert_eq!(table.audit().unwrap(), Audit::default());
        table.pods(&other.clone().map(PodChange::Add)).unwrap();
        assert_eq!(table.missing(&other).unwrap(), []);
        assert_eq!(table.audit().unwrap(), Audit::default(), "written over netlink, read over netlink");
        let again = Table::new(one.iter().chain(&other).cloned().collect());
        assert_eq!(again.apply(&plan(), &BTreeMap::new()).unwrap(), Applied::default(), "one's element is the other's");
        // The port goes on to another pod before the first one's end is told once more.
        let next = port(None, 5301, "10.244.4.3");
        table.pods(&[PodChange::Remove(other[0].clone()), PodChange::Add(next.clone())]).unwrap();
        table.pods(&other.clone().map(PodChange::Remove)).unwrap();
        assert_eq!(table.missing(std::slice::from_ref(&next)).unwrap(), []);
        table.pods(&[PodChange::Remove(next), PodChange::Add(other[0].clone())]).unwrap();
        assert_eq!(table.missing(&other).unwrap(), []);
        table.pods(&one.clone().map(PodChange::Remove)).unwrap();
        assert_eq!(table.missing(&one).unwrap().len(), 3);
        assert_eq!(table.missing(&other).unwrap(), []);
    });
    // A port that leads elsewhere is repaired.
    ns.sh("nft delete element inet overlane port4_any '{ udp . 5301 }'; nft add element inet overlane port4_any '{ udp . 5301 : 10.9.9.9 . 1 }'");
    let audit = ns.run(|| table.audit().unwrap());
    assert_eq!((audit.missing, audit.surplus), (1, 1));
    assert_eq!(ns.run(|| table.missing(&other).unwrap()), []);
}
