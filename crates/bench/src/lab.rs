//! A lab for the length of a benchmark, driven by the `overlane` command as a user would.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// A running lab; ends with this value.
#[derive(Debug)]
pub struct Lab {
    bin: PathBuf,
    name: String,
}

impl Lab {
    /// Brings up a lab of `nodes` nodes with further flags of `overlane lab up`.
    pub fn up(bin: &Path, name: &str, nodes: usize, flags: &[&str]) -> Result<Self> {
        let lab = Self { bin: bin.to_owned(), name: name.to_owned() };
        let _ = lab.overlane(&["down"]);
        let nodes = nodes.to_string();
        let mut args = vec!["up", "--nodes", &nodes];
        args.extend_from_slice(flags);
        lab.overlane(&args)?;
        Ok(lab)
    }

    /// Runs `overlane lab VERB --name NAME ...` and returns its standard output.
    pub fn overlane(&self, args: &[&str]) -> Result<String> {
        let (verb, rest) = args.split_first().ok_or_else(|| anyhow!("no verb"))?;
        let output = Command::new(self.bin.join("overlane"))
            .args(["lab", verb, "--name", &self.name])
            .args(rest)
            .stdin(std::process::Stdio::null())
            .output()
            .with_context(|| format!("run overlane lab {verb}"))?;
        if !output.status.success() {
            bail!("overlane lab {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same with `-o json`, parsed.
    pub fn json(&self, verb: &str) -> Result<Value> {
        serde_json::from_str(&self.overlane(&[verb, "-o", "json"])?).with_context(|| format!("parse lab {verb}"))
    }

    /// Where the namespace of a node is mounted.
    pub fn node_ns(&self, node: &str) -> String {
        format!("/run/netns/ovl-{}-{node}", self.name)
    }

    /// State directory of a node.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        PathBuf::from(format!("/run/overlane-lab/{}/nodes/{node}", self.name))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.overlane(&["down"]);
    }
}
