//! A pod's program: the first container's command as a process of this machine in the pod's network namespace.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::sandbox::PodRecord;
use crate::process::ProcessId;
use crate::spawn::{Launch, Running};

/// What every program of a node is started with.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Name of the node.
    pub node: String,
    /// The node's namespace, for pods on the host's network.
    pub namespace: PathBuf,
    /// The `overlane` program, whose echo server stands in for a missing command.
    pub overlane: PathBuf,
}

/// Starts the pod's program.
pub fn start(pod: &Pod, record: &PodRecord, around: &Environment, log: PathBuf) -> Result<Running> {
    let (program, args) = command(pod, record, around);
    let launch = Launch {
        namespace: if record.host_network { around.namespace.clone() } else { PathBuf::from(&record.netns) },
        hostname: Some(if record.host_network { around.node.clone() } else { record.name.clone() }),
        program,
        args,
        env: environment(pod, record, around),
        bare: true,
        log: Some(log),
    };
    Ok(Running::Child(Box::new(launch.start()?)))
}

/// Why a pod cannot run in a lab, if it cannot: it is one program there. Further containers, and init containers, may be
/// declared, with ports, as long as they have nothing to run.
pub fn unfit(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if spec.containers.is_empty() {
        return Some("a lab's pod has a container; this one has none".to_owned());
    }
    let mut others = spec.containers.iter().skip(1).chain(spec.init_containers.iter().flatten());
    let program = others.find(|container| container.command.is_some() || container.args.is_some())?;
    Some(format!("a lab's pod runs its first container alone; container {} has a command too", program.name))
}

fn first(pod: &Pod) -> Option<&Container> {
    pod.spec.as_ref()?.containers.first()
}

fn command(pod: &Pod, record: &PodRecord, around: &Environment) -> (PathBuf, Vec<String>) {
    let container = first(pod);
    let mut words = container.and_then(|c| c.command.clone()).unwrap_or_default();
    words.extend(container.and_then(|c| c.args.clone()).unwrap_or_default());
    if words.is_empty() {
        let args = ["lab-echo", "--name", &record.name].map(str::to_owned);
        return (around.overlane.clone(), args.to_vec());
    }
    let program = words.remove(0);
    (program.into(), words)
}

fn environment(pod: &Pod, record: &PodRecord, around: &Environment) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = [
        ("PATH".to_owned(), std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())),
        ("HOME".to_owned(), "/root".to_owned()),
        ("HOSTNAME".to_owned(), record.name.clone()),
        ("POD_NAME".to_owned(), record.name.clone()),
        ("POD_NAMESPACE".to_owned(), record.namespace.clone()),
        ("POD_UID".to_owned(), record.uid.clone()),
        ("POD_IP".to_owned(), record.ips.first().cloned().unwrap_or_default()),
        ("POD_IPS".to_owned(), record.ips.join(",")),
        ("NODE_NAME".to_owned(), around.node.clone()),
    ]
    .into();
    let own = first(pod).and_then(|container| container.env.clone()).unwrap_or_default();
    env.extend(own.into_iter().filter_map(|variable| Some((variable.name, variable.value?))));
    env
}

/// Whether the program answers, as far as its readiness probe (`tcpSocket` or `httpGet`) asks: something listens on
/// the port. Without such a probe it does.
pub fn ready(pod: &Pod, process: ProcessId) -> bool {
    let Some(probe) = first(pod).and_then(|container| container.readiness_probe.as_ref()) else { return true };
    let port = match (&probe.tcp_socket, &probe.http_get) {
        (Some(tcp), _) => &tcp.port,
        (None, Some(http)) => &http.port,
        (None, None) => return true,
    };
    let IntOrString::Int(port) = port else { return true };
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/{}/net/{table}", process.pid)).unwrap_or_default();
        listens(&text, *port)
    })
}

/// Whether `/proc/net/tcp` shows a socket that listens on `port`.
fn listens(table: &str, port: i32) -> bool {
    const LISTEN: &str = "0A";
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().and_then(|local| local.rsplit(':').next());
        let local = local.and_then(|hex| i32::from_str_radix(hex, 16).ok());
        local == Some(port) && fields.nth(1) == Some(LISTEN)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a pod that counts as ready before it listens, or a program that is left out in silence.

    use super::*;
    use serde_json::json;

    #[test]
    fn listening_sockets_are_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = i32::from(listener.local_addr().unwrap().port());
        let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
        assert!(listens(&table, port));
        drop(listener);
        assert!(!listens(&fs::read_to_string("/proc/self/net/tcp").unwrap(), port));
    }

    #[test]
    fn one_program_a_pod() {
        let unfit = |spec| unfit(&serde_json::from_value::<Pod>(json!({ "spec": spec })).unwrap());
        let (idle, busy) = (json!({"name": "i"}), json!({"name": "b", "command": ["true"]}));
        assert_eq!(unfit(json!({"containers": [busy, idle], "initContainers": [idle]})), None);
        assert!(unfit(json!({"containers": []})).is_some());
        assert!(unfit(json!({"containers": [idle, busy]})).is_some());
        assert!(unfit(json!({"containers": [idle], "initContainers": [busy]})).is_some());
    }

    #[test]
    fn the_command_is_the_pod_s_or_the_echo_server() {
        let record = PodRecord { name: "web".into(), ips: vec!["10.0.0.2".into()], ..PodRecord::default() };
        let around = Environment { node: "node-0".into(), namespace: "/n".into(), overlane: "/o".into() };
        let pod = |container| serde_json::from_value::<Pod>(json!({"spec": {"containers": [container]}})).unwrap();
        let echo = command(&pod(json!({"name": "c"})), &record, &around);
        assert_eq!(echo, ("/o".into(), ["lab-echo", "--name", "web"].map(str::to_owned).to_vec()));
        let own =
            pod(json!({"name": "c", "command": ["sh", "-c"], "args": ["true"], "env": [{"name": "A", "value": "b"}]}));
        assert_eq!(command(&own, &record, &around), ("sh".into(), vec!["-c".to_owned(), "true".to_owned()]));
        let env = environment(&own, &record, &around);
        assert_eq!((env["A"].as_str(), env["POD_IP"].as_str(), env["NODE_NAME"].as_str()), ("b", "10.0.0.2", "node-0"));
    }
}
