//! Must catch: a node, a pod or what is not masqueraded that counts as outside; a family without a next hop that takes the
//! node's way.

use std::collections::BTreeMap;

use overlane_core::cluster::{Egress, Outbound};
use overlane_core::family::Family;
use overlane_core::masq::MasqConfig;
use overlane_core::plan::{NodeInput, Outside, plan};

use super::{cidr, cidrs, dual, ip, only};

fn input(outbound: Outbound, next_hops: &[(Family, &str)]) -> NodeInput {
    let egress = Egress {
        internal: vec![cidr("10.250.0.0/16"), cidr("10.250.1.0/24")],
        next_hops: next_hops.iter().map(|(family, hop)| (*family, ip(hop))).collect(),
        keep_pod_address: false,
    };
    NodeInput { outbound, egress, ..dual() }
}

#[test]
fn nothing_is_special_without_cause() {
    assert_eq!(plan(&input(Outbound::LoadBalancer, &[])).egress, None);
    assert_eq!(plan(&input(Outbound::UserDefinedRouting, &[])).egress, None, "the fabric's own routes decide");
}

#[test]
fn what_is_inside() {
    let mut input = input(Outbound::None, &[]);
    let non_masquerade = cidrs(&["192.168.7.0/24", "fd77::/64"]);
    input.masquerade = Some(MasqConfig { non_masquerade, masq_link_local: false, ..MasqConfig::default() });
    let of_pods = ["10.244.0.0/16", "fd12:3456:789a::/64", "192.168.7.0/24", "fd77::/64", "169.254.0.0/16"];
    let of_nodes = ["10.224.0.4/32", "10.224.0.5/32", "10.224.0.6/32", "fd10:224::4/128", "fd10:224::5/128"];
    let mut expected = cidrs(&of_pods);
    expected.extend(cidrs(&of_nodes));
    expected.extend(cidrs(&["fd10:224::6/128", "10.250.0.0/16"]));
    let egress = plan(&input).egress.unwrap();
    assert_eq!((egress.inside, egress.outside), (expected, Outside::Dropped));
}

#[test]
fn each_family_of_the_cluster_has_its_next_hop_or_none() {
    let (v4, v6) = ((Family::V4, Some(ip("10.224.0.250"))), (Family::V6, None));
    let hops = [(Family::V4, "10.224.0.250")];
    for (families, expected) in [(&Family::ALL[..], BTreeMap::from([v4, v6])), (&[Family::V4], BTreeMap::from([v4]))] {
        let NodeInput { outbound, egress, .. } = input(Outbound::UserDefinedRouting, &hops);
        let egress = plan(&NodeInput { outbound, egress, ..only(families) }).egress.unwrap();
        assert_eq!(egress.outside, Outside::NextHops { by: expected, keep_pod_address: false });
    }
}
