//! `overlane policy diff`: between which pods another set of policies changes something.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Result, bail};
use overlane_api::policy::Objects;
use overlane_core::policy::portset::PortSet;
use overlane_core::policy::{Endpoint, Judge, diff};
use serde::Serialize;

use super::{flows, manifests};
use crate::args::PolicyDiffArgs;
use crate::out::{self, Format, Style, Table, cell};

/// Rows that people are shown.
const SHOWN: usize = 100;

/// A pair of pods between which something changes.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    from: String,
    to: String,
    from_address: IpAddr,
    to_address: IpAddr,
    /// What is allowed now and was not, such as `80/tcp`; `other` stands for what has no ports.
    opened: Vec<String>,
    /// What was allowed and is not any more.
    closed: Vec<String>,
}

/// Runs the command.
pub fn run(args: &PolicyDiffArgs) -> Result<ExitCode> {
    let [old, new] = &args.files[..] else { bail!("give two: -f OLD -f NEW") };
    let (old, new) = (manifests::parse(std::slice::from_ref(old))?, manifests::parse(std::slice::from_ref(new))?);
    if let Some(path) = &args.flows {
        return flows::run(old, new, path, args.output.output);
    }
    let changes = changes(old, new);
    match args.output.output {
        Format::Json => out::json(&serde_json::json!({ "changes": changes }))?,
        Format::Table => print(&changes)?,
    }
    Ok(if changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Pods are those that both have, or either alone where the other has none: with policies alone on one side, the pods of the
/// other count.
fn changes(mut old: Objects, mut new: Objects) -> Vec<Change> {
    lend(&mut old, &new);
    lend(&mut new, &old);
    let name = |pod: &k8s_openapi::api::core::v1::Pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
    let common: Vec<_> = old.pods.iter().map(name).filter(|one| new.pods.iter().any(|pod| name(pod) == *one)).collect();
    for objects in [&mut old, &mut new] {
        // In one order, so that who has no address gets the same one in both.
        objects.pods.retain(|pod| common.contains(&name(pod)));
        objects.pods.sort_by_key(&name);
        manifests::complete(objects);
    }
    let (before, after) = (old.understand(), new.understand());
    let mut pods: BTreeMap<&Endpoint, Vec<IpAddr>> = BTreeMap::new();
    for (address, endpoint) in &after.endpoints {
        pods.entry(endpoint).or_default().push(*address);
    }
    let names: BTreeMap<IpAddr, &Endpoint> = after.endpoints.iter().map(|(address, pod)| (*address, pod)).collect();
    let addresses: Vec<Vec<IpAddr>> = pods.into_values().collect();
    let word =
        |address: &IpAddr| names.get(address).map_or_else(String::new, |pod| format!("{}/{}", pod.namespace, pod.name));
    let [old, new] = [&before, &after].map(|of| Judge::new(&of.world, &of.endpoints, &of.policies));
    let flips = diff(old.plan(), new.plan(), &addresses);
    let change = |flip: overlane_core::policy::Flip| Change {
        from: word(&flip.from),
        to: word(&flip.to),
        from_address: flip.from,
        to_address: flip.to,
        opened: ports(&flip.opened),
        closed: ports(&flip.closed),
    };
    flips.into_iter().map(change).collect()
}

/// Who has no pods has the other's.
pub(super) fn lend(to: &mut Objects, from: &Objects) {
    if to.pods.is_empty() {
        (to.pods, to.namespaces, to.nodes) = (from.pods.clone(), from.namespaces.clone(), from.nodes.clone());
    }
}

fn ports(set: &PortSet) -> Vec<String> {
    let rest = set.has_rest().then(|| "other".to_owned());
    if *set == PortSet::all() {
        return vec!["everything".to_owned()];
    }
    set.ports().map(|range| range.to_string()).chain(rest).collect()
}

fn print(changes: &[Change]) -> Result<()> {
    let colours = out::colours();
    if changes.is_empty() {
        return out::print("nothing changes between pods\n");
    }
    let mut table = Table::new(&["FROM", "TO", "OPENED", "CLOSED"]);
    for change in changes.iter().take(SHOWN) {
        let family = if change.from_address.is_ipv4() { "" } else { " (IPv6)" };
        table.row([
            cell(&change.from),
            cell(format!("{}{family}", change.to)),
            (Style::Good, change.opened.join(", ")),
            (Style::Bad, change.closed.join(", ")),
        ]);
    }
    let mut text = table.render(0, colours);
    if changes.len() > SHOWN {
        text += &format!("and {} more: -o json has them\n", changes.len() - SHOWN);
    }
    out::print(&text)
}

#[cfg(test)]
mod tests {
    //! Must catch: a pair that changes in one direction said to change in both.

    use super::*;
    use crate::policy::manifests::tests::{PODS, parsed as parse};

    const POLICY: &str = "
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{ports: [{port: 5432}]}]
";

    #[test]
    fn what_changes_and_nothing_else() {
        let (open, closed) = (parse(PODS), parse(&format!("{PODS}{POLICY}")));
        let told = changes(open.clone(), closed.clone());
        let one =
            |change: &Change| (change.from.clone(), change.to.clone(), change.opened.clone(), change.closed.clone());
        let lost = vec!["0-5431/tcp".to_owned(), "5433-65535/tcp".into(), "udp".into(), "sctp".into(), "other".into()];
        let want = ("shop/web".to_owned(), "shop/db".to_owned(), vec![], lost.clone());
        assert_eq!(told.iter().map(one).collect::<Vec<_>>(), [want.clone(), want.clone()], "one a family");
        let back = changes(closed.clone(), open);
        assert_eq!((back[0].opened.clone(), back[0].closed.is_empty()), (lost, true));
        assert_eq!(changes(closed.clone(), closed.clone()), []);
        // Policies alone: the pods are the other's.
        assert_eq!(changes(parse(PODS), parse(POLICY)).iter().map(one).collect::<Vec<_>>(), [want.clone(), want]);
    }
}
