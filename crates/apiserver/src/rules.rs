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
        "Pod" => {
            pod_defaults(object);
            if creating {
                pod_admission(object);
            }
        }
        "Node" => node_defaults(object),
        "Service" => service_defaults(object),
        "Secret" => secret_defaults(object),
        "NetworkPolicy" => policy_defaults(object),
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
        containers.into_iter().flatten().for_each(container_defaults);
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

/// What the admission plugins that run unless switched off add: Priority and DefaultTolerationSeconds.
fn pod_admission(pod: &mut Value) {
    let class = quality(pod);
    object_at(pod, "status").entry("qosClass").or_insert(json!(class));
    let spec = object_at(pod, "spec");
    spec.entry("priority").or_insert(json!(0));
    spec.entry("preemptionPolicy").or_insert(json!("PreemptLowerPriority"));
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |toleration: &Value| {
            let of_key = toleration.get("key").is_none_or(|found| found == "" || found == key);
            of_key && toleration.get("effect").is_none_or(|effect| effect == "" || effect == "NoExecute")
        };
        if let Some(list) = tolerations.as_array_mut()
            && !list.iter().any(covers)
        {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}

/// The quality-of-service class: by what the containers ask for of CPU and memory, and what they are held to.
fn quality(pod: &Value) -> &'static str {
    let lists = ["containers", "initContainers"].map(|list| at(pod, &["spec", list]).and_then(Value::as_array));
    let amounts = |container: &Value, kind: &str| -> Vec<Option<Value>> {
        ["cpu", "memory"].map(|name| at(container, &["resources", kind, name]).cloned()).into()
    };
    let (mut nothing, mut all) = (true, true);
    for container in lists.into_iter().flatten().flatten() {
        let (asked, held) = (amounts(container, "requests"), amounts(container, "limits"));
        nothing &= asked.iter().chain(&held).all(Option::is_none);
        // What is held to a limit and asks for nothing asks for the limit.
        let same = asked.iter().zip(&held).all(|(asked, held)| held.is_some() && (asked.is_none() || asked == held));
        all &= same;
    }
    match (nothing, all) {
        (true, _) => "BestEffort",
        (false, true) => "Guaranteed",
        (false, false) => "Burstable",
    }
}

fn container_defaults(container: &mut Value) {
    let image = text(container, &["image"]);
    let tag = image.rsplit('/').next().unwrap_or_default().split_once(':').map(|(_, tag)| tag);
    let always = !image.contains('@') && tag.is_none_or(|tag| tag == "latest");
    let policy = if always { "Always" } else { "IfNotPresent" };
    let Some(container) = container.as_object_mut() else { return };
    for (field, value) in [
        ("imagePullPolicy", json!(policy)),
        ("resources", json!({})),
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
    ] {
        container.entry(field).or_insert(value);
    }
    if let Some(ports) = container.get_mut("ports") {
        set_protocol(ports);
    }
}

/// The API server's defaults of a NetworkPolicy (`pkg/apis/networking/v1/defaults.go` of Kubernetes).
fn policy_defaults(policy: &mut Value) {
    let spec = object_at(policy, "spec");
    for list in ["ingress", "egress"] {
        for rule in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            rule.get_mut("ports").into_iter().for_each(set_protocol);
        }
    }
    let sends = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    let types = if sends { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("policyTypes".to_owned(), types);
    }
    spec.entry("podSelector").or_insert_with(|| json!({}));
}

/// `stringData` is written only, into `data`.
fn secret_defaults(secret: &mut Value) {
    let Some(secret) = secret.as_object_mut() else { return };
    secret.entry("type").or_insert_with(|| json!("Opaque"));
    if let Some(Value::Object(plain)) = secret.remove("stringData") {
        let data = secret.entry("data").or_insert_with(|| json!({}));
        for (key, value) in plain {
            data[key] = crate::protobuf::base64(value.as_str().unwrap_or_default().as_bytes()).into();
        }
    }
}

