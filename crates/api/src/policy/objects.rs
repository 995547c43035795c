//! Everything that policy depends on, as objects, and what `core` makes of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, PodIP};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use overlane_core::policy::{Endpoint, Policy, PolicyName, World};

use super::{ClusterNetworkPolicy, cluster_policy, network_policy, node, profile};
use crate::convert::ConvertError;

/// The objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// Namespaces.
    pub namespaces: Vec<Namespace>,
    /// Pods.
    pub pods: Vec<Pod>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// NetworkPolicies.
    pub policies: Vec<NetworkPolicy>,
    /// ClusterNetworkPolicies.
    pub cluster_policies: Vec<ClusterNetworkPolicy>,
}

/// What they come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Understood {
    /// Whom policies can tell apart.
    pub world: World,
    /// Pods by address.
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
    /// The policies.
    pub policies: Vec<Arc<Policy>>,
    /// What of them means nothing.
    pub faults: Vec<(PolicyName, ConvertError)>,
}

impl Objects {
    /// Understands them. Of pods with one address the first counts.
    #[must_use]
    pub fn understand(&self) -> Understood {
        let mut understood = Understood::default();
        let mut namespaces = BTreeMap::new();
        for namespace in &self.namespaces {
            let name = namespace.metadata.name.clone().unwrap_or_default();
            namespaces.insert(name, namespace.metadata.labels.clone().unwrap_or_default());
        }
        understood.world.set_namespaces(&namespaces);
        for object in &self.nodes {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            understood.world.set_node(name, Some(node(object)));
        }
        for pod in &self.pods {
            let Some((profile, addresses)) = profile(pod) else { continue };
            let endpoint = Endpoint {
                namespace: profile.namespace.clone(),
                name: pod.metadata.name.clone().unwrap_or_default(),
                node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            };
            let profile = Arc::new(profile);
            understood.world.know(&profile);
            for address in addresses {
                if understood.world.profile(address).is_none() {
                    understood.world.enter(address, &profile);
                    understood.endpoints.insert(address, endpoint.clone());
                }
            }
        }
        let namespaced = self.policies.iter().map(network_policy);
        for converted in namespaced.chain(self.cluster_policies.iter().map(cluster_policy)) {
            let name = &converted.policy.name;
            understood.faults.extend(converted.faults.into_iter().map(|fault| (name.clone(), fault)));
            understood.policies.push(Arc::new(converted.policy));
        }
        understood
    }

    /// Gives pods that have no address one of each family, as manifests have none: of ranges that nothing else is in
    /// (240.0.0.0/4, RFC 1112; 100::/64, RFC 6666), so that no block but one of everything is about them.
    pub fn invent_addresses(&mut self) {
        let mut next = 0_u32;
        for pod in &mut self.pods {
            let status = pod.status.get_or_insert_default();
            let has = status.pod_ip.is_some() || status.pod_ips.iter().flatten().next().is_some();
            if has || pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
                continue;
            }
            next += 1;
            let v4 = Ipv4Addr::from_bits(0xf000_0000 | next);
            let v6 = Ipv6Addr::from_bits((0x0100_u128 << 112) | u128::from(next));
            status.pod_ips = Some(vec![PodIP { ip: v4.to_string() }, PodIP { ip: v6.to_string() }]);
        }
    }
}
