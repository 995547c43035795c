//! From what `lab up` was asked for to a lab that can be: all of it is checked before anything is made.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use overlane_api::convert;
use overlane_api::crd::{self, ClusterNetwork, ClusterNetworkSpec};
use overlane_core::cidr::Cidr;
use overlane_core::cluster::{self, ClusterPlan, ClusterSpec, Finding, NetworkPolicy, Routing};
use overlane_core::family::Family;
use serde_json::Value;

use crate::error::LabError;
use crate::fabric::{MOST_LOSS, Underlay};
use crate::kubernetes::{ApiKind, KubernetesPrograms};
use crate::manifests::{self, Manifest};
use crate::names::LabName;
use crate::state::{FORMAT, LabRecord};

/// The most nodes of one lab: a bridge has 1024 ports (`BR_MAX_PORTS` of the kernel).
pub const MAX_NODES: u32 = 1000;

/// What was asked for, as it was typed.
#[derive(Clone, Debug, Default)]
pub struct UpRequest {
    /// The lab's name.
    pub name: String,
    /// How many nodes.
    pub nodes: u32,
    /// The VNet to join; the lab's own without.
    pub vnet: Option<String>,
    /// `ipv4`, `ipv6` or both, in either order.
    pub ip_families: Vec<String>,
    /// The same of the nodes' own addresses; those of the pods without.
    pub node_families: Vec<String>,
    /// One a family.
    pub pod_cidrs: Vec<String>,
    /// One a family.
    pub service_cidrs: Vec<String>,
    /// Most pods a node.
    pub max_pods: Option<u32>,
    /// How pod packets cross nodes.
    pub routing: Option<Routing>,
    /// Who enforces network policy.
    pub network_policy: Option<NetworkPolicy>,
    /// MTU of a new VNet's links, in bytes.
    pub mtu: Option<u32>,
    /// What lies between the nodes of a new VNet.
    pub underlay: Option<Underlay>,
    /// Packets of a hundred that a new VNet loses.
    pub loss: Option<u32>,
    /// Files and directories of manifests.
    pub manifests: Vec<PathBuf>,
    /// Further arguments of every agent.
    pub agent_args: Vec<String>,
    /// Further arguments of every controller.
    pub controller_args: Vec<String>,
    /// How many controllers; one without.
    pub controllers: Option<u32>,
    /// Which API it has.
    pub api: ApiKind,
    /// The directory of the real API's programs; `PATH` is looked along without.
    pub kubernetes_bin: Option<PathBuf>,
}

/// A request that was found possible.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What will be written down.
    pub record: LabRecord,
    /// Whether the VNet was named: only then a VNet that is there is joined.
    pub joins: bool,
    /// What will be applied once the API is there, the ClusterNetwork left out.
    pub manifests: Vec<Manifest>,
}

/// Checks a request.
pub fn resolve(request: &UpRequest) -> Result<Plan> {
    let name: LabName = request.name.parse().map_err(LabError::from)?;
    let vnet = request.vnet.as_ref().map(|vnet| vnet.parse::<LabName>()).transpose().map_err(LabError::from)?;
    within("--nodes", request.nodes, 0, MAX_NODES)?;
    within("--controllers", request.controllers.unwrap_or(1), 0, 9)?;
    // Ethernet carries IPv6 from 1280 bytes on (RFC 8200, section 5); a veth takes at most 65535.
    within("--mtu", request.mtu.unwrap_or(1500), 1280, 65_535)?;
    within("--loss", request.loss.unwrap_or(0), 0, MOST_LOSS)?;
    let kubernetes = match request.api {
        ApiKind::InProcess => None,
        ApiKind::Kubernetes => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            Some(KubernetesPrograms::find(request.kubernetes_bin.as_deref(), &path)?)
        }
    };
    let mut manifests = manifests::read(&request.manifests)?;
    let given = manifests::take_cluster_network(&mut manifests)?;
    let (network, plan) = cluster_network(request, given)?;
    let joins = vnet.is_some();
    let record = LabRecord {
        format: FORMAT,
        vnet: vnet.unwrap_or_else(|| name.clone()),
        name,
        families: node_families(&request.node_families, &plan)?,
        nodes: request.nodes,
        max_pods: plan.max_pods(),
        cluster_network: network,
        mtu: request.mtu,
        underlay: request.underlay,
        loss: request.loss,
        agent_args: request.agent_args.clone(),
        controller_args: request.controller_args.clone(),
        controllers: request.controllers.unwrap_or(1),
        kubernetes,
        daemon: None,
        api: None,
        complete: false,
    };
    Ok(Plan { record, joins, manifests })
}

