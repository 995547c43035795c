//! Definitions of other projects that Overlane has use for: made where a cluster has none, left alone where it has.

use anyhow::{Context as _, Result};
use kube::Client;
use kube::api::{DynamicObject, ListParams};
use overlane_install::PART_OF;
use serde_json::{Value, json};

use super::objects;

/// What became of a definition when Overlane was installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is ours now, or was already.
    Made,
    /// Somebody else has made it.
    Theirs,
    /// Somebody else has made it, and it lacks the version that Overlane reads.
    OtherVersion(String),
}

/// Makes the definition where there is none, and brings one of ours to this version.
pub async fn offer(client: &Client, definition: &Value) -> Result<Offer> {
    let found = objects::get(client, definition).await?;
    let Some(theirs) = found.filter(|found| !is_ours(found)) else {
        objects::apply(client, definition).await?;
        return Ok(Offer::Made);
    };
    let versions = |of: &Value| of["spec"]["versions"].as_array().cloned().unwrap_or_default();
    let read = versions(definition);
    let is_served = |wanted: &Value| {
        versions(&theirs.data).iter().any(|version| version["name"] == wanted["name"] && version["served"] == true)
    };
    match read.iter().find(|wanted| !is_served(wanted)) {
        Some(missing) => Ok(Offer::OtherVersion(missing["name"].as_str().unwrap_or_default().to_owned())),
        None => Ok(Offer::Theirs),
    }
}

/// Removes the definition if it is ours and there are no objects of it. Gives whether it was removed; `None` where it was
/// not ours.
pub async fn take_back(client: &Client, definition: &Value) -> Result<Option<bool>> {
    let Some(found) = objects::get(client, definition).await?.filter(is_ours) else { return Ok(None) };
    if is_used(client, &found).await? {
        return Ok(Some(false));
    }
    objects::delete(client, definition).await.map(Some)
}

fn is_ours(definition: &DynamicObject) -> bool {
    let labels = definition.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(PART_OF.0)).is_some_and(|name| name == PART_OF.1)
}

/// Whether there is an object of the kind.
async fn is_used(client: &Client, definition: &DynamicObject) -> Result<bool> {
    let spec = &definition.data["spec"];
    let served = spec["versions"].as_array().and_then(|all| all.iter().find(|version| version["served"] == true));
    let Some(version) = served.and_then(|version| version["name"].as_str()) else { return Ok(false) };
    let group = spec["group"].as_str().unwrap_or_default();
    let example = json!({
        "apiVersion": format!("{group}/{version}"),
        "kind": spec["names"]["kind"],
        "metadata": { "name": "any" },
    });
    let (api, _) = objects::api_of(client, &example)?;
    match api.list(&ListParams::default().limit(1)).await {
        Ok(listed) => Ok(!listed.items.is_empty()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error).with_context(|| format!("look for objects of kind {}", spec["names"]["kind"])),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: another's definition that is changed or taken away, one of ours that is left, objects of people that go
    //! with it.

    use kube::Api;
    use kube::api::PostParams;
    use overlane_api::policy::ClusterNetworkPolicy;
    use overlane_apiserver::ApiServer;

    use super::*;

    fn definition() -> Value {
        overlane_install::others_definitions().unwrap().remove(0)
    }

    async fn is_there(client: &Client) -> bool {
        objects::get(client, &definition()).await.unwrap().is_some()
    }

    #[tokio::test]
    async fn ours_comes_and_goes() {
        let client = ApiServer::new().client();
        assert_eq!(take_back(&client, &definition()).await.unwrap(), None, "nothing is there");
        for _ in 0..2 {
            assert_eq!(offer(&client, &definition()).await.unwrap(), Offer::Made);
        }
        assert!(is_there(&client).await);
        assert_eq!(take_back(&client, &definition()).await.unwrap(), Some(true));
        assert!(!is_there(&client).await);
    }

    #[tokio::test]
    async fn objects_of_people_keep_it() {
        let client = ApiServer::new().client();
        offer(&client, &definition()).await.unwrap();
        let policies: Api<ClusterNetworkPolicy> = Api::all(client.clone());
        let object = json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": { "name": "deny" },
            "spec": { "tier": "Admin", "priority": 10, "subject": { "namespaces": {} },
                "egress": [{ "action": "Deny", "to": [{ "nodes": {} }], "protocols": [{ "tcp": { "destinationPort": { "number": 22 } } }] }] },
        });
        let (any, _) = objects::api_of(&client, &object).unwrap();
        any.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        assert!(
            policies.get("deny").await.unwrap().spec.egress[0].to[0].nodes.is_some(),
            "of the experimental channel"
        );
        assert_eq!(take_back(&client, &definition()).await.unwrap(), Some(false));
        assert!(policies.get_opt("deny").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn anothers_stays_as_it_is() {
        let client = ApiServer::new().client();
        let mut theirs = definition();
        theirs["metadata"]["labels"] = Value::Null;
        theirs["metadata"]["annotations"]["policy.networking.k8s.io/channel"] = json!("standard");
        objects::apply(&client, &theirs).await.unwrap();
        assert_eq!(offer(&client, &definition()).await.unwrap(), Offer::Theirs);
        let found = objects::get(&client, &definition()).await.unwrap().unwrap();
        assert_eq!(found.metadata.annotations.unwrap()["policy.networking.k8s.io/channel"], "standard");
        assert_eq!(take_back(&client, &definition()).await.unwrap(), None);
        assert!(is_there(&client).await);
        // Of an earlier version.
        theirs["spec"]["versions"][0]["name"] = json!("v1alpha1");
        let client = ApiServer::new().client();
        objects::apply(&client, &theirs).await.unwrap();
        assert_eq!(offer(&client, &definition()).await.unwrap(), Offer::OtherVersion("v1alpha2".to_owned()));
    }
}
