//! `overlane sysdump`: what somebody far away needs to find a fault, in one small file. No Secret is read, and values of
//! environment variables that are not ours are left out.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::{DynamicObject, ListParams, LogParams};
use kube::{Api, Client, ResourceExt as _};
use overlane_api::crd::NAMESPACE;
use overlane_install::{AGENT, CONTROLLER, PART_OF};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::args::SysdumpArgs;
use crate::cluster::read::each;
use crate::cluster::{self, objects};
use crate::out;
use crate::progress::Progress;
use crate::status::cluster::ClusterStatus;

/// Most bytes of one agent's page.
const PAGE_LIMIT: u64 = 4 << 20;
/// Events that are kept; those of a large cluster in trouble say the same again and again.
const MOST_EVENTS: usize = 5000;
/// Kinds that are taken whole: version, kind, namespace.
const KINDS: [(&str, &str, Option<&str>); 13] = [
    ("overlane.io/v1alpha1", "ClusterNetwork", None),
    ("overlane.io/v1alpha1", "NodeBlock", None),
    ("overlane.io/v1alpha1", "NodeNetworkConfig", Some(NAMESPACE)),
    ("overlane.io/v1alpha1", "NodeState", None),
    ("overlane.io/v1alpha1", "EgressGateway", None),
    ("overlane.io/v1alpha1", "PodSlice", None),
    ("v1", "Node", None),
    ("networking.k8s.io/v1", "ServiceCIDR", None),
    ("networking.k8s.io/v1", "NetworkPolicy", None),
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", None),
    ("apps/v1", "DaemonSet", Some("")),
    ("apps/v1", "Deployment", Some("")),
    ("coordination.k8s.io/v1", "Lease", Some(NAMESPACE)),
];