fn node_families(asked: &[String], plan: &ClusterPlan) -> Result<Vec<String>, LabError> {
    let refused = |reason: String| LabError::Argument { argument: "--node-families".to_owned(), reason };
    let mut families = Vec::new();
    for text in asked {
        let family: Family = text.parse().map_err(|_| refused(format!("`{text}` is neither ipv4 nor ipv6")))?;
        if families.contains(&family) {
            return Err(refused(format!("{family} is named twice")));
        }
        families.push(family);
    }
    let families = if families.is_empty() { plan.families() } else { &families };
    Ok(families.iter().map(Family::to_string).collect())
}

fn within(argument: &str, given: u32, least: u32, most: u32) -> Result<(), LabError> {
    if (least..=most).contains(&given) {
        return Ok(());
    }
    Err(LabError::Argument { argument: argument.to_owned(), reason: format!("{given} is not {least} to {most}") })
}

fn cluster_network(request: &UpRequest, given: Option<Value>) -> Result<(Value, ClusterPlan)> {
    let typed = !request.pod_cidrs.is_empty()
        || !request.service_cidrs.is_empty()
        || !request.ip_families.is_empty()
        || request.max_pods.is_some()
        || request.routing.is_some()
        || request.network_policy.is_some();
    let Some(object) = given else {
        let spec = ClusterSpec {
            ip_families: request.ip_families.clone(),
            pod_cidrs: request.pod_cidrs.clone(),
            service_cidrs: request.service_cidrs.clone(),
            max_pods: request.max_pods.unwrap_or(ClusterSpec::default().max_pods),
            routing: request.routing.unwrap_or_default(),
            network_policy: request.network_policy.unwrap_or_default(),
            ..ClusterSpec::default()
        };
        let plan = judge(&spec)?;
        let object = ClusterNetwork::new(crd::CLUSTER_NETWORK, to_resource(&plan));
        return Ok((serde_json::to_value(&object).context("encode ClusterNetwork")?, plan));
    };
    if typed {
        return Err(LabError::Argument {
            argument: "-f".to_owned(),
            reason:
                "holds a ClusterNetwork, so --ip-families, --pod-cidrs, --service-cidrs, --max-pods, --routing and \
                     --network-policy have no say"
                    .to_owned(),
        }
        .into());
    }
    let resource: ClusterNetwork = serde_json::from_value(object.clone())
        .map_err(|error| LabError::Argument { argument: "-f: ClusterNetwork".to_owned(), reason: error.to_string() })?;
    let plan = judge(&convert::cluster_spec(&resource.spec))?;
    Ok((object, plan))
}

/// The rules of the product, and those of the lab's own addresses.
fn judge(spec: &ClusterSpec) -> Result<ClusterPlan, LabError> {
    let plan = cluster::validate(spec).map_err(|findings| LabError::Invalid { findings })?;
    let findings: Vec<Finding> = lab_findings(&plan);
    if findings.is_empty() { Ok(plan) } else { Err(LabError::Invalid { findings }) }
}

fn lab_findings(plan: &ClusterPlan) -> Vec<Finding> {
    let taken = ["10.224.0.0/16", "fd10:224::/64", "203.0.113.0/24", "2001:db8:113::/64"];
    let taken: Vec<Cidr> = taken.iter().filter_map(|text| text.parse().ok()).collect();
    let pods = plan.pod_cidrs().enumerate().map(|(i, cidr)| (format!("podCIDRs[{i}]"), cidr));
    let services = plan.services().iter().enumerate().map(|(i, cidr)| (format!("serviceCIDRs[{i}]"), *cidr));
    let mut findings = Vec::new();
    for (field, cidr) in pods.chain(services) {
        for other in taken.iter().filter(|other| other.overlaps(&cidr)) {
            findings.push(Finding {
                field: field.clone(),
                rule: "overlaps-lab",
                reason: format!("{cidr} overlaps {other}, which the lab's own hosts have"),
                fix: format!("choose a range outside {other}"),
            });
        }
    }
    findings
}

