//! What goes out: one JSON document on standard output, exit code 0 or 1. Also when the program panics.

use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::process::ExitCode;

use overlane_api::cni::{ErrorObject, Version, code};
use serde::Serialize;

/// Prints a result. A runtime that no longer reads it does not know of the success, so that is a failure.
pub(crate) fn success(result: &impl Serialize) -> ExitCode {
    if print(result) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints an error object.
pub(crate) fn failure(error: &ErrorObject) -> ExitCode {
    print(error);
    ExitCode::FAILURE
}

/// From here on a panic, also one on another thread, prints an error object and ends the program.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        print(&of_panic(info));
        std::process::exit(1);
    }));
}

fn of_panic(info: &PanicHookInfo<'_>) -> ErrorObject {
    let payload = info.payload();
    let words = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
    ErrorObject {
        cni_version: Version::NEWEST.as_str().to_owned(),
        code: code::INTERNAL,
        msg: format!("overlane-cni failed: {words}"),
        details: format!("this is a fault in overlane-cni {}{place}, please report it", env!("CARGO_PKG_VERSION")),
    }
}

/// The only way to standard output. Says whether all of it got out.
fn print(document: &impl Serialize) -> bool {
    let Ok(mut text) = serde_json::to_vec_pretty(document) else {
        return false;
    };
    text.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&text).and_then(|()| stdout.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    //! Must catch: a panic that ends without an error object, or with another exit code than 1.
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use std::process::Command;

    use super::*;

    const CHILD: &str = "OVERLANE_CNI_TEST_CHILD";

    /// Runs this very test in a process of its own, where it panics for real.
    fn dying(child: &str) -> std::process::Output {
        let name = "output::tests::a_panic_prints_an_error_object";
        let exe = std::env::current_exe().unwrap();
        Command::new(exe).args(["--exact", name, "--nocapture"]).env(CHILD, child).output().unwrap()
    }

    #[test]
    fn a_panic_prints_an_error_object() {
        match std::env::var(CHILD).as_deref() {
            Ok("main") => {
                install_panic_hook();
                panic!("on purpose");
            }
            Ok(_) => {
                install_panic_hook();
                let _ = std::thread::spawn(|| panic!("{}", String::from("on purpose"))).join();
                unreachable!("the hook has ended the program");
            }
            Err(_) => {}
        }
        for child in ["main", "thread"] {
            let output = dying(child);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let stdout = String::from_utf8(output.stdout).unwrap();
            // The test harness says a few words of its own first.
            let object: ErrorObject = serde_json::from_str(stdout.get(stdout.find('{').unwrap()..).unwrap()).unwrap();
            assert_eq!((object.code, object.msg.as_str()), (code::INTERNAL, "overlane-cni failed: on purpose"));
            assert!(object.details.contains("output.rs"), "{object:?}");
        }
    }
}
