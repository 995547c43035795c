//! The plugin's network configuration.
//!
//! Keys that are not ours are left alone: the spec keeps a range of them for the runtime (`args`, `cni.dev/...`) and for
//! others. Our own keys (`socket`, `runDir`, `timeouts`) are checked to the letter, because a misspelt or mistyped one
//! would otherwise be silently without effect.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::socket::Attachment;

use super::error::{Error, shown};
use super::json::Object;
use super::names;
use super::result::{Dns, PrevResult};
use super::runtime_config::RuntimeConfig;
use super::version::Version;

/// Where the agent keeps its socket and what must survive it, if the configuration says nothing.
pub const DEFAULT_RUN_DIR: &str = "/run/overlane";
/// The socket's name below the run directory.
pub const SOCKET_NAME: &str = "agent.sock";
/// The value of `ipam.type` that means Overlane itself.
pub const IPAM_TYPE: &str = "overlane-ipam";

/// A network configuration as the plugin understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConf {
    /// `cniVersion`: the version that the answer is in.
    pub version: Version,
    /// `name`: the network.
    pub name: String,
    /// `type`: the program's name. Another plugin's where the program is called as its IPAM plugin.
    pub kind: String,
    /// `socket`: the agent's socket; by default `agent.sock` in the run directory.
    pub socket: PathBuf,
    /// `runDir`: the agent's run directory.
    pub run_dir: PathBuf,
    /// `timeouts`: how long each verb waits.
    pub timeouts: Timeouts,
    /// `runtimeConfig`: what the runtime filled in.
    pub runtime_config: RuntimeConfig,
    /// `dns`: goes into the result where the runtime gives none.
    pub dns: Dns,
    /// `ipam.type`; empty if there is none.
    pub ipam_type: String,
    /// `prevResult`: the result so far (ADD), or that of the last ADD (DEL, CHECK).
    pub prev_result: Option<PrevResult>,
    /// `cni.dev/valid-attachments`: what GC keeps. `None` if the runtime did not send a list.
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// How long the plugin waits for the agent, from its own start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For ADD; 20 s by default.
    pub add: Duration,
    /// For DEL, before it goes on without the agent; 10 s by default.
    pub del: Duration,
    /// For CHECK; 5 s by default.
    pub check: Duration,
    /// For GC; 20 s by default.
    pub gc: Duration,
    /// For STATUS, an agent that is being replaced included; 10 s by default.
    pub status: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            add: Duration::from_secs(20),
            del: Duration::from_secs(10),
            check: Duration::from_secs(5),
            gc: Duration::from_secs(20),
            status: Duration::from_secs(10),
        }
    }
}

/// The shortest timeout that can be set, seconds.
const TIMEOUT_MIN: f64 = 0.1;
/// The longest, seconds: the kubelet gives up on a sandbox after four minutes.
const TIMEOUT_MAX: f64 = 240.0;

impl NetConf {
    /// Reads a configuration from standard input's bytes.
    ///
    /// # Errors
    /// Any [`Error`] that speaks of the configuration.
    pub fn parse(stdin: &[u8]) -> Result<Self, Error> {
        Self::read(&document(stdin)?)
    }

    fn read(document: &Value) -> Result<Self, Error> {
        let conf = Object::root(document)?;
        let (version, name) = network(&conf)?;
        let (run_dir, socket) = way_to_agent(&conf)?;
        let ipam_type = match conf.object("ipam")? {
            None => "",
            Some(ipam) => ipam.text("type")?.unwrap_or_default(),
        };
        Ok(Self {
            version,
            name,
            kind: program_name(&conf)?,
            socket,
            run_dir,
            timeouts: Timeouts::parse(&conf)?,
            runtime_config: RuntimeConfig::parse(&conf)?,
            dns: conf.structure("dns", "dns")?.unwrap_or_default(),
            ipam_type: ipam_type.to_owned(),
            prev_result: conf.structure("prevResult", "prevResult")?,
            valid_attachments: valid_attachments(&conf)?,
        })
    }

    /// Reads a configuration for DEL, which must end what it can: what it can do without may be damaged, as in a cache
    /// of the runtime's that was half written, and is then left out.
    ///
    /// # Errors
    /// Any [`Error`] that speaks of the rest of the configuration.
    pub fn parse_for_del(stdin: &[u8]) -> Result<Self, Error> {
        let mut document = document(stdin)?;
        if let Ok(whole) = Self::read(&document) {
            return Ok(whole);
        }
        if let Value::Object(keys) = &mut document {
            for key in ["prevResult", "runtimeConfig", "dns"] {
                keys.remove(key);
            }
        }
        Self::read(&document)
    }

