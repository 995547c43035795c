//! The machine: rights, kernel, leftovers; and this node's own network, where the agent runs without a lab.

use std::collections::BTreeSet;
use std::path::Path;

use overlane_core::family::Family;
use overlane_datapath::{foreign, node, owned, sysctl, uninstall};
use overlane_lab::names::LabName;
use overlane_lab::state::LabRecord;
use overlane_lab::{down, netns};

use super::{Finding, Verdict, features, networkd};

const MACHINE: &str = "this machine";
/// Bits of `CapEff`, see linux/capability.h.
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (12, "CAP_NET_ADMIN", "links, routes, rules and nft"),
    (13, "CAP_NET_RAW", "checks with ICMP"),
    (21, "CAP_SYS_ADMIN", "entering pods' namespaces"),
];
/// Where an agent serves /readyz unless told otherwise.
pub const AGENT_PORT: u16 = 9470;

/// What holds for the machine as a whole.
pub fn examine(lab: Option<&LabName>) -> Vec<Finding> {
    let mut findings = rights();
    findings.extend(features::examine(MACHINE));
    findings.extend(leftovers(lab));
    findings
}

fn rights() -> Vec<Finding> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = effective(&status);
    let missing: Vec<Finding> = CAPABILITIES
        .iter()
        .filter(|(bit, ..)| mask & (1 << bit) == 0)
        .map(|(_, name, purpose)| {
            Finding::bad(
                MACHINE,
                "rights",
                format!("{name} is missing: {purpose}"),
                format!("run as root, or with {name}"),
            )
        })
        .collect();
    if missing.is_empty() { vec![Finding::good(MACHINE, "rights", "all that are needed")] } else { missing }
}

fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Labs whose daemon is dead.
fn leftovers(of: Option<&LabName>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in down::all() {
        let record = LabRecord::find(&name).ok().flatten();
        let daemon = record.as_ref().and_then(|record| record.daemon);
        if daemon.is_some_and(|daemon| daemon.alive()) {
            continue;
        }
        let what = match record {
            Some(_) => format!("lab `{name}`: its daemon is dead, its nodes are left"),
            None => format!("lab `{name}`: namespaces or addresses of it are left, its records are gone"),
        };
        let again = if daemon.is_some() {
            format!(", or `overlane lab up --name {name}` takes it over")
        } else {
            String::new()
        };
        let remedy = format!("`overlane lab down --name {name}` removes it{again}");
        let finding = Finding::bad(MACHINE, "leftovers", what, remedy);
        // What is wrong with another lab is none of this one's fault.
        findings.push(if of.is_none_or(|lab| *lab == name) { finding } else { finding.note() });
    }
    if findings.is_empty() {
        findings.push(Finding::good(MACHINE, "leftovers", "of no dead lab"));
    }
    findings
}

/// This node's own network. Says little where no agent runs and none has left anything.
pub fn examine_here() -> Vec<Finding> {
    let mut findings = foreign_chains(MACHINE);
    let socket = Path::new(owned::RUN_DIR).join("agent.sock").exists();
    let conflist = Path::new(owned::CNI_CONF_DIR).join(owned::CNI_CONF_NAME).exists();
    // It may have its files elsewhere.
    let answer = agent_ready(MACHINE);
    let answers = answer.verdict == Verdict::Good;
    let expected = socket || conflist;
    if !answers {
        let left = left_here();
        // Of an agent that is only down, all of this is as it should be.
        findings.extend(if expected { left.map(Finding::note) } else { left });
    }
    if answers || expected {
        match node::routed() {
            Ok(routed) => findings.extend(sysctls(MACHINE, &routed.families, &routed.underlays)),
            Err(error) => findings.push(Finding::bad(MACHINE, "routes", error.to_string(), "run as root")),
        }
        findings.extend(networkd::examine(MACHINE, Path::new("/")));
        findings.push(answer);
    }
    findings
}

