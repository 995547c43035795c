//! Flags that are parsed and checked once, then never doubted again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag} {given:?}: {reason}")]
pub struct SettingError {
    /// The flag, without dashes.
    pub flag: &'static str,
    /// What was given.
    pub given: String,
    /// Why it cannot be.
    pub reason: String,
}

/// Refuses a setting.
///
/// # Errors
/// Always.
pub fn refuse<T>(flag: &'static str, given: impl Into<String>, reason: impl Into<String>) -> Result<T, SettingError> {
    Err(SettingError { flag, given: given.into(), reason: reason.into() })
}

/// What `--metrics-addr` means: `None` for `off`.
///
/// # Errors
/// It is no address with a port.
pub fn metrics_address(given: &str) -> Result<Option<SocketAddr>, SettingError> {
    if given == "off" {
        return Ok(None);
    }
    match given.parse() {
        Ok(address) => Ok(Some(address)),
        Err(_) => refuse("metrics-addr", given, "an address with a port is wanted, or `off`"),
    }
}

/// Every setting with its meaning and the value that counts, by its long flag, as the environment variables that would
/// set it. Flags that `values` does not name are left out.
#[must_use]
pub fn explain(command: &clap::Command, values: &BTreeMap<&'static str, Option<String>>) -> String {
    let mut text = String::new();
    for argument in command.get_arguments() {
        let Some(long) = argument.get_long() else { continue };
        let Some(value) = values.get(long) else { continue };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        for line in help.lines() {
            let _ = writeln!(text, "# {line}");
        }
        let variable = format!("OVERLANE_{}", long.replace('-', "_").to_uppercase());
        match value {
            Some(value) => _ = writeln!(text, "{variable}={value}\n"),
            None => _ = writeln!(text, "# {variable}=\n"),
        }
    }
    text
}
