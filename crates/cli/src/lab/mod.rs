//! `overlane lab`.

mod inside;
mod nodes;
mod show;
mod up;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use overlane_lab::client::LabClient;
use overlane_lab::daemon;
use overlane_lab::daemon::control::{Answer, Command};
use overlane_lab::echo::Echo;
use overlane_lab::error::LabError;
use overlane_lab::names::LabName;
use overlane_lab::{down, run};

use crate::args::{ApiCommand, DeleteArgs, DownArgs, EchoArgs, LabArgs, LabCommand, LogsArgs, RunArgs};
use crate::out::{self, Format};
use crate::runtime;

pub use show::{render_check, render_status};
pub use up::bring_up;

/// Runs a command of `overlane lab`.
pub fn run(args: LabArgs) -> Result<ExitCode> {
    let name: LabName = args.name.parse().map_err(LabError::from)?;
    let open = || LabClient::open(&name);
    match args.command {
        LabCommand::Down(down) => return end(&name, &down),
        LabCommand::Up(up) => return up::run(&name, &up),
        LabCommand::Demo(api) => return crate::demo::run(&name, &api),
        LabCommand::Status(output) => return runtime::start()?.block_on(show::status(&open()?, output.output)),
        LabCommand::Pods(pods) => runtime::start()?.block_on(show::pods(&open()?, &pods))?,
        LabCommand::Kubeconfig(output) => show::kubeconfig(&open()?, output.output)?,
        LabCommand::Run(args) => return runtime::start()?.block_on(start_pod(&open()?, &args)),
        LabCommand::Delete(args) => runtime::start()?.block_on(delete_pods(&open()?, &args))?,
        LabCommand::Exec(exec) => inside::exec(&open()?, &exec)?,
        LabCommand::Node(node) => inside::node(&open()?, &node)?,
        LabCommand::Outside(outside) => inside::outside(&open()?, &outside)?,
        LabCommand::Check(output) => return runtime::start()?.block_on(show::check(&open()?, output.output)),
        LabCommand::Logs(logs) => show_log(&open()?, &logs)?,
        LabCommand::Program(program) => runtime::start()?.block_on(nodes::program(&open()?, &program))?,
        LabCommand::Api(api) => runtime::start()?.block_on(change_api(&open()?, &api.command))?,
        LabCommand::Nodes(nodes) => runtime::start()?.block_on(nodes::change(&open()?, &nodes.command))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `overlane lab-daemon`.
pub fn daemon(name: &str) -> Result<ExitCode> {
    // A session of its own: the terminal that started it may close.
    let _ = overlane_lab::process::new_session();
    tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(std::io::stderr).init();
    let name: LabName = name.parse().map_err(LabError::from)?;
    runtime::start()?.block_on(async {
        tokio::select! {
            done = daemon::run(&name) => done,
            told = daemon::until_told() => told,
        }
    })?;
    // Does not wait for blocking work of tasks.
    std::process::exit(0);
}

/// `overlane lab-echo`.
pub fn echo(args: &EchoArgs) -> Result<ExitCode> {
    Echo::bind(&args.name, args.port)?.serve(std::sync::Arc::default())?;
    Ok(ExitCode::SUCCESS)
}

fn end(name: &LabName, args: &DownArgs) -> Result<ExitCode> {
    let labs = if args.all { down::all() } else { vec![name.clone()] };
    let json = matches!(args.output.output, Format::Json);
    if labs.is_empty() && !json {
        out::print("there is no lab\n")?;
    }
    let mut ended = BTreeMap::new();
    let mut failed = Vec::new();
    for lab in labs {
        match down::down(&lab) {
            Ok(done) if json => drop(ended.insert(lab, done)),
            Ok(done) if done.found => out::print(&format!("lab `{lab}` is gone\n"))?,
            Ok(_) => out::print(&format!("there is no lab `{lab}`\n"))?,
            Err(error) => failed.push(format!("{lab}: {error:#}")),
        }
    }
    if json {
        out::json(&ended)?;
    }
    if failed.is_empty() { Ok(ExitCode::SUCCESS) } else { bail!("{}", failed.join("\n")) }
}

async fn start_pod(lab: &LabClient, args: &RunArgs) -> Result<ExitCode> {
    if let Some(node) = &args.node {
        overlane_lab::state::NodeRecord::load(&lab.name, node)?;
    }
    let client = lab.kube()?;
    let labels = args.labels.iter().cloned().collect();
    let object = run::pod(&args.namespace, &args.pod, args.node.as_deref(), &labels, &args.command);
    run::create(&client, object).await?;
    if args.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let pod = run::wait_ready(&client, &args.namespace, &args.pod, Duration::from_secs(args.timeout)).await?;
    match args.output.output {
        Format::Json => out::json(&pod)?,
        Format::Table => out::print(&format!("{} on {}: {} {}\n", pod.name, pod.node, pod.phase, pod.ips.join(" ")))?,
    }
    Ok(if pod.phase == "Failed" { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn delete_pods(lab: &LabClient, args: &DeleteArgs) -> Result<()> {
    let client = lab.kube()?;
    for pod in &args.pods {
        run::uid(&client, lab.name.as_str(), &args.namespace, pod).await?;
    }
    let patience = Duration::from_secs(args.timeout);
    let ends = args.pods.iter().map(|pod| run::delete(&client, &args.namespace, pod, patience));
    futures::future::try_join_all(ends).await?;
    Ok(())
}

fn show_log(lab: &LabClient, args: &LogsArgs) -> Result<()> {
    let program = lab.paths.log(&args.of);
    let path = if program.is_file() { program } else { lab.paths.pod_log(&args.namespace, &args.of) };
    match std::fs::read(&path) {
        Ok(bytes) => out::print(&String::from_utf8_lossy(&bytes)),
        Err(_) => {
            let dir = lab.paths.logs();
            let mut known = overlane_lab::files::names(&dir);
            known.extend(overlane_lab::files::names(&dir.join("pods")));
            let known: Vec<&str> = known.iter().filter_map(|name| name.strip_suffix(".log")).collect();
            bail!("there is no log of `{}`; there is: {}", args.of, known.join(", "))
        }
    }
}

async fn change_api(lab: &LabClient, command: &ApiCommand) -> Result<()> {
    // The daemon has another working directory.
    let absolute = |file| std::path::absolute(file).context("find the file");
    let command = match command {
        ApiCommand::Requests(output) => return show::requests(lab, output.output).await,
        ApiCommand::Stop => Command::Api { up: false },
        ApiCommand::Start => Command::Api { up: true },
        ApiCommand::Snapshot { file } => Command::Snapshot { file: absolute(file)? },
        ApiCommand::Restore { file } => Command::Restore { file: absolute(file)? },
        ApiCommand::Compact => Command::Compact,
    };
    match lab.ask(&command).await? {
        Answer::Done => Ok(()),
        other => bail!("the lab's daemon answered {other:?}"),
    }
}
