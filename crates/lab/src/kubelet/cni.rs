//! The runtime's half of CNI: a node's network configuration list, made into one configuration a plugin and handed to
//! the plugins in order, as libcni does for containerd.
//!
//! Source: the CNI specification, section 3 (execution of network configurations).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::files;
use crate::spawn::Launch;

/// The newest version of the specification that this runtime speaks.
const NEWEST: [u64; 3] = [1, 1, 0];
/// The kubelet gives a runtime four minutes for a sandbox; a plugin that takes one has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network configuration list.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkList {
    /// The network's name.
    pub name: String,
    /// The version that it is spoken in.
    pub version: String,
    /// The plugins' own parts.
    pub plugins: Vec<Map<String, Value>>,
}

impl NetworkList {
    /// The first list in a directory, in order of name, as a runtime chooses; `None` if there is none.
    pub fn find(dir: &Path) -> Result<Option<Self>> {
        for name in files::names(dir) {
            let extension = Path::new(&name).extension().and_then(|e| e.to_str());
            if name.starts_with('.') || !matches!(extension, Some("conflist" | "conf" | "json")) {
                continue;
            }
            let path = dir.join(&name);
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            return Self::parse(&bytes).with_context(|| format!("read {}", path.display())).map(Some);
        }
        Ok(None)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let list: Value = serde_json::from_slice(bytes)?;
        let Some(name) = list["name"].as_str() else { bail!("it has no name") };
        let plugins = match list["plugins"].as_array() {
            Some(plugins) => plugins.iter().filter_map(|plugin| plugin.as_object().cloned()).collect(),
            // A single configuration is a list of one.
            None => list.as_object().cloned().into_iter().collect::<Vec<_>>(),
        };
        if plugins.is_empty() || plugins.iter().any(|plugin| !plugin.get("type").is_some_and(Value::is_string)) {
            bail!("it names no plugin, or one without a type");
        }
        Ok(Self { name: name.to_owned(), version: version(&list), plugins })
    }

    fn has(&self, version: [u64; 3]) -> bool {
        parse_version(&self.version) >= version
    }
}

/// The newest version that both sides speak, of `cniVersion` and `cniVersions`.
fn version(list: &Value) -> String {
    let all = list["cniVersions"].as_array().into_iter().flatten().chain([&list["cniVersion"]]);
    let best = all.filter_map(Value::as_str).filter(|v| parse_version(v) <= NEWEST).max_by_key(|v| parse_version(v));
    best.unwrap_or("0.1.0").to_owned()
}

fn parse_version(text: &str) -> [u64; 3] {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

/// An attachment, as the runtime knows it.
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    /// The sandbox's id.
    pub container_id: String,
    /// Path of the pod's namespace; empty once it is gone.
    pub netns: String,
    /// Namespace, name and UID of the pod.
    pub pod: (String, String, String),
    /// Values for plugins that declare a capability, by capability.
    pub runtime_config: BTreeMap<String, Value>,
}

/// What a plugin answered, or why it did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plugin {plugin}: {verb}: {msg}{}", self.suffix())]
pub struct CniError {
    /// The plugin.
    pub plugin: String,
    /// The verb.
    pub verb: String,
    /// The error's code; 0 where the plugin gave no proper answer.
    pub code: u32,
    /// Its message.
    pub msg: String,
    /// Its details.
    pub details: String,
}

impl CniError {
    fn suffix(&self) -> String {
        let mut text = if self.details.is_empty() { String::new() } else { format!(": {}", self.details) };
        if self.code != 0 {
            text.push_str(&format!(" (code {})", self.code));
        }
        text
    }
}

/// Executes the plugins of one node.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The node's namespace, in which plugins run.
    pub namespace: PathBuf,
    /// The node's configuration directory.
    pub conf_dir: PathBuf,
    /// `CNI_PATH`.
    pub bin_dirs: Vec<PathBuf>,
}

impl Runtime {
    /// ADD: the plugins in order, each with the result of the one before it; the last result.
    pub async fn add(&self, list: &NetworkList, attachment: &Attachment) -> Result<Value, CniError> {
        let mut result = Value::Null;
        for plugin in &list.plugins {
            result = self.exec(list, plugin, "ADD", Some(attachment), &result, &[]).await?;
        }
        Ok(result)
    }

