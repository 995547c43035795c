//! `overlane-cni`: the CNI plugin. A container runtime runs it for each pod that starts or ends.
//!
//! It checks what the runtime hands over, opens the pod's network namespace and asks the node's agent to do the work.
//! It configures nothing itself, except that a DEL with no agent removes the pod's interface and leaves a word
//! ([`overlane_api::tombstone`]) for the next agent.
//!
//! Under other names it is other plugins: [`loopback`], and [`ipam`].

mod agent;
mod clock;
mod error;
mod fallback;
mod input;
mod ipam;
mod loopback;
mod output;
mod verbs;

use std::process::ExitCode;

use overlane_api::cni::{Env, ErrorObject, Version, version_in_use};

fn main() -> ExitCode {
    output::install_panic_hook();
    if let Some(code) = input::for_a_person() {
        return code;
    }
    // The clock comes first: what is ordered by it (a DEL after an ADD) began when the runtime started us.
    let began_ns = clock::now_ns();
    let env = Env::collect(|name| std::env::var_os(name));
    let stdin = input::stdin();
    let version = stdin.as_deref().map_or(Version::NEWEST, version_in_use);
    let outcome = began_ns.and_then(|began_ns| match input::called_as().as_deref() {
        Some(loopback::NAME) => loopback::run(&env, &stdin?),
        Some(ipam::NAME) => ipam::run(&env, &stdin?, began_ns),
        _ => verbs::run(&env, &stdin?, began_ns),
    });
    match outcome {
        Ok(verbs::Answer::Nothing) => ExitCode::SUCCESS,
        Ok(verbs::Answer::Result(result)) => output::success(&result),
        Ok(verbs::Answer::Ipam(result)) => output::success(&result),
        Ok(verbs::Answer::Versions(report)) => output::success(&report),
        Err(error) => output::failure(&ErrorObject {
            cni_version: version.as_str().to_owned(),
            code: error.code(),
            msg: error.to_string(),
            details: error.details(),
        }),
    }
}
