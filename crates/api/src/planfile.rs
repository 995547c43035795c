//! The file of `overlane plan` and `overlane validate`: a cluster that is wished for, and what is around it, as YAML or JSON.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::crd::ClusterNetworkSpec;

/// A cluster that is wished for. Everything may be left out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PlanFile {
    /// The network, as the spec of a ClusterNetwork has it; CIDRs that are left out are proposed.
    #[serde(deserialize_with = "known_fields")]
    pub network: ClusterNetworkSpec,
    /// What is around it.
    pub around: Around,
    /// The node pools.
    pub pools: Vec<Pool>,
    /// How many months the plan has to hold.
    pub months: Option<u32>,
    /// Nodes beyond those that are wished for, while others are replaced.
    pub max_surge: Option<u64>,
    /// Hosts outside must reach pods by the pods' own addresses.
    pub direct_pod_access: bool,
    /// Of a hundred packets of pods, how many leave the cluster.
    pub egress_percent: Option<u32>,
    /// Flows that a pod has at once to its busiest destination outside.
    pub flows_per_pod: Option<u64>,
    /// Addresses that all nodes share on their way out.
    pub outbound_ips: Option<u64>,
    /// What carries packets between nodes.
    pub fabric: Option<Fabric>,
}

/// What is around a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Around {
    /// Address ranges of the network that the nodes' subnets are cut from.
    #[serde(rename = "vnetCIDRs")]
    pub vnet_cidrs: Vec<String>,
    /// Subnets that nodes are in.
    pub node_subnets: Vec<String>,
    /// Networks that are peered with the nodes' network.
    #[serde(rename = "peeredCIDRs")]
    pub peered_cidrs: Vec<String>,
    /// Networks on premises that are reached from the nodes' network.
    #[serde(rename = "onPremCIDRs")]
    pub on_prem_cidrs: Vec<String>,
    /// Where the cluster's DNS is to answer; one a family at most.
    #[serde(rename = "dnsServiceIPs")]
    pub dns_service_ips: Vec<String>,
    /// Names that nodes bear as values of labels.
    pub names: Names,
}

/// Names that nodes bear as values of labels (seed 001, "63 characters or less").
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Names {
    /// Of the resource group that the nodes' network is in.
    pub resource_group: Option<String>,
    /// Of the nodes' network.
    pub vnet: Option<String>,
    /// Of the nodes' subnets.
    pub subnets: Vec<String>,
}

/// Nodes that are wished for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Nodes now.
    pub nodes: u64,
    /// How it grows: so many nodes a month, or `10%` a month.
    #[serde(default)]
    pub growth: Growth,
}

/// How a pool grows each month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Growth {
    /// It does not.
    #[default]
    None,
    /// By so many nodes.
    Nodes(u64),
    /// By so many percent.
    Percent(u64),
}

/// What carries packets between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fabric {
    /// One segment.
    Segment,
    /// Routers that know nothing of pods.
    Routed,
    /// Routers that lead each node's block to it.
    RoutedToPods,
    /// Azure's virtual network.
    Azure,
    /// Amazon's.
    Aws,
    /// Google's.
    Gcp,
}

/// Why a text says nothing about growth.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no growth: write how many nodes a month, such as 5, or how many percent, such as 10%")]
pub struct GrowthError(String);

impl std::str::FromStr for Growth {
    type Err = GrowthError;

    fn from_str(text: &str) -> Result<Self, GrowthError> {
        let number = |digits: &str| digits.parse::<u64>().map_err(|_| GrowthError(text.to_owned()));
        match text.strip_suffix('%') {
            Some(digits) => number(digits).map(Self::Percent),
            None => number(text).map(|count| if count == 0 { Self::None } else { Self::Nodes(count) }),
        }
    }
}

impl<'de> Deserialize<'de> for Growth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl From<Growth> for overlane_core::sizing::Growth {
    fn from(growth: Growth) -> Self {
        match growth {
            Growth::None => Self::None,
            Growth::Nodes(count) => Self::Nodes(count),
            Growth::Percent(percent) => Self::Percent(percent),
        }
    }
}

impl From<Fabric> for overlane_core::sizing::Fabric {
    fn from(fabric: Fabric) -> Self {
        match fabric {
            Fabric::Segment => Self::Segment,
            Fabric::Routed => Self::Routed,
            Fabric::RoutedToPods => Self::RoutedToPods,
            Fabric::Azure => Self::Azure,
            Fabric::Aws => Self::Aws,
            Fabric::Gcp => Self::Gcp,
        }
    }
}

