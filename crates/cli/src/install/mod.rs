//! `overlane install`: what the chart installs, applied on the server, and waited for.

mod flags;
mod places;
mod remembered;
mod wait;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Client, ResourceExt};
use overlane_core::cluster::ClusterPlan;
use overlane_core::family::Family;
use overlane_install::values::Values;
use serde_json::Value;

use crate::args::{InstallArgs, Printed};
use crate::cluster::facts::Facts;
use crate::cluster::others::{self, Offer};
use crate::cluster::{self, objects};
use crate::out;
use crate::progress::Progress;
use crate::uninstall;

use flags::Wanted;
pub use remembered::ANNOTATION as GIVEN;

/// How long the API server may take to serve new kinds.
const ESTABLISH: Duration = Duration::from_secs(30);

/// Installs, or prints what would be.
pub fn run(args: &InstallArgs) -> Result<ExitCode> {
    let given = given(args.values.as_deref())?;
    if let Some(what) = args.print {
        let wanted = flags::resolve(args, values(given)?, None)?;
        out::print(&manifests(what, &wanted.values, &args.namespace)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    crate::runtime::start()?.block_on(install(args, given))
}

/// The values of an installation whose agents are gone, as far as somebody knows them.
pub fn values_of(file: Option<&Path>, image: Option<&str>) -> Result<Values> {
    let mut values = values(given(file)?)?;
    if let Some(image) = image {
        flags::set_image(image, &mut values)?;
    }
    Ok(values)
}

/// What `--values` says.
fn given(file: Option<&Path>) -> Result<Option<Value>> {
    let Some(path) = file else { return Ok(None) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read --values {}", path.display()))?;
    let given = serde_norway::from_str(&text).with_context(|| format!("read --values {}", path.display()))?;
    values(Some(Value::clone(&given))).with_context(|| format!("--values {}", path.display()))?;
    Ok(Some(given))
}

fn values(given: Option<Value>) -> Result<Values> {
    Ok(given.map(Values::over_defaults).transpose()?.unwrap_or_default())
}

/// Objects as YAML. `kubectl apply` looks every kind up before it makes any: the kinds come first, by a call of their own.
fn manifests(what: Printed, values: &Values, namespace: &str) -> Result<String> {
    let mut all = Vec::new();
    if what != Printed::Objects {
        all.extend(overlane_install::definitions()?);
        all.extend(overlane_install::others_definitions()?);
    }
    if what != Printed::Crds {
        all.extend(overlane_install::objects(values, namespace)?);
    }
    let mut text = format!("# Overlane {}, made by `overlane install --print`.\n", overlane_install::VERSION);
    for object in &all {
        text.push_str("---\n");
        text.push_str(&serde_norway::to_string(object).context("write a manifest")?);
    }
    Ok(text)
}

async fn install(args: &InstallArgs, given: Option<Value>) -> Result<ExitCode> {
    let client = cluster::client(&args.kube).await?;
    let facts = Facts::read(&client).await?;
    let agents = one_installation(&client, &args.namespace).await?;
    let earlier = if given.is_none() { remembered::read(agents.as_ref())? } else { None };
    let reused = earlier.is_some();
    let given = given.or(earlier);
    let before = values(given.clone()).context("values of the earlier installation; --values FILE replaces them")?;
    let Wanted { mut values, plan, mut remarks } = flags::resolve(args, before, Some(&facts))?;
    if reused {
        remarks.push("values of the earlier installation are kept; --values FILE replaces them".to_owned());
    }
    // No two controllers share a node: on a single one the second would wait for ever.
    if facts.nodes == 1 {
        values.controller.replicas = 1;
    }
    for remark in &remarks {
        eprintln!("{remark}");
    }
    let changed = agents.as_ref().map(|agents| places::changed(agents, &values)).transpose()?.unwrap_or_default();
    if !changed.is_empty() {
        bail!(
            "{}: pods' leases and the runtime's configuration are there; give --values with the old ones, or uninstall first",
            changed.join("; ")
        );
    }
    let progress = Progress::new();
    let mut objects = overlane_install::objects(&values, &args.namespace)?;
    remembered::write(&mut objects, given.as_ref(), &values);
    let applied = apply(&client, &objects, &progress).await;
    progress.clear();
    applied?;
    out::print(&summary(&plan, &facts))?;
    if args.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    wait::until_ready(&client, &args.namespace, Duration::from_secs(args.timeout)).await
}

/// The agents that are there. An installation in another namespace would fight with this one; what an uninstall has left would end its pods.
async fn one_installation(client: &Client, namespace: &str) -> Result<Option<DaemonSet>> {
    let agents = uninstall::find(client, overlane_install::AGENT).await?;
    if let Some(other) = agents.as_ref().and_then(ResourceExt::namespace).filter(|other| other != namespace) {
        bail!("overlane is installed in namespace {other}: add --namespace {other}, or uninstall it first");
    }
    if uninstall::begun(client).await?.is_some() {
        bail!("an uninstall was begun and has not ended: run `overlane uninstall` to its end first");
    }
    Ok(agents)
}

async fn apply(client: &Client, rest: &[Value], progress: &Progress) -> Result<()> {
    let mut definitions = overlane_install::definitions()?;
    let total = definitions.len() + rest.len();
    for (done, object) in definitions.iter().enumerate() {
        progress.count("applying", done, total);
        objects::apply(client, object).await?;
    }
    for object in overlane_install::others_definitions()? {
        let title = objects::title(&object);
        match others::offer(client, &object).await? {
            Offer::Made => definitions.push(object),
            Offer::Theirs => eprintln!("{title} is there already and stays as it is"),
            Offer::OtherVersion(version) => {
                eprintln!("{title} is there already, without version {version}: objects of it do not count");
            }
        }
    }
    for object in &definitions {
        established(client, object).await?;
    }
    for (done, object) in rest.iter().enumerate() {
        progress.count("applying", definitions.len() + done, total);
        objects::apply(client, object).await?;
    }
    Ok(())
}

/// Waits until the server serves a new kind.
async fn established(client: &Client, definition: &Value) -> Result<()> {
    let until = tokio::time::Instant::now() + ESTABLISH;
    loop {
        let found = objects::get(client, definition).await?;
        // One that is about to go, after an uninstall, takes its objects with it.
        let stays = found.filter(|found| found.metadata.deletion_timestamp.is_none());
        let conditions = stays.and_then(|found| found.data.pointer("/status/conditions").cloned());
        let is_there = |condition: &Value| condition["type"] == "Established" && condition["status"] == "True";
        if conditions.as_ref().and_then(Value::as_array).is_some_and(|all| all.iter().any(is_there)) {
            return Ok(());
        }
        if tokio::time::Instant::now() > until {
            bail!("{} is not served by the API server after {ESTABLISH:?}", objects::title(definition));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn summary(plan: &ClusterPlan, facts: &Facts) -> String {
    let families: Vec<String> = plan.families().iter().map(Family::to_string).collect();
    let pools: Vec<String> =
        plan.pools().iter().map(|pool| format!("{} in blocks of /{}", pool.cidr, pool.node_mask)).collect();
    format!(
        "installed for {} node(s) of Kubernetes {}: {}; {}\n",
        facts.nodes,
        facts.version,
        families.join(" and "),
        pools.join(", ")
    )
}
