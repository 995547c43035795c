//! The spec's rules for names.

use super::error::{Error, shown};

/// The longest interface name that the kernel takes, bytes (IFNAMSIZ - 1).
const IFNAME_MAX: usize = 15;

/// Checks `CNI_CONTAINERID`: an alphanumeric character, then alphanumerics, `_`, `.` and `-` (spec section
/// "Parameters").
///
/// # Errors
/// [`Error::InvalidEnv`] with the rule.
pub fn container_id(value: &str) -> Result<(), Error> {
    if is_name(value) {
        return Ok(());
    }
    Err(Error::InvalidEnv {
        name: "CNI_CONTAINERID",
        value: shown(value),
        rule: "must start with a letter or a digit, then letters, digits, '_', '.' and '-'",
    })
}

/// Checks `CNI_IFNAME` by the rules of the spec and the kernel's own (`dev_valid_name`, `dev_alloc_name`,
/// `sysctl_dev_name_is_allowed`).
///
/// # Errors
/// [`Error::InvalidEnv`] with the rule.
pub fn interface_name(value: &str) -> Result<(), Error> {
    let rule = if value.is_empty() {
        "must not be empty"
    } else if value.len() > IFNAME_MAX {
        "must be shorter than 16 bytes"
    } else if value == "." || value == ".." {
        "must not be . or .."
    } else if value.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        "must not hold '/', ':', white space or control characters"
    } else if value.contains('%') {
        // The kernel takes "eth%d" as a pattern and makes up another name.
        "must not hold '%'"
    } else if value == "all" || value == "default" {
        "is the name of a sysctl directory, the kernel refuses it"
    } else {
        return Ok(());
    };
    Err(Error::InvalidEnv { name: "CNI_IFNAME", value: shown(value), rule })
}

/// Checks the network's name: the characters of a container id (spec section "Configuration format").
///
/// # Errors
/// [`Error::BadValue`] with the rule.
pub fn network_name(value: &str) -> Result<(), Error> {
    if is_name(value) {
        return Ok(());
    }
    Err(Error::BadValue {
        key: "name".to_owned(),
        value: format!("{:?}", shown(value)),
        rule: "must start with a letter or a digit, then letters, digits, '_', '.' and '-'",
    })
}

fn is_name(value: &str) -> bool {
    value.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}
