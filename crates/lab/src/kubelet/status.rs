//! A pod's status as the kubelet writes it: a pure function of what is known of the pod.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::sandbox::PodRecord;

/// This moment, as the API writes it.
pub fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

/// What the record does not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Whether the process answers.
    pub ready: bool,
    /// Why it does not run yet: reason and message.
    pub waiting: Option<(String, String)>,
    /// Whether the pod is being ended.
    pub ending: bool,
    /// Why it cannot run here at all.
    pub refused: Option<String>,
}

/// The status.
pub fn of(record: &PodRecord, pod: &Pod, node_addresses: &[IpAddr], moment: &Moment, at: &str) -> Value {
    let running = record.process.is_some() && record.exit.is_none();
    let phase = match (&record.finished, running || record.restarts > 0) {
        (Some(phase), _) => phase.as_str(),
        (None, true) => "Running",
        (None, false) => "Pending",
    };
    let sandboxed = record.host_network || !record.ips.is_empty();
    let ready = running && moment.ready && !moment.ending;
    let mut status = Map::new();
    status.insert("phase".into(), phase.into());
    status.insert("qosClass".into(), "BestEffort".into());
    status.insert("conditions".into(), conditions(pod, sandboxed, ready, record.finished.as_deref(), at));
    match &moment.refused {
        Some(message) => {
            status.insert("reason".into(), "UnexpectedAdmissionError".into());
            status.insert("message".into(), message.as_str().into());
        }
        None => {
            status.insert("containerStatuses".into(), json!([container(record, pod, running, ready, moment)]));
        }
    }
    if let Some(first) = node_addresses.first() {
        status.insert("hostIP".into(), first.to_string().into());
        status.insert("hostIPs".into(), node_addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect());
    }
    let own: Vec<String> =
        if record.host_network { node_addresses.iter().map(IpAddr::to_string).collect() } else { record.ips.clone() };
    // A finished pod goes on showing the addresses that it had.
    if let Some(first) = own.first() {
        status.insert("podIP".into(), first.clone().into());
        status.insert("podIPs".into(), own.iter().map(|ip| json!({"ip": ip})).collect());
    }
    if pod.status.as_ref().and_then(|status| status.start_time.as_ref()).is_none() {
        status.insert("startTime".into(), at.into());
    }
    Value::Object(status)
}

fn conditions(pod: &Pod, sandboxed: bool, ready: bool, finished: Option<&str>, at: &str) -> Value {
    let over = finished == Some("Succeeded");
    let wanted = [
        ("PodReadyToStartContainers", sandboxed && finished.is_none()),
        ("Initialized", true),
        ("Ready", ready),
        ("ContainersReady", ready),
        ("PodScheduled", true),
    ];
    let old = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let condition = |(kind, met): (&str, bool)| {
        let text = if met { "True" } else { "False" };
        let before = old.iter().find(|old| old.type_ == kind && old.status == text);
        let since = before.and_then(|old| old.last_transition_time.as_ref());
        let since = since.map_or_else(|| at.to_owned(), |time| format!("{:.0}", time.0));
        let mut condition = json!({"type": kind, "status": text, "lastTransitionTime": since});
        if !met && over && kind != "PodReadyToStartContainers" {
            condition["reason"] = "PodCompleted".into();
        }
        condition
    };
    wanted.into_iter().map(condition).collect()
}

fn container(record: &PodRecord, pod: &Pod, running: bool, ready: bool, moment: &Moment) -> Value {
    let spec = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let id = format!("overlane-lab://{}", record.container_id);
    let terminated = record.exit.as_ref().map(|exit| {
        let reason = if exit.code == 0 { "Completed" } else { "Error" };
        json!({"terminated": {
            "exitCode": exit.code, "reason": reason, "finishedAt": exit.at,
            "startedAt": record.started_at, "containerID": id,
        }})
    });
    let waiting = || {
        let (reason, message) = moment.waiting.clone().unwrap_or(("ContainerCreating".into(), String::new()));
        json!({"waiting": {"reason": reason, "message": message}})
    };
    let state = match (&terminated, running) {
        (_, true) => json!({"running": {"startedAt": record.started_at}}),
        (Some(ended), false) if record.finished.is_some() => ended.clone(),
        _ => waiting(),
    };
    let mut status = json!({
        "name": spec.map(|c| c.name.as_str()).unwrap_or_default(),
        "image": spec.and_then(|c| c.image.as_deref()).unwrap_or_default(),
        "imageID": "",
        "ready": ready,
        "started": running,
        "restartCount": record.restarts,
        "state": state,
    });
    if !record.container_id.is_empty() {
        status["containerID"] = id.into();
    }
    status
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a pod shown as running, ready or with an address when it is not.

    use super::super::sandbox::Exit;
    use super::*;
    use crate::process::ProcessId;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}
        }))
        .unwrap()
    }

    fn status(record: &PodRecord, moment: &Moment) -> Value {
        let node = ["10.224.0.4".parse().unwrap(), "fd10:224::4".parse().unwrap()];
        of(record, &pod(), &node, moment, "2026-01-01T00:00:00Z")
    }

    fn ready_of(status: &Value) -> &Value {
        let conditions = status["conditions"].as_array().unwrap();
        &conditions.iter().find(|c| c["type"] == "Ready").unwrap()["status"]
    }

    #[test]
    fn a_pod_goes_from_pending_to_running_to_finished() {
        let mut record = PodRecord::default();
        let waiting = Moment { waiting: Some(("NoAddress".into(), "full".into())), ..Moment::default() };
        let pending = status(&record, &waiting);
        assert_eq!(pending["phase"], "Pending");
        assert_eq!(pending["containerStatuses"][0]["state"]["waiting"]["reason"], "NoAddress");
        assert!(pending.get("podIP").is_none());

        record.ips = vec!["fd00::2".into(), "10.244.0.2".into()];
        record.process = Some(ProcessId { pid: 1, start: 1 });
        let started = status(&record, &Moment::default());
        assert_eq!((&started["phase"], ready_of(&started)), (&json!("Running"), &json!("False")));
        let ready = status(&record, &Moment { ready: true, ..Moment::default() });
        assert_eq!(ready_of(&ready), "True");
        assert_eq!(ready["podIP"], "fd00::2");
        assert_eq!(ready["podIPs"], json!([{"ip": "fd00::2"}, {"ip": "10.244.0.2"}]));
        let ending = status(&record, &Moment { ready: true, ending: true, ..Moment::default() });
        assert_eq!(ready_of(&ending), "False");

        record.process = None;
        record.exit = Some(Exit { code: 3, at: "2026-01-01T00:00:01Z".into() });
        record.finished = Some("Failed".into());
        let failed = status(&record, &Moment { ready: true, ..Moment::default() });
        assert_eq!((&failed["phase"], ready_of(&failed)), (&json!("Failed"), &json!("False")));
        assert_eq!(failed["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    }

    #[test]
    fn a_pod_on_the_host_has_its_node_s_addresses() {
        let record = PodRecord { host_network: true, ..PodRecord::default() };
        let status = status(&record, &Moment::default());
        assert_eq!(status["podIPs"], json!([{"ip": "10.224.0.4"}, {"ip": "fd10:224::4"}]));
    }

    #[test]
    fn times_are_whole_seconds() {
        let text = now();
        assert_eq!(text.len(), "2026-01-01T00:00:00Z".len(), "{text}");
    }
}
