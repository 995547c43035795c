//! `overlane cluster create` and `delete`: a lab, by the words that make a cluster of AKS.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use overlane_api::convert;
use overlane_api::crd::{CLUSTER_NETWORK, ClusterNetwork, ClusterNetworkSpec};
use overlane_core::cluster::{Finding, Surroundings, validate_within};
use overlane_lab::names::LabName;
use overlane_lab::spec::{self, UpRequest};
use overlane_lab::{down, error::LabError};

use crate::args::{CreateArgs, DeleteClusterArgs};
use crate::out::{self, Format};
use crate::{lab, network, validate};

/// A manifest that is gone with the value.
struct Manifest(PathBuf);

impl Manifest {
    fn new(network: &ClusterNetwork) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("overlane-cluster-{}.json", std::process::id()));
        let text = serde_json::to_vec(network).context("encode the ClusterNetwork")?;
        // Nobody else's file of that name is written to.
        let mut file = std::fs::File::create_new(&path).with_context(|| format!("make {}", path.display()))?;
        let manifest = Self(path);
        file.write_all(&text).with_context(|| format!("write {}", manifest.0.display()))?;
        Ok(manifest)
    }
}

impl Drop for Manifest {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes a lab; one that is there already is brought to what it was.
pub fn create(args: &CreateArgs) -> Result<ExitCode> {
    let name: LabName = args.name.parse().map_err(LabError::from)?;
    let mut spec = ClusterNetworkSpec::default();
    network::write_into(&args.network, &mut spec);
    let findings = judge(args, &spec);
    if !findings.is_empty() {
        match args.output.output {
            Format::Json => {
                let found: Vec<validate::Found> = findings.iter().map(Into::into).collect();
                out::json(&serde_json::json!({ "created": false, "findings": found }))?;
            }
            Format::Table => out::print(&format!("{}Nothing was made.\n", validate::bad(&findings, out::colours())))?,
        }
        return Ok(ExitCode::from(1));
    }
    let manifest = Manifest::new(&ClusterNetwork::new(CLUSTER_NETWORK, spec))?;
    let request = request(&name, args, &manifest.0);
    let status = lab::bring_up(&spec::resolve(&request)?, Duration::from_secs(args.timeout), false)?;
    match args.output.output {
        Format::Json => out::json(&status)?,
        Format::Table => {
            out::print(&lab::render_status(&status, out::colours()))?;
            out::print(&format!(
                "kubectl: `overlane lab kubeconfig --name {name} > FILE; export KUBECONFIG=FILE`; pods: `overlane lab run --name {name} POD`\n"
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn judge(args: &CreateArgs, spec: &ClusterNetworkSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    network::unsupported(&args.network, &mut findings);
    let around = Surroundings {
        dns_service_ips: args.network.dns_service_ip.clone(),
        nodes: Some(args.node_count.into()),
        ..Surroundings::default()
    };
    let broken = validate_within(&convert::cluster_spec(spec), &around).err().unwrap_or_default();
    findings.extend(broken.into_iter().map(network::in_flags));
    findings
}

fn request(name: &LabName, args: &CreateArgs, manifest: &Path) -> UpRequest {
    UpRequest {
        name: name.to_string(),
        nodes: args.node_count,
        manifests: vec![manifest.to_owned()],
        api: args.api.api.into(),
        kubernetes_bin: args.api.kubernetes_bin.clone(),
        ..UpRequest::default()
    }
}

/// Ends a lab.
pub fn delete(args: &DeleteClusterArgs) -> Result<ExitCode> {
    let name: LabName = args.name.parse().map_err(LabError::from)?;
    let done = down::down(&name)?;
    match args.output.output {
        Format::Json => out::json(&done)?,
        Format::Table if done.found => out::print(&format!("cluster `{name}` is gone\n"))?,
        Format::Table => out::print(&format!("there is no cluster `{name}`\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}
