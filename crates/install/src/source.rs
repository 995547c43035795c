//! Where an object's variable parts come from: values, or nowhere yet.

use serde_json::Value;

/// A word in a template that [`crate::chart`] turns into an expression. Made of letters and digits only, so that YAML
/// leaves it bare.
pub(crate) const OPEN: &str = "OVLEXPR";
pub(crate) const SPLICE: &str = "OVLSPLICE";
pub(crate) const CLOSE: &str = "OVLEND";

/// Where variable parts come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// Values as JSON, and the namespace.
    Values { tree: &'a Value, namespace: &'a str },
    /// Left open, as an expression of a Helm template.
    Template,
}

/// What a text is put together from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// As it is.
    Text(&'static str),
    /// A value, by its path.
    Value(&'static str),
    /// A value, or the program's version where that is empty.
    OrVersion(&'static str),
    /// The namespace of the installation.
    Namespace,
}

impl Source<'_> {
    /// A value, whatever it is.
    pub(crate) fn value(&self, path: &'static str) -> Value {
        match self {
            Self::Values { tree, .. } => lookup(tree, path),
            Self::Template => expression(OPEN, &format!(".Values.{path} | toJson")),
        }
    }

    /// The namespace of the installation.
    pub(crate) fn namespace(&self) -> Value {
        self.text(&[Part::Namespace])
    }

    /// A text put together from parts.
    pub(crate) fn text(&self, parts: &[Part]) -> Value {
        match self {
            Self::Values { tree, namespace } => Value::String(
                parts
                    .iter()
                    .map(|part| match part {
                        Part::Text(text) => (*text).to_owned(),
                        Part::Value(path) => plain(&lookup(tree, path)),
                        Part::OrVersion(path) => match plain(&lookup(tree, path)) {
                            empty if empty.is_empty() => crate::VERSION.to_owned(),
                            given => given,
                        },
                        Part::Namespace => (*namespace).to_owned(),
                    })
                    .collect(),
            ),
            Self::Template => {
                let words: Vec<String> = parts
                    .iter()
                    .map(|part| match part {
                        Part::Text(text) => format!("{text:?}"),
                        // As JSON: every number is a float there, and as text a large one would be 1e+06.
                        Part::Value(path) => format!("(.Values.{path} | toRawJson | trimAll \"\\\"\")"),
                        Part::OrVersion(path) => format!("(.Values.{path} | default .Chart.AppVersion)"),
                        Part::Namespace => ".Release.Namespace".to_owned(),
                    })
                    .collect();
                match words.as_slice() {
                    [one] => expression(OPEN, &format!("{one} | toJson")),
                    _ => expression(
                        OPEN,
                        &format!("printf \"{}\" {} | toJson", "%s".repeat(words.len()), words.join(" ")),
                    ),
                }
            }
        }
    }

    /// A list: fixed items, then those of a value.
    pub(crate) fn list(&self, fixed: Vec<Value>, more: &'static str) -> Value {
        let mut list = fixed;
        match self {
            Self::Values { tree, .. } => list.extend(lookup(tree, more).as_array().cloned().unwrap_or_default()),
            Self::Template => list.push(expression(SPLICE, &format!(".Values.{more}"))),
        }
        Value::Array(list)
    }

    /// Whether a value is true; always, where it is left open.
    pub(crate) fn is_true(&self, path: &str) -> bool {
        match self {
            Self::Values { tree, .. } => lookup(tree, path) == Value::Bool(true),
            Self::Template => true,
        }
    }
}

fn lookup(tree: &Value, path: &str) -> Value {
    path.split('.').try_fold(tree, |at, key| at.get(key)).cloned().unwrap_or_default()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// An expression as a word of letters and digits: hexadecimal between marks.
fn expression(open: &str, text: &str) -> Value {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    Value::String(format!("{open}{hex}{CLOSE}"))
}
