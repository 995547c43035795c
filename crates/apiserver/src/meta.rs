//! Names, times and identities: what the server makes, and what it accepts in `metadata`.

use std::hash::{BuildHasher, Hasher, RandomState};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use crate::failure::Cause;

/// Now, in the precision of `metav1.Time`.
pub fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Seconds since an RFC 3339 time; nothing if it is none.
pub fn age_seconds(time: &str) -> Option<i64> {
    let then: Timestamp = time.parse().ok()?;
    Some(Timestamp::now().as_second() - then.as_second())
}

// The standard library seeds each hasher from the system's randomness: good enough for names that must not collide.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A random UID (version 4).
pub fn uid() -> String {
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0x0fff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff
    )
}

/// The five characters that follow a `generateName`, from the alphabet that makes no words.
pub fn suffix() -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut left = random();
    let mut text = String::with_capacity(5);
    for _ in 0..5 {
        text.push(char::from(ALPHABET[(left % 27) as usize]));
        left /= 27;
    }
    text
}

/// A string at a path of fields.
pub fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// A value at a path of fields.
pub fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, field| value.get(field))
}

/// The object's metadata, made if absent or no object.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    object_at(object, "metadata")
}

/// The object under `field`, made if absent or no object. A value that is no object is replaced by one.
pub fn object_at<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    let entry = as_object(value).entry(field).or_insert(Value::Null);
    as_object(entry)
}

fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => {
            *other = Value::Object(Map::new());
            as_object(other)
        }
    }
}

fn is_label(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

/// DNS-1123 label: at most 63 characters.
pub fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && is_label(name)
}

/// DNS-1123 subdomain: at most 253 characters.
pub fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

fn is_label_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    name.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_label_name(name),
        None => is_label_name(key),
    }
}

const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                              '.', and must start and end with an alphanumeric character";
const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                          start and end with an alphanumeric character";

/// What is wrong with an object's metadata.
pub fn check(object: &Value, name_is_label: bool) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = text(object, &["metadata", "name"]);
    if name.is_empty() {
        causes.push(Cause::required("metadata.name"));
    } else if name_is_label && !is_dns_label(name) {
        causes.push(Cause::invalid("metadata.name", &name.into(), LABEL_RULE));
    } else if !is_dns_subdomain(name) {
        causes.push(Cause::invalid("metadata.name", &name.into(), SUBDOMAIN_RULE));
    }
    check_labels(object, &mut causes);
    check_owners(object, &mut causes);
    for finalizer in at(object, &["metadata", "finalizers"]).and_then(Value::as_array).into_iter().flatten() {
        if !finalizer.as_str().is_some_and(is_qualified_name) {
            causes.push(Cause::invalid("metadata.finalizers", finalizer, "name part must be a qualified name"));
        }
    }
    causes
}

fn check_labels(object: &Value, causes: &mut Vec<Cause>) {
    for field in ["labels", "annotations"] {
        let path = format!("metadata.{field}");
        for (key, value) in at(object, &["metadata", field]).and_then(Value::as_object).into_iter().flatten() {
            // The key of an annotation is checked in lower case, as the real server does.
            let key_fits =
                if field == "labels" { is_qualified_name(key) } else { is_qualified_name(&key.to_lowercase()) };
            if !key_fits {
                causes.push(Cause::invalid(&path, &key.as_str().into(), "name part must be a qualified name"));
            }
            let value = value.as_str().unwrap_or_default();
            if field == "labels" && !value.is_empty() && !is_label_name(value) {
                causes.push(Cause::invalid(
                    &path,
                    &value.into(),
                    "a valid label must be at most 63 alphanumeric \
                    characters, '-', '_' or '.', and must start and end with an alphanumeric character",
                ));
            }
        }
    }
}

fn check_owners(object: &Value, causes: &mut Vec<Cause>) {
    let owners = at(object, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    let mut controllers = 0;
    for (index, owner) in owners.into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &[field]).is_empty() {
                causes.push(Cause::required(&format!("metadata.ownerReferences[{index}].{field}")));
            }
        }
        controllers += usize::from(owner.get("controller") == Some(&Value::Bool(true)));
    }
    if controllers > 1 {
        causes.push(Cause::invalid(
            "metadata.ownerReferences",
            &Value::Null,
            "only one reference can have Controller set to true",
        ));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn names_follow_dns_1123() {
        for good in ["a", "10.244.2.0-24", "node-1.example", "fd12-3456--0-2-0-80"] {
            assert!(is_dns_subdomain(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", "fd12::1", "a/b", &"x".repeat(254)] {
            assert!(!is_dns_subdomain(bad), "{bad}");
        }
        assert!(!is_dns_label("a.b"));
    }

    #[test]
    fn made_identities_have_their_form_and_differ() {
        let (one, two) = (uid(), uid());
        assert_ne!(one, two);
        assert_eq!(one.len(), 36);
        assert_eq!(&one[14..15], "4");
        assert!(is_dns_label(&suffix()));
        assert_eq!(suffix().len(), 5);
    }

    #[test]
    fn every_fault_of_metadata_is_named() {
        let object = serde_json::json!({"metadata": {
            "name": "Bad_Name", "labels": {"a b": "c d"}, "finalizers": ["x y"],
            "ownerReferences": [{"kind": "Node", "controller": true}, {"controller": true}],
        }});
        assert_eq!(check(&object, false).len(), 1 + 2 + 1 + 7 + 1);
    }
}
