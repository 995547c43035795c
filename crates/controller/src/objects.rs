//! Between custom resources and what `core` decides on. Objects that a hand has spoilt never stop the controller: they
//! are read as whatever does the least harm.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use overlane_api::convert;
use overlane_api::crd::{Machine, NetworkContainer, NodeBlock, NodeNetworkConfig, NodeState, block_name};
use overlane_core::blocks::{Claim, ConfigView, Container, Content, MachineId, StateView};
use overlane_core::cidr::Cidr;

use crate::slim::object_ref;

/// Milliseconds since the epoch, by this machine's clock.
pub fn now_ms() -> u64 {
    millis(Timestamp::now())
}

fn millis(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

/// A time as objects have it.
pub fn timestamp(at_ms: u64) -> Timestamp {
    i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

/// A time as objects have it, RFC 3339.
pub fn rfc3339(at_ms: u64) -> String {
    timestamp(at_ms).to_string()
}

/// A NodeBlock; `None` where its name is no block's. What it says of itself does not count where the name says
/// something else: then it is nobody's, and only keeps the block from being given.
pub fn claim(object: &NodeBlock) -> Option<Claim> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let cidr = named_block(name)?;
    if object.spec.cidr.parse() != Ok(cidr) {
        tracing::warn!(
            nodeblock = name,
            cidr = object.spec.cidr,
            "a NodeBlock is not named after its CIDR; its block is not given"
        );
        return Some(Claim {
            node: String::new(),
            node_uid: String::new(),
            released_ms: None,
            ..read_claim(object, cidr)
        });
    }
    Some(read_claim(object, cidr))
}

/// What [`block_name`] made a name of.
fn named_block(name: &str) -> Option<Cidr> {
    let (network, length) = name.rsplit_once('-')?;
    let network = if network.contains('-') { network.replace('-', ":") } else { network.to_owned() };
    let cidr: Cidr = format!("{network}/{length}").parse().ok()?;
    (block_name(&cidr) == name).then_some(cidr)
}

fn read_claim(object: &NodeBlock, cidr: Cidr) -> Claim {
    let created_ms = object.metadata.creation_timestamp.as_ref().map_or(0, |Time(at)| millis(*at));
    Claim {
        cidr,
        pool: object.spec.pod_cidr.parse().ok(),
        node: object.spec.node.clone(),
        node_uid: object.spec.node_uid.clone(),
        machine: MachineId {
            boot_id: object.spec.machine.boot_id.clone(),
            provider_id: object.spec.machine.provider_id.clone(),
        },
        // A time that cannot be read is taken as now, so that the hold-down is never cut short.
        released_ms: object.spec.released_at.as_ref().map(|text| text.parse().map_or_else(|_| now_ms(), millis)),
        created_ms,
        object: object_ref(&object.metadata),
    }
}

/// A machine as objects have it.
pub fn machine(id: &MachineId) -> Machine {
    Machine { boot_id: id.boot_id.clone(), provider_id: id.provider_id.clone() }
}

/// A NodeNetworkConfig.
pub fn config(object: &NodeNetworkConfig) -> ConfigView {
    let empty = Content::default();
    let content = object.status.as_ref().map_or(Some(empty), |status| {
        let containers = status.network_containers.iter().map(container).collect::<Option<Vec<_>>>()?;
        let node_ips = status.node_ips.iter().map(|text| text.parse().ok()).collect::<Option<Vec<_>>>()?;
        Some(Content { containers, node_ips, mac: status.underlay_mac.clone() })
    });
    ConfigView {
        node: object.metadata.name.clone().unwrap_or_default(),
        node_uid: object.spec.node_uid.clone(),
        object: object_ref(&object.metadata),
        content,
    }
}

/// An entry, if it is just as we write it.
fn container(entry: &NetworkContainer) -> Option<Container> {
    let block: Cidr = entry.primary_ip.parse().ok()?;
    let pool = (!entry.subnet_address_space.is_empty()).then(|| entry.subnet_address_space.parse()).transpose().ok()?;
    let node_ip = (!entry.node_ip.is_empty()).then(|| entry.node_ip.parse()).transpose().ok()?;
    let read = Container { block, pool, node_ip };
    (network_container(&read) == *entry).then_some(read)
}

/// An entry as it is written.
pub fn network_container(container: &Container) -> NetworkContainer {
    NetworkContainer {
        id: block_name(&container.block),
        primary_ip: container.block.to_string(),
        subnet_address_space: container.pool.map(|pool| pool.to_string()).unwrap_or_default(),
        node_ip: container.node_ip.map(|addr| addr.to_string()).unwrap_or_default(),
        kind: "overlay".to_owned(),
        assignment_mode: "static".to_owned(),
    }
}

/// A NodeState. Blocks that are none are left out.
pub fn state(object: &NodeState) -> StateView {
    let is_ready = |condition: &Condition| condition.type_ == "Ready" && condition.status == "True";
    StateView {
        node: object.metadata.name.clone().unwrap_or_default(),
        object: object_ref(&object.metadata),
        boot_id: object.spec.boot_id.clone(),
        held: object.spec.held_blocks.iter().filter_map(|text| text.parse().ok()).collect(),
        mac: object.spec.underlay_mac.clone(),
        ready: object.spec.conditions.iter().any(is_ready),
        routing: object.spec.routing.as_ref().map(convert::routing_state),
        obsolete_since_ms: None,
    }
}

/// The name of an object; empty where it has none, which no object that the API gives has.
pub fn name(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use overlane_api::crd::{NodeBlockSpec, NodeNetworkConfigSpec, NodeNetworkConfigStatus};

    use super::*;

    #[test]
    fn names_of_blocks_there_and_back() {
        for text in ["10.244.2.0/24", "fd12:3456:789a:0:2::/80", "::/0", "0.0.0.0/0", "fd00::1/128"] {
            let cidr: Cidr = text.parse().unwrap();
            let name = block_name(&cidr);
            assert_eq!(named_block(&name), Some(cidr), "{name}");
            let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
            assert!(name.chars().all(label), "{name}");
        }
        for name in ["", "x", "10.244.2.1-24", "10.244.2.0-024", "fd00--80", "10.244.2.0-33"] {
            assert_eq!(named_block(name), None, "{name}");
        }
    }

    #[test]
    fn a_spoilt_claim_is_nobodys_but_keeps_its_block() {
        let spec = NodeBlockSpec { cidr: "10.244.9.0/24".into(), node: "a".into(), ..NodeBlockSpec::default() };
        let spoilt = claim(&NodeBlock::new("10.244.2.0-24", spec.clone())).unwrap();
        assert_eq!((spoilt.cidr.to_string().as_str(), spoilt.node.as_str()), ("10.244.2.0/24", ""));
        assert!(spoilt.is_live());
        let sound = claim(&NodeBlock::new("10.244.9.0-24", spec)).unwrap();
        assert_eq!(sound.node, "a");
        assert!(claim(&NodeBlock::new("note", NodeBlockSpec::default())).is_none());
    }

    #[test]
    fn a_release_time_that_cannot_be_read_is_now() {
        let spec = NodeBlockSpec {
            cidr: "10.244.9.0/24".into(),
            released_at: Some("soon".into()),
            ..NodeBlockSpec::default()
        };
        let released = claim(&NodeBlock::new("10.244.9.0-24", spec)).unwrap().released_ms.unwrap();
        assert!(now_ms() - released < 10_000);
        assert_eq!(rfc3339(1_234), "1970-01-01T00:00:01.234Z");
    }

    #[test]
    fn a_config_that_a_hand_has_changed_is_written_anew() {
        let mut entry = network_container(&Container {
            block: "10.244.2.0/24".parse().unwrap(),
            pool: Some("10.244.0.0/16".parse().unwrap()),
            node_ip: None,
        });
        let object = |entry: &NetworkContainer| {
            let mut object = NodeNetworkConfig::new("a", NodeNetworkConfigSpec::default());
            let network_containers = vec![entry.clone()];
            object.status = Some(NodeNetworkConfigStatus { network_containers, ..NodeNetworkConfigStatus::default() });
            config(&object)
        };
        assert_eq!(object(&entry).blocks().count(), 1);
        entry.kind = "vnet".to_owned();
        assert_eq!(object(&entry).content, None);
    }
}
