//! The log: to standard error, its filter changeable while running.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Changes the filter of a running controller.
#[derive(Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Puts another filter in force.
    pub fn set(&self, filter: &str) -> anyhow::Result<()> {
        let parsed = parse(filter).with_context(|| format!("log filter {filter:?}"))?;
        self.0.reload(parsed).context("put the log filter in force")
    }
}

/// The client library logs each failed request as an error of its own; we say once that the server cannot be heard. A
/// filter that names it still counts.
fn parse(filter: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("kube_client::client::builder=off,{filter}"))
}

/// Starts the log.
pub fn start(filter: &str) -> anyhow::Result<LogFilter> {
    let parsed = parse(filter).with_context(|| format!("--log-level {filter:?}"))?;
    let (layer, handle) = reload::Layer::new(parsed);
    let colours = std::io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    tracing_subscriber::registry().with(layer).with(lines).try_init().context("start the log")?;
    Ok(LogFilter(handle))
}
