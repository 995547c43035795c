//! What is printed of a lab: status, pods, kubeconfig, check, requests.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use overlane_lab::check::{self, report};
use overlane_lab::client::LabClient;
use overlane_lab::daemon::control::{Answer, Command};
use overlane_lab::status::{self, LabStatus, PodStatus};
use serde_json::json;

use crate::args::PodsArgs;
use crate::out::{self, Format, Style, Table, cell};
use crate::progress::Progress;

/// Failures of a check that a table lists; JSON has them all.
const LISTED: usize = 20;

/// `lab status`: 1 if a node is not ready.
pub async fn status(lab: &LabClient, format: Format) -> Result<ExitCode> {
    let status = status::of(lab).await?;
    match format {
        Format::Json => out::json(&status)?,
        Format::Table => out::print(&render_status(&status, out::colours()))?,
    }
    Ok(if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn good(is: bool, yes: &str, no: &str) -> (Style, String) {
    if is { (Style::Good, yes.to_owned()) } else { (Style::Bad, no.to_owned()) }
}

/// A lab as text.
pub fn render_status(status: &LabStatus, colours: bool) -> String {
    let mut head = Table::bare();
    head.row([(Style::Bold, "lab".to_owned()), cell(format!("{} in VNet {}", status.name, status.vnet))]);
    head.row([
        (Style::Bold, "pods".to_owned()),
        cell(format!("{} ({})", status.pod_cidrs.join(" "), status.families.join(", "))),
    ]);
    let api = if status.api_up { status.api.clone() } else { format!("{} (taken away)", status.api) };
    head.row([(Style::Bold, "API".to_owned()), cell(api)]);
    for program in status.programs.iter().filter(|program| !program.program.starts_with("agent-")) {
        let runs = program.process.is_some_and(|process| process.alive());
        head.row([
            (Style::Bold, program.program.clone()),
            good(runs, "running", program.last_end.as_deref().unwrap_or("down")),
        ]);
    }
    let mut nodes = Table::new(&["NODE", "READY", "ADDRESSES", "BLOCKS", "PODS", "AGENT"]);
    for node in &status.nodes {
        let agent =
            if node.restarts > 0 { format!("running, restarted {}", node.restarts) } else { "running".to_owned() };
        nodes.row([
            cell(&node.name),
            good(node.ready, "yes", &format!("no: {}", node.message)),
            cell(node.addresses.join(" ")),
            cell(if node.blocks.is_empty() { "none".to_owned() } else { node.blocks.join(" ") }),
            cell(node.pods.to_string()),
            good(node.agent, &agent, "down"),
        ]);
    }
    format!("{}\n{}", head.render(0, colours), nodes.render(0, colours))
}

/// `lab pods`.
pub async fn pods(lab: &LabClient, args: &PodsArgs) -> Result<()> {
    let mut pods = status::pods(&lab.kube()?).await?;
    if let Some(namespace) = &args.namespace {
        pods.retain(|pod| pod.namespace == *namespace);
    }
    match args.output.output {
        Format::Json => out::json(&pods),
        Format::Table if pods.is_empty() => {
            out::print(&format!("no pods; `overlane lab run web --name {}` starts one\n", lab.name))
        }
        Format::Table => out::print(&render_pods(&pods).render(0, out::colours())),
    }
}

fn render_pods(pods: &[PodStatus]) -> Table {
    let mut table = Table::new(&["NAMESPACE", "POD", "NODE", "STATUS", "ADDRESSES"]);
    for pod in pods {
        let phase = if pod.message.is_empty() { pod.phase.clone() } else { format!("{}: {}", pod.phase, pod.message) };
        let well = pod.ready || pod.phase == "Succeeded";
        table.row([
            cell(&pod.namespace),
            cell(&pod.name),
            cell(if pod.node.is_empty() { "none" } else { &pod.node }),
            good(well, &phase, &phase),
            cell(pod.ips.join(" ")),
        ]);
    }
    table
}

/// `lab kubeconfig`. YAML, or JSON, which is YAML too.
pub fn kubeconfig(lab: &LabClient, format: Format) -> Result<()> {
    let path = lab.paths.kubeconfig();
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    match format {
        Format::Table => out::print(&text),
        Format::Json => out::json(&serde_norway::from_str::<serde_json::Value>(&text)?),
    }
}

/// `lab check`: 1 if anything is not as it has to be.
pub async fn check(lab: &LabClient, format: Format) -> Result<ExitCode> {
    let progress = Arc::new(Progress::new());
    let shown = progress.clone();
    let told: check::Told = Arc::new(move |what, done, total| shown.count(what, done, total));
    let run = async {
        tokio::select! {
            report = check::run(lab, told) => report,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; the next check takes this one's pods away")),
        }
    };
    let report = run.await;
    progress.clear();
    let report = report?;
    match format {
        Format::Json => out::json(&report)?,
        Format::Table => out::print(&render_check(&report, out::colours()))?,
    }
    Ok(if report.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A check as a table, and its failures.
pub fn render_check(report: &report::Report, colours: bool) -> String {
    // A column for each way that something was asked in.
    let is_asked = |kind: &&str| report.rows.iter().any(|row| row.counts.contains_key(kind));
    let kinds: Vec<&str> = report::kinds().into_iter().filter(is_asked).collect();
    let mut headings = vec!["FROM, TO", "FAMILY"];
    headings.extend(&kinds);
    let mut table = Table::new(&headings);
    for row in &report.rows {
        let mut cells = vec![cell(row.way), cell(&row.family)];
        cells.extend(kinds.iter().map(|kind| match row.counts.get(kind) {
            None => (Style::Dim, "-".to_owned()),
            Some(count) => good(
                count.good == count.asked,
                &format!("{}/{}", count.good, count.asked),
                &format!("{}/{}", count.good, count.asked),
            ),
        }));
        table.row(cells);
    }
    let mut text = table.render(0, colours);
    if report.failures.is_empty() {
        text.push_str(&out::paint(Style::Good, &format!("\nall {} as they have to be\n", report.asked), colours));
        return text;
    }
    text.push_str(&out::paint(Style::Bad, &format!("\n{} of {} not so\n", report.failed, report.asked), colours));
    for failure in report.failures.iter().take(LISTED) {
        let (family, kind) = (&failure.family, failure.kind);
        text.push_str(&format!(
            "  {}: {family} {kind}, {} to {}: {}\n",
            failure.way, failure.from, failure.to, failure.what
        ));
    }
    if report.failures.len() > LISTED {
        text.push_str(&format!("  and {} more; -o json lists them all\n", report.failures.len() - LISTED));
    }
    text
}

/// `lab api requests`.
pub async fn requests(lab: &LabClient, format: Format) -> Result<()> {
    let requests = match lab.ask(&Command::Requests).await? {
        Answer::Requests(requests) => requests,
        other => bail!("the lab's daemon answered {other:?}"),
    };
    if format == Format::Json {
        let rows: Vec<_> = requests
            .iter()
            .map(|(verb, resource, count)| json!({"verb": verb, "resource": resource, "count": count}))
            .collect();
        return out::json(&rows);
    }
    let mut table = Table::new(&["VERB", "RESOURCE", "COUNT"]);
    for (verb, resource, count) in requests {
        table.row([cell(verb), cell(resource), cell(count.to_string())]);
    }
    out::print(&table.render(0, out::colours()))
}