/// Writes the file.
pub fn run(args: &SysdumpArgs) -> Result<ExitCode> {
    let file = args.file.clone().unwrap_or_else(|| {
        let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        PathBuf::from(format!("overlane-sysdump-{seconds}.tar.gz"))
    });
    let progress = Progress::new();
    let collected = crate::runtime::start()?.block_on(collect(args, &progress));
    progress.clear();
    let dump = collected?;
    let size = dump.write(&file).with_context(|| format!("write {}", file.display()))?;
    out::print(&format!("{}: {} files, {} KiB\n", file.display(), dump.files.len(), size / 1024))?;
    for fault in &dump.faults {
        out::print(&format!("left out: {fault}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What was collected, and what could not be.
#[derive(Default)]
struct Dump {
    files: Vec<(String, Vec<u8>)>,
    faults: Vec<String>,
}

impl Dump {
    fn add(&mut self, name: impl Into<String>, content: Result<Vec<u8>>) {
        let name = name.into();
        match content {
            Ok(content) => self.files.push((name, content)),
            Err(error) => self.faults.push(format!("{name}: {error:#}")),
        }
    }

    fn write(&self, path: &Path) -> Result<u64> {
        let fresh = path.with_extension("unfinished");
        let mut archive = tar::Builder::new(GzEncoder::new(std::fs::File::create(&fresh)?, Compression::best()));
        let faults = self.faults.join("\n").into_bytes();
        let left_out = ("left-out.txt".to_owned(), faults);
        for (name, content) in self.files.iter().chain([&left_out]) {
            let mut header = tar::Header::new_gnu();
            header.set_size(u64::try_from(content.len())?);
            header.set_mode(0o644);
            archive.append_data(&mut header, format!("overlane-sysdump/{name}"), content.as_slice())?;
        }
        archive.into_inner()?.finish()?.flush()?;
        let size = std::fs::metadata(&fresh)?.len();
        std::fs::rename(&fresh, path)?;
        Ok(size)
    }
}

async fn collect(args: &SysdumpArgs, progress: &Progress) -> Result<Dump> {
    let client = cluster::client(&args.kube).await?;
    let version = client.apiserver_version().await.context("ask the API server for its version")?;
    let mut dump = Dump::default();
    dump.add(
        "version.json",
        Ok(serde_json::to_vec_pretty(&json!({ "cli": overlane_install::VERSION, "kubernetes": version }))?),
    );
    progress.doing("reading objects");
    let status = ClusterStatus::read(&client, None).await;
    let troubled: BTreeSet<String> = match &status {
        Ok(status) => {
            status.nodes.iter().filter(|node| !node.messages.is_empty()).map(|node| node.name.clone()).collect()
        }
        Err(_) => BTreeSet::new(),
    };
    dump.add("status.json", status.and_then(|status| Ok(serde_json::to_vec_pretty(&status)?)));
    let pods: Api<Pod> = Api::all(client.clone());
    let ours = ListParams::default().labels(&format!("app.kubernetes.io/name in ({AGENT},{CONTROLLER})"));
    let ours = pods.list(&ours).await.context("list pods of agents and controllers")?.items;
    let namespace = ours.first().and_then(|pod| pod.namespace()).unwrap_or_else(|| NAMESPACE.to_owned());
    for (version, kind, place) in KINDS {
        let place = place.map(|place| if place.is_empty() { namespace.as_str() } else { place });
        dump.add(format!("objects/{}.json", kind.to_lowercase()), list(&client, version, kind, place).await);
    }
    dump.add("objects/pods.json", Ok(cleaned(&ours)));
    dump.add("objects/masquerade.json", masquerade(&client).await);
    dump.add("events.json", events(&client, &namespace).await);
    let chosen = chosen(ours, &troubled, args.max_nodes);
    for (done, pod) in chosen.iter().enumerate() {
        progress.count("reading logs and state", done, chosen.len());
        of_pod(&client, pod, args.log_lines, &mut dump).await;
    }
    Ok(dump)
}

/// All controllers, and agents: those of nodes in trouble first.
fn chosen(pods: Vec<Pod>, troubled: &BTreeSet<String>, most: usize) -> Vec<Pod> {
    let is_controller = |pod: &Pod| pod.labels().get("app.kubernetes.io/name").is_some_and(|name| name == CONTROLLER);
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let (mut chosen, mut agents): (Vec<Pod>, Vec<Pod>) = pods.into_iter().partition(is_controller);
    agents.sort_by_key(|pod| (!troubled.contains(&node(pod)), node(pod)));
    chosen.extend(agents.into_iter().take(most));
    chosen
}

async fn list(client: &Client, version: &str, kind: &str, namespace: Option<&str>) -> Result<Vec<u8>> {
    let mut example = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "any" } });
    if let Some(namespace) = namespace {
        example["metadata"]["namespace"] = json!(namespace);
    }
    let (api, _): (Api<DynamicObject>, _) = objects::api_of(client, &example)?;
    // Other people's workloads may have secrets in their arguments.
    let ours = matches!(kind, "DaemonSet" | "Deployment");
    let labels = format!("{}={}", PART_OF.0, PART_OF.1);
    let params = if ours { ListParams::default().labels(&labels) } else { ListParams::default() };
    let mut text = Vec::new();
    each(&api, params, &format!("{kind}s"), |object| add_cleaned(&mut text, &object)).await?;
    Ok(closed(text))
}

/// Objects one by one: of a large cluster's there may be hundreds of megabytes before they are cleaned.
fn add_cleaned<T: serde::Serialize>(text: &mut Vec<u8>, object: &T) {
    let Ok(mut value) = serde_json::to_value(object) else { return };
    clean(&mut value);
    text.extend_from_slice(if text.is_empty() { b"[\n" } else { b",\n" });
    // It was a value a moment ago.
    let _ = serde_json::to_writer(text, &value);
}

fn closed(mut text: Vec<u8>) -> Vec<u8> {
    text.extend_from_slice(if text.is_empty() { b"[]\n" } else { b"\n]\n" });
    text
}

fn cleaned<T: serde::Serialize>(objects: &[T]) -> Vec<u8> {
    let mut text = Vec::new();
    objects.iter().for_each(|object| add_cleaned(&mut text, object));
    closed(text)
}

/// Takes away what says nothing, and what might be secret.
fn clean(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("managedFields");
            map.remove("kubectl.kubernetes.io/last-applied-configuration");
            map.remove(crate::install::GIVEN);
            // What a node has pulled: some 50 KiB of each Node.
            map.remove("images");
            let is_ours = |name: &Value| {
                name.as_str().is_some_and(|name| name.starts_with("OVERLANE_") || name.starts_with("KUBERNETES_"))
            };
            for variable in map.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
                if !variable.get("name").is_some_and(is_ours) && variable.get("value").is_some() {
                    variable["value"] = json!("(left out)");
                }
            }
            map.values_mut().for_each(clean);
        }
        Value::Array(list) => list.iter_mut().for_each(clean),
        _ => {}
    }
}

