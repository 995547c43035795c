//! What the cluster says of pods, nodes and namespaces while flows are recorded.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::stream::{SelectAll, Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};

use super::names::{Names, PodId};

/// Objects a page of a list.
const PAGE: u32 = 500;
/// How long the first lists may take together: 200,000 pods are some 400 pages.
const PATIENCE: Duration = Duration::from_secs(120);

/// Something that the cluster said.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and nearly all are of pods")]
pub enum Word {
    /// Of pods.
    Pod(watcher::Result<Event<Pod>>),
    /// Of nodes.
    Node(watcher::Result<Event<Node>>),
    /// Of namespaces.
    Namespace(watcher::Result<Event<Namespace>>),
}

/// Follows what the cluster says.
pub struct Watch {
    words: SelectAll<Pin<Box<dyn Stream<Item = Word> + Send>>>,
    /// Which kinds were listed whole: pods, nodes, namespaces.
    listed: [bool; 3],
    failure: Option<String>,
}

impl Watch {
    /// Nothing is asked yet.
    pub fn new(client: &Client) -> Self {
        let config = || watcher::Config::default().page_size(PAGE);
        let pods = watcher::watcher(Api::all(client.clone()), config()).default_backoff().map(Word::Pod);
        let nodes = watcher::watcher(Api::all(client.clone()), config()).default_backoff().map(Word::Node);
        let namespaces = watcher::watcher(Api::all(client.clone()), config()).default_backoff().map(Word::Namespace);
        let mut words = SelectAll::new();
        words.push(pods.boxed());
        words.push(nodes.boxed());
        words.push(namespaces.boxed());
        Self { words, listed: [false; 3], failure: None }
    }

    /// Waits until everything was listed once.
    pub async fn list(&mut self, names: &mut Names) -> Result<()> {
        let lists = async {
            while self.listed != [true; 3] {
                let word = self.next().await;
                self.take(word, names);
                if let Some(failure) = &self.failure {
                    bail!("learn whose addresses are whose: {failure}");
                }
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, lists).await {
            Ok(listed) => listed,
            Err(_) => bail!("list pods, nodes and namespaces: the API server took more than {} s", PATIENCE.as_secs()),
        }
    }

    /// The next word.
    pub async fn next(&mut self) -> Word {
        match self.words.next().await {
            Some(word) => word,
            // They never end.
            None => std::future::pending().await,
        }
    }

    /// Takes in a word; gives addresses that are a pod's from now on.
    pub fn take(&mut self, word: Word, names: &mut Names) -> Vec<(IpAddr, PodId)> {
        match word {
            Word::Pod(Ok(event)) => return self.take_pod(event, names),
            Word::Node(Ok(Event::Apply(node) | Event::InitApply(node))) => names.hear_node(&node),
            Word::Namespace(Ok(Event::Apply(one) | Event::InitApply(one))) => names.hear_namespace(&one),
            Word::Node(Ok(Event::InitDone)) => self.listed[1] = true,
            Word::Namespace(Ok(Event::InitDone)) => self.listed[2] = true,
            Word::Node(Ok(_)) | Word::Namespace(Ok(_)) => {}
            Word::Pod(Err(error)) => self.fail("pods", &error),
            Word::Node(Err(error)) => self.fail("nodes", &error),
            Word::Namespace(Err(error)) => self.fail("namespaces", &error),
        }
        Vec::new()
    }

    /// Why names may be old, if they may.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn take_pod(&mut self, event: Event<Pod>, names: &mut Names) -> Vec<(IpAddr, PodId)> {
        match event {
            Event::Apply(pod) | Event::InitApply(pod) => return names.hear(&pod),
            Event::Delete(pod) => names.forget(&pod),
            Event::Init => names.list_begins(),
            Event::InitDone => {
                names.list_ends();
                self.listed[0] = true;
            }
        }
        Vec::new()
    }

    fn fail(&mut self, kind: &str, error: &watcher::Error) {
        // It is the rule that a watch ends because it has grown old, and is begun anew.
        if !matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
            self.failure = Some(format!("follow {kind}: {error}"));
        }
    }
}
