//! placeholder
use anyhow::Result;
use std::process::ExitCode;
use overlane_lab::names::LabName;
/// demo
pub fn run(_name: &LabName) -> Result<ExitCode> { Ok(ExitCode::SUCCESS) }
