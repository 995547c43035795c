//! From the words of custom resources and ConfigMaps to `core`'s types. Nothing is judged here that `core` judges.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{AddrParseError, IpAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use overlane_core::cidr::{Cidr, CidrError};
use overlane_core::cluster::{
    Carrier, ClusterSpec, EgressSpec, NetworkPolicy, NodeCidrs, Outbound, Routing, RoutingState, Vxlan,
};
use overlane_core::egress::{Gateway, GatewaySpec, Slot};
use overlane_core::family::Family;
use overlane_core::few::Few;
use overlane_core::ipam::Block;
use overlane_core::labels::{Requirement, Selector};
use overlane_core::masq::MasqFragment;
use overlane_core::plan::{Mac, Peer};
use serde::Deserialize;

use crate::crd;

/// The one kind of network container that this version knows.
const OVERLAY: &str = "overlay";

/// A field of a custom resource that does not mean anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// It is no CIDR.
    #[error("{field}: {cause}")]
    Cidr {
        /// Where, such as `status.networkContainers[1].primaryIP`.
        field: String,
        /// What is wrong with it.
        #[source]
        cause: CidrError,
    },
    /// It is no address.
    #[error("{field}: `{given}` is no address")]
    Address {
        /// Where.
        field: String,
        /// The text as it came.
        given: String,
        /// What the parser said.
        #[source]
        cause: AddrParseError,
    },
    /// The node's address beside a block is of the other family, or two blocks of a family say two addresses.
    #[error("{field}: {given} cannot be the node's address here: {expected}")]
    NodeAddress {
        /// Where.
        field: String,
        /// The address.
        given: IpAddr,
        /// What would be right.
        expected: NodeAddressRule,
    },
    /// It is no MAC address.
    #[error("{field}: `{given}` is no MAC address; one looks like 02:00:5e:10:00:01")]
    Mac {
        /// Where.
        field: String,
        /// The text as it came.
        given: String,
    },
    /// A selector's expression means nothing.
    #[error("{field}: `{given}` means nothing: In and NotIn ask for values, Exists and DoesNotExist for none")]
    Selector {
        /// Where.
        field: String,
        /// The expression.
        given: String,
    },
    /// A port, or what is beside one, means nothing.
    #[error("{field}: `{given}` means nothing here; expected is {expected}")]
    Port {
        /// Where.
        field: String,
        /// What came.
        given: String,
        /// What would mean something.
        expected: &'static str,
    },
    /// Who is meant cannot be told.
    #[error("{field}: it has to say who is meant in one way, of those that this version knows")]
    Peer {
        /// Where.
        field: String,
    },
    /// An exception is not inside of what it is one of.
    #[error("{field}: {given} is not inside of {around}")]
    Except {
        /// Where.
        field: String,
        /// The exception.
        given: Cidr,
        /// What it is to be inside of.
        around: Cidr,
    },
    /// The entry is of a kind that this version does not know.
    #[error("{field}: `{given}` is not known to this version; `{OVERLAY}` is")]
    Kind {
        /// Where.
        field: String,
        /// The text as it came.
        given: String,
    },
}

/// What the node's address beside a block has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeAddressRule {
    /// Of the block's family.
    #[error("the block is {0}")]
    Family(Family),
    /// The same in all entries of a family.
    #[error("another entry says {0}")]
    Same(IpAddr),
}

/// A ClusterNetwork's spec as `core` judges it.
#[must_use]
pub fn cluster_spec(spec: &crd::ClusterNetworkSpec) -> ClusterSpec {
    ClusterSpec {
        ip_families: spec.ip_families.clone(),
        pod_cidrs: spec.pod_cidrs.clone(),
        service_cidrs: spec.service_cidrs.clone(),
        node_mask_v4: spec.node_mask_size.ipv4,
        node_mask_v6: spec.node_mask_size.ipv6,
        max_pods: spec.max_pods,
        routing: core_routing(spec.routing),
        native_cidrs: spec.native_cidrs.clone(),
        vxlan: Vxlan { port: spec.vxlan.port, vni: spec.vxlan.vni },
        node_cidrs: match spec.node_cidrs {
            crd::NodeCidrs::Allocate => NodeCidrs::Allocate,
            crd::NodeCidrs::Adopt => NodeCidrs::Adopt,
        },
        masquerade: spec.masquerade,
        outbound: match spec.outbound_type {
            crd::OutboundType::LoadBalancer => Outbound::LoadBalancer,
            crd::OutboundType::NatGateway => Outbound::NatGateway,
            crd::OutboundType::UserDefinedRouting => Outbound::UserDefinedRouting,
            crd::OutboundType::None => Outbound::None,
        },
        egress: EgressSpec {
            internal_cidrs: spec.egress.internal_cidrs.clone(),
            next_hops: spec.egress.next_hops.clone(),
            keep_pod_address: spec.egress.keep_pod_address,
        },
        network_policy: match spec.network_policy {
            crd::NetworkPolicy::Overlane => NetworkPolicy::Overlane,
            crd::NetworkPolicy::None => NetworkPolicy::None,
        },
        network_policy_log: spec.network_policy_log,
    }
}

