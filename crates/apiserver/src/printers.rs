//! Columns of the built-in kinds, as `kubectl get` shows them.

use serde_json::{Value, json};

use crate::meta::{at, text};
use crate::resource::{Column, Resource};
use crate::table::age;

/// Columns by plural name; one with a star is shown only with `-o wide`.
const COLUMNS: [(&str, &str); 15] = [
    ("configmaps", "Name,Data,Age"),
    ("customresourcedefinitions", "Name,Created At"),
    ("endpoints", "Name,Endpoints,Age"),
    ("endpointslices", "Name,AddressType,Ports,Endpoints,Age"),
    ("events", "Last Seen,Type,Reason,Object,Subobject*,Source*,Message,First Seen*,Count*,Name*"),
    ("ipaddresses", "Name,ParentRef,Age"),
    ("leases", "Name,Holder,Age"),
    ("namespaces", "Name,Status,Age"),
    ("networkpolicies", "Name,Pod-Selector,Age"),
    ("nodes", "Name,Status,Roles,Age,Version,Internal-IP*,External-IP*,OS-Image*,Kernel-Version*,Container-Runtime*"),
    ("pods", "Name,Ready,Status,Restarts,Age,IP*,Node*,Nominated Node*,Readiness Gates*"),
    ("secrets", "Name,Type,Data,Age"),
    ("serviceaccounts", "Name,Secrets,Age"),
    ("servicecidrs", "Name,CIDRs,Age"),
    ("services", "Name,Type,Cluster-IP,External-IP,Port(s),Age,Selector*"),
];

/// The columns of a built-in resource.
pub fn columns(_group: &str, plural: &str) -> Vec<Column> {
    let names = COLUMNS.iter().find(|(name, _)| *name == plural).map_or("Name,Age", |(_, names)| names);
    let column = |name: &str| Column {
        name: name.trim_end_matches('*').to_owned(),
        kind: "string".to_owned(),
        priority: i64::from(name.ends_with('*')),
        path: String::new(),
    };
    names.split(',').map(column).collect()
}

/// The cells of one object, one a column.
pub fn cells(resource: &Resource, object: &Value) -> Vec<Value> {
    resource.columns.iter().map(|column| json!(cell(resource, object, &column.name))).collect()
}

fn cell(resource: &Resource, object: &Value, column: &str) -> String {
    match column {
        "Name" => return text(object, &["metadata", "name"]).to_owned(),
        "Age" => return age(text(object, &["metadata", "creationTimestamp"])),
        _ => {}
    }
    let shown = match resource.plural.as_str() {
        "pods" => pod(object, column),
        "nodes" => node(object, column),
        "events" => event(object, column),
        "services" => service(object, column),
        _ => other(object, column),
    };
    if shown.is_empty() { "<none>".to_owned() } else { shown }
}

fn list<'a>(object: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a Value> {
    at(object, path).and_then(Value::as_array).into_iter().flatten()
}

fn joined<'a>(values: impl Iterator<Item = &'a Value>) -> String {
    values.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect::<Vec<_>>().join(",")
}

fn pairs(object: Option<&Value>) -> String {
    let pair = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    object.and_then(Value::as_object).into_iter().flatten().map(pair).collect::<Vec<_>>().join(",")
}

fn pod(pod: &Value, column: &str) -> String {
    let containers = || list(pod, &["status", "containerStatuses"]);
    match column {
        "Ready" => {
            let ready = containers().filter(|container| container["ready"] == true).count();
            format!("{ready}/{}", list(pod, &["spec", "containers"]).count())
        }
        "Status" => pod_status(pod),
        "Restarts" => containers().filter_map(|container| container["restartCount"].as_u64()).sum::<u64>().to_string(),
        "IP" => text(pod, &["status", "podIP"]).to_owned(),
        "Node" => text(pod, &["spec", "nodeName"]).to_owned(),
        _ => String::new(),
    }
}

fn pod_status(pod: &Value) -> String {
    if at(pod, &["metadata", "deletionTimestamp"]).is_some() {
        return "Terminating".to_owned();
    }
    let of_container = list(pod, &["status", "containerStatuses"]).find_map(|container| {
        ["waiting", "terminated"].iter().find_map(|state| container["state"][*state]["reason"].as_str())
    });
    let of_pod = Some(text(pod, &["status", "reason"])).filter(|reason| !reason.is_empty());
    of_container.or(of_pod).unwrap_or_else(|| text(pod, &["status", "phase"])).to_owned()
}

