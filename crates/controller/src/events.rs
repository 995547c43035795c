//! Warning Events, one each time something begins to be wrong. That they are not repeated is for the caller to see to.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Resource as _};
use overlane_api::crd::{ClusterNetwork, EgressGateway};
use overlane_api::policy::ClusterNetworkPolicy;

const COMPONENT: &str = "overlane-controller";
/// Where Events of cluster-scoped objects are; those of others are with them.
const NAMESPACE: &str = "default";

/// What an Event is about.
#[derive(Clone, Debug)]
pub struct Subject(ObjectReference);

impl Subject {
    /// A Node.
    pub fn node(name: &str, uid: &str) -> Self {
        Self(reference("v1", "Node", name, uid))
    }

    /// A ClusterNetwork.
    pub fn cluster(name: &str, uid: &str) -> Self {
        Self(reference(&ClusterNetwork::api_version(&()), &ClusterNetwork::kind(&()), name, uid))
    }

    /// An EgressGateway.
    pub fn gateway(name: &str, uid: &str) -> Self {
        Self(reference(&EgressGateway::api_version(&()), &EgressGateway::kind(&()), name, uid))
    }

    /// A NetworkPolicy.
    pub fn policy(namespace: &str, name: &str, uid: &str) -> Self {
        let about = reference(&NetworkPolicy::api_version(&()), &NetworkPolicy::kind(&()), name, uid);
        Self(ObjectReference { namespace: Some(namespace.to_owned()), ..about })
    }

    /// A ClusterNetworkPolicy.
    pub fn cluster_policy(name: &str, uid: &str) -> Self {
        Self(reference(&ClusterNetworkPolicy::api_version(&()), &ClusterNetworkPolicy::kind(&()), name, uid))
    }
}

fn reference(api_version: &str, kind: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

/// Tells Events. One that cannot be told is logged: conditions say the same and stay.
#[derive(Clone)]
pub struct Events {
    client: Client,
    instance: String,
}

impl Events {
    /// With the name of this controller among several.
    pub fn new(client: &Client, instance: &str) -> Self {
        Self { client: client.clone(), instance: instance.to_owned() }
    }

    /// Something is wrong.
    pub async fn warn(&self, about: Subject, reason: &str, message: &str) {
        let generate_name = about.0.name.as_ref().map(|name| format!("{name}."));
        let metadata = ObjectMeta { generate_name, ..ObjectMeta::default() };
        if let Err(error) = self.create(about, metadata, reason, message).await {
            tracing::warn!(reason, %error, "an Event could not be told");
        }
    }

    /// Something is wrong. What was told under this name already is not told again.
    pub async fn warn_once(&self, about: Subject, name: &str, reason: &str, message: &str) -> kube::Result<()> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        match self.create(about, metadata, reason, message).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            told => told,
        }
    }

    async fn create(&self, about: Subject, metadata: ObjectMeta, reason: &str, message: &str) -> kube::Result<()> {
        let now = Timestamp::now();
        let namespace = about.0.namespace.clone().unwrap_or_else(|| NAMESPACE.to_owned());
        let event = Event {
            metadata,
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            involved_object: about.0,
            type_: Some("Warning".to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.chars().take(1000).collect()),
            source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        api.create(&PostParams::default(), &event).await.map(drop)
    }
}
