//! Must catch: a bad fragment of which the good half applies, or that takes others with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use overlane_core::cidr::{Cidr, CidrError};
use overlane_core::masq::{MasqConfig, MasqFragment, merge};
use proptest::prelude::*;

fn fragment(source: &str, cidrs: &[&str], v4: bool, v6: bool) -> MasqFragment {
    MasqFragment {
        source: source.to_owned(),
        non_masquerade_cidrs: cidrs.iter().map(|text| (*text).to_owned()).collect(),
        masq_link_local: v4,
        masq_link_local_ipv6: v6,
    }
}

fn config(cidrs: &[&str], v4: bool, v6: bool) -> MasqConfig {
    MasqConfig {
        non_masquerade: cidrs.iter().map(|text| text.parse::<Cidr>().unwrap()).collect(),
        masq_link_local: v4,
        masq_link_local_ipv6: v6,
    }
}

#[test]
fn merges() {
    let table = [
        (vec![], config(&[], true, true)),
        (vec![fragment("a", &[], false, false)], config(&[], false, false)),
        (vec![fragment("a", &["10.0.0.0/8"], true, false)], config(&["10.0.0.0/8"], true, false)),
        (
            vec![fragment("a", &["10.0.0.0/8"], true, false), fragment("b", &["fd00::/8", "10.0.0.0/8"], false, true)],
            config(&["10.0.0.0/8", "fd00::/8"], true, true),
        ),
        (
            vec![fragment("a", &["10.0.0.0/8", "10.1.0.0/16"], false, false), fragment("b", &[], false, false)],
            config(&["10.0.0.0/8", "10.1.0.0/16"], false, false),
        ),
    ];
    for (fragments, expected) in table {
        assert_eq!(merge(&fragments), (expected, vec![]), "{fragments:?}");
    }
}

#[test]
fn a_bad_fragment_is_named_and_left_out_whole() {
    let fragments = [
        fragment("kube-system/one/config", &["192.168.0.0/16"], false, false),
        fragment("kube-system/two/config", &["172.16.0.0/12", "10.0.0.1/8", "what"], true, true),
        fragment("kube-system/three/config", &["fd00::/8"], false, false),
    ];
    let (merged, findings) = merge(&fragments);
    assert_eq!(merged, config(&["192.168.0.0/16", "fd00::/8"], false, false));
    let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
    let expected = [
        "masquerade configuration kube-system/two/config is left out: nonMasqueradeCIDRs[1]: `10.0.0.1/8` has host bits \
         set; the network is 10.0.0.0/8",
        "masquerade configuration kube-system/two/config is left out: nonMasqueradeCIDRs[2]: `what` is no CIDR; one looks \
         like 10.244.0.0/16 or fd12:3456:789a::/64",
    ];
    assert_eq!(told, expected);
    assert!(matches!(findings[0].cause, CidrError::HostBits { .. }));
}

#[test]
fn bad_fragments_alone_are_none() {
    let (merged, findings) = merge(&[fragment("a", &["x"], false, false)]);
    assert_eq!(merged, MasqConfig::default());
    assert_eq!(findings.len(), 1);
}

fn any_fragment() -> impl Strategy<Value = MasqFragment> {
    let cidr =
        prop_oneof![4 => (0_u8..=255).prop_map(|b| format!("10.{b}.0.0/16")), 1 => Just("10.0.0.1/8".to_owned())];
    ("[a-d]", proptest::collection::vec(cidr, 0..4), any::<bool>(), any::<bool>()).prop_map(
        |(source, non_masquerade_cidrs, masq_link_local, masq_link_local_ipv6)| MasqFragment {
            source,
            non_masquerade_cidrs,
            masq_link_local,
            masq_link_local_ipv6,
        },
    )
}

proptest! {
    #[test]
    fn order_does_not_matter_and_bad_ones_add_nothing(
        fragments in proptest::collection::vec(any_fragment(), 0..6).prop_shuffle(),
    ) {
        let (merged, _) = merge(&fragments);
        let reversed: Vec<MasqFragment> = fragments.iter().rev().cloned().collect();
        prop_assert_eq!(&merge(&reversed).0, &merged);
        let bad = |fragment: &MasqFragment| fragment.non_masquerade_cidrs.iter().any(|text| text == "10.0.0.1/8");
        let good: Vec<MasqFragment> = fragments.iter().filter(|fragment| !bad(fragment)).cloned().collect();
        prop_assert_eq!(merge(&good), (merged, vec![]));
    }
}
