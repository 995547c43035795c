//! Must catch: two slots of one number, a number that moves while its address stays, a node that goes and takes other
//! nodes' slots along, an address that is at two places, a new slot under the number that a deleted one had a moment ago.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlane_core::cluster::{ClusterPlan, ClusterSpec, EgressSpec, MAX_VNI, Outbound, validate};
use overlane_core::egress::{
    ANSWERS, CUT, Gateway, GatewaySpec, Holder, Judged, SLOTS, Slot, judge, judge_held, lasting, numbered, places,
    slots_of, vni,
};
use overlane_core::family::Family;
use overlane_core::labels::{Labels, Requirement, Selector};
use proptest::collection::{btree_map, btree_set, vec as list};
use proptest::prelude::*;

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn cluster(families: &[&str]) -> ClusterPlan {
    validate(&ClusterSpec { ip_families: owned(families), ..ClusterSpec::default() }).unwrap()
}

fn spec(addresses: &[&str]) -> GatewaySpec {
    GatewaySpec { addresses: owned(addresses), ..GatewaySpec::default() }
}

fn pair(texts: &[&str]) -> BTreeMap<Family, IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).map(|ip| (Family::of(&ip), ip)).collect()
}

/// A cluster's families, a gateway's addresses, and its slots.
type Case<'a> = (&'a [&'a str], Vec<&'a str>, Vec<Vec<&'a str>>);

#[test]
fn a_sound_one_in_every_choice_of_families() {
    let (v4, v6) = (["10.224.0.200", "10.224.0.201"], ["fd10:224::200", "fd10:224::201"]);
    let table: [Case<'_>; 6] = [
        (&["IPv4"], vec![v4[0]], vec![vec![v4[0]]]),
        (&["IPv6"], v6.to_vec(), vec![vec![v6[0]], vec![v6[1]]]),
        (&["IPv4", "IPv6"], vec![v4[0], v6[0]], vec![vec![v4[0], v6[0]]]),
        // Each family in its own order, wherever the others are.
        (&["IPv6", "IPv4"], vec![v6[1], v4[0], v4[1], v6[0]], vec![vec![v4[0], v6[1]], vec![v4[1], v6[0]]]),
        // One that not all of the cluster's families leave by.
        (&["IPv4", "IPv6"], vec![v6[0]], vec![vec![v6[0]]]),
        (&["IPv4", "IPv6"], vec!["198.51.100.7"], vec![vec!["198.51.100.7"]]),
    ];
    for (families, addresses, slots) in table {
        let spec = GatewaySpec { destinations: owned(&["203.0.113.0/24", "::/0"]), ..spec(&addresses) };
        let judged = judge(&spec, &cluster(families)).unwrap();
        let destinations = spec.destinations.iter().map(|text| text.parse().unwrap()).collect();
        let slots = slots.iter().map(|addresses| pair(addresses)).collect();
        assert_eq!(judged, Judged { destinations, slots }, "{addresses:?}");
    }
}

#[test]
fn every_rule() {
    let dual = cluster(&["IPv4", "IPv6"]);
    let egress = EgressSpec { next_hops: owned(&["10.224.0.250"]), ..EgressSpec::default() };
    let routed = ClusterSpec { outbound: Outbound::UserDefinedRouting, egress, ..ClusterSpec::default() };
    let routed = validate(&routed).unwrap();
    let range = |index| (format!("egressIPs[{index}]"), "egress-ip-range");
    let one = |field: &str, rule| vec![(field.to_owned(), rule)];
    let first = "egressIPs[0]";
    let mut table = vec![
        (&dual, spec(&[]), one("egressIPs", "egress-ip-count")),
        (&dual, spec(&["10.224.0.200/32"]), one(first, "egress-ip-syntax")),
        (&dual, spec(&["10.224.0.200", "10.224.0.200"]), one("egressIPs[1]", "egress-ip-twice")),
        (&dual, spec(&["fd10:224::200", "fd10:224:0::200"]), one("egressIPs[1]", "egress-ip-twice")),
        (&dual, spec(&["10.224.0.200", "10.224.0.201", "fd10:224::1"]), one("egressIPs", "egress-ip-count")),
        (&dual, spec(&["10.244.3.4"]), one(first, "egress-ip-range")),
        (&dual, spec(&["10.0.0.10"]), one(first, "egress-ip-range")),
        (&dual, spec(&["fd12:3456:789a::7"]), one(first, "egress-ip-range")),
        (&routed, spec(&["10.224.0.250"]), one(first, "egress-ip-taken")),
        (&routed, spec(&["10.224.0.251"]), vec![]),
        // All at once, and none for the sake of another.
        (
            &dual,
            GatewaySpec {
                destinations: owned(&["203.0.113.1/24", "203.0.113.0/24", "all"]),
                ..spec(&["x", "127.0.0.1", "10.224.0.200", "fd10:224::200"])
            },
            vec![
                ("destinationCIDRs[0]".to_owned(), "host-bits"),
                ("destinationCIDRs[2]".to_owned(), "cidr-syntax"),
                (first.to_owned(), "egress-ip-syntax"),
                range(1),
            ],
        ),
    ];
    for nobodys in ["0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1"] {
        table.push((&dual, spec(&[nobodys]), vec![range(0)]));
    }
    table.push((&dual, spec(&["::ffff:10.224.0.200"]), vec![range(0)]));
    table.push((&dual, spec(&["ff02::1"]), vec![range(0)]));
    let single = cluster(&["IPv4"]);
    table.push((&single, spec(&["10.224.0.200", "fd10:224::200"]), one("egressIPs[1]", "egress-ip-family")));
    for (cluster, spec, expected) in table {
        let found = judge(&spec, cluster).err().unwrap_or_default();
        assert!(found.iter().all(|finding| !finding.reason.is_empty() && !finding.fix.is_empty()), "{found:?}");
        let found: Vec<(String, &str)> = found.into_iter().map(|finding| (finding.field, finding.rule)).collect();
        assert_eq!(found, expected, "{spec:?}");
    }
}

#[test]
fn an_address_is_at_one_place() {
    let holders: BTreeMap<IpAddr, Holder> = [
        ("10.224.0.200".parse().unwrap(), Holder::Gateway("first".into())),
        ("fd10:224::4".parse().unwrap(), Holder::Node("node-4".into())),
    ]
    .into();
    let found = judge_held(&spec(&["x", "10.224.0.201", "10.224.0.200", "fd10:224::4"]), |ip| holders.get(ip).cloned());
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("egressIPs[2]: 10.224.0.200") && found[0].contains("EgressGateway first"),
        "{found:?}"
    );
    assert!(found[1].starts_with("egressIPs[3]: fd10:224::4") && found[1].contains("node node-4"), "{found:?}");
}

