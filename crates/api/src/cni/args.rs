//! `CNI_ARGS`, as Kubernetes' runtimes fill it.

use crate::socket::PodRef;

use super::error::{Error, shown};

/// The known keys of `CNI_ARGS`, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// `K8S_POD_NAMESPACE`, `K8S_POD_NAME` and `K8S_POD_UID`.
    pub pod: Option<PodRef>,
    /// `K8S_POD_INFRA_CONTAINER_ID`: the sandbox, usually the container id again. May be empty.
    pub infra_container_id: String,
}

/// The most bytes of a Kubernetes namespace (RFC 1123 label).
const NAMESPACE_MAX: usize = 63;
/// The most bytes of a pod's name (RFC 1123 subdomain).
const NAME_MAX: usize = 253;
/// The most bytes of a pod's UID; a UUID has 36, a static pod's hash 32.
const UID_MAX: usize = 128;

impl Args {
    /// The keys that are understood.
    pub const KEYS: [&'static str; 5] =
        ["IgnoreUnknown", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID"];

    /// Reads `KEY=VALUE;KEY=VALUE`. A later pair of the same key wins, as in the reference implementation.
    ///
    /// # Errors
    /// [`Error::Args`]: a pair without `=`, an unknown key without `IgnoreUnknown`, a value that is no Kubernetes name,
    /// or only one of namespace and name.
    pub fn parse(given: &str) -> Result<Self, Error> {
        let [mut namespace, mut name, mut uid, mut infra] = [""; 4];
        let mut unknown = None;
        let mut ignore_unknown = false;
        for pair in given.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(refused(pair, "must be KEY=VALUE"));
            };
            match key {
                "IgnoreUnknown" => ignore_unknown = flag(pair, value)?,
                "K8S_POD_NAMESPACE" => namespace = checked(pair, value, NAMESPACE_MAX)?,
                "K8S_POD_NAME" => name = checked(pair, value, NAME_MAX)?,
                "K8S_POD_UID" => uid = checked(pair, value, UID_MAX)?,
                "K8S_POD_INFRA_CONTAINER_ID" => infra = value,
                _ => unknown = unknown.or(Some(pair)),
            }
        }
        if let Some(pair) = unknown.filter(|_| !ignore_unknown) {
            return Err(refused(pair, "is an unknown key, and IgnoreUnknown is not set"));
        }
        let pod = match (namespace.is_empty(), name.is_empty()) {
            (false, false) => {
                Some(PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() })
            }
            (true, true) => None,
            _ => {
                return Err(refused(given, "K8S_POD_NAMESPACE and K8S_POD_NAME go together"));
            }
        };
        Ok(Self { pod, infra_container_id: infra.to_owned() })
    }
}

fn flag(pair: &str, value: &str) -> Result<bool, Error> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(refused(pair, "must be 1, true, 0 or false")),
    }
}

/// Names go into link aliases, logs and file contents: nothing but what Kubernetes allows gets through. Capital letters
/// and `_` are let through for runtimes other than Kubernetes' own.
fn checked<'a>(pair: &str, value: &'a str, max: usize) -> Result<&'a str, Error> {
    if value.len() > max {
        return Err(refused(pair, "is longer than Kubernetes allows"));
    }
    if value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
        return Ok(value);
    }
    Err(refused(pair, "may hold letters, digits, '-', '.' and '_'"))
}

fn refused(pair: &str, rule: &'static str) -> Error {
    Error::Args { pair: shown(pair), rule }
}