    /// DEL: the plugins in reverse order, with the result of ADD if it is known.
    pub async fn del(&self, list: &NetworkList, attachment: &Attachment, result: &Value) -> Result<(), CniError> {
        for plugin in list.plugins.iter().rev() {
            // prevResult of DEL came with 0.4.0.
            let previous = if list.has([0, 4, 0]) { result } else { &Value::Null };
            self.exec(list, plugin, "DEL", Some(attachment), previous, &[]).await?;
        }
        Ok(())
    }

    /// CHECK, in order.
    pub async fn check(&self, list: &NetworkList, attachment: &Attachment, result: &Value) -> Result<(), CniError> {
        for plugin in &list.plugins {
            self.exec(list, plugin, "CHECK", Some(attachment), result, &[]).await?;
        }
        Ok(())
    }

    /// STATUS, for lists of 1.1.0 and later; for others an ADD may be tried.
    pub async fn status(&self, list: &NetworkList) -> Result<(), CniError> {
        if list.has([1, 1, 0]) {
            for plugin in &list.plugins {
                self.exec(list, plugin, "STATUS", None, &Value::Null, &[]).await?;
            }
        }
        Ok(())
    }

    /// GC: whatever is none of `valid` (container id and interface) may go.
    pub async fn gc(&self, list: &NetworkList, valid: &[(String, String)]) -> Result<(), CniError> {
        if !list.has([1, 1, 0]) {
            return Ok(());
        }
        let valid: Vec<Value> = valid.iter().map(|(id, ifname)| json!({"containerID": id, "ifname": ifname})).collect();
        let extra = [("cni.dev/valid-attachments", Value::Array(valid))];
        for plugin in &list.plugins {
            self.exec(list, plugin, "GC", None, &Value::Null, &extra).await?;
        }
        Ok(())
    }