fn to_resource(plan: &ClusterPlan) -> ClusterNetworkSpec {
    ClusterNetworkSpec {
        ip_families: plan.families().iter().map(Family::to_string).collect(),
        pod_cidrs: plan.pod_cidrs().map(|cidr| cidr.to_string()).collect(),
        service_cidrs: plan.services().iter().map(Cidr::to_string).collect(),
        max_pods: plan.max_pods(),
        routing: convert::routing(plan.routing()),
        masquerade: plan.masquerade(),
        network_policy: convert::network_policy(plan.network_policy()),
        ..ClusterNetworkSpec::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    //! Must catch: bad input that is found only after something was made.

    use super::*;

    fn request() -> UpRequest {
        UpRequest { name: "t".into(), nodes: 2, ..UpRequest::default() }
    }

    fn findings(request: &UpRequest) -> Vec<(String, &'static str)> {
        let error = resolve(request).unwrap_err();
        match error.downcast_ref::<LabError>() {
            Some(LabError::Invalid { findings }) => findings.iter().map(|f| (f.field.clone(), f.rule)).collect(),
            _ => panic!("{error:#}"),
        }
    }

    #[test]
    fn each_flag_reaches_the_record() {
        let asked = UpRequest {
            vnet: Some("v".into()),
            ip_families: vec!["ipv6".into(), "ipv4".into()],
            pod_cidrs: vec!["fd99::/64".into(), "10.99.0.0/16".into()],
            service_cidrs: vec!["fd98::/112".into(), "10.98.0.0/16".into()],
            max_pods: Some(110),
            network_policy: Some(NetworkPolicy::None),
            mtu: Some(9000),
            agent_args: vec!["--a".into()],
            controller_args: vec!["--c".into()],
            controllers: Some(2),
            ..request()
        };
        let record = resolve(&asked).unwrap().record;
        assert_eq!((record.name.as_str(), record.vnet.as_str(), record.nodes), ("t", "v", 2));
        assert_eq!(record.families().unwrap(), [Family::V6, Family::V4]);
        assert_eq!((record.max_pods, record.mtu, record.controllers), (110, Some(9000), 2));
        assert_eq!((record.agent_args, record.controller_args), (vec!["--a".to_owned()], vec!["--c".to_owned()]));
        let spec = &record.cluster_network["spec"];
        assert_eq!(spec["podCIDRs"], serde_json::json!(["fd99::/64", "10.99.0.0/16"]));
        assert_eq!(spec["serviceCIDRs"], serde_json::json!(["fd98::/112", "10.98.0.0/16"]));
        assert_eq!(spec["ipFamilies"], serde_json::json!(["IPv6", "IPv4"]));
        assert_eq!(spec["networkPolicy"], "none");
        assert_eq!(record.cluster_network["metadata"]["name"], "default");
    }

    #[test]
    fn a_lab_has_its_own_vnet_and_both_families() {
        let record = resolve(&request()).unwrap().record;
        assert_eq!(record.vnet, record.name);
        assert_eq!(record.families().unwrap(), [Family::V4, Family::V6]);
    }

    #[test]
    fn findings_are_told_with_their_field() {
        let bad = UpRequest { pod_cidrs: vec!["10.244.0.1/16".into(), "fd12:3456:789a::/64".into()], ..request() };
        assert!(findings(&bad).iter().any(|(field, _)| field == "podCIDRs[0]"));
        let own = UpRequest { pod_cidrs: vec!["10.224.0.0/15".into(), "fd12:3456:789a::/64".into()], ..request() };
        assert!(findings(&own).contains(&("podCIDRs[0]".into(), "overlaps-lab")));
    }

    /// What was typed is at fault, not what was found.
    fn typed_wrong(error: &LabError) -> bool {
        matches!(error, LabError::Invalid { .. } | LabError::Argument { .. } | LabError::Name(_))
    }

    #[test]
    fn numbers_have_limits() {
        for bad in [
            UpRequest { nodes: 1001, ..request() },
            UpRequest { mtu: Some(1000), ..request() },
            UpRequest { loss: Some(51), ..request() },
            UpRequest { node_families: vec!["ipv5".into()], ..request() },
            UpRequest { node_families: vec!["ipv4".into(), "IPv4".into()], ..request() },
            UpRequest { controllers: Some(10), ..request() },
            UpRequest { name: "No".into(), ..request() },
            UpRequest { vnet: Some("a/b".into()), ..request() },
            UpRequest { api: ApiKind::Kubernetes, kubernetes_bin: Some("/nowhere".into()), ..request() },
        ] {
            let error = resolve(&bad).unwrap_err();
            assert!(error.downcast_ref::<LabError>().is_some_and(typed_wrong), "{error:#}");
        }
    }
}
