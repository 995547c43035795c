//! What a policy's object has to be told of.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use overlane_api::convert::ConvertError;
use overlane_api::policy::{ClusterNetworkPolicy, cluster_policy, network_policy};

use crate::cluster_status::condition;
use crate::objects;

/// The condition of a ClusterNetworkPolicy that is ours; its API names none.
pub const ACCEPTED: &str = "overlane.io/Accepted";
/// Reason of Event and condition.
pub const INVALID: &str = "PolicyInvalid";
/// How many faults a message has.
const NAMED: usize = 3;

/// Namespace and name, as policies are known by here; a ClusterNetworkPolicy has no namespace.
pub fn key(metadata: &ObjectMeta) -> String {
    format!("{}/{}", metadata.namespace.as_deref().unwrap_or_default(), objects::name(metadata))
}

/// Whether a key is a NetworkPolicy's.
pub fn is_namespaced(key: &str) -> bool {
    !key.starts_with('/')
}

/// What there is to be told of a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyFact {
    /// Its namespace and name.
    pub key: String,
    /// Its UID.
    pub uid: String,
    /// Its version.
    pub version: Option<String>,
    /// Its generation.
    pub generation: i64,
    /// Its faults, if it has any, and what becomes of it.
    pub message: Option<String>,
    /// Of a ClusterNetworkPolicy whose condition is not as it is to be: all its conditions, as they are to be.
    pub condition: Option<Vec<Condition>>,
}

impl PolicyFact {
    /// Of a NetworkPolicy.
    pub fn namespaced(object: &NetworkPolicy) -> Self {
        let closed = "such a rule allows nothing, and with a fault in podSelector no rule does";
        let message = words(&network_policy(object).faults, closed);
        Self::new(&object.metadata, message)
    }

    /// Of a ClusterNetworkPolicy.
    pub fn cluster(object: &ClusterNetworkPolicy, now_ms: u64) -> Self {
        let closed = "such a rule allows nothing, and denies everything if it denies or passes; \
                      with a fault in subject all rules are such, and for every pod";
        let fact = Self::new(&object.metadata, words(&cluster_policy(object).faults, closed));
        let before = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let old = before.iter().find(|old| old.type_ == ACCEPTED);
        let (reason, text) = match &fact.message {
            Some(message) => (INVALID, message.clone()),
            None => ("Accepted", "all of it is understood".to_owned()),
        };
        let good = fact.message.is_none();
        let wanted = condition(old, ACCEPTED, good, reason, text, fact.generation, now_ms);
        if old == Some(&wanted) {
            return fact;
        }
        let others = before.iter().filter(|other| other.type_ != ACCEPTED).cloned();
        Self { condition: Some(others.chain([wanted]).collect()), ..fact }
    }

    fn new(metadata: &ObjectMeta, message: Option<String>) -> Self {
        Self {
            key: key(metadata),
            uid: metadata.uid.clone().unwrap_or_default(),
            version: metadata.resource_version.clone(),
            generation: metadata.generation.unwrap_or(0),
            message,
            condition: None,
        }
    }

    /// Whether there is nothing to be told: a ClusterNetworkPolicy's condition says that it was.
    pub fn is_settled(&self) -> bool {
        self.condition.is_none() && (self.message.is_none() || !is_namespaced(&self.key))
    }

    /// Its namespace, if it has one.
    pub fn namespace(&self) -> Option<&str> {
        self.key.split_once('/').map(|(namespace, _)| namespace).filter(|namespace| !namespace.is_empty())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&self.key, |(_, name)| name)
    }

    /// The name of the Event: of an object and its generation there is one, whoever tells it.
    pub fn event(&self) -> String {
        // The whole is to be no longer than 253 bytes, and a name may have as many by itself.
        let name: String = self.name().chars().take(150).collect();
        format!("{}.{}.{}", name.trim_end_matches(['.', '-']), self.uid, self.generation)
    }
}

fn words(faults: &[ConvertError], closed: &str) -> Option<String> {
    let named: Vec<String> = faults.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match faults.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    (!faults.is_empty()).then(|| format!("{}{more}. What a fault is in is closed: {closed}", named.join("; ")))
}

#[cfg(test)]
mod tests {
    //! Must catch: thousands of faults in a message, an Event's name that the API refuses.
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn many_faults_are_counted() {
        let rules: Vec<_> = (0..5_000).map(|_| json!({ "ports": [{ "port": 0 }] })).collect();
        let object = json!({ "metadata": { "name": "p", "namespace": "shop", "uid": "u", "generation": 3 },
            "spec": { "podSelector": {}, "ingress": rules } });
        let fact = PolicyFact::namespaced(&serde_json::from_value(object).unwrap());
        let message = fact.message.unwrap();
        assert!(message.len() < 600 && message.contains("; and 4997 more. What a fault is in is closed"), "{message}");
        assert!(message.starts_with("spec.ingress[0].ports[0]: `0` means nothing here"), "{message}");
    }

    /// What is big is sound; what means nothing in it is told by its place.
    #[test]
    fn one_fault_among_many_is_told() {
        let ports = |last| (1..10_000).map(|port| json!({ "port": port })).chain([last]).collect::<Vec<_>>();
        let block = |n: u32| format!("{}.{}.{}.0/24", 11 + (n >> 16), n >> 8 & 255, n & 255);
        let blocks = |last: &str| {
            let all = (0..50_000).map(block).chain([last.to_owned()]);
            all.map(|cidr| json!({ "ipBlock": { "cidr": cidr } })).collect::<Vec<_>>()
        };
        let message = |rule| {
            let object = json!({ "metadata": { "name": "p", "namespace": "shop", "uid": "u" },
                "spec": { "podSelector": {}, "ingress": [rule] } });
            PolicyFact::namespaced(&serde_json::from_value(object).unwrap()).message
        };
        assert_eq!(message(json!({ "ports": ports(json!({ "port": "http" })) })), None);
        assert_eq!(message(json!({ "from": blocks("10.0.0.0/8") })), None);
        let told = message(json!({ "ports": ports(json!({ "port": "Not_A_Name" })) })).unwrap();
        assert!(told.starts_with("spec.ingress[0].ports[9999].port: `Not_A_Name` means nothing here"), "{told}");
        let told = message(json!({ "from": blocks("10.0.0.0/33") })).unwrap();
        assert!(told.starts_with("spec.ingress[0].peers[50000].ipBlock.cidr: "), "{told}");
        let values: Vec<_> =
            (0..19).map(|n| json!({ "key": format!("k{n}"), "operator": "In", "values": ["a", "b"] })).collect();
        let meant = |values| json!({ "from": [{ "podSelector": { "matchExpressions": values } }] });
        assert_eq!(message(meant(values.clone())), None);
        let empty =
            values.into_iter().chain([json!({ "key": "k", "operator": "In", "values": [] })]).collect::<Vec<_>>();
        assert!(
            message(meant(empty)).unwrap().starts_with("spec.ingress[0].peers[0].podSelector"),
            "an expression without values"
        );
    }

    #[test]
    fn an_events_name_is_one() {
        let name = "p.".repeat(126) + "p";
        let metadata = ObjectMeta { name: Some(name), uid: Some("u".repeat(36)), ..ObjectMeta::default() };
        let event = PolicyFact::new(&metadata, None).event();
        assert!(event.len() <= 253 && !event.contains("..") && event.ends_with(".0"), "{event}");
    }
}
