//! A value of a JSON document with the way to it, so that every error says where.

use serde_json::Value;

use super::FirewallError;

/// A value and where it is. What is `null` is not there.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> At<'a> {
    pub(super) fn top(value: &'a Value) -> Self {
        Self { path: String::new(), value }
    }

    /// Where it is, as `[3].protocol`.
    pub(super) fn place(&self) -> String {
        if self.path.is_empty() { "the document".to_owned() } else { self.path.clone() }
    }

    pub(super) const fn value(&self) -> &'a Value {
        self.value
    }

    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        let dot = if self.path.is_empty() { "" } else { "." };
        Some(Self { path: format!("{}{dot}{key}", self.path), value })
    }

    pub(super) fn need(&self, key: &str) -> Result<Self, FirewallError> {
        if !self.value.is_object() {
            return Err(self.kind("an object"));
        }
        self.get(key).ok_or_else(|| FirewallError::Missing { at: self.place(), key: key.to_owned() })
    }

    /// Its only key and what is there, of an object that has one.
    pub(super) fn only(&self) -> Option<(&'a str, Self)> {
        let object = self.value.as_object().filter(|object| object.len() == 1)?;
        let (key, value) = object.iter().next()?;
        let dot = if self.path.is_empty() { "" } else { "." };
        Some((key, Self { path: format!("{}{dot}{key}", self.path), value }))
    }

    pub(super) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    pub(super) fn items(&self) -> Result<Vec<Self>, FirewallError> {
        let list = self.value.as_array().ok_or_else(|| self.kind("a list"))?;
        let item = |(index, value)| Self { path: format!("{}[{index}]", self.path), value };
        Ok(list.iter().enumerate().map(item).collect())
    }

    /// The items of a list that may be left out.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Self>, FirewallError> {
        self.get(key).map_or_else(|| Ok(Vec::new()), |list| list.items())
    }

    pub(super) fn text(&self) -> Result<&'a str, FirewallError> {
        self.value.as_str().ok_or_else(|| self.kind("a text"))
    }

    /// A text that may be left out; an empty one is none.
    pub(super) fn text_of(&self, key: &str) -> Result<Option<&'a str>, FirewallError> {
        let text = self.get(key).map(|text| text.text()).transpose()?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    pub(super) fn integer(&self) -> Result<i64, FirewallError> {
        self.value.as_i64().ok_or_else(|| self.kind("a whole number"))
    }

    pub(super) fn boolean(&self) -> Result<bool, FirewallError> {
        self.value.as_bool().ok_or_else(|| self.kind("true or false"))
    }

    pub(super) fn kind(&self, expected: &'static str) -> FirewallError {
        let given = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        FirewallError::Kind { at: self.place(), expected, given }
    }

    /// What is wrong with the value of a key.
    pub(super) fn wrong_text(&self, key: &str, problem: &'static str) -> FirewallError {
        self.get(key).unwrap_or_else(|| self.clone()).wrong(problem)
    }

    /// A key that begins as others do and is none of them: something that a rule asks for, and nobody here knows.
    pub(super) fn strange_key(&self, beginnings: &[&str], known: &[&str]) -> Option<&'a str> {
        let keys = self.value.as_object()?.iter().filter(|(_, value)| !is_nothing(value)).map(|(key, _)| key.as_str());
        let strange = |key: &&str| beginnings.iter().any(|start| key.starts_with(start)) && !known.contains(key);
        keys.into_iter().find(strange)
    }

    /// What is wrong with its value.
    pub(super) fn wrong(&self, problem: &'static str) -> FirewallError {
        const MOST: usize = 80;
        let mut given = self.value.as_str().map_or_else(|| self.value.to_string(), str::to_owned);
        if let Some((end, _)) = given.char_indices().nth(MOST) {
            given.truncate(end);
            given.push_str("...");
        }
        FirewallError::Value { at: self.place(), given, problem }
    }
}

/// Whether a value says nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}