/// An egress gateway's spec as `core` judges it.
///
/// # Errors
/// A selector with an operator that the API does not know, or without the values that its operator asks for.
pub fn gateway_spec(spec: &crd::EgressGatewaySpec) -> Result<GatewaySpec, ConvertError> {
    Ok(GatewaySpec {
        namespaces: selector("namespaceSelector", &spec.namespace_selector)?,
        pods: selector("podSelector", &spec.pod_selector)?,
        destinations: spec.destination_cidrs.clone(),
        nodes: selector("nodeSelector", &spec.node_selector)?,
        addresses: spec.egress_ips.clone(),
    })
}

/// A gateway in force, as the controller told it; `None` while it has put none in force.
///
/// # Errors
/// What the controller never writes.
pub fn gateway(name: &str, status: &crd::EgressGatewayStatus) -> Result<Option<Gateway>, ConvertError> {
    let Some(applied) = &status.applied else { return Ok(None) };
    let spec = gateway_spec(applied)?;
    let destination = |(index, text): (usize, &String)| cidr(format!("status.applied.destinationCIDRs[{index}]"), text);
    let slot = |slot: &crd::EgressSlot| {
        let addresses = slot.egress_ips.iter().map(|text| {
            let fault = |cause| ConvertError::Address { field: "status.slots".to_owned(), given: text.clone(), cause };
            let address: IpAddr = text.parse().map_err(fault)?;
            Ok((Family::of(&address), address))
        });
        Ok(Slot { number: slot.number, addresses: addresses.collect::<Result<_, ConvertError>>()? })
    };
    Ok(Some(Gateway {
        name: name.to_owned(),
        namespaces: spec.namespaces,
        pods: spec.pods,
        destinations: applied.destination_cidrs.iter().enumerate().map(destination).collect::<Result<_, _>>()?,
        slots: status.slots.iter().map(slot).collect::<Result<_, ConvertError>>()?,
        nodes: status.nodes.iter().cloned().collect(),
    }))
}

/// A selector as `core` has it.
///
/// # Errors
/// An operator that the API does not know, or one without the values that it asks for.
pub fn selector(field: &str, selector: &LabelSelector) -> Result<Selector, ConvertError> {
    let mut requirements = BTreeSet::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        requirements.insert(Requirement::In(key.clone(), [value.clone()].into()));
    }
    for asked in selector.match_expressions.iter().flatten() {
        let (key, values) = (asked.key.clone(), asked.values.iter().flatten().cloned().collect::<Few<_>>());
        requirements.insert(match (asked.operator.as_str(), values.is_empty()) {
            ("In", false) => Requirement::In(key, values),
            ("NotIn", false) => Requirement::NotIn(key, values),
            ("Exists", true) => Requirement::Exists(key),
            ("DoesNotExist", true) => Requirement::DoesNotExist(key),
            _ => {
                return Err(ConvertError::Selector {
                    field: format!("{field}.matchExpressions"),
                    given: format!("{key} {} {:?}", asked.operator, asked.values.as_deref().unwrap_or_default()),
                });
            }
        });
    }
    Ok(Selector { requirements: requirements.into() })
}

/// `core`'s word for who enforces network policy in that of the custom resource.
#[must_use]
pub const fn network_policy(enforcer: NetworkPolicy) -> crd::NetworkPolicy {
    match enforcer {
        NetworkPolicy::Overlane => crd::NetworkPolicy::Overlane,
        NetworkPolicy::None => crd::NetworkPolicy::None,
    }
}

