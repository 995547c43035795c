//! Objects from a directory of YAML files, in place of a cluster: the road of tests and demos.
//!
//! The directory is looked through every quarter of a second; what a file does not say any more counts as deleted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use overlane_api::crd::{ClusterNetwork, EgressGateway, NodeNetworkConfig};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc::Sender;

use super::follow::Word;
use super::item::{Change, Item};
use super::masq_maps::is_masq_map;

/// How many ConfigMap watches files stand for.
pub const WATCHES: usize = 1;
const PERIOD: Duration = Duration::from_millis(250);

type Objects = BTreeMap<(String, String), Value>;

/// Reads every object of every `.yaml`, `.yml` and `.json` file.
fn scan(dir: &Path) -> (Objects, Vec<String>) {
    let mut objects = Objects::new();
    let mut faults = Vec::new();
    let mut files: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) => {
            faults.push(format!("read {}: {error}", dir.display()));
            Vec::new()
        }
    };
    files.retain(|file| matches!(file.extension().and_then(|e| e.to_str()), Some("yaml" | "yml" | "json")));
    files.sort();
    for file in files {
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                faults.push(format!("read {}: {error}", file.display()));
                continue;
            }
        };
        for document in serde_norway::Deserializer::from_str(&text) {
            match Value::deserialize(document) {
                Ok(Value::Null) => {}
                Ok(object) => {
                    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
                    objects.insert((text("/kind"), text("/metadata/name")), object);
                }
                Err(error) => {
                    faults.push(format!("{}: {error}", file.display()));
                    break;
                }
            }
        }
    }
    (objects, faults)
}

fn typed<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    T::deserialize(object).map_err(|error| error.to_string())
}

/// The word that a change of an object makes.
fn item(kind: &str, change: Change<&Value>, own: &str) -> Result<Option<Item>, String> {
    fn with<T: DeserializeOwned>(change: Change<&Value>) -> Result<Change<T>, String> {
        Ok(match change {
            Change::Begin => Change::Begin,
            Change::Done => Change::Done,
            Change::Listed(object) => Change::Listed(typed(object)?),
            Change::Applied(object) => Change::Applied(typed(object)?),
            Change::Gone(object) => Change::Gone(typed(object)?),
        })
    }
    let name_is_own = match &change {
        Change::Listed(o) | Change::Applied(o) | Change::Gone(o) => {
            o.pointer("/metadata/name").and_then(Value::as_str) == Some(own)
        }
        Change::Begin | Change::Done => true,
    };
    Ok(match kind {
        "ClusterNetwork" => Some(Item::cluster(with::<ClusterNetwork>(change)?.map(in_force))),
        "NodeNetworkConfig" => Some(Item::config(with::<NodeNetworkConfig>(change)?)),
        // Pods are not known here: nobody leaves by one.
        "EgressGateway" => Some(Item::gateway(with::<EgressGateway>(change)?)),
        // Nor what policies are about.
        "NetworkPolicy" => none(change).map(Item::Policy),
        "ClusterNetworkPolicy" => none(change).map(Item::ClusterPolicy),
        "Node" if name_is_own => Some(Item::node(with::<Node>(change)?)),
        "ConfigMap" => {
            let change = with::<ConfigMap>(change)?;
            let ours = match &change {
                Change::Listed(map) | Change::Applied(map) | Change::Gone(map) => is_masq_map(map),
                Change::Begin | Change::Done => true,
            };
            ours.then(|| Item::map(0, change))
        }
        _ => None,
    })
}

/// The word that there are none of a kind.
fn none<T>(change: Change<&Value>) -> Option<Change<T>> {
    match change {
        Change::Begin => Some(Change::Begin),
        Change::Done => Some(Change::Done),
        Change::Listed(_) | Change::Applied(_) | Change::Gone(_) => None,
    }
}

/// No controller judges what files say.
fn in_force(mut object: ClusterNetwork) -> ClusterNetwork {
    object.status.get_or_insert_default().applied = Some(object.spec.clone());
    object
}

