//! From method, path, query and headers to what is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;

use crate::failure::Failure;
use crate::protobuf;
use crate::resource::{Registry, Resource};
use crate::view::View;

/// A request for objects.
pub struct Request {
    /// Of this resource.
    pub resource: Arc<Resource>,
    /// In this namespace; absent: all of them, or the resource has none.
    pub namespace: Option<String>,
    /// The object; absent: the collection.
    pub name: Option<String>,
    /// `status`, `eviction`, ..., or empty.
    pub subresource: String,
    /// What is after the question mark.
    pub query: Query,
    /// How objects are shown.
    pub view: View,
    /// Type of the body.
    pub content_type: String,
    /// Who writes, for `managedFields`.
    pub manager: String,
    /// The body.
    pub body: Bytes,
}

/// Decoded query parameters.
#[derive(Debug, Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Decodes what is after the question mark.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decode(name), decode(value)))
                .collect(),
        )
    }

    /// A parameter; empty if absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Whether a parameter says yes.
    pub fn is_true(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1")
    }

    /// A number.
    ///
    /// # Errors
    /// 400 if the parameter is given and no number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        match self.get(name) {
            "" => Ok(None),
            text => {
                text.parse().map(Some).map_err(|_| Failure::bad_request(format!("invalid value for {name}: {text:?}")))
            }
        }
    }
}

