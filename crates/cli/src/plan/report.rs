//! A plan as JSON. Fields are only ever added.

use overlane_core::sizing::{Expansion, Model, NodeSpace, PodSpace, Sizing, Taken};
use serde_json::{Value, json};

use super::{Plan, page};
use crate::validate::Found;

/// The plan.
pub fn of(plan: &Plan) -> Value {
    let Plan { wish, sizing, .. } = plan;
    let Sizing { spec, around, nodes, pods, services, subnets, snat, model, routing, findings, .. } = sizing;
    json!({
        "valid": findings.is_empty(),
        "findings": findings.iter().map(Found::from).collect::<Vec<_>>(),
        "months": wish.months,
        "maxSurge": wish.surge,
        "nodes": { "now": nodes.0, "then": nodes.1 },
        "maxPods": spec.max_pods,
        "model": { "choice": if model.choice == Model::Overlay { "overlay" } else { "flat" }, "because": model.because },
        "routing": { "choice": page::routing(routing.choice), "because": routing.because },
        "pods": pods.iter().map(pod_space).collect::<Vec<_>>(),
        "services": services.iter().map(|(cidr, proposed)| json!({ "cidr": cidr.to_string(), "proposed": proposed })).collect::<Vec<_>>(),
        "dnsServiceIPs": around.dns_service_ips,
        "subnets": subnets.iter().map(node_space).collect::<Vec<_>>(),
        "snat": snat.map(|snat| json!({ "flows": snat.flows, "ports": snat.ports })),
        "install": page::command(plan),
    })
}

fn pod_space(space: &PodSpace) -> Value {
    json!({
        "cidr": space.cidr.to_string(), "proposed": space.proposed, "nodeMask": space.node_mask, "nodes": space.blocks,
        "pods": space.pods, "runsOut": space.runs_out, "expansions": space.expansions.iter().map(expansion).collect::<Vec<_>>(),
    })
}

fn expansion(expansion: &Expansion) -> Value {
    let taken = |taken: &Taken| json!({ "cidr": taken.cidr.to_string(), "what": taken.what });
    json!({
        "cidr": expansion.cidr.to_string(), "nodes": expansion.blocks, "runsOut": expansion.runs_out,
        "inTheWay": expansion.in_the_way.iter().map(taken).collect::<Vec<_>>(),
    })
}

fn node_space(space: &NodeSpace) -> Value {
    json!({
        "family": space.family.to_string(), "nodes": space.room, "runsOut": space.runs_out, "prefixLength": space.prefix_len,
        "place": space.place.map(|cidr| cidr.to_string()),
    })
}