/// What an agent has made in this namespace, where none answers.
fn left_here() -> Option<Finding> {
    let remedy = format!(
        "start overlane-agent, which takes it over; or, once no pod needs it, `nft delete table inet {}; ip route flush \
         proto {p}; ip -6 route flush proto {p}` and `ip link delete` for each {}*",
        owned::NFT_TABLE,
        owned::POD_LINK_PREFIX,
        p = owned::PROTOCOL,
    );
    match uninstall::leftovers() {
        Ok(left) if left.is_empty() => None,
        Ok(left) => Some(Finding::bad(
            MACHINE,
            "leftovers",
            format!("no agent answers, and there are: {}", left.join(", ")),
            remedy,
        )),
        Err(error) => Some(Finding::bad(MACHINE, "leftovers", error.to_string(), "run as root")),
    }
}

/// Foreign rules in the namespace that this thread is in.
pub fn foreign_chains(subject: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = foreign::inspect()
        .into_iter()
        .map(|finding| {
            let told = Finding::bad(subject, finding.kind, finding.what, finding.remedy);
            // Pods have no bridge: it hinders others, or nobody.
            if finding.kind == "bridge-netfilter" { told.note() } else { told }
        })
        .collect();
    if findings.iter().all(|finding| finding.verdict == Verdict::Note) {
        findings.push(Finding::good(subject, "foreign rules", "none that drop what they do not know"));
    }
    if !has_bridge() {
        findings.retain(|finding| finding.check != "bridge-netfilter");
    }
    findings
}

fn has_bridge() -> bool {
    // Entries of /sys belong to the namespace of whoever mounted it, so the kernel is asked.
    overlane_lab::wire::Wire::open().and_then(|mut wire| wire.has_bridge()).unwrap_or(true)
}

/// The sysctls of the namespace that this thread is in, against the list.
pub fn sysctls(subject: &str, families: &[Family], underlays: &BTreeSet<String>) -> Vec<Finding> {
    let wanted = match sysctl::wanted(families, underlays) {
        Ok(wanted) => wanted,
        Err(error) => return vec![Finding::bad(subject, "sysctls", error.to_string(), "mount /proc/sys")],
    };
    let differ: Vec<Finding> = wanted
        .iter()
        .filter_map(|setting| {
            let now = sysctl::read(&setting.key).unwrap_or_else(|error| error.to_string());
            let remedy =
                format!("the agent sets it within a minute; else write {} to /proc/sys/{}", setting.value, setting.key);
            let what = format!("{} is {now}, not {}: {}", setting.key, setting.value, setting.reason);
            (now != setting.value).then(|| Finding::bad(subject, "sysctls", what, remedy))
        })
        .collect();
    if differ.is_empty() { vec![Finding::good(subject, "sysctls", "as they have to be")] } else { differ }
}

/// What the agent in the namespace that this thread is in says of itself.
pub fn agent_ready(subject: &str) -> Finding {
    match http_get(AGENT_PORT, "/readyz") {
        Ok((200, _)) => Finding::good(subject, "agent", "ready"),
        Ok((code, body)) => {
            let what = format!("not ready: {} ({code})", body.trim());
            Finding::bad(subject, "agent", what, "its log says more; it gets ready by itself once the reason is gone")
        }
        Err(error) => Finding::bad(
            subject,
            "agent",
            format!("does not answer: {error}"),
            "start overlane-agent, or look at its log",
        ),
    }
}

/// Status and body of a page on this namespace's loopback.
fn http_get(port: u16, path: &str) -> std::io::Result<(u16, String)> {
    use std::io::{Read as _, Write as _};
    let patience = std::time::Duration::from_secs(3);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = std::net::TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((code, body))
}

/// The same checks inside a namespace.
pub fn examine_inside(path: &Path, subject: &str, families: &[Family]) -> Vec<Finding> {
    let looked = netns::run(path, || {
        let mut findings = foreign_chains(subject);
        findings.extend(sysctls(subject, families, &["eth0".to_owned()].into()));
        findings.push(agent_ready(subject));
        Ok(findings)
    });
    match looked {
        Ok(findings) => findings,
        Err(error) => {
            vec![Finding::bad(subject, "namespace", format!("{error:#}"), "end the lab and bring it up again")]
        }
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a missing capability that is not seen.

    use super::*;

    #[test]
    fn capabilities_are_read() {
        assert_eq!(effective("Name:\tx\nCapEff:\t0000000000203000\n"), (1 << 12) | (1 << 13) | (1 << 21));
        assert_eq!(effective(""), 0);
    }
}
