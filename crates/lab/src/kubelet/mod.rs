//! A small kubelet: it registers its node, watches the node's pods, and execs the CNI plugin as containerd would.

pub mod cni;
mod container;
mod machine;
mod pod;
pub mod sandbox;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::runtime::watcher;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

pub use container::Environment;
pub use status::now;

use crate::names::LabName;
use crate::paths::LabPaths;
use crate::state::NodeRecord;
use cni::NetworkList;
use machine::Readiness;
use pod::{Update, Worker};
use sandbox::{PodRecord, Sandboxes};

/// How often a node that is not ready looks again.
const EAGER: Duration = Duration::from_millis(100);
/// How often containerd would ask STATUS again.
const CALM: Duration = Duration::from_secs(5);
/// Time between two GC calls.
const GC_EVERY: Duration = Duration::from_secs(300);

/// What all of a node's pods share.
pub struct Context {
    /// The lab.
    pub lab: LabName,
    /// Its paths.
    pub paths: LabPaths,
    /// The API.
    pub client: Client,
    /// The machine.
    pub node: NodeRecord,
    /// The runtime's half.
    pub sandboxes: Sandboxes,
    /// What programs are started with.
    pub around: Environment,
    /// Most pods, as the node says.
    pub max_pods: u32,
}

impl Context {
    /// Tells of a pod's trouble by an Event.
    async fn event(&self, pod: &Pod, reason: &str, message: &str) {
        let meta = &pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or("default");
        let now = Timestamp::now();
        let event = json!({
            "metadata": {
                "name": format!("{}.{:x}", meta.name.as_deref().unwrap_or_default(), now.as_nanosecond()),
                "namespace": namespace,
            },
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": meta.name, "uid": meta.uid,
            },
            "type": "Warning", "reason": reason, "message": message, "count": 1,
            "firstTimestamp": now_text(), "lastTimestamp": now_text(),
            "source": {"component": "kubelet", "host": self.node.name},
        });
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let told = match serde_json::from_value(event) {
            Ok(event) => api.create(&PostParams::default(), &event).await.map(drop),
            Err(error) => Err(kube::Error::SerdeError(error)),
        };
        if let Err(error) = told {
            warn!(reason, message, "tell an event: {error}");
        }
    }
}

fn now_text() -> String {
    now()
}

/// A running kubelet.
pub struct Kubelet {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Kubelet {
    /// Starts it.
    pub fn start(context: Context) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(Arc::new(context), stopped));
        Self { stop, task }
    }

    /// Stops it. Pods go on running; whoever starts next takes them over.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