/// Why a file is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    /// It is not YAML, or not of this shape.
    #[error("{0}")]
    Shape(String),
    /// It is a stream of documents of which none is a ClusterNetwork.
    #[error("it has no ClusterNetwork; write one, or a file of `network`, `around` and `pools`")]
    NoNetwork,
}

/// Reads a plan; or manifests, of which the ClusterNetwork is the network.
///
/// # Errors
/// [`PlanFileError`], with the line where there is one.
pub fn read(text: &str) -> Result<PlanFile, PlanFileError> {
    let shape = |error: serde_norway::Error| PlanFileError::Shape(error.to_string());
    let mut documents = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        documents.push(Value::deserialize(document).map_err(shape)?);
    }
    if !documents.iter().any(|document| document.get("kind").is_some()) {
        // Anew, so that an error has its line.
        return if text.trim().is_empty() {
            Ok(PlanFile::default())
        } else {
            serde_norway::from_str(text).map_err(shape)
        };
    }
    let network = documents.into_iter().find(|document| document["kind"] == "ClusterNetwork");
    let mut network = network.ok_or(PlanFileError::NoNetwork)?;
    let network =
        known_fields(network["spec"].take()).map_err(|error| PlanFileError::Shape(format!("spec: {error}")))?;
    Ok(PlanFile { network, ..PlanFile::default() })
}

/// A spec of which every field means something: the API server prunes others, and says so.
fn known_fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClusterNetworkSpec, D::Error> {
    use serde::de::Error;

    let given = Option::<Value>::deserialize(deserializer)?.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let known = serde_json::to_value(ClusterNetworkSpec::default()).map_err(Error::custom)?;
    if let Some(field) = unknown(&given, &known) {
        return Err(Error::custom(format!("unknown field `{field}`")));
    }
    serde_json::from_value(given).map_err(Error::custom)
}

fn unknown(given: &Value, known: &Value) -> Option<String> {
    let (given, known) = (given.as_object()?, known.as_object()?);
    given.iter().find_map(|(field, value)| match known.get(field) {
        None => Some(field.clone()),
        Some(known) => unknown(value, known).map(|inner| format!("{field}.{inner}")),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a misspelt field that is passed over, a manifest that is taken for an empty plan.

    use super::*;

    #[test]
    fn a_plan_is_read() {
        let file = read(
            "network: {podCIDRs: [10.244.0.0/16], maxPods: 110, nodeMaskSize: {ipv4: 25}}\naround: {vnetCIDRs: [10.224.0.0/12], \
             names: {vnet: aks}}\npools:\n- {name: system, nodes: 3}\n- {name: work, nodes: 20, growth: 10%}\n- {name: more, \
             nodes: 1, growth: 2}\nmonths: 12\nfabric: routedToPods\n",
        )
        .unwrap();
        assert_eq!(
            (file.network.max_pods, file.network.node_mask_size.ipv4, file.network.node_mask_size.ipv6),
            (110, 25, 80)
        );
        let growth: Vec<Growth> = file.pools.iter().map(|pool| pool.growth).collect();
        assert_eq!(growth, [Growth::None, Growth::Percent(10), Growth::Nodes(2)]);
        assert_eq!((file.months, file.fabric), (Some(12), Some(Fabric::RoutedToPods)));
        assert_eq!(file.around.names.vnet.as_deref(), Some("aks"));
        assert_eq!(read("").unwrap(), PlanFile::default());
        assert_eq!(read("network:\n").unwrap(), PlanFile::default());
    }

    #[test]
    fn a_manifest_is_a_plan() {
        let text = "kind: Namespace\n---\napiVersion: overlane.io/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: default}\nspec: \
                    {podCIDRs: [10.1.0.0/16]}\n";
        assert_eq!(read(text).unwrap().network.pod_cidrs, ["10.1.0.0/16"]);
        assert!(read("kind: Pod\n").unwrap_err().to_string().contains("no ClusterNetwork"));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (text, word) in [
            ("netwrok: {}", "netwrok"),
            ("network: {podCidrs: []}", "podCidrs"),
            ("network: {nodeMaskSize: {v4: 24}}", "nodeMaskSize.v4"),
            ("network: {maxPods: many}", "many"),
            ("around: {vnet: []}", "vnet"),
            ("pools: [{name: a, nodes: 3, growth: fast}]", "fast"),
            ("pools: [{name: a, nodes: -3}]", "-3"),
            ("kind: ClusterNetwork\\nspec: {podCidrs: []}", "podCidrs"),
            ("[", "line"),
            ("7", "struct PlanFile"),
        ] {
            let error = read(&text.replace("\\n", "\n")).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
