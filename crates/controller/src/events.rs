//! Warning Events, one each time something begins to be wrong. That they are not repeated is for the caller to see to.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Resource as _};
use overlane_api::crd::{ClusterNetwork, EgressGateway};

const COMPONENT: &str = "overlane-controller";
/// Where Events of cluster-scoped objects are.
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
    api: Api<Event>,
    instance: String,
}

impl Events {
    /// With the name of this controller among several.
    pub fn new(client: &Client, instance: &str) -> Self {
        Self { api: Api::namespaced(client.clone(), NAMESPACE), instance: instance.to_owned() }
    }

    /// Something is wrong.
    pub async fn warn(&self, about: Subject, reason: &str, message: &str) {
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                generate_name: about.0.name.as_ref().map(|name| format!("{name}.")),
                ..ObjectMeta::default()
            },
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
        if let Err(error) = self.api.create(&PostParams::default(), &event).await {
            tracing::warn!(reason, %error, "an Event could not be told");
        }
    }
}
