//! A real cluster: the way to it, and what several commands read of it.

pub mod facts;
pub mod objects;
pub mod others;
pub mod read;

use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::args::KubeArgs;

/// A client for the cluster that the arguments name; nothing is sent yet.
pub async fn client(args: &KubeArgs) -> Result<Client> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let mut config = match &args.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("read kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &options).await.with_context(|| format!("use {}", path.display()))?
        }
        None => match Config::from_kubeconfig(&options).await {
            Ok(config) => config,
            Err(error) if args.context.is_some() || std::env::var_os("KUBECONFIG").is_some() => {
                anyhow::bail!("use the kubeconfig: {error}; name another with $KUBECONFIG or --kubeconfig")
            }
            // In a pod there is none, and nobody asked for one.
            Err(error) => match Config::incluster() {
                Ok(config) => config,
                Err(_) => anyhow::bail!(
                    "find a cluster: use ~/.kube/config: {error}; name one with $KUBECONFIG or --kubeconfig"
                ),
            },
        },
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).context("make a client for the API server")
}
