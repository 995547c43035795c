//! What comes in: the command line of a person, the standard input of a runtime.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use overlane_api::cni::Version;

use crate::error::PluginError;

/// The most bytes of a network configuration. One with 250 valid attachments has about 40 KiB.
const LIMIT: usize = 1 << 20;

/// The name that the program was called by, without its directory.
pub(crate) fn called_as() -> Option<String> {
    let path = std::env::args_os().next()?;
    Some(Path::new(&path).file_name()?.to_string_lossy().into_owned())
}

/// Answers a person who called the program by hand; `None` if it was a runtime.
///
/// Without `CNI_COMMAND` the reference plugins say what they are on standard error. So does this one, and stops there on
/// a terminal (exit code 2: wrong usage); elsewhere the spec's error follows on standard output.
pub(crate) fn for_a_person() -> Option<ExitCode> {
    let argument = std::env::args_os().nth(1);
    if let Some(argument) = argument.as_deref().and_then(|argument| argument.to_str()) {
        if matches!(argument, "--version" | "-V") {
            let _ = writeln!(io::stdout(), "overlane-cni {}", env!("CARGO_PKG_VERSION"));
            return Some(ExitCode::SUCCESS);
        }
        if matches!(argument, "--help" | "-h") {
            let _ = about(&mut io::stdout());
            return Some(ExitCode::SUCCESS);
        }
    }
    if std::env::var_os("CNI_COMMAND").is_some_and(|verb| !verb.is_empty()) {
        return None;
    }
    let _ = about(&mut io::stderr());
    io::stdin().is_terminal().then(|| ExitCode::from(2))
}

fn about(to: &mut impl Write) -> io::Result<()> {
    writeln!(
        to,
        "overlane-cni {}: the CNI plugin of Overlane.\n\
         A container runtime runs it, with CNI_COMMAND and its like in the environment and a network configuration on\n\
         standard input; it asks the overlane-agent of the node to do the work.\n\
         CNI versions: {}.",
        env!("CARGO_PKG_VERSION"),
        Version::list()
    )
}

/// Standard input until its end, at most [`LIMIT`] bytes; nothing from a terminal or with no verb to serve.
pub(crate) fn stdin() -> Result<Vec<u8>, PluginError> {
    let stdin = io::stdin();
    let mut bytes = Vec::new();
    if stdin.is_terminal() || std::env::var_os("CNI_COMMAND").is_none_or(|verb| verb.is_empty()) {
        return Ok(bytes);
    }
    stdin.lock().take(LIMIT as u64 + 1).read_to_end(&mut bytes).map_err(|source| PluginError::Stdin { source })?;
    if bytes.len() > LIMIT { Err(PluginError::StdinTooLong { limit: LIMIT }) } else { Ok(bytes) }
}
