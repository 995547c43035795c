//! The egress gateways, as their statuses tell them.

use anyhow::Result;
use kube::{Api, Client, ResourceExt as _};
use overlane_api::crd::EgressGateway;
use serde::Serialize;

use super::cluster::ours;
use crate::out::{Style, Table, cell, paint};

/// How many nodes of a gateway a row names.
const NAMED: usize = 4;

/// An egress gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Its name.
    pub name: String,
    /// The addresses that are asked for.
    #[serde(rename = "egressIPs")]
    pub egress_ips: Vec<String>,
    /// Nodes that may be it.
    pub nodes: Vec<String>,
    /// The `Ready` condition's status, its reason and message.
    pub ready: bool,
    /// Why.
    pub reason: String,
    /// What it says.
    pub message: String,
}

/// All of them, by name; none where the cluster does not know the kind.
pub async fn read(client: &Client) -> Result<Vec<GatewayStatus>> {
    let found = ours::<EgressGateway>(Api::all(client.clone()), "EgressGateways").await?;
    let mut gateways: Vec<GatewayStatus> = found.into_iter().map(of).collect();
    gateways.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(gateways)
}

fn of(gateway: EgressGateway) -> GatewayStatus {
    let name = gateway.name_any();
    let status = gateway.status.unwrap_or_default();
    let current = Some(status.observed_generation) == gateway.metadata.generation;
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").filter(|_| current);
    let (reason, message) = ready.map_or_else(
        || ("NotJudged".to_owned(), "no controller has judged it yet".to_owned()),
        |ready| (ready.reason.clone(), ready.message.clone()),
    );
    GatewayStatus {
        name,
        egress_ips: gateway.spec.egress_ips,
        nodes: status.nodes,
        ready: ready.is_some_and(|ready| ready.status == "True"),
        reason,
        message,
    }
}

/// A table, and below it what those have to say that are not ready; nothing where there are none.
pub fn render(gateways: &[GatewayStatus], colours: bool) -> String {
    if gateways.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["GATEWAY", "READY", "EGRESS IPS", "NODES"]);
    for gateway in gateways {
        let ready = if gateway.ready { (Style::Good, "yes".to_owned()) } else { (Style::Bad, gateway.reason.clone()) };
        table.row([cell(&gateway.name), ready, cell(gateway.egress_ips.join(" ")), cell(nodes(&gateway.nodes))]);
    }
    let mut text = format!("\n{}", table.render(0, colours));
    for gateway in gateways.iter().filter(|gateway| !gateway.ready) {
        text.push_str(&format!("\n{}: {}\n", paint(Style::Bad, &gateway.name, colours), gateway.message));
    }
    text
}

fn nodes(nodes: &[String]) -> String {
    match nodes.split_at_checked(NAMED) {
        None | Some((_, [])) if nodes.is_empty() => "-".to_owned(),
        None | Some((_, [])) => nodes.join(" "),
        Some((first, rest)) => format!("{} and {} more", first.join(" "), rest.len()),
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a gateway that is called ready on the word of an older spec's condition.
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn gateway(generation: i64, observed: i64, status: &str, reason: &str) -> EgressGateway {
        serde_json::from_value(json!({
            "apiVersion": "overlane.io/v1alpha1", "kind": "EgressGateway",
            "metadata": { "name": "out", "generation": generation },
            "spec": { "egressIPs": ["10.224.0.200", "fd10:224::200"] },
            "status": {
                "observedGeneration": observed, "nodes": ["n1", "n2", "n3", "n4", "n5"],
                "conditions": [{
                    "type": "Ready", "status": status, "reason": reason, "message": "because",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(render(&[], false), "");
        let good = of(gateway(2, 2, "True", "InForce"));
        let text = render(std::slice::from_ref(&good), false);
        for wanted in ["out", "yes", "10.224.0.200 fd10:224::200", "n4 and 1 more"] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
        assert!(good.ready && !text.contains("because"), "{text}");
        let old = of(gateway(3, 2, "True", "InForce"));
        assert!(!old.ready && render(&[old], false).contains("no controller has judged it yet"));
        let bad = render(&[of(gateway(2, 2, "False", "NoNodes"))], false);
        assert!(bad.contains("NoNodes") && bad.contains("out: because"), "{bad}");
        assert_eq!((nodes(&[]), nodes(&["a".to_owned()])), ("-".to_owned(), "a".to_owned()));
    }
}