#[test]
fn of_a_spec_in_force_what_still_keeps_the_rules_stays() {
    let (v4, v6) =
        (["10.224.0.200", "10.225.0.201", "10.224.0.202"], ["fd10:224::200", "fd10:224::201", "fd10:224::202"]);
    let spec = spec(&[v4, v6].concat());
    let pairs: Vec<_> = v4.iter().zip(v6).map(|(v4, v6)| pair(&[v4, v6])).collect();
    let dual = ClusterSpec { ip_families: owned(&["IPv4", "IPv6"]), ..ClusterSpec::default() };
    let services = |cidr: &str| ClusterSpec { service_cidrs: owned(&[cidr, "fd12:3456:789a:1::/108"]), ..dual.clone() };
    let egress = EgressSpec { next_hops: owned(&[v6[0]]), ..EgressSpec::default() };
    let routed = ClusterSpec { outbound: Outbound::UserDefinedRouting, egress, ..dual.clone() };
    let held = |ip: &IpAddr| (*ip == IpAddr::from([10, 224, 0, 202])).then(|| Holder::Gateway("first".into()));
    let table = [
        (&dual, pairs[..2].to_vec()),
        // A pair goes as a whole, whichever of its addresses it is for.
        (&services("10.225.0.0/24"), pairs[..1].to_vec()),
        (&services("10.224.0.0/15"), vec![]),
        (&routed, pairs[1..2].to_vec()),
        (&ClusterSpec { ip_families: owned(&["IPv4"]), ..ClusterSpec::default() }, vec![]),
    ];
    for (cluster, expected) in table {
        assert_eq!(lasting(&spec, &validate(cluster).unwrap(), held), expected, "{cluster:?}");
    }
    // What a hand has spoilt.
    let spoilt = self::spec(&["x", v4[0], v4[0], v6[0], v6[1]]);
    assert_eq!(lasting(&spoilt, &validate(&dual).unwrap(), |_| None), [pair(&[v4[0], v6[0]]), pair(&[v6[1]])]);
}

