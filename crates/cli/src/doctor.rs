//! placeholder
use anyhow::Result;
use std::process::ExitCode;
use crate::args::DoctorArgs;
/// doctor
pub fn run(_args: &DoctorArgs) -> Result<ExitCode> { Ok(ExitCode::SUCCESS) }