/// Decodes percent escapes and `+`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(if *first == b'+' { b' ' } else { *first });
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Splits a path into decoded segments.
pub fn segments(path: &str) -> Vec<String> {
    // A plus is a plus in a path.
    path.split('/').filter(|part| !part.is_empty()).map(|part| decode(&part.replace('+', "%2B"))).collect()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl Request {
    /// What the path names, if it names objects at all.
    ///
    /// # Errors
    /// 404 if nothing is served there.
    pub fn parse(
        registry: &Registry,
        path: &[String],
        query: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Self, Failure> {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let (group, version, rest) = match path.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(Failure::no_such_path()),
        };
        let own = |part: &str| !["status", "finalize"].contains(&part);
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if own(plural) => (Some(*namespace), (*plural, rest)),
            [plural, rest @ ..] => (None, (*plural, rest)),
            [] => return Err(Failure::no_such_path()),
        };
        let resource = registry.find(group, version, rest.0).ok_or_else(Failure::no_such_path)?;
        let (name, subresource) = match rest.1 {
            [] => (None, ""),
            [name] => (Some(*name), ""),
            [name, subresource] => (Some(*name), *subresource),
            _ => return Err(Failure::no_such_path()),
        };
        // An object of a namespaced resource cannot be named without its namespace, nor the other way round.
        if resource.namespaced != namespace.is_some() && (namespace.is_some() || name.is_some()) {
            return Err(Failure::no_such_path());
        }
        let query = Query::parse(query);
        let agent = header(headers, "user-agent").split(['/', ' ']).next().unwrap_or_default();
        let manager = [query.get("fieldManager"), agent, "unknown"].into_iter().find(|name| !name.is_empty());
        let manager = manager.unwrap_or_default().chars().take(128).collect();
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            subresource: subresource.to_owned(),
            view: View::parse(header(headers, "accept"), query.get("includeObject")),
            content_type: header(headers, "content-type").split(';').next().unwrap_or_default().trim().to_owned(),
            manager,
            resource,
            query,
            body,
        })
    }

    /// The verb, as audit logs name it.
    pub fn verb(&self, method: &Method) -> &'static str {
        let watch = self.query.is_true("watch");
        match (method.as_str(), &self.name) {
            ("GET" | "HEAD", Some(_)) => "get",
            ("GET" | "HEAD", None) if watch => "watch",
            ("GET" | "HEAD", None) => "list",
            ("POST", _) => "create",
            ("PUT", Some(_)) => "update",
            ("PATCH", Some(_)) if self.content_type.starts_with("application/apply-patch") => "apply",
            ("PATCH", Some(_)) => "patch",
            ("DELETE", Some(_)) => "delete",
            ("DELETE", None) => "deletecollection",
            _ => "",
        }
    }

    /// The resource with its subresource, as statistics name it.
    pub fn counted_as(&self) -> String {
        let qualified = self.resource.qualified();
        if self.subresource.is_empty() { qualified } else { format!("{qualified}/{}", self.subresource) }
    }

    /// The body as JSON; YAML is read as well, and protobuf of a few kinds.
    ///
    /// # Errors
    /// 400 if it is neither, 415 for other protobuf.
    pub fn json(&self) -> Result<Value, Failure> {
        if self.content_type.contains("protobuf") {
            return protobuf::decode(&self.body).ok_or_else(|| Failure::unsupported_media_type(&self.content_type));
        }
        let yaml = self.content_type.contains("yaml");
        match serde_json::from_slice(&self.body) {
            Ok(value) => Ok(value),
            Err(_) if yaml => serde_norway::from_slice(&self.body)
                .map_err(|error| Failure::bad_request(format!("error decoding YAML: {error}"))),
            Err(error) => Err(Failure::bad_request(format!("error decoding JSON: {error}"))),
        }
    }

    /// The body of a delete: its options, which may be absent.
    ///
    /// # Errors
    /// 400 if it is no JSON.
    pub fn options(&self) -> Result<Value, Failure> {
        if self.body.is_empty() { Ok(Value::Object(serde_json::Map::new())) } else { self.json() }
    }

    /// Whether nothing is to be stored.
    pub fn is_dry_run(&self) -> bool {
        self.query.get("dryRun") == "All"
    }

    /// The namespace of the objects, empty for cluster-scoped ones.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;

    fn parsed(path: &str) -> Option<(String, Option<String>, Option<String>, String)> {
        let request =
            Request::parse(&crate::builtin::registry(), &segments(path), "", &HeaderMap::new(), Bytes::new()).ok()?;
        Some((request.resource.plural.clone(), request.namespace, request.name, request.subresource))
    }

    #[test]
    fn paths_name_objects() {
        let some = |text: &str| Some(text.to_owned());
        let cases = [
            ("/api/v1/nodes", some("nodes"), None, None, ""),
            ("/api/v1/nodes/a%3Ab/status", some("nodes"), None, some("a:b"), "status"),
            ("/api/v1/pods", some("pods"), None, None, ""),
            ("/api/v1/namespaces", some("namespaces"), None, None, ""),
            ("/api/v1/namespaces/x", some("namespaces"), None, some("x"), ""),
            ("/api/v1/namespaces/x/status", some("namespaces"), None, some("x"), "status"),
            ("/api/v1/namespaces/x/pods", some("pods"), some("x"), None, ""),
            ("/apis/coordination.k8s.io/v1/namespaces/x/leases/l", some("leases"), some("x"), some("l"), ""),
            ("/api/v1/pods/p", None, None, None, ""),
            ("/api/v1/namespaces/x/nodes/n", None, None, None, ""),
            ("/api/v2/nodes", None, None, None, ""),
            ("/apis/none/v1/x", None, None, None, ""),
            ("/other", None, None, None, ""),
        ];
        for (path, plural, namespace, name, subresource) in cases {
            assert_eq!(parsed(path), plural.map(|plural| (plural, namespace, name, subresource.to_owned())), "{path}");
        }
    }

    #[test]
    fn escapes_are_decoded_and_garbage_is_kept() {
        let query = Query::parse("labelSelector=a%20in+%28b%29&limit=5&bad=%zz%2&watch");
        assert_eq!(query.get("labelSelector"), "a in (b)");
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert!(query.number("bad").is_err());
        assert_eq!(query.get("bad"), "%zz%2");
        assert_eq!(query.get("absent"), "");
    }
}