fn node(node: &Value, column: &str) -> String {
    let address = |kind: &str| {
        list(node, &["status", "addresses"])
            .find(|address| address["type"] == kind)
            .map(|found| text(found, &["address"]))
    };
    let info = |field| text(node, &["status", "nodeInfo", field]).to_owned();
    match column {
        "Status" => {
            let ready = list(node, &["status", "conditions"]).find(|condition| condition["type"] == "Ready");
            let status = match ready.map(|condition| text(condition, &["status"])) {
                Some("True") => "Ready",
                Some(_) => "NotReady",
                None => "Unknown",
            };
            let cordoned = at(node, &["spec", "unschedulable"]) == Some(&Value::Bool(true));
            format!("{status}{}", if cordoned { ",SchedulingDisabled" } else { "" })
        }
        "Roles" => {
            let labels = at(node, &["metadata", "labels"]).and_then(Value::as_object);
            let roles =
                labels.into_iter().flatten().filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"));
            roles.collect::<Vec<_>>().join(",")
        }
        "Version" => info("kubeletVersion"),
        "Internal-IP" => address("InternalIP").unwrap_or_default().to_owned(),
        "External-IP" => address("ExternalIP").unwrap_or_default().to_owned(),
        "OS-Image" => info("osImage"),
        "Kernel-Version" => info("kernelVersion"),
        _ => info("containerRuntimeVersion"),
    }
}

fn event(event: &Value, column: &str) -> String {
    let first_of = |paths: &[&[&str]]| {
        paths.iter().map(|path| text(event, path)).find(|found| !found.is_empty()).unwrap_or_default().to_owned()
    };
    match column {
        "Last Seen" => age(&first_of(&[&["series", "lastObservedTime"], &["lastTimestamp"], &["eventTime"]])),
        "First Seen" => age(&first_of(&[&["firstTimestamp"], &["eventTime"]])),
        "Type" => text(event, &["type"]).to_owned(),
        "Reason" => text(event, &["reason"]).to_owned(),
        "Object" => {
            let kind = text(event, &["involvedObject", "kind"]).to_lowercase();
            format!("{kind}/{}", text(event, &["involvedObject", "name"]))
        }
        "Subobject" => text(event, &["involvedObject", "fieldPath"]).to_owned(),
        "Source" => {
            let component = first_of(&[&["source", "component"], &["reportingComponent"]]);
            let host = first_of(&[&["source", "host"], &["reportingInstance"]]);
            if host.is_empty() { component } else { format!("{component}, {host}") }
        }
        "Message" => text(event, &["message"]).trim().to_owned(),
        _ => at(event, &["series", "count"])
            .or_else(|| event.get("count"))
            .map_or_else(|| "1".to_owned(), Value::to_string),
    }
}

fn service(service: &Value, column: &str) -> String {
    match column {
        "Type" => text(service, &["spec", "type"]).to_owned(),
        "Cluster-IP" => text(service, &["spec", "clusterIP"]).to_owned(),
        "External-IP" => {
            let ingress = list(service, &["status", "loadBalancer", "ingress"]).filter_map(|entry| entry.get("ip"));
            joined(ingress.chain(list(service, &["spec", "externalIPs"])))
        }
        "Port(s)" => {
            let port = |port: &Value| {
                let node = port.get("nodePort").map_or_else(String::new, |node| format!(":{node}"));
                format!("{}{node}/{}", port["port"], text(port, &["protocol"]))
            };
            list(service, &["spec", "ports"]).map(port).collect::<Vec<_>>().join(",")
        }
        _ => pairs(at(service, &["spec", "selector"])),
    }
}

fn other(object: &Value, column: &str) -> String {
    match column {
        "Data" => {
            let count = |field| object.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len);
            (count("data") + count("binaryData")).to_string()
        }
        "Created At" => text(object, &["metadata", "creationTimestamp"]).to_owned(),
        "Status" => text(object, &["status", "phase"]).to_owned(),
        "Holder" => text(object, &["spec", "holderIdentity"]).to_owned(),
        "Type" => text(object, &["type"]).to_owned(),
        "Secrets" => list(object, &["secrets"]).count().to_string(),
        "Pod-Selector" => pairs(at(object, &["spec", "podSelector", "matchLabels"])),
        "CIDRs" => joined(list(object, &["spec", "cidrs"])),
        "ParentRef" => {
            let parent = |field| text(object, &["spec", "parentRef", field]);
            format!("{}/{}/{}", parent("resource"), parent("namespace"), parent("name"))
        }
        "AddressType" => text(object, &["addressType"]).to_owned(),
        "Ports" => joined(list(object, &["ports"]).filter_map(|port| port.get("port"))),
        "Endpoints" => {
            let of_slice = list(object, &["endpoints"]).flat_map(|endpoint| list(endpoint, &["addresses"]));
            let of_subset = list(object, &["subsets"]).flat_map(|subset| list(subset, &["addresses"]));
            joined(of_slice.chain(of_subset.filter_map(|address| address.get("ip"))))
        }
        _ => String::new(),
    }
}