async fn run(context: Arc<Context>, mut stopped: watch::Receiver<bool>) {
    // Everything that it started ends with this set.
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(tend_node(context.clone()));
    tokio::select! {
        () = tend_pods(context.clone()) => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    tasks.shutdown().await;
    info!(node = context.node.name, "kubelet stopped");
}

/// Registers the node and keeps its status true, for as long as the kubelet runs.
async fn tend_node(context: Arc<Context>) {
    let Context { client, lab, node, max_pods, .. } = &*context;
    let lab = lab.as_str();
    let mut seen = readiness(&context).await;
    while let Err(error) = machine::register(client, lab, node, *max_pods, &seen).await {
        warn!(node = node.name, "{error:#}");
        tokio::time::sleep(EAGER).await;
    }
    let mut synced = Instant::now();
    let mut collected = None::<Instant>;
    loop {
        if seen.ready && collected.is_none_or(|at| at.elapsed() >= GC_EVERY) {
            collect(&context).await;
            collected = Some(Instant::now());
        }
        tokio::time::sleep(if seen.ready { CALM } else { EAGER }).await;
        let now = readiness(&context).await;
        // Also without news: the object may be an older one by now.
        if now == seen && synced.elapsed() < CALM {
            continue;
        }
        match machine::sync(client, lab, node, *max_pods, &now).await {
            Ok(()) => (seen, synced) = (now, Instant::now()),
            Err(error) => warn!(node = node.name, "{error:#}"),
        }
    }
}

async fn readiness(context: &Context) -> Readiness {
    let not = |message: String| Readiness { ready: false, reason: "NetworkPluginNotReady", message };
    let runtime = &context.sandboxes.runtime;
    match NetworkList::find(&runtime.conf_dir) {
        Ok(None) => not("no CNI configuration yet".to_owned()),
        Err(error) => not(format!("{error:#}")),
        Ok(Some(list)) => match runtime.status(&list).await {
            Ok(()) => Readiness { ready: true, reason: "KubeletReady", message: "the network serves".to_owned() },
            Err(error) => not(error.to_string()),
        },
    }
}

/// CNI GC: every sandbox that is on record may stay.
async fn collect(context: &Context) {
    let _no_adds = context.sandboxes.gc.write().await;
    let valid: Vec<(String, String)> = context
        .sandboxes
        .records()
        .into_iter()
        .flat_map(|record| record.lost.into_iter().chain([record.container_id]))
        .filter(|id| !id.is_empty())
        .map(|id| (id, "eth0".to_owned()))
        .collect();
    let runtime = &context.sandboxes.runtime;
    let done = match NetworkList::find(&runtime.conf_dir) {
        Ok(Some(list)) => runtime.gc(&list, &valid).await.map_err(anyhow::Error::from),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = done {
        warn!(node = context.node.name, "{error:#}");
    }
}

/// Watches the node's pods and keeps a worker for each.
async fn tend_pods(context: Arc<Context>) {
    let api: Api<Pod> = Api::all(context.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", context.node.name));
    let mut events = watcher::watcher(api, config).boxed();
    let mut pods = Pods::new(context.clone());
    loop {
        tokio::select! {
            event = events.try_next() => match event {
                Ok(Some(event)) => pods.hear(event),
                Ok(None) => return,
                Err(error) => {
                    warn!(node = context.node.name, "watch pods: {error}");
                    tokio::time::sleep(EAGER).await;
                }
            },
            Some(ended) = pods.tasks.join_next(), if !pods.tasks.is_empty() => pods.ended(ended),
        }
    }
}

struct Pods {
    context: Arc<Context>,
    workers: BTreeMap<String, mpsc::UnboundedSender<Update>>,
    tasks: tokio::task::JoinSet<String>,
    /// UIDs seen since the list began.
    listed: Option<BTreeSet<String>>,
}

impl Pods {
    fn new(context: Arc<Context>) -> Self {
        Self { context, workers: BTreeMap::new(), tasks: tokio::task::JoinSet::new(), listed: None }
    }

    fn hear(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listed = Some(BTreeSet::new()),
            watcher::Event::InitApply(pod) => {
                if let (Some(listed), Some(uid)) = (&mut self.listed, &pod.metadata.uid) {
                    listed.insert(uid.clone());
                }
                self.tell(pod);
            }
            watcher::Event::InitDone => self.drop_unlisted(),
            watcher::Event::Apply(pod) => self.tell(pod),
            watcher::Event::Delete(pod) => {
                if let Some(worker) = pod.metadata.uid.as_ref().and_then(|uid| self.workers.get(uid)) {
                    let _ = worker.send(Update::Gone);
                }
            }
        }
    }

    fn tell(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        if let Some(worker) = self.workers.get(&uid) {
            let _ = worker.send(Update::Changed(Box::new(pod)));
            return;
        }
        let sandboxes = &self.context.sandboxes;
        let path = sandboxes.dir.join(PodRecord::file_name(&uid));
        let record = match crate::files::read_json(&path) {
            Ok(Some(record)) => record,
            Ok(None) => PodRecord::new(&pod, &self.context.node.boot_id),
            Err(error) => {
                warn!(node = self.context.node.name, "{error:#}");
                PodRecord::new(&pod, &self.context.node.boot_id)
            }
        };
        self.work(uid, record, Some(pod));
    }

    /// Pods on record that the API does not have (any more) are ended, as a kubelet does once it has seen the full list.
    fn drop_unlisted(&mut self) {
        let Some(listed) = self.listed.take() else { return };
        for (uid, worker) in &self.workers {
            if !listed.contains(uid) {
                let _ = worker.send(Update::Gone);
            }
        }
        for record in self.context.sandboxes.records() {
            if listed.contains(&record.uid) || self.workers.contains_key(&record.uid) {
                continue;
            }
            self.work(record.uid.clone(), record, None);
        }
    }

    fn work(&mut self, uid: String, record: PodRecord, pod: Option<Pod>) {
        let (sender, updates) = mpsc::unbounded_channel();
        self.workers.insert(uid.clone(), sender);
        let worker = Worker::new(self.context.clone(), record, pod, updates);
        self.tasks.spawn(async move {
            worker.run().await;
            uid
        });
    }

    fn ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => _ = self.workers.remove(&uid),
            Err(error) => warn!(node = self.context.node.name, "a pod's worker died: {error}"),
        }
    }
}
