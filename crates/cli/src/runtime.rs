//! The runtime that a command's waiting runs on.

use anyhow::{Context as _, Result};

/// A runtime for one command.
pub fn start() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start a runtime")
}
