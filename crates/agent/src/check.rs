//! `--check`: would an agent run here with these settings?

use std::path::Path;

use overlane_datapath::netlink::Socket;

use crate::clock;
use crate::config::{Config, Source};
use crate::store::lock::RunDirLock;
use crate::watch::fold::{Effect, Fold};
use crate::watch::objects;

/// Looks at everything, prints a line for each; whether all is well.
pub fn run(config: &Config) -> bool {
    let checks: [(&str, Result<String, String>); 7] = [
        ("boot id", boot_id(config)),
        ("run dir", run_dir(config)),
        ("network configuration", writable(&config.cni_conf_dir)),
        ("netlink", netlink()),
        ("nft program", nft()),
        ("node addresses", node_ips(config)),
        ("objects", source(config)),
    ];
    let mut well = true;
    for (what, outcome) in checks {
        match outcome {
            Ok(found) => println!("ok    {what}: {found}"),
            Err(fault) => {
                well = false;
                println!("FAIL  {what}: {fault}");
            }
        }
    }
    well
}

fn boot_id(config: &Config) -> Result<String, String> {
    crate::wiring::boot_id(&config.boot_id_file).map_err(|error| format!("{error:#}"))
}

fn run_dir(config: &Config) -> Result<String, String> {
    let dir = &config.run_dir;
    if !dir.exists() {
        return writable(dir);
    }
    match RunDirLock::take(dir) {
        Ok(_lock) => Ok(format!("{} is free", dir.display())),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a directory is there, or could be made.
fn writable(dir: &Path) -> Result<String, String> {
    let Some(there) = dir.ancestors().find(|path| path.exists()) else {
        return Err(format!("{}: nothing of it exists", dir.display()));
    };
    if !there.is_dir() {
        return Err(format!("{} is no directory", there.display()));
    }
    match rustix::fs::access(there, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Ok(dir.display().to_string()),
        Err(error) => Err(format!("write to {}: {error}", there.display())),
    }
}

fn netlink() -> Result<String, String> {
    Socket::route().and_then(|_| Socket::netfilter()).map_err(|error| error.to_string())?;
    Ok("route and netfilter sockets open".to_owned())
}

fn nft() -> Result<String, String> {
    match std::process::Command::new("nft").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Ok(output) => Err(format!("nft --version: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("run nft: {error}; install nftables")),
    }
}

fn node_ips(config: &Config) -> Result<String, String> {
    let mut found = Vec::new();
    for ip in config.node_ips.values() {
        let underlay = overlane_datapath::node::underlay(*ip).map_err(|error| error.to_string())?;
        found.push(format!("{ip} on {} (mtu {})", underlay.link, underlay.mtu));
    }
    Ok(if found.is_empty() { "as the NodeNetworkConfig says".to_owned() } else { found.join(", ") })
}

fn source(config: &Config) -> Result<String, String> {
    match &config.source {
        Source::Files(dir) => files(config, dir),
        Source::Api(source) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            let version = runtime
                .block_on(async { source.client().await?.apiserver_version().await.map_err(anyhow::Error::from) });
            version.map(|version| format!("API server {}", version.git_version)).map_err(|error| format!("{error:#}"))
        }
    }
}

fn files(config: &Config, dir: &Path) -> Result<String, String> {
    let (items, faults) = objects::read(dir, &config.node);
    if let Some(fault) = faults.into_iter().next() {
        return Err(fault);
    }
    let mut fold = Fold::new(&config.node, objects::WATCHES);
    for item in items {
        let _: Effect = fold.take(item, clock::boot_ms());
    }
    let view = fold.view();
    if !view.findings.is_empty() {
        return Err(view.findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    }
    if view.cluster.is_none() {
        return Err(format!("no ClusterNetwork in {}", dir.display()));
    }
    Ok(format!("{} blocks here, {} other nodes", view.own.blocks.len(), view.peers.len()))
}
