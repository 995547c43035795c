//! The log: to standard error, its filter changeable while running.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The Kubernetes client tells each failed request at level ERROR; the watches tell what matters of it.
const QUIET: &str = "kube_client=off,kube_runtime=off";

fn parse(filter: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("{QUIET},{filter}"))
}

/// Changes the filter of a running daemon.
#[derive(Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Puts another filter in force.
    ///
    /// # Errors
    /// It is no filter, as `tracing_subscriber::EnvFilter` has it.
    pub fn set(&self, filter: &str) -> anyhow::Result<()> {
        let parsed = parse(filter).with_context(|| format!("log filter {filter:?}"))?;
        self.0.reload(parsed).context("put the log filter in force")
    }
}

/// Starts the log.
///
/// # Errors
/// It is no filter, or the process has a log already.
pub fn start(filter: &str) -> anyhow::Result<LogFilter> {
    let parsed = parse(filter).with_context(|| format!("--log-level {filter:?}"))?;
    let (layer, handle) = reload::Layer::new(parsed);
    let colours = std::io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    tracing_subscriber::registry().with(layer).with(lines).try_init().context("start the log")?;
    Ok(LogFilter(handle))
}