/// `core`'s routing in the words of the custom resource.
#[must_use]
pub const fn routing(routing: Routing) -> crd::Routing {
    match routing {
        Routing::Native => crd::Routing::Native,
        Routing::Vxlan => crd::Routing::Vxlan,
        Routing::Auto => crd::Routing::Auto,
    }
}

/// A custom resource's routing as `core` has it.
#[must_use]
pub const fn core_routing(routing: crd::Routing) -> Routing {
    match routing {
        crd::Routing::Native => Routing::Native,
        crd::Routing::Vxlan => Routing::Vxlan,
        crd::Routing::Auto => Routing::Auto,
    }
}

fn carriers(carriers: &[crd::Carrier]) -> BTreeSet<Carrier> {
    let one = |carrier: &crd::Carrier| match carrier {
        crd::Carrier::Native => Carrier::Native,
        crd::Carrier::Vxlan => Carrier::Vxlan,
    };
    carriers.iter().map(one).collect()
}

fn carrier_words(carriers: &BTreeSet<Carrier>) -> Vec<crd::Carrier> {
    let word = |carrier: &Carrier| match carrier {
        Carrier::Native => crd::Carrier::Native,
        Carrier::Vxlan => crd::Carrier::Vxlan,
    };
    carriers.iter().map(word).collect()
}

/// What a node says of its routing.
#[must_use]
pub fn routing_state(state: &crd::RoutingState) -> RoutingState {
    RoutingState { sends: core_routing(state.sends), accepts: carriers(&state.accepts), step: state.step }
}

/// The same in the words of the custom resource.
#[must_use]
pub fn routing_words(state: &RoutingState) -> crd::RoutingState {
    crd::RoutingState { sends: routing(state.sends), accepts: carrier_words(&state.accepts), step: state.step }
}

/// The blocks that a NodeNetworkConfig gives, in its order. Entries beside each other that differ in family go
/// together, one of a family each.
///
/// # Errors
/// The first entry that means nothing; there is no half of a config.
pub fn blocks(status: &crd::NodeNetworkConfigStatus) -> Result<Vec<Block>, ConvertError> {
    let mut blocks: Vec<Block> = Vec::with_capacity(status.network_containers.len());
    let mut pair = 0;
    for (index, container) in status.network_containers.iter().enumerate() {
        let cidr = block(index, container)?;
        let taken = blocks.iter().any(|block| block.pair == pair && block.cidr.family() == cidr.family());
        pair += u32::from(taken);
        blocks.push(Block { cidr, pair });
    }
    Ok(blocks)
}

/// The node's addresses that a NodeNetworkConfig tells, as far as it does.
///
/// # Errors
/// The first entry that means nothing or contradicts another.
pub fn node_ips(status: &crd::NodeNetworkConfigStatus) -> Result<BTreeMap<Family, IpAddr>, ConvertError> {
    let mut node_ips = BTreeMap::new();
    let address = |field: &str, given: &str| -> Result<IpAddr, ConvertError> {
        let fault = |cause| ConvertError::Address { field: field.to_owned(), given: given.to_owned(), cause };
        given.parse().map_err(fault)
    };
    for (index, text) in status.node_ips.iter().enumerate() {
        let field = format!("status.nodeIPs[{index}]");
        let given = address(&field, text)?;
        let known = *node_ips.entry(Family::of(&given)).or_insert(given);
        if known != given {
            let expected = NodeAddressRule::Same(known);
            return Err(ConvertError::NodeAddress { field, given, expected });
        }
    }
    for (index, container) in status.network_containers.iter().enumerate() {
        let family = block(index, container)?.family();
        if container.node_ip.is_empty() {
            continue;
        }
        let field = || format!("status.networkContainers[{index}].nodeIP");
        let given = address(&field(), &container.node_ip)?;
        if Family::of(&given) != family {
            let expected = NodeAddressRule::Family(family);
            return Err(ConvertError::NodeAddress { field: field(), given, expected });
        }
        let known = *node_ips.entry(family).or_insert(given);
        if known != given {
            let expected = NodeAddressRule::Same(known);
            return Err(ConvertError::NodeAddress { field: field(), given, expected });
        }
    }
    Ok(node_ips)
}