fn node_defaults(node: &mut Value) {
    let spec = object_at(node, "spec");
    let first = spec.get("podCIDRs").and_then(|list| list.get(0)).cloned();
    // As with podIP: the single one wins.
    match (spec.get("podCIDR").cloned(), first) {
        (Some(cidr), first) if first.as_ref() != Some(&cidr) => {
            spec.insert("podCIDRs".to_owned(), json!([cidr]));
        }
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
        "ConfigMap" => check_keys(object, &mut causes),
        "Lease" => check_lease(object, &mut causes),
        "Service" => check_service(object, &mut causes),
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

fn check_keys(map: &Value, causes: &mut Vec<Cause>) {
    let is_key = |key: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !key.is_empty() && key.len() <= 253 && key.chars().all(good)
    };
    for field in ["data", "binaryData"] {
        for key in map.get(field).and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key) {
            if !is_key(key) {
                let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  \
                    or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
                causes.push(Cause::invalid(&format!("{field}[{key}]"), &key.as_str().into(), why));
            }
        }
    }
}

fn check_lease(lease: &Value, causes: &mut Vec<Cause>) {
    if let Some(seconds) = at(lease, &["spec", "leaseDurationSeconds"])
        && seconds.as_i64().is_some_and(|seconds| seconds <= 0)
    {
        causes.push(Cause::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"));
    }
}

fn check_service(service: &Value, causes: &mut Vec<Cause>) {
    let has_ports = at(service, &["spec", "ports"]).and_then(Value::as_array).is_some_and(|ports| !ports.is_empty());
    let needs_none =
        text(service, &["spec", "type"]) == "ExternalName" || text(service, &["spec", "clusterIP"]) == "None";
    if !has_ports && !needs_none {
        causes.push(Cause::required("spec.ports"));
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
    check_pod_ips(pod, causes);
    if old.is_some_and(|old| lasting(old) != lasting(pod)) {
        // A node is given by a binding.
        let why = "pod updates may not change fields other than `spec.containers[*].image`,\
            `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
            tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        causes.push(Cause::forbidden("spec", why));
    }
}

fn check_pod_ips(pod: &Value, causes: &mut Vec<Cause>) {
    let list = at(pod, &["status", "podIPs"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut of_family = [0, 0];
    for (index, ip) in list.iter().map(|entry| text(entry, &["ip"])).enumerate() {
        match ip.parse::<std::net::IpAddr>() {
            Ok(address) => of_family[usize::from(address.is_ipv6())] += 1,
            Err(_) => {
                let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                causes.push(Cause::invalid(&format!("status.podIPs[{index}]"), &ip.into(), why));
            }
        }
    }
    if of_family.iter().any(|count| *count > 1) {
        let why = "may specify no more than one IP for each IP family";
        causes.push(Cause::invalid("status.podIPs", &json!(list), why));
    }
}

/// What of a pod's specification stays as it was created.
fn lasting(pod: &Value) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or_default();
    if let Some(spec) = spec.as_object_mut() {
        for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
            spec.remove(field);
        }
        for lists in ["containers", "initContainers"] {
            let containers = spec.get_mut(lists).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
                container.remove("image");
            }
        }
    }
    spec
}

fn check_node(node: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let cidrs = |node| at(node, &["spec", "podCIDRs"]).and_then(Value::as_array).filter(|list| !list.is_empty());
    for (index, cidr) in cidrs(node).into_iter().flatten().enumerate() {
        if !cidr.as_str().is_some_and(is_cidr) {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(&format!("spec.podCIDRs[{index}]"), cidr, why));
        }
    }
    if let Some(list) = cidrs(node) {
        let of_v6 = list.iter().filter(|cidr| cidr.as_str().is_some_and(|cidr| cidr.contains(':'))).count();
        if of_v6 > 1 || list.len() - of_v6 > 1 {
            let why = "may specify no more than one CIDR for each IP family";
            causes.push(Cause::invalid("spec.podCIDRs", &json!(list), why));
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