    /// Refuses what ADD understands and cannot do.
    ///
    /// # Errors
    /// [`Error::UnsupportedField`] with key and value.
    pub fn refuse_unsupported(&self) -> Result<(), Error> {
        if !self.ipam_type.is_empty() && self.ipam_type != IPAM_TYPE {
            let value = format!("{:?}", shown(&self.ipam_type));
            return Err(Error::UnsupportedField { key: "ipam.type".to_owned(), value });
        }
        self.runtime_config.refuse_unsupported()
    }

    /// The DNS settings of the result: the runtime's, else the configuration's.
    #[must_use]
    pub fn result_dns(&self) -> Dns {
        self.runtime_config.dns.clone().unwrap_or_else(|| self.dns.clone())
    }
}

/// What every configuration has: its version, and the network's name.
pub(super) fn network(conf: &Object<'_>) -> Result<(Version, String), Error> {
    let version = Version::parse_or_absent(conf.text("cniVersion")?)?;
    let name = conf.text("name")?.unwrap_or_default();
    if name.is_empty() {
        return Err(Error::MissingKey { key: "name", rule: "every network has a name" });
    }
    names::network_name(name)?;
    Ok((version, name.to_owned()))
}

/// The agent's run directory, and its socket, which is in there unless it is named.
pub(super) fn way_to_agent(section: &Object<'_>) -> Result<(PathBuf, PathBuf), Error> {
    let run_dir = absolute(section, "runDir")?.unwrap_or_else(|| PathBuf::from(DEFAULT_RUN_DIR));
    let socket = absolute(section, "socket")?.unwrap_or_else(|| run_dir.join(SOCKET_NAME));
    Ok((run_dir, socket))
}

impl Version {
    /// Reads a `cniVersion` that may be absent, which means 0.1.0.
    pub(super) fn parse_or_absent(given: Option<&str>) -> Result<Self, Error> {
        match given {
            None | Some("") => Err(Error::UnsupportedVersion { given: String::new() }),
            Some(given) => Self::parse(given),
        }
    }
}

impl Timeouts {
    pub(super) fn parse(conf: &Object<'_>) -> Result<Self, Error> {
        let mut timeouts = Self::default();
        let Some(given) = conf.object("timeouts")? else {
            return Ok(timeouts);
        };
        for key in given.keys() {
            let timeout = match key {
                "add" => &mut timeouts.add,
                "del" => &mut timeouts.del,
                "check" => &mut timeouts.check,
                "gc" => &mut timeouts.gc,
                "status" => &mut timeouts.status,
                _ => {
                    return Err(bad(&given, key, "no such timeout; there are add, del, check, gc and status"));
                }
            };
            let Some(seconds) = given.number(key)? else {
                continue;
            };
            if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&seconds) {
                return Err(bad(&given, key, "must be 0.1 to 240 seconds"));
            }
            *timeout = Duration::from_secs_f64(seconds);
        }
        Ok(timeouts)
    }
}

/// Standard input as JSON.
pub(super) fn document(stdin: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(stdin).map_err(|error| Error::NotJson { reason: shown(&error.to_string()) })
}

fn program_name(conf: &Object<'_>) -> Result<String, Error> {
    let kind = conf.text("type")?.unwrap_or_default();
    if kind.is_empty() {
        return Err(Error::MissingKey { key: "type", rule: "it names the program" });
    }
    if kind.contains(['/', '\\', '\0']) {
        return Err(bad(conf, "type", "must be the name of a file, not a path"));
    }
    Ok(kind.to_owned())
}

pub(super) fn absolute(conf: &Object<'_>, key: &str) -> Result<Option<PathBuf>, Error> {
    let Some(text) = conf.text(key)? else {
        return Ok(None);
    };
    if text.contains('\0') || !Path::new(text).is_absolute() {
        return Err(bad(conf, key, "must be an absolute path"));
    }
    Ok(Some(PathBuf::from(text)))
}

pub(super) fn valid_attachments(conf: &Object<'_>) -> Result<Option<Vec<Attachment>>, Error> {
    /// As the spec spells it.
    #[derive(Deserialize)]
    #[serde(expecting = "an object with containerID and ifname")]
    struct Given {
        #[serde(rename = "containerID")]
        container_id: String,
        ifname: String,
    }
    const KEY: &str = "cni.dev/valid-attachments";
    let given: Option<Vec<Given>> = conf.structure(KEY, KEY)?;
    Ok(given.map(|list| {
        list.into_iter().map(|given| Attachment { container_id: given.container_id, ifname: given.ifname }).collect()
    }))
}

pub(super) fn bad(object: &Object<'_>, key: &str, rule: &'static str) -> Error {
    let value = object.get(key).map(|value| shown(&value.to_string())).unwrap_or_default();
    Error::BadValue { key: object.path_of(key), value, rule }
}
