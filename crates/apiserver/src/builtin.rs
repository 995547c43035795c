//! The built-in resources: what is served from the start, and the type check of each.

use k8s_openapi::api::{coordination::v1 as lease, core::v1 as core, discovery::v1 as slice, networking::v1 as net};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

use crate::resource::{Registry, Resource};

const STATUS: u8 = 1;
const GENERATION: u8 = 2;
const CLUSTER: u8 = 4;
const CONDITIONAL: u8 = 8;
const LABEL_NAME: u8 = 16;

/// Group, version, plural, kind, short names, flags, selectable fields.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, u8, &'static str);

const EVENT_FIELDS: &str = "involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid \
    involvedObject.apiVersion involvedObject.resourceVersion involvedObject.fieldPath reason reportingComponent source \
    type";
const POD_FIELDS: &str = "spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork \
    status.phase status.podIP status.nominatedNodeName";

const ROWS: [Row; 16] = [
    ("", "v1", "configmaps", "ConfigMap", "cm", 0, ""),
    ("", "v1", "endpoints", "Endpoints", "ep", 0, ""),
    ("", "v1", "events", "Event", "ev", 0, EVENT_FIELDS),
    ("", "v1", "namespaces", "Namespace", "ns", CLUSTER | STATUS | LABEL_NAME, "status.phase"),
    ("", "v1", "nodes", "Node", "no", CLUSTER | STATUS, "spec.unschedulable"),
    ("", "v1", "pods", "Pod", "po", STATUS | GENERATION, POD_FIELDS),
    ("", "v1", "secrets", "Secret", "", 0, "type"),
    ("", "v1", "serviceaccounts", "ServiceAccount", "sa", 0, ""),
    ("", "v1", "services", "Service", "svc", STATUS | LABEL_NAME, "spec.clusterIP spec.type"),
    (
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        "crd crds",
        CLUSTER | STATUS | GENERATION | CONDITIONAL,
        "",
    ),
    ("coordination.k8s.io", "v1", "leases", "Lease", "", CONDITIONAL, ""),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", "", GENERATION | CONDITIONAL, ""),
    (
        "events.k8s.io",
        "v1",
        "events",
        "Event",
        "ev",
        0,
        "regarding.kind regarding.namespace regarding.name regarding.uid \
        reason reportingController type",
    ),
    ("networking.k8s.io", "v1", "ipaddresses", "IPAddress", "ip", CLUSTER | GENERATION | CONDITIONAL, ""),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", "netpol", GENERATION, ""),
    ("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", "", CLUSTER | STATUS | GENERATION, ""),
];

/// The registry that a new server starts with.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    for row in ROWS {
        registry.add(resource(&row));
    }
    registry
}

fn resource(&(group, version, plural, kind, short, flags, selectable): &Row) -> Resource {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let stored_in = if group == "events.k8s.io" { "" } else { group };
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        short_names: words(short),
        categories: if ["pods", "services"].contains(&plural) { words("all") } else { Vec::new() },
        namespaced: flags & CLUSTER == 0,
        status: flags & STATUS != 0,
        generation: flags & GENERATION != 0,
        unconditional_update: flags & CONDITIONAL == 0,
        name_is_label: flags & LABEL_NAME != 0,
        selectable: words(selectable),
        columns: crate::printers::columns(group, plural),
        schema: None,
        table: (stored_in.to_owned(), plural.to_owned()),
    }
}

fn again<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Option<Value>, serde_json::Error> {
    serde_json::to_value(T::deserialize(object)?).map(Some)
}

/// What the type of the kind holds of an object; `None` for a kind without one.
///
/// # Errors
/// What does not fit, as decoding refuses it in the real server.
pub fn known(kind: &str, group: &str, object: &Value) -> Result<Option<Value>, serde_json::Error> {
    match (group, kind) {
        ("", "ConfigMap") => again::<core::ConfigMap>(object),
        ("", "Endpoints") => again::<core::Endpoints>(object),
        ("", "Event") => again::<core::Event>(object),
        ("", "Namespace") => again::<core::Namespace>(object),
        ("", "Node") => again::<core::Node>(object),
        ("", "Pod") => again::<core::Pod>(object),
        ("", "Secret") => again::<core::Secret>(object),
        ("", "Service") => again::<core::Service>(object),
        ("", "ServiceAccount") => again::<core::ServiceAccount>(object),
        // Schemas have fields beyond those of the type.
        (_, "CustomResourceDefinition") => CustomResourceDefinition::deserialize(object).map(|_| None),
        (_, "Lease") => again::<lease::Lease>(object),
        (_, "EndpointSlice") => again::<slice::EndpointSlice>(object),
        (_, "NetworkPolicy") => again::<net::NetworkPolicy>(object),
        (_, "ServiceCIDR") => again::<net::ServiceCIDR>(object),
        (_, "IPAddress") => again::<net::IPAddress>(object),
        _ => Ok(None),
    }
}

/// Drops what is not in `known`, and notes where it was.
pub fn drop_unknown(object: &mut Value, known: &Value, path: &str, dropped: &mut Vec<String>) {
    match (object, known) {
        (Value::Object(fields), Value::Object(known)) => {
            let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            fields.retain(|name, _| {
                let is_known = known.contains_key(name);
                if !is_known {
                    dropped.push(join(name));
                }
                is_known
            });
            for (name, value) in fields {
                if let Some(known) = known.get(name) {
                    drop_unknown(value, known, &join(name), dropped);
                }
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            for (index, (item, known)) in items.iter_mut().zip(known).enumerate() {
                drop_unknown(item, known, &format!("{path}[{index}]"), dropped);
            }
        }
        _ => {}
    }
}

/// Drops `null` wherever it stands: to the types of the built-in kinds it means the same as absence.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
