//! What a real API server is told before anybody uses it: the product's definitions, accounts, roles and admission
//! policies, as `overlane install` makes them; and the tokens by which agents and controllers are those accounts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, Resource as _};
use overlane_api::crd::{GROUP, NAMESPACE};
use overlane_api::policy::ClusterNetworkPolicy;
use overlane_install::values::Values;
use serde_json::{Value, json};

use crate::files;
use crate::manifests::{self, Manifest};

/// Kinds of an installation that are no workload: the lab starts the programs itself.
const WANTED: [&str; 7] = [
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Nobody renews tokens here, as a kubelet would: they are good for a year, in seconds.
const TOKEN_LIFE: i64 = 365 * 24 * 3600;

/// Applies everything and waits until it counts.
pub async fn install(client: &Client) -> Result<()> {
    // The API server makes them itself, a moment after it is ready.
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in ["default", NAMESPACE] {
        let there = || async { Ok(namespaces.get_opt(name).await?.is_some()) };
        until(&format!("namespace {name} of the API server's own"), there).await?;
    }
    let mut definitions = overlane_install::definitions()?;
    definitions.extend(overlane_install::others_definitions()?);
    let objects = overlane_install::objects(&Values::default(), NAMESPACE)?;
    let objects = objects.into_iter().filter(|object| WANTED.iter().any(|kind| object["kind"] == *kind));
    let all: Vec<Manifest> = definitions
        .into_iter()
        .chain(objects)
        .map(|object| Manifest { file: PathBuf::from("the installation"), object })
        .collect();
    manifests::apply(client, &all, |_| {}).await?;
    let groups = [GROUP.to_owned(), ClusterNetworkPolicy::group(&()).into_owned()];
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let served = || async {
        let all = definitions.list(&ListParams::default()).await?.items;
        Ok(all.iter().filter(|definition| groups.contains(&definition.spec.group)).all(is_established))
    };
    until("definitions to be served", served).await
}

fn is_established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Established" && c.status == "True")
}

async fn until<F: Future<Output = kube::Result<bool>>>(what: &str, mut met: impl FnMut() -> F) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if met().await.with_context(|| format!("wait for {what}"))? {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("wait for {what}: not within {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A Node, as a token is bound to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundTo {
    /// Its name.
    pub name: String,
    /// Its UID: the token ends with this very object.
    pub uid: String,
}

/// A token of the account, good for as long as the Node is there.
pub async fn token(client: &Client, account: &str, bound: Option<&BoundTo>) -> Result<String> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(TOKEN_LIFE),
            bound_object_ref: bound.map(|node| BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.name.clone()),
                uid: Some(node.uid.clone()),
            }),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let made: TokenRequest = accounts
        .create_subresource("token", account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("make a token of ServiceAccount {NAMESPACE}/{account}"))?;
    let token = made.status.map(|status| status.token).filter(|token| !token.is_empty());
    token.with_context(|| format!("make a token of ServiceAccount {NAMESPACE}/{account}: the answer holds none"))
}

/// Who somebody is to an API server.
pub enum Identity<'a> {
    /// By certificate and key.
    Certificate(&'a [PathBuf; 2]),
    /// By the token in a file.
    Token(&'a Path),
}

/// Writes a kubeconfig for `server`, whose certificate `authority` signed.
pub fn write_kubeconfig(file: &Path, server: &str, authority: &Path, identity: &Identity<'_>) -> Result<()> {
    files::write(file, kubeconfig(server, authority, identity).to_string().as_bytes())
}

/// JSON is YAML.
fn kubeconfig(server: &str, authority: &Path, identity: &Identity<'_>) -> Value {
    let user = match identity {
        Identity::Certificate([certificate, key]) => json!({"client-certificate": certificate, "client-key": key}),
        Identity::Token(file) => json!({"tokenFile": file}),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a kubeconfig that kube reads as one without credentials.

    use super::*;

    #[test]
    fn kubeconfigs_are_read_by_kube() {
        let read = |identity: &Identity<'_>| -> kube::config::Kubeconfig {
            serde_json::from_value(kubeconfig("https://10.0.0.1:6443", Path::new("/ca"), identity)).unwrap()
        };
        let config = read(&Identity::Token(Path::new("/token")));
        let user = config.auth_infos[0].auth_info.clone().unwrap();
        assert_eq!(user.token_file.as_deref(), Some("/token"));
        let pair = [PathBuf::from("/crt"), PathBuf::from("/key")];
        let user = read(&Identity::Certificate(&pair)).auth_infos[0].auth_info.clone().unwrap();
        assert_eq!((user.client_certificate.as_deref(), user.client_key.as_deref()), (Some("/crt"), Some("/key")));
    }

    #[test]
    fn an_installation_has_what_an_account_needs() {
        let objects = overlane_install::objects(&Values::default(), NAMESPACE).unwrap();
        for kind in WANTED {
            assert!(objects.iter().any(|object| object["kind"] == kind), "no {kind}");
        }
    }
}
