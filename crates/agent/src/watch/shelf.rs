//! Objects of one kind on file, one file each, so that an agent that starts without an API server knows what was in force.
//!
//! Written before what they say counts: an agent that is killed never goes back behind what it has put in force. Of this boot
//! only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use overlane_api::crd::{PodSlice, PodSliceSpec};
use overlane_api::policy::ClusterNetworkPolicy;
use overlane_core::labels::Labels;
use overlane_datapath::render::nft::hash;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::item::{Change, Item};
use crate::leaving::PodFacts;

/// The directory in the run dir.
const DIR: &str = "policy";
/// The format that this build writes and reads.
const FORMAT: u32 = 1;
/// Longest part of a file's name that is for people.
const NAME: usize = 100;

/// Namespace and name.
type Key = (String, String);

#[derive(Serialize, Deserialize)]
struct OnFile<T> {
    key: Key,
    value: T,
}

/// The objects of one kind.
#[derive(Debug)]
pub struct Shelf {
    dir: PathBuf,
    /// Files that the list which is under way has named.
    listed: Mutex<Option<BTreeSet<String>>>,
}

/// All kinds.
#[derive(Clone, Debug)]
pub struct Shelves {
    dir: PathBuf,
}

impl Shelves {
    /// Those of this boot; those of others are removed.
    pub fn open(run_dir: &Path, boot_id: &str) -> Self {
        let parent = run_dir.join(DIR);
        let own = format!("{boot_id}-{FORMAT}");
        for entry in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
            if entry.file_name().to_str() != Some(&own) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Self { dir: parent.join(own) }
    }

    fn of(&self, kind: &str) -> Shelf {
        Shelf { dir: self.dir.join(kind), listed: Mutex::default() }
    }

    /// NetworkPolicies.
    pub fn policies(&self) -> Shelf {
        self.of("networkpolicies")
    }

    /// ClusterNetworkPolicies.
    pub fn cluster_policies(&self) -> Shelf {
        self.of("clusternetworkpolicies")
    }

    /// Namespaces.
    pub fn namespaces(&self) -> Shelf {
        self.of("namespaces")
    }

    /// This node's pods.
    pub fn pods(&self) -> Shelf {
        self.of("pods")
    }

    /// Other nodes' pods.
    pub fn slices(&self) -> Shelf {
        self.of("podslices")
    }

    /// The words that lead to what is on file; none of a kind that was never heard in full.
    pub fn load(&self) -> Vec<Item> {
        let mut items = Vec::new();
        items.extend(self.policies().words(|_, policy: NetworkPolicy| policy).map(Item::policy));
        items.extend(self.cluster_policies().words(|_, policy: ClusterNetworkPolicy| policy).map(Item::cluster_policy));
        items.extend(self.namespaces().words(|(_, name), labels: Labels| (name, labels)).map(Item::Namespace));
        items.extend(self.pods().words(|key, facts: PodFacts| (key, facts)).map(Item::Pod));
        let slice = |(_, name): Key, spec: PodSliceSpec| PodSlice::new(&name, spec);
        items.extend(self.slices().words(slice).map(Item::slice));
        items
    }
}

impl Shelf {
    /// Notes a change; `with` gives what is kept of an object.
    pub fn note<K, T: Serialize>(&self, change: &Change<K>, with: impl Fn(&K) -> (Key, T)) {
        let done = match change {
            Change::Begin => {
                *self.listed() = Some(BTreeSet::new());
                Ok(())
            }
            Change::Listed(object) | Change::Applied(object) => {
                let (key, value) = with(object);
                self.write(key, value)
            }
            Change::Gone(object) => self.remove(&file_name(&with(object).0)),
            Change::Done => self.done(),
        };
        if let Err(error) = done {
            tracing::warn!("keep on file what network policy depends on: {error:#}");
            // What lacks something is not all.
            let _ = std::fs::remove_file(self.dir.join(COMPLETE));
        }
    }

    fn listed(&self) -> std::sync::MutexGuard<'_, Option<BTreeSet<String>>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T: Serialize>(&self, key: Key, value: T) -> anyhow::Result<()> {
        let name = file_name(&key);
        if let Some(listed) = self.listed().as_mut() {
            listed.insert(name.clone());
        }
        let bytes = serde_json::to_vec(&OnFile { key, value }).with_context(|| format!("encode {name}"))?;
        let (unfinished, file) = (self.dir.join(".next"), self.dir.join(&name));
        std::fs::create_dir_all(&self.dir).with_context(|| format!("make {}", self.dir.display()))?;
        let written = std::fs::write(&unfinished, bytes).and_then(|()| std::fs::rename(&unfinished, &file));
        written.with_context(|| format!("write {}", file.display()))
    }

    fn remove(&self, name: &str) -> anyhow::Result<()> {
        let file = self.dir.join(name);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", file.display()))
            }
            _ => Ok(()),
        }
    }

    /// A list is complete: what it did not name is gone. That it was complete is on file as well.
    fn done(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.dir).with_context(|| format!("make {}", self.dir.display()))?;
        if let Some(listed) = self.listed().take() {
            for name in self.files().filter(|name| !listed.contains(name)) {
                self.remove(&name)?;
            }
        }
        let mark = self.dir.join(COMPLETE);
        std::fs::write(&mark, []).with_context(|| format!("write {}", mark.display()))
    }

    /// Names of the files, without those that are no objects.
    fn files(&self) -> impl Iterator<Item = String> + use<> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| !name.starts_with('.'))
    }

    /// Nothing is followed any more.
    pub fn clear(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, dir = %self.dir.display(), "forget what network policy depended on");
        }
    }

    /// A list, as the API server would tell it; none if it never told all. One that cannot be read is none, too.
    fn words<T: DeserializeOwned, K>(&self, with: impl Fn(Key, T) -> K) -> std::vec::IntoIter<Change<K>> {
        if !self.dir.join(COMPLETE).exists() {
            return Vec::new().into_iter();
        }
        let mut words = vec![Change::Begin];
        for name in self.files() {
            let file = self.dir.join(&name);
            let read = std::fs::read(&file).map_err(anyhow::Error::from);
            match read.and_then(|bytes| serde_json::from_slice::<OnFile<T>>(&bytes).map_err(anyhow::Error::from)) {
                Ok(OnFile { key, value }) => words.push(Change::Listed(with(key, value))),
                Err(error) => {
                    tracing::warn!("what network policy depends on is passed over: {}: {error:#}", file.display());
                    return Vec::new().into_iter();
                }
            }
        }
        words.push(Change::Done);
        words.into_iter()
    }
}

