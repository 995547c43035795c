//! The built-in resources: what is served from the start, and the type check of each.

use k8s_openapi::api::{coordination::v1 as lease, core::v1 as core, discovery::v1 as slice, networking::v1 as net};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::de::DeserializeOwned;
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

fn fits<T: DeserializeOwned>(object: &Value) -> Result<(), serde_json::Error> {
    T::deserialize(object).map(drop)
}

/// Refuses what the type of the kind cannot hold, as decoding does in the real server.
///
/// # Errors
/// What does not fit.
pub fn check_type(kind: &str, group: &str, object: &Value) -> Result<(), serde_json::Error> {
    match (group, kind) {
        ("", "ConfigMap") => fits::<core::ConfigMap>(object),
        ("", "Endpoints") => fits::<core::Endpoints>(object),
        ("", "Event") => fits::<core::Event>(object),
        ("", "Namespace") => fits::<core::Namespace>(object),
        ("", "Node") => fits::<core::Node>(object),
        ("", "Pod") => fits::<core::Pod>(object),
        ("", "Secret") => fits::<core::Secret>(object),
        ("", "Service") => fits::<core::Service>(object),
        ("", "ServiceAccount") => fits::<core::ServiceAccount>(object),
        (_, "CustomResourceDefinition") => fits::<CustomResourceDefinition>(object),
        (_, "Lease") => fits::<lease::Lease>(object),
        (_, "EndpointSlice") => fits::<slice::EndpointSlice>(object),
        (_, "NetworkPolicy") => fits::<net::NetworkPolicy>(object),
        (_, "ServiceCIDR") => fits::<net::ServiceCIDR>(object),
        (_, "IPAddress") => fits::<net::IPAddress>(object),
        _ => Ok(()),
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
