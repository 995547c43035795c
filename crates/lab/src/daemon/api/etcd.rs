//! What only the store itself can do: its command line, and its revision.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use http::Request;
use http_body_util::BodyExt as _;
use hyper_util::client::legacy;
use kube::client::Body;
use serde_json::{Value, json};

use super::reach::Door;
use crate::kubernetes::ETCD;
use crate::spawn::Launch;

/// Its port for clients, on the control plane's loopback: it trusts whoever is there.
const PORT: u16 = 2379;
const PEERS: &str = "http://127.0.0.1:2380";
pub const CLIENTS: &str = "http://127.0.0.1:2379";
/// The member's name, and the key whose writes count its revision up; `L2xhYg==` is `/lab`.
const MEMBER: &str = "lab";
const KEY: &str = "L2xhYg==";

/// The store's own arguments. Nothing is forced to disk: the directory is below /run, which is memory, and goes with
/// the lab.
pub fn arguments(data: &Path) -> Vec<String> {
    let mut args: Vec<String> = ["--unsafe-no-fsync", "--logger=zap", "--log-level=warn"].map(str::to_owned).into();
    args.push(format!("--data-dir={}", data.display()));
    args.push(format!("--listen-client-urls={CLIENTS}"));
    args.push(format!("--advertise-client-urls={CLIENTS}"));
    args.push(format!("--listen-peer-urls={PEERS}"));
    args.extend(membership());
    args
}

fn membership() -> [String; 3] {
    [
        format!("--name={MEMBER}"),
        format!("--initial-advertise-peer-urls={PEERS}"),
        format!("--initial-cluster={MEMBER}={PEERS}"),
    ]
}

/// The running store.
pub struct Etcd {
    namespace: PathBuf,
    program: PathBuf,
    http: legacy::Client<Door, Body>,
}

impl Etcd {
    /// The store in the namespace, whose program this is; its command line may be beside that.
    pub fn new(namespace: &Path, program: &Path) -> Self {
        let door = Door { namespace: namespace.to_owned(), address: (Ipv4Addr::LOCALHOST, PORT).into() };
        Self { namespace: namespace.to_owned(), program: program.to_owned(), http: door.plain() }
    }

    /// Writes all that it holds to a file.
    pub async fn save(&self, file: &Path) -> Result<()> {
        self.command(&["snapshot".into(), "save".into(), file.display().to_string()]).await
    }

    /// Makes a data directory of such a file. The store must not run.
    pub async fn unpack(&self, file: &Path, data: &Path) -> Result<()> {
        let mut args = vec!["snapshot".to_owned(), "restore".to_owned(), file.display().to_string()];
        args.push(format!("--data-dir={}", data.display()));
        args.extend(membership());
        self.command(&args).await
    }

    async fn command(&self, args: &[String]) -> Result<()> {
        let launch = Launch {
            namespace: self.namespace.clone(),
            program: self.etcdctl()?,
            args: args.to_vec(),
            env: [("ETCDCTL_API".to_owned(), "3".to_owned()), ("ETCDCTL_ENDPOINTS".to_owned(), CLIENTS.to_owned())]
                .into(),
            ..Launch::default()
        };
        let output = launch.start()?.wait_with_output().await.context("wait for etcdctl")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("etcdctl {}: {}: {}", args.join(" "), output.status, said.trim());
        }
        Ok(())
    }

    fn etcdctl(&self) -> Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let beside = self.program.parent().map(Path::to_owned);
        let mut places = beside.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join("etcdctl"));
        places.find(|file| file.is_file()).with_context(|| {
            format!(
                "no program etcdctl is beside {} or on PATH: Debian's package etcd-client has it",
                self.program.display()
            )
        })
    }

    /// The revision of its last write.
    pub async fn revision(&self) -> Result<u64> {
        self.ask("kv/range", &json!({"key": KEY})).await
    }

    /// Writes until its revision is beyond `least`, and forgets all before: nobody has seen a later revision of a
    /// store that knows less. `etcdutl snapshot restore --bump-revision --mark-compacted` of newer stores does this.
    pub async fn outrun(&self, least: u64) -> Result<()> {
        let mut revision = self.revision().await?;
        while revision <= least {
            revision = self.ask("kv/put", &json!({"key": KEY})).await?;
        }
        self.compact().await
    }

    /// Forgets all but the present.
    pub async fn compact(&self) -> Result<()> {
        let revision = self.revision().await?;
        self.ask("kv/compaction", &json!({"revision": revision.to_string(), "physical": true})).await.map(drop)
    }

    /// Asks over its gateway for JSON; the revision of the answer.
    async fn ask(&self, path: &str, body: &Value) -> Result<u64> {
        let what = || format!("ask {ETCD} for {path}");
        let request = Request::post(format!("{CLIENTS}/v3/{path}")).body(Body::from(body.to_string().into_bytes()))?;
        let response = self.http.request(request).await.with_context(what)?;
        let status = response.status();
        let bytes = response.into_body().collect().await.with_context(what)?.to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        // 64-bit numbers are strings in protobuf's JSON.
        let revision = answer["header"]["revision"].as_str().and_then(|text| text.parse().ok());
        match revision {
            Some(revision) if status.is_success() => Ok(revision),
            _ => bail!("{}: {status}: {}", what(), String::from_utf8_lossy(&bytes)),
        }
    }
}