const KINDS: [&str; 7] = [
    "ClusterNetwork",
    "NodeNetworkConfig",
    "Node",
    "ConfigMap",
    "EgressGateway",
    "NetworkPolicy",
    "ClusterNetworkPolicy",
];

/// The words that lead from what was there to what is there.
fn words(before: Option<&Objects>, after: &Objects, own: &str) -> (Vec<Item>, Vec<String>) {
    let mut items = Vec::new();
    let mut faults = Vec::new();
    let mut push = |kind: &str, change: Change<&Value>, name: &str| match item(kind, change, own) {
        Ok(item) => items.extend(item),
        Err(error) => faults.push(format!("{kind} {name}: {error}")),
    };
    let Some(before) = before else {
        for kind in KINDS {
            push(kind, Change::Begin, "");
            for ((of, name), object) in after.iter().filter(|((of, _), _)| of == kind) {
                push(of, Change::Listed(object), name);
            }
            push(kind, Change::Done, "");
        }
        return (items, faults);
    };
    for ((kind, name), object) in before {
        if !after.contains_key(&(kind.clone(), name.clone())) {
            push(kind, Change::Gone(object), name);
        }
    }
    for (key, object) in after {
        if before.get(key) != Some(object) {
            push(&key.0, Change::Applied(object), &key.1);
        }
    }
    (items, faults)
}

/// Everything that a directory says, as a first look tells it, and what is wrong with it.
pub fn read(dir: &Path, own: &str) -> (Vec<Item>, Vec<String>) {
    let (objects, mut faults) = scan(dir);
    let (items, more) = words(None, &objects, own);
    faults.extend(more);
    (items, faults)
}

/// Follows the directory until the listener goes.
pub async fn follow(dir: PathBuf, own: String, to: Sender<Word<Item>>) {
    let mut before: Option<Objects> = None;
    let mut told: Vec<String> = Vec::new();
    loop {
        let (after, mut faults) = scan(&dir);
        // A file that is being written, or a directory that cannot be read, deletes nothing.
        if faults.is_empty() {
            let (items, more) = words(before.as_ref(), &after, &own);
            faults.extend(more);
            before = Some(after);
            for item in items {
                if to.send(Word { what: "objects", said: Ok(item) }).await.is_err() {
                    return;
                }
            }
        }
        if !faults.is_empty() && faults != told {
            for reason in &faults {
                if to.send(Word { what: "objects", said: Err(reason.clone()) }).await.is_err() {
                    return;
                }
            }
            told = faults;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a change of a file that makes no word, or a broken file that deletes what it said before.

    use super::*;

    #[test]
    fn files_become_words() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("all.yaml");
        let nnc = |block: &str| {
            format!(
                "apiVersion: overlane.io/v1alpha1\nkind: NodeNetworkConfig\nmetadata: {{name: n1}}\nspec: {{}}\nstatus:\n  networkContainers:\n  - primaryIP: {block}\n    nodeIP: 10.0.0.1\n"
            )
        };
        std::fs::write(&file, format!("{}---\nkind: Pod\nmetadata: {{name: x}}\n", nnc("10.244.1.0/24"))).unwrap();
        let (first, faults) = scan(dir.path());
        assert!(faults.is_empty(), "{faults:?}");
        let (items, faults) = words(None, &first, "n1");
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(items.len(), 2 * KINDS.len() + 1);

        std::fs::write(&file, nnc("10.244.2.0/24")).unwrap();
        let (second, _) = scan(dir.path());
        let (items, _) = words(Some(&first), &second, "n1");
        assert!(matches!(&items[..], [Item::Config(Change::Applied((name, _)))] if name == "n1"), "{items:?}");

        std::fs::remove_file(&file).unwrap();
        let (third, _) = scan(dir.path());
        let (items, _) = words(Some(&second), &third, "n1");
        assert!(matches!(&items[..], [Item::Config(Change::Gone(_))]), "{items:?}");

        std::fs::write(&file, "kind: [").unwrap();
        assert_eq!(scan(dir.path()).1.len(), 1);
    }
}
