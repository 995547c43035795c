//! What the built-in kinds fill in by themselves, and the rules of each that clients of the lab run into.

use serde_json::{Value, json};

use crate::failure::Cause;
use crate::meta::{at, object_at, text};
use crate::resource::Resource;

/// Fills in what the real server fills in, as far as clients of the lab look at it.
pub fn set_defaults(resource: &Resource, object: &mut Value, creating: bool) {
    match resource.kind.as_str() {
        "Namespace" if creating => {
            object_at(object, "spec").entry("finalizers").or_insert_with(|| json!(["kubernetes"]));
            object_at(object, "status").insert("phase".to_owned(), json!("Active"));
            let name = text(object, &["metadata", "name"]).to_owned();
            if let Some(labels) =
                crate::meta::metadata(object).entry("labels").or_insert_with(|| json!({})).as_object_mut()
            {
                labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
            }
        }
        "Pod" => pod_defaults(object),
        "Node" => node_defaults(object),
        "Service" => service_defaults(object),
        "Secret" => {
            if let Some(secret) = object.as_object_mut() {
                secret.entry("type").or_insert_with(|| json!("Opaque"));
            }
        }
        _ => {}
    }
}

fn pod_defaults(pod: &mut Value) {
    let spec = object_at(pod, "spec");
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("enableServiceLinks", json!(true)),
        ("securityContext", json!({})),
    ] {
        spec.entry(field).or_insert(value);
    }
    for lists in ["containers", "initContainers"] {
        let containers = spec.get_mut(lists).and_then(Value::as_array_mut);
        for ports in containers.into_iter().flatten().filter_map(|container| container.get_mut("ports")) {
            set_protocol(ports);
        }
    }
    let status = object_at(pod, "status");
    status.entry("phase").or_insert_with(|| json!("Pending"));
    // podIP is the first of podIPs; whoever writes one of the two means both, and podIP wins.
    let first = status.get("podIPs").and_then(|list| list.get(0)?.get("ip")).cloned();
    match (status.get("podIP").cloned(), first) {
        (Some(ip), first) if first.as_ref() != Some(&ip) => {
            status.insert("podIPs".to_owned(), json!([{"ip": ip}]));
        }
        (None, Some(ip)) => drop(status.insert("podIP".to_owned(), ip)),
        _ => {}
    }
}

fn node_defaults(node: &mut Value) {
    let spec = object_at(node, "spec");
    let first = spec.get("podCIDRs").and_then(|list| list.get(0)).cloned();
    match (spec.get("podCIDR").cloned(), first) {
        (Some(cidr), None) => drop(spec.insert("podCIDRs".to_owned(), json!([cidr]))),
        (None, Some(cidr)) => drop(spec.insert("podCIDR".to_owned(), cidr)),
        _ => {}
    }
}

fn service_defaults(service: &mut Value) {
    let spec = object_at(service, "spec");
    spec.entry("type").or_insert_with(|| json!("ClusterIP"));
    spec.entry("sessionAffinity").or_insert_with(|| json!("None"));
    let Some(ports) = spec.get_mut("ports") else {
        return;
    };
    set_protocol(ports);
    for port in ports.as_array_mut().into_iter().flatten() {
        if let Some(number) = port.get("port").cloned()
            && let Some(port) = port.as_object_mut()
        {
            port.entry("targetPort").or_insert(number);
        }
    }
}

fn set_protocol(ports: &mut Value) {
    for port in ports.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        port.entry("protocol").or_insert_with(|| json!("TCP"));
    }
}

/// Rules of one kind that clients of the lab run into. `old` is absent for a create.
pub fn check_rules(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    match resource.kind.as_str() {
        "Pod" => check_pod(object, old, &mut causes),
        "Node" => check_node(object, old, &mut causes),
        "Event" => check_event(resource, object, &mut causes),
        _ => {}
    }
    causes
}

fn check_event(resource: &Resource, event: &Value, causes: &mut Vec<Cause>) {
    let own = text(event, &["metadata", "namespace"]);
    let involved = text(event, &["involvedObject", "namespace"]);
    // What happens to cluster-scoped objects is told in one of these two.
    let of_cluster = involved.is_empty() && ["default", "kube-system"].contains(&own);
    if own != involved && !of_cluster {
        let why = "does not match event.namespace";
        causes.push(Cause::invalid("involvedObject.namespace", &involved.into(), why));
    }
    if resource.is_event_alias() {
        for (field, shown) in [
            ("eventTime", "eventTime"),
            ("reportingComponent", "reportingController"),
            ("reportingInstance", "reportingInstance"),
            ("action", "action"),
            ("reason", "reason"),
        ] {
            if text(event, &[field]).is_empty() {
                causes.push(Cause::required(shown));
            }
        }
        let kind = event.get("type").cloned().unwrap_or_default();
        let allowed = [json!("Normal"), json!("Warning")];
        if !allowed.contains(&kind) {
            causes.push(Cause::not_supported("type", &kind, &allowed));
        }
    }
}

fn check_pod(pod: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let containers = at(pod, &["spec", "containers"]).and_then(Value::as_array);
    if containers.is_none_or(Vec::is_empty) {
        causes.push(Cause::required("spec.containers"));
    }
    for (index, container) in containers.into_iter().flatten().enumerate() {
        for field in ["name", "image"] {
            if text(container, &[field]).is_empty() {
                causes.push(Cause::required(&format!("spec.containers[{index}].{field}")));
            }
        }
    }
    let assigned = old.map_or("", |old| text(old, &["spec", "nodeName"]));
    if !assigned.is_empty() && assigned != text(pod, &["spec", "nodeName"]) {
        causes.push(Cause::forbidden("spec.nodeName", "pod is already assigned to a node"));
    }
}

fn check_node(node: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let cidrs = |node| at(node, &["spec", "podCIDRs"]).and_then(Value::as_array).filter(|list| !list.is_empty());
    for (index, cidr) in cidrs(node).into_iter().flatten().enumerate() {
        if !cidr.as_str().is_some_and(is_cidr) {
            causes.push(Cause::invalid(&format!("spec.podCIDRs[{index}]"), cidr, "must be a valid CIDR value"));
        }
    }
    if let Some(list) = cidrs(node) {
        let of_v6 = list.iter().filter(|cidr| cidr.as_str().is_some_and(|cidr| cidr.contains(':'))).count();
        if of_v6 > 1 || list.len() - of_v6 > 1 {
            let why = "may specify no more than one CIDR for each IP family";
            causes.push(Cause::invalid("spec.podCIDRs", &json!(list), why));
        }
        let single = text(node, &["spec", "podCIDR"]);
        if list.first().and_then(Value::as_str) != Some(single) {
            causes.push(Cause::invalid("spec.podCIDR", &single.into(), "must be the first of podCIDRs"));
        }
    }
    let Some(old) = old else { return };
    if cidrs(old).is_some() && cidrs(old) != cidrs(node) {
        let why = "node updates may not change podCIDR except from \"\" to valid";
        causes.push(Cause::forbidden("spec.podCIDRs", why));
    }
    let provider = text(old, &["spec", "providerID"]);
    if !provider.is_empty() && provider != text(node, &["spec", "providerID"]) {
        let why = "node updates may not change providerID except from \"\" to valid";
        causes.push(Cause::forbidden("spec.providerID", why));
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let bits = match address.parse::<std::net::IpAddr>() {
        Ok(address) if address.is_ipv4() => 32,
        Ok(_) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= bits)
}
