//! What the check puts into the cluster: a namespace with echo servers on every node, on the pod network and on the
//! node's, and a Service before them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use overlane_core::family::Family;
use overlane_lab::check::plan::{Place, Role};
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::read::pod_is_ready;

/// The port of echo servers on the pod network.
pub const PORT: u16 = 8080;
/// The same on the nodes' network, where others live too.
pub const HOST_PORT: u16 = 28_080;
/// The port of the Service before those on the pod network.
pub const SERVICE_PORT: u16 = 80;
/// Label of everything of the check.
const APP: &str = "overlane-connectivity";
const LOOK: Duration = Duration::from_millis(300);

/// The check's namespace and what is in it.
pub struct World {
    client: Client,
    /// The namespace.
    pub namespace: String,
    /// The pods, and their nodes, as places to ask from and to be asked.
    pub places: Vec<Place>,
    /// Which pod asks for a place, by the place's name.
    pub askers: BTreeMap<String, String>,
    /// The Service's addresses.
    pub service: Vec<IpAddr>,
}

impl World {
    /// Takes away what an earlier check left, then makes everything; ready when it returns. `each` pods a node.
    pub async fn make(client: &Client, nodes: &[String], each: usize, image: &str, until: Instant) -> Result<Self> {
        sweep(client).await?;
        let namespace = format!("{APP}-{:x}", std::process::id());
        let mut world = Self {
            client: client.clone(),
            namespace: namespace.clone(),
            places: Vec::new(),
            askers: BTreeMap::new(),
            service: Vec::new(),
        };
        let made = world.fill(nodes, each, image, until).await;
        if let Err(error) = made {
            // What went wrong first is what to tell first.
            return match world.remove().await {
                Ok(()) => Err(error),
                Err(second) => Err(anyhow!("{error:#}; and then: {second:#}")),
            };
        }
        Ok(world)
    }

    async fn fill(&mut self, nodes: &[String], each: usize, image: &str, until: Instant) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let object = serde_json::from_value(json!({
            "metadata": {
                "name": self.namespace,
                // Pods on the nodes' network are what only this level lets in.
                "labels": { "app": APP, "pod-security.kubernetes.io/enforce": "privileged" },
            },
        }))?;
        namespaces.create(&PostParams::default(), &object).await.context("make the check's namespace")?;
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        let service = services.create(&PostParams::default(), &service()?).await.context("make the check's Service")?;
        let ips = service.spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
        self.service = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        for node in nodes {
            for number in 0..each {
                pods.create(&PostParams::default(), &pod(node, Some(number), image)?).await.context("make a pod")?;
            }
            pods.create(&PostParams::default(), &pod(node, None, image)?).await.context("make a pod")?;
        }
        self.await_pods(&pods, nodes.len() * (each + 1), until).await?;
        // In a family that pods do not have nobody is behind it.
        let of_pods = self.places.iter().filter(|place| place.role == Role::Pod);
        let families: BTreeSet<Family> = of_pods.flat_map(|place| place.addresses.keys().copied()).collect();
        self.service.retain(|ip| families.contains(&Family::of(ip)));
        Ok(())
    }

    async fn await_pods(&mut self, pods: &Api<Pod>, count: usize, until: Instant) -> Result<()> {
        loop {
            let listed = pods.list(&ListParams::default()).await.context("list the check's pods")?.items;
            let waiting: Vec<&Pod> = listed.iter().filter(|pod| !pod_is_ready(pod)).collect();
            if waiting.is_empty() && listed.len() == count {
                for pod in &listed {
                    self.add(pod);
                }
                return Ok(());
            }
            if Instant::now() > until {
                let named: Vec<String> = waiting.iter().take(5).map(|pod| describe(pod)).collect();
                bail!("{} of {count} pods are not ready in time: {}", waiting.len(), named.join("; "));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn add(&mut self, pod: &Pod) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let ips = pod.status.as_ref().and_then(|status| status.pod_ips.clone()).unwrap_or_default();
        let addresses = ips.iter().filter_map(|ip| ip.ip.parse::<IpAddr>().ok()).map(|ip| (Family::of(&ip), ip));
        let name = if on_host { node.clone() } else { pod.name_any() };
        self.askers.insert(name.clone(), pod.name_any());
        self.places.push(Place {
            role: if on_host { Role::Node } else { Role::Pod },
            name,
            node: (!on_host).then_some(node),
            namespace: PathBuf::new(),
            addresses: addresses.collect(),
            port: if on_host { HOST_PORT } else { PORT },
            mtu: 0,
        });
    }

    /// The Service's name, as pods look it up.
    pub fn service_name(&self) -> String {
        format!("echo.{}.svc", self.namespace)
    }

    /// Takes everything away again, and waits until it is gone.
    pub async fn remove(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        remove(&namespaces, &self.namespace).await
    }
}

/// Takes away what earlier checks left.
pub async fn sweep(client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let left =
        namespaces.list(&ListParams::default().labels(&format!("app={APP}"))).await.context("list namespaces")?;
    for namespace in left {
        remove(&namespaces, &namespace.name_any()).await?;
    }
    Ok(())
}

async fn remove(namespaces: &Api<Namespace>, name: &str) -> Result<()> {
    match namespaces.delete(name, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("remove namespace {name}")),
    }
    let until = Instant::now() + Duration::from_secs(120);
    while namespaces.get_opt(name).await.context("look at the check's namespace")?.is_some() {
        if Instant::now() > until {
            bail!("namespace {name} does not end; `kubectl get all -n {name}` shows what holds it");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn service() -> Result<Service> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": "echo" },
        "spec": {
            "ipFamilyPolicy": "PreferDualStack",
            "selector": { "role": "pod" },
            "ports": [
                { "name": "tcp", "protocol": "TCP", "port": SERVICE_PORT, "targetPort": PORT },
                { "name": "udp", "protocol": "UDP", "port": SERVICE_PORT, "targetPort": PORT },
            ],
        },
    }))?)
}

/// A pod on a node: on the pod network with a number, on the node's without.
fn pod(node: &str, number: Option<usize>, image: &str) -> Result<Pod> {
    let (name, port) = match number {
        Some(number) => (format!("{node}-{number}"), PORT),
        None => (format!("{node}-host"), HOST_PORT),
    };
    // Names of nodes may be longer than those of containers' hosts; what the server answers with is the pod's.
    let command = ["/usr/bin/overlane", "lab-echo", "--name", &name, "--port", &port.to_string()].map(str::to_owned);
    Ok(serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "app": APP, "role": if number.is_some() { "pod" } else { "node" } } },
        "spec": {
            "nodeName": node,
            "hostNetwork": number.is_none(),
            "tolerations": [{ "operator": "Exists" }],
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "echo",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": command,
                // For echo requests.
                "securityContext": { "capabilities": { "add": ["NET_RAW"] } },
                "readinessProbe": { "tcpSocket": { "port": port }, "periodSeconds": 1 },
            }],
        },
    }))?)
}

fn describe(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        Some([waiting.reason.clone(), waiting.message.clone()].into_iter().flatten().collect::<Vec<_>>().join(": "))
    });
    format!("{} is {}", pod.name_any(), waiting.or(status.phase).unwrap_or_else(|| "unknown".to_owned()))
}
