//! The network configuration list that the agent installs.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Map;

use super::version::Version;

/// What the installed conflist says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflist {
    /// The network's name.
    pub name: String,
    /// File name of the plugin.
    pub plugin: String,
    /// The agent's run directory.
    pub run_dir: PathBuf,
    /// The agent's socket.
    pub socket: PathBuf,
}

impl Conflist {
    /// The default network with a run directory.
    #[must_use]
    pub fn new(run_dir: PathBuf) -> Self {
        let socket = run_dir.join(super::netconf::SOCKET_NAME);
        Self { name: "overlane".to_owned(), plugin: "overlane-cni".to_owned(), run_dir, socket }
    }

    /// The file's text, with a newline at its end. Same input, same bytes.
    ///
    /// `cniVersion` stays at 1.0.0, which runtimes take that know no newer one; those that know `cniVersions` choose the
    /// newest that they speak. Paths that are not UTF-8 are written with replacement characters.
    #[must_use]
    pub fn render(&self) -> String {
        let list = List {
            cni_version: Version::V1_0_0.as_str(),
            cni_versions: Version::ALL.map(Version::as_str),
            name: &self.name,
            plugins: [Plugin {
                kind: &self.plugin,
                capabilities: Capabilities { bandwidth: true, dns: true, port_mappings: true },
                run_dir: self.run_dir.to_string_lossy().into_owned(),
                socket: self.socket.to_string_lossy().into_owned(),
            }],
        };
        // Strings and lists of strings always serialise; an empty map stands in for the impossible.
        let text = serde_json::to_string_pretty(&list);
        let mut text = text.unwrap_or_else(|_| serde_json::Value::Object(Map::new()).to_string());
        text.push('\n');
        text
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    cni_version: &'a str,
    cni_versions: [&'a str; 4],
    name: &'a str,
    plugins: [Plugin<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Plugin<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    capabilities: Capabilities,
    run_dir: String,
    socket: String,
}

/// What the runtime is asked to fill into `runtimeConfig`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    bandwidth: bool,
    dns: bool,
    port_mappings: bool,
}