    async fn exec(
        &self,
        list: &NetworkList,
        plugin: &Map<String, Value>,
        verb: &str,
        attachment: Option<&Attachment>,
        previous: &Value,
        extra: &[(&str, Value)],
    ) -> Result<Value, CniError> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let fail =
            |msg: String| CniError { plugin: kind.clone(), verb: verb.into(), code: 0, msg, details: String::new() };
        let mut config = single(list, plugin, attachment, previous);
        config.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let input = serde_json::to_vec(&config).map_err(|error| fail(error.to_string()))?;
        let launch = Launch {
            namespace: self.namespace.clone(),
            program: self.find(&kind).ok_or_else(|| fail(format!("no such program in {:?}", self.bin_dirs)))?,
            env: self.environment(verb, attachment),
            ..Launch::default()
        };
        let run = run(&launch, &input);
        let output = match tokio::time::timeout(PATIENCE, run).await {
            Ok(done) => done.map_err(|error| fail(format!("{error:#}")))?,
            Err(_) => return Err(fail(format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() {
            return Ok(answer);
        }
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        if answer["msg"].is_string() {
            let code = answer["code"].as_u64().and_then(|code| u32::try_from(code).ok()).unwrap_or(0);
            return Err(CniError {
                plugin: kind.clone(),
                verb: verb.into(),
                code,
                msg: text("msg"),
                details: text("details"),
            });
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(fail(format!("{}: {}", output.status, stderr.trim())))
    }

    fn find(&self, kind: &str) -> Option<PathBuf> {
        if kind.contains('/') {
            return None;
        }
        self.bin_dirs.iter().map(|dir| dir.join(kind)).find(|path| path.is_file())
    }

    fn environment(&self, verb: &str, attachment: Option<&Attachment>) -> BTreeMap<String, String> {
        let dirs: Vec<String> = self.bin_dirs.iter().map(|dir| dir.to_string_lossy().into_owned()).collect();
        let mut env: BTreeMap<String, String> =
            [("CNI_COMMAND".into(), verb.into()), ("CNI_PATH".into(), dirs.join(":"))].into();
        if let Some(Attachment { container_id, netns, pod: (namespace, name, uid), .. }) = attachment {
            env.insert("CNI_CONTAINERID".into(), container_id.clone());
            env.insert("CNI_NETNS".into(), netns.clone());
            env.insert("CNI_IFNAME".into(), "eth0".into());
            // In the order of containerd.
            let args = format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
                 K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={uid}"
            );
            env.insert("CNI_ARGS".into(), args);
        }
        env
    }
}

/// One plugin's configuration: its own part, name and version of the list, what the runtime adds.
fn single(
    list: &NetworkList,
    plugin: &Map<String, Value>,
    attachment: Option<&Attachment>,
    previous: &Value,
) -> Map<String, Value> {
    let mut config = plugin.clone();
    config.insert("name".into(), list.name.clone().into());
    config.insert("cniVersion".into(), list.version.clone().into());
    let declared = config.remove("capabilities");
    let wanted = |capability: &str| declared.as_ref().is_some_and(|all| all[capability] == Value::Bool(true));
    let runtime: Map<String, Value> = attachment
        .into_iter()
        .flat_map(|attachment| &attachment.runtime_config)
        .filter(|(capability, _)| wanted(capability))
        .map(|(capability, value)| (capability.clone(), value.clone()))
        .collect();
    if !runtime.is_empty() {
        config.insert("runtimeConfig".into(), Value::Object(runtime));
    }
    if !previous.is_null() {
        config.insert("prevResult".into(), previous.clone());
    }
    config
}

async fn run(launch: &Launch, input: &[u8]) -> Result<std::process::Output> {
    let mut child = launch.start()?;
    let mut stdin = child.stdin.take();
    let feed = async {
        if let Some(stdin) = &mut stdin {
            // A plugin that answers without reading is not at fault.
            let _ = stdin.write_all(input).await;
        }
        drop(stdin);
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    Ok(output?)
}

/// Addresses in a result, in its order.
pub fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str()?.split('/').next().map(str::to_owned)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a configuration handed to a plugin otherwise than libcni would.

    use super::*;

    const LIST: &str = r#"{
        "cniVersion": "1.0.0", "cniVersions": ["0.3.1", "1.0.0", "1.1.0", "9.0.0"], "name": "net",
        "plugins": [{"type": "overlane-cni", "capabilities": {"portMappings": true}, "x": 1}, {"type": "b"}]
    }"#;

    fn list() -> NetworkList {
        NetworkList::parse(LIST.as_bytes()).unwrap()
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        assert_eq!(list().version, "1.1.0");
        let old = NetworkList::parse(br#"{"cniVersion": "0.3.1", "name": "n", "type": "t"}"#).unwrap();
        assert_eq!((old.version.as_str(), old.plugins.len()), ("0.3.1", 1));
        assert!(!old.has([0, 4, 0]));
    }

    #[test]
    fn a_plugin_gets_its_own_part_and_what_the_runtime_adds() {
        let attachment = Attachment {
            runtime_config: [("portMappings".into(), json!([1])), ("bandwidth".into(), json!({}))].into(),
            ..Attachment::default()
        };
        let list = list();
        let first = Value::Object(single(&list, &list.plugins[0], Some(&attachment), &json!({"ips": []})));
        let expected = json!({
            "type": "overlane-cni", "x": 1, "name": "net", "cniVersion": "1.1.0",
            "runtimeConfig": {"portMappings": [1]}, "prevResult": {"ips": []}
        });
        assert_eq!(first, expected);
        let second = Value::Object(single(&list, &list.plugins[1], Some(&attachment), &Value::Null));
        assert_eq!(second, json!({"type": "b", "name": "net", "cniVersion": "1.1.0"}));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for bad in
            ["", "{}", r#"{"name": "n"}"#, r#"{"name": "n", "plugins": []}"#, r#"{"name": "n", "plugins": [{}]}"#]
        {
            assert!(NetworkList::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_come_in_the_result_s_order() {
        let result = json!({"ips": [{"address": "10.0.0.2/32"}, {"address": "fd00::2/128"}]});
        assert_eq!(addresses(&result), ["10.0.0.2", "fd00::2"]);
        assert!(addresses(&Value::Null).is_empty());
    }
}
