//! Typed access to a JSON object, with errors that name the key.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::{Error, shown};

/// A JSON object and the path that led to it.
pub(super) struct Object<'a> {
    path: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The document itself.
    pub(super) fn root(value: &'a Value) -> Result<Self, Error> {
        match value {
            Value::Object(map) => Ok(Self { path: "", map }),
            other => Err(Error::WrongType { key: "the document".to_owned(), want: "an object", found: kind(other) }),
        }
    }

    /// The object below a key; absent and `null` are the same.
    pub(super) fn object(&self, key: &'a str) -> Result<Option<Self>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { path: key, map })),
            Some(other) => Err(self.wrong(key, "an object", other)),
        }
    }

    /// The value below a key; absent and `null` are the same.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The text below a key.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a string", other)),
        }
    }

    /// The number below a key.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number", value)),
        }
    }

    /// All keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    /// A key's path from the document's root.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The structure below a key.
    pub(super) fn structure<T: DeserializeOwned>(&self, key: &str, path: &'static str) -> Result<Option<T>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|error| Error::Malformed { key: path, reason: shown(&error.to_string()) }),
        }
    }

    fn wrong(&self, key: &str, want: &'static str, found: &Value) -> Error {
        Error::WrongType { key: self.path_of(key), want, found: kind(found) }
    }
}

/// What a JSON value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