#[test]
fn identifiers_are_apart_from_each_other_and_from_the_clusters() {
    for of_cluster in [1, 28_534, MAX_VNI, 0x0080_0000, 0x0080_0002, 0x0080_00ff, 0x0080_0100, 0x100] {
        let all: BTreeSet<u32> = (*SLOTS.start()..=ANSWERS).map(|number| vni(of_cluster, number)).collect();
        assert_eq!(all.len(), 254, "{of_cluster:#x}");
        assert!(!all.contains(&of_cluster) && all.iter().all(|vni| (1..=MAX_VNI).contains(vni)), "{of_cluster:#x}");
    }
}

fn gateway(name: &str, slots: impl IntoIterator<Item = u8>, nodes: impl IntoIterator<Item = usize>) -> Gateway {
    let slots = slots.into_iter().map(|number| Slot { number, addresses: BTreeMap::new() }).collect();
    let nodes = nodes.into_iter().map(|node| format!("node-{node}")).collect();
    Gateway { name: name.to_owned(), slots, nodes, ..Gateway::default() }
}

fn counts<'a>(nodes: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    nodes.into_iter().fold(BTreeMap::new(), |mut counts, node| {
        *counts.entry(node).or_default() += 1;
        counts
    })
}

#[test]
fn without_a_node_that_answers_slots_are_nowhere() {
    assert!(places(&gateway("out", [2, 3], []), |_| true).is_empty());
    assert!(places(&gateway("out", [2, 3], [1, 2]), |_| false).is_empty());
    assert!(places(&gateway("out", [], [1, 2]), |_| true).is_empty());
}

#[test]
fn pods_of_one_gateway_are_spread_over_its_slots() {
    let gateways = [gateway("out", 2..6, [1])];
    let mut counts = BTreeMap::<u8, u32>::new();
    for pod in 0..4_000 {
        let slots = slots_of(&gateways, &Labels::new(), &Labels::new(), &format!("web-6d4cf56db6-{pod:05}"));
        assert_eq!(slots.len(), 1);
        *counts.entry(*slots.first().unwrap()).or_default() += 1;
    }
    assert!(counts.len() == 4 && counts.values().all(|count| (800..1200).contains(count)), "{counts:?}");
}

#[test]
fn a_pod_leaves_by_every_gateway_that_is_for_it() {
    let label = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
    let asks = |key: &str, value: &str| Selector {
        requirements: [Requirement::In(key.to_owned(), [value.to_owned()].into())].into(),
    };
    let of_team = Gateway { namespaces: asks("team", "shop"), ..gateway("a", [2], [1]) };
    let of_web = Gateway { pods: asks("app", "web"), ..gateway("b", [3, 4], [1]) };
    let of_both = Gateway { namespaces: asks("team", "shop"), pods: asks("app", "web"), ..gateway("c", [5], [1]) };
    // Who is to leave by one without a slot is cut.
    let empty = gateway("d", [], [1]);
    let all = [of_team, of_web, of_both, empty];
    let chosen = |namespace: &Labels, pod: &Labels| {
        let slots = slots_of(&all, namespace, pod, "p");
        slots.into_iter().map(|number| if number == 4 { 3 } else { number }).collect::<Vec<_>>()
    };
    assert_eq!(chosen(&label("team", "shop"), &label("app", "web")), [CUT, 2, 3, 5]);
    assert_eq!(chosen(&label("team", "shop"), &label("app", "db")), [CUT, 2]);
    assert_eq!(chosen(&label("team", "other"), &label("app", "web")), [CUT, 3]);
    // A namespace's label is none of the pod's.
    assert_eq!(chosen(&label("app", "web"), &label("team", "shop")), [CUT]);
}

type Wanted = BTreeMap<String, Vec<BTreeMap<Family, IpAddr>>>;

/// Gateways by name, each with addresses of its own of a small choice, so that they go from one to another.
fn wanted() -> impl Strategy<Value = Wanted> {
    let owners = btree_map(0_u16..300, 0_u8..6, 0..280);
    owners.prop_map(|owners| {
        let mut wanted = Wanted::new();
        for (address, owner) in owners {
            let ip = IpAddr::from([10, 224, (address >> 8).to_le_bytes()[0], address.to_le_bytes()[0]]);
            wanted.entry(format!("gateway-{owner}")).or_default().push([(Family::V4, ip)].into());
        }
        wanted
    })
}