const COMPLETE: &str = ".complete";

/// Names are longer than a file's can be.
fn file_name((namespace, name): &Key) -> String {
    let whole = format!("{namespace}_{name}");
    let start: String = whole.chars().take(NAME).filter(|c| *c != '/').collect();
    format!("{start}-{}", hash(&whole))
}

/// What counts of a policy: its name, its mode, and what it says.
pub fn policy(object: &NetworkPolicy) -> (Key, NetworkPolicy) {
    let key = (object.namespace().unwrap_or_default(), object.name_any());
    (key, NetworkPolicy { metadata: bare(&object.metadata), spec: object.spec.clone() })
}

/// The same of a ClusterNetworkPolicy.
pub fn cluster_policy(object: &ClusterNetworkPolicy) -> (Key, ClusterNetworkPolicy) {
    let bare = ClusterNetworkPolicy { metadata: bare(&object.metadata), status: None, ..object.clone() };
    ((String::new(), object.name_any()), bare)
}

/// What counts of a namespace.
pub fn namespace(object: &Namespace) -> (Key, Labels) {
    ((String::new(), object.name_any()), object.labels().clone())
}

/// What counts of a pod.
pub fn pod(object: &Pod) -> (Key, PodFacts) {
    ((object.namespace().unwrap_or_default(), object.name_any()), PodFacts::of(object))
}

/// What counts of a slice.
pub fn slice(object: &PodSlice) -> (Key, PodSliceSpec) {
    ((String::new(), object.name_any()), object.spec.clone())
}

fn bare(metadata: &ObjectMeta) -> ObjectMeta {
    let ObjectMeta { name, namespace, annotations, .. } = metadata.clone();
    // What people applied is in there once more.
    let annotations = annotations.map(|mut all| {
        all.retain(|name, _| name.starts_with(overlane_api::crd::GROUP));
        all
    });
    ObjectMeta { name, namespace, annotations, ..ObjectMeta::default() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: what a list does not name any more and is still on file; a list that broke off and counts as whole.

    use super::*;

    fn facts(uid: &str) -> PodFacts {
        PodFacts { uid: uid.to_owned(), ..PodFacts::default() }
    }

    fn note(shelf: &Shelf, change: Change<(&str, &str)>) {
        shelf.note(&change, |(name, uid)| (("ns".to_owned(), (*name).to_owned()), facts(uid)));
    }

    fn held(shelves: &Shelves) -> Vec<Item> {
        shelves.load()
    }

    #[test]
    fn what_was_heard_in_full_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let shelves = Shelves::open(dir.path(), "boot-1");
        let shelf = shelves.pods();
        note(&shelf, Change::Begin);
        note(&shelf, Change::Listed(("a", "1")));
        assert_eq!(held(&shelves), [], "the list is not whole");
        note(&shelf, Change::Listed(("b", "2")));
        note(&shelf, Change::Done);
        note(&shelf, Change::Applied(("a", "3")));
        note(&shelf, Change::Gone(("b", "")));
        let key = |name: &str| ("ns".to_owned(), name.to_owned());
        let a = |uid| Item::Pod(Change::Listed((key("a"), facts(uid))));
        assert_eq!(held(&shelves), [Item::Pod(Change::Begin), a("3"), Item::Pod(Change::Done)]);

        // Another list, which breaks off, and one that does not.
        note(&shelf, Change::Begin);
        note(&shelf, Change::Listed(("c", "4")));
        assert_eq!(held(&Shelves::open(dir.path(), "boot-1")).len(), 4, "both count, as in the agent's own view");
        note(&shelf, Change::Begin);
        note(&shelf, Change::Done);
        assert_eq!(held(&shelves), [Item::Pod(Change::Begin), Item::Pod(Change::Done)]);

        std::fs::write(shelf.dir.join("x-1"), "{").unwrap();
        assert_eq!(held(&shelves), [], "nothing is better than a part");
        assert_eq!(held(&Shelves::open(dir.path(), "boot-2")), [], "another boot's");
        assert!(!shelf.dir.exists());
    }

    #[test]
    fn names_are_told_apart() {
        let long = |end: &str| (String::new(), format!("{}{end}", "x".repeat(250)));
        assert_ne!(file_name(&long("a")), file_name(&long("b")));
        assert!(file_name(&long("a")).len() < 128);
    }
}