/// The ConfigMaps that agents read.
async fn masquerade(client: &Client) -> Result<Vec<u8>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let listed = maps.list(&ListParams::default()).await.context("list ConfigMaps")?.items;
    let ours: Vec<_> = listed
        .into_iter()
        .filter(|map| map.name_any().contains("ip-masq-agent") || map.labels().contains_key("overlane.io/config"))
        .collect();
    Ok(cleaned(&ours))
}

/// Events about nodes, the network, its gateways, and pods of ours.
async fn events(client: &Client, namespace: &str) -> Result<Vec<u8>> {
    let api: Api<Event> = Api::all(client.clone());
    let told = |event: &Event| {
        let about = &event.involved_object;
        matches!(about.kind.as_deref(), Some("Node" | "ClusterNetwork" | "EgressGateway"))
            || about.namespace.as_deref() == Some(namespace)
            || event.reason.as_deref() == Some("FailedCreatePodSandBox")
    };
    let (mut text, mut count) = (Vec::new(), 0);
    let take = |event: Event| {
        if count < MOST_EVENTS && told(&event) {
            count += 1;
            add_cleaned(&mut text, &event);
        }
    };
    each(&api, ListParams::default(), "events", take).await?;
    Ok(closed(text))
}

async fn of_pod(client: &Client, pod: &Pod, lines: i64, dump: &mut Dump) {
    let name = pod.name_any();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let title = format!("{node}/{name}");
    let log = LogParams { tail_lines: Some(lines), ..LogParams::default() };
    let now = api.logs(&name, &log).await.context("read its log").map(String::into_bytes);
    dump.add(format!("nodes/{title}.log"), now);
    let restarts = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    if restarts.map(|container| container.restart_count).sum::<i32>() > 0 {
        let before = api.logs(&name, &LogParams { previous: true, ..log }).await;
        dump.add(format!("nodes/{title}.previous.log"), before.context("read its earlier log").map(String::into_bytes));
    }
    let Some(port) = port(pod) else { return };
    for (page, file) in [("/debug/state", "state.json"), ("/metrics", "metrics.txt"), ("/readyz", "readyz.txt")] {
        let content = fetch(&api, &name, port, page).await;
        dump.add(format!("nodes/{title}.{file}"), content.with_context(|| format!("fetch {page}")));
    }
}

/// Where the daemon serves its pages.
fn port(pod: &Pod) -> Option<u16> {
    let args = pod.spec.as_ref()?.containers.first()?.args.as_ref()?;
    let address = args.iter().find_map(|arg| arg.strip_prefix("--metrics-addr="))?;
    address.rsplit_once(':')?.1.parse().ok()
}

/// A page, through the API server and the kubelet: it is served on the node alone.
async fn fetch(pods: &Api<Pod>, pod: &str, port: u16, page: &str) -> Result<Vec<u8>> {
    let mut forward = pods.portforward(pod, &[port]).await.context("forward a port")?;
    let mut stream = forward.take_stream(port).context("no stream")?;
    stream.write_all(format!("GET {page} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    (&mut stream).take(PAGE_LIMIT).read_to_end(&mut answer).await?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").context("the answer has no body")?;
    Ok(answer.split_off(body + 4))
}

#[cfg(test)]
mod tests {
    //! Must catch: a value of the environment that might be a secret, in the file.

    use super::*;

    #[test]
    fn what_might_be_secret_is_left_out() {
        let mut object = json!({
            "metadata": { "name": "x", "managedFields": [{}], "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "token", crate::install::GIVEN: "token",
            } },
            "spec": { "containers": [{ "env": [
                { "name": "PASSWORD", "value": "hunter2" },
                { "name": "OVERLANE_LOG_LEVEL", "value": "debug" },
                { "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } },
            ] }] },
        });
        clean(&mut object);
        let text = object.to_string();
        assert!(!text.contains("hunter2") && !text.contains("token") && !text.contains("managedFields"), "{text}");
        assert!(text.contains("debug") && text.contains("secretKeyRef"), "{text}");
    }
}