fn numbers(given: &BTreeMap<String, Vec<Slot>>) -> Vec<u8> {
    given.values().flatten().map(|slot| slot.number).collect()
}

/// All numbers, from the one behind this.
fn behind(number: u8) -> impl Iterator<Item = u8> {
    SLOTS.filter(move |next| *next > number).chain(SLOTS.filter(move |next| *next <= number))
}

proptest! {
    /// Over any changes: no number twice, whichever statuses of two rounds stand beside each other; a slot that stays
    /// keeps its number; what is left out is left out for want of numbers, and has one once there is rest. New numbers
    /// come in turn: none is passed by that is free.
    #[test]
    fn numbers_are_kept_and_never_doubled(rounds in list(wanted(), 1..6), mut last in 0_u8..=255) {
        let mut given = BTreeMap::new();
        for wanted in rounds {
            given.retain(|name, _| wanted.contains_key(name));
            for settled in [false, false, true] {
                let mut turn = last;
                let next = numbered(&wanted, &given, &mut last);
                let (before, after) = (numbers(&given), numbers(&next));
                for (name, slots) in &next {
                    for slot in slots {
                        if given.get(name).into_iter().flatten().any(|before: &Slot| before.addresses == slot.addresses) {
                            continue;
                        }
                        let own = given.get(name).into_iter().flatten().any(|before| before.number == slot.number);
                        let taken = |number: &u8| before.contains(number) || after.contains(number);
                        let passed: Vec<u8> = behind(turn).take_while(|number| *number != slot.number).collect();
                        prop_assert!(own || passed.iter().all(taken), "{turn} {passed:?} {slot:?}");
                        prop_assert!(!own || SLOTS.into_iter().all(|number| taken(&number)), "too soon: {slot:?}");
                        turn = slot.number;
                    }
                }
                prop_assert_eq!(turn, last);
                prop_assert_eq!(next.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
                let all = numbers(&next);
                prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
                prop_assert!(all.iter().all(|number| SLOTS.contains(number)));
                for (name, slots) in &next {
                    for slot in slots {
                        let others = given.iter().filter(|(other, _)| *other != name);
                        let told = others.flat_map(|(_, slots)| slots).any(|told| told.number == slot.number);
                        prop_assert!(!told, "{} of {name} is told of another", slot.number);
                        let before = given.get(name).into_iter().flatten();
                        let before = before.into_iter().find(|before: &&Slot| before.addresses == slot.addresses);
                        prop_assert!(before.is_none_or(|before| before.number == slot.number));
                    }
                    prop_assert!(slots.iter().all(|slot| wanted[name].contains(&slot.addresses)));
                }
                let asked: usize = wanted.values().map(Vec::len).sum();
                if settled {
                    prop_assert_eq!(all.len(), asked.min(SLOTS.count()));
                    prop_assert_eq!(&next, &given);
                }
                given = next;
            }
        }
    }

    /// Every node answers: as even as can be. Some do not: only their slots are elsewhere, as even as that allows.
    #[test]
    fn slots_are_spread_and_stay(
        slots in btree_set(SLOTS, 0..40), nodes in btree_set(0_usize..30, 1..12), dead in btree_set(0_usize..30, 0..12),
    ) {
        let gateway = gateway("out", slots.iter().copied(), nodes.iter().copied());
        let whole = places(&gateway, |_| true);
        prop_assert_eq!(whole.keys().copied().collect::<BTreeSet<_>>(), slots.clone());
        let loads = counts(whole.values().copied());
        let (least, most) = (slots.len() / nodes.len(), slots.len().div_ceil(nodes.len()));
        prop_assert!(loads.values().all(|load| (least..=most).contains(load)), "{:?}", loads);
        let answers = |node: &str| !dead.iter().any(|dead| *node == format!("node-{dead}"));
        let now = places(&gateway, answers);
        let alive = gateway.nodes.iter().filter(|node| answers(node)).count();
        prop_assert_eq!(now.len(), if alive == 0 { 0 } else { slots.len() });
        for (number, node) in &now {
            prop_assert!(answers(node) && (!answers(whole[number]) || whole[number] == *node));
        }
        let loads = counts(now.values().copied());
        let before = loads.keys().map(|node| whole.values().filter(|home| *home == node).count()).max().unwrap_or(0);
        prop_assert!(loads.values().all(|load| *load <= before.max(slots.len().div_ceil(alive.max(1)))));
    }
}

#[test]
fn addresses_that_gateways_swap_double_no_number() {
    let (x, y) = (pair(&["10.224.0.200"]), pair(&["10.224.0.201"]));
    let wanted = |a: &BTreeMap<Family, IpAddr>, b: &BTreeMap<Family, IpAddr>| {
        Wanted::from([("a".to_owned(), vec![a.clone()]), ("b".to_owned(), vec![b.clone()])])
    };
    let mut last = 0;
    let given = numbered(&wanted(&x, &y), &BTreeMap::new(), &mut last);
    assert_eq!((numbers(&given), last), (vec![2, 3], 3));
    let swapped = numbered(&wanted(&y, &x), &given, &mut last.clone());
    assert_eq!(numbers(&swapped), [4, 5], "each status is right beside the other's old one");
    // One of a slot's addresses is enough to know it by.
    let both = pair(&["10.224.0.201", "fd10:224::201"]);
    assert_eq!(numbers(&numbered(&Wanted::from([("b".to_owned(), vec![x, both])]), &given, &mut last)), [4, 3]);
}

#[test]
fn a_number_rests_until_all_others_were_given() {
    let address = |index: u32| BTreeMap::from([(Family::V4, IpAddr::from((0x0ae0_0000 + index).to_be_bytes()))]);
    let one = |index| Wanted::from([("a".to_owned(), vec![address(0)]), ("b".to_owned(), vec![address(index)])]);
    let mut last = 0;
    let mut given = numbered(&one(1), &BTreeMap::new(), &mut last);
    let mut seen = vec![given["b"][0].number];
    for index in 2..510 {
        given.remove("b");
        given = numbered(&one(index), &given, &mut last);
        assert_eq!(given["a"][0].number, 2, "and who stays is passed by");
        seen.push(given["b"][0].number);
    }
    let turn: Vec<u8> = (3..=254).collect();
    assert_eq!(seen, turn.iter().chain(&turn).chain(&turn).take(509).copied().collect::<Vec<_>>());
    // A memory that is none of a number's.
    for (last, number) in [(0, 2), (1, 2), (253, 254), (254, 2), (255, 2)] {
        assert_eq!(numbered(&one(1), &BTreeMap::new(), &mut last.clone())["a"][0].number, number);
    }
}

#[test]
fn beyond_the_last_number_there_is_none_and_nobody_loses_one() {
    let address = |index: u32| [(Family::V4, IpAddr::from((0x0ae0_0000 + index).to_be_bytes()))].into();
    let many = |range: std::ops::Range<u32>| range.map(address).collect::<Vec<_>>();
    let mut wanted = Wanted::from([("b".to_owned(), many(0..253))]);
    let mut last = 0;
    let given = numbered(&wanted, &BTreeMap::new(), &mut last);
    assert_eq!(given["b"].len(), 253);
    wanted.insert("a".to_owned(), many(1_000..1_002));
    let crowded = numbered(&wanted, &given, &mut last);
    assert_eq!((crowded["a"].len(), &crowded["b"]), (0, &given["b"]));
    // A new one before those there are is the one that is left out.
    wanted.insert("b".to_owned(), many(999..1_000).into_iter().chain(many(0..253)).collect());
    assert_eq!(numbered(&wanted, &given, &mut last)["b"], given["b"]);
    // What a status says that no controller of ours has written: numbers that are none, or another's.
    let spoilt = BTreeMap::from([
        ("a".to_owned(), vec![Slot { number: 9, addresses: address(1_000) }]),
        ("b".to_owned(), vec![Slot { number: 9, addresses: address(0) }, Slot { number: 0, addresses: address(1) }]),
    ]);
    wanted.insert("b".to_owned(), many(0..2));
    let mended = numbers(&numbered(&wanted, &spoilt, &mut last));
    assert_eq!(mended.iter().collect::<BTreeSet<_>>().len(), 4, "{mended:?}");
    assert!(mended.iter().all(|number| SLOTS.contains(number)), "{mended:?}");
}