/// Another node as its NodeNetworkConfig tells it.
///
/// # Errors
/// The first entry that means nothing; there is no half of a peer.
pub fn peer(name: &str, status: &crd::NodeNetworkConfigStatus) -> Result<Peer, ConvertError> {
    Ok(Peer {
        name: name.to_owned(),
        blocks: blocks(status)?.into_iter().map(|block| block.cidr).collect(),
        node_ips: node_ips(status)?,
        mac: mac("status.underlayMAC", &status.underlay_mac)?,
    })
}

/// The blocks that a node's agent says its pods hold addresses of.
///
/// # Errors
/// The first that is no CIDR.
pub fn held_blocks(state: &crd::NodeStateSpec) -> Result<Vec<Cidr>, ConvertError> {
    let held = state.held_blocks.iter().enumerate();
    held.map(|(index, text)| cidr(format!("spec.heldBlocks[{index}]"), text)).collect()
}

/// A MAC address; an empty text is none.
///
/// # Errors
/// [`ConvertError::Mac`].
pub fn mac(field: &str, given: &str) -> Result<Option<Mac>, ConvertError> {
    if given.is_empty() {
        return Ok(None);
    }
    let octet = |part: &str| match part.as_bytes() {
        // `from_str_radix` takes a sign.
        [high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => u8::from_str_radix(part, 16).ok(),
        _ => None,
    };
    let octets: Option<Vec<u8>> = given.split(':').map(octet).collect();
    let mac = octets.and_then(|octets| Mac::try_from(octets).ok());
    mac.map(Some).ok_or_else(|| ConvertError::Mac { field: field.to_owned(), given: given.to_owned() })
}

/// A MAC address as [`mac`] reads it.
#[must_use]
pub fn mac_text(mac: &Mac) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn block(index: usize, container: &crd::NetworkContainer) -> Result<Cidr, ConvertError> {
    // An older writer may leave it out.
    if !container.kind.is_empty() && container.kind != OVERLAY {
        let field = format!("status.networkContainers[{index}].type");
        return Err(ConvertError::Kind { field, given: container.kind.clone() });
    }
    cidr(format!("status.networkContainers[{index}].primaryIP"), &container.primary_ip)
}

fn cidr(field: String, text: &str) -> Result<Cidr, ConvertError> {
    text.parse().map_err(|cause| ConvertError::Cidr { field, cause })
}

/// Masquerade configuration that cannot be read; it is left out whole.
#[derive(Debug, thiserror::Error)]
#[error("masquerade configuration {origin} is left out: {source}")]
pub struct MasqError {
    /// ConfigMap and key, as in [`MasqFragment::source`].
    pub origin: String,
    /// What the parser said, with the name of the key that is not known.
    #[source]
    pub source: serde_norway::Error,
}

/// The file format of ip-masq-agent (<https://github.com/kubernetes-sigs/ip-masq-agent>, README, "Configuration").
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawMasq {
    #[serde(rename = "nonMasqueradeCIDRs")]
    non_masquerade_cidrs: Option<Vec<String>>,
    masq_link_local: Option<bool>,
    #[serde(rename = "masqLinkLocalIPv6")]
    masq_link_local_ipv6: Option<bool>,
    /// How often that program reads its file again. Changes work at once here, so this says nothing.
    #[serde(rename = "resyncInterval")]
    _resync_interval: Option<serde::de::IgnoredAny>,
}

/// One key of a ConfigMap's data, YAML or JSON. `config_map` names the map. An empty text is a fragment that adds
/// nothing.
///
/// # Errors
/// The text is neither, or has a key that the format has not, or a value of another kind.
pub fn masq_fragment(config_map: &str, key: &str, text: &str) -> Result<MasqFragment, MasqError> {
    let origin = format!("{config_map}/{key}");
    let raw: Option<RawMasq> = match serde_norway::from_str(text) {
        Ok(raw) => raw,
        Err(source) => return Err(MasqError { origin, source }),
    };
    let raw = raw.unwrap_or_default();
    Ok(MasqFragment {
        source: origin,
        non_masquerade_cidrs: raw.non_masquerade_cidrs.unwrap_or_default(),
        masq_link_local: raw.masq_link_local.unwrap_or(false),
        masq_link_local_ipv6: raw.masq_link_local_ipv6.unwrap_or(false),
    })
}
