//! The definition of ClusterNetworkPolicy, which is another project's (`deploy/crds/README.md`).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// It, as its project publishes it.
pub const CLUSTER_NETWORK_POLICY_YAML: &str =
    include_str!("../../../../deploy/crds/policy.networking.k8s.io_clusternetworkpolicies.yaml");

/// It, to be made in a cluster that has none.
///
/// # Errors
/// The file is no definition.
pub fn cluster_network_policy_crd() -> Result<CustomResourceDefinition, serde_norway::Error> {
    let mut definition: CustomResourceDefinition = serde_norway::from_str(CLUSTER_NETWORK_POLICY_YAML)?;
    // What its project's tools leave empty is the API server's.
    definition.status = None;
    Ok(definition)
}
