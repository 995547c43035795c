//! The way to the API server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;

use crate::settings::{SettingError, refuse};

/// How the API server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiSource {
    /// By kubeconfig.
    Kubeconfig(PathBuf),
    /// By the pod's service account.
    InCluster,
    /// Without credentials.
    Url(String),
}

impl ApiSource {
    /// What `--api-url` and `--kubeconfig` mean; the pod's service account without either.
    ///
    /// # Errors
    /// The URL has no scheme or no host.
    pub fn resolve(api_url: Option<&str>, kubeconfig: Option<&PathBuf>) -> Result<Self, SettingError> {
        if let Some(url) = api_url {
            return match url.parse::<hyper::Uri>() {
                Ok(parsed) if parsed.host().is_some() && parsed.scheme_str().is_some() => Ok(Self::Url(url.to_owned())),
                Ok(_) => refuse("api-url", url, "scheme and host are wanted, such as http://127.0.0.1:8001"),
                Err(error) => refuse("api-url", url, error.to_string()),
            };
        }
        Ok(kubeconfig.cloned().map_or(Self::InCluster, Self::Kubeconfig))
    }

    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// The kubeconfig, the service account or the URL cannot be used.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let mut config = match self {
            Self::Kubeconfig(path) => {
                let file = kube::config::Kubeconfig::read_from(path)
                    .with_context(|| format!("read kubeconfig {}", path.display()))?;
                kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
                    .await
                    .with_context(|| format!("use kubeconfig {}", path.display()))?
            }
            Self::InCluster => kube::Config::incluster().context("use the pod's service account")?,
            Self::Url(url) => kube::Config::new(url.parse().with_context(|| format!("use API server {url}"))?),
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        Client::try_from(config).context("make a client for the API server")
    }
}
