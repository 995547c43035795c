//! Labels and selectors, as the Kubernetes API defines them (`meta/v1` LabelSelector).

use std::collections::BTreeMap;

use crate::few::Few;

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// What a selector asks of one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    /// It is there, with one of these values.
    In(String, Few<String>),
    /// It is not there, or has none of these values.
    NotIn(String, Few<String>),
    /// It is there.
    Exists(String),
    /// It is not there.
    DoesNotExist(String),
}

/// What labels must be like: each requirement is met. None at all selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// The requirements.
    pub requirements: Few<Requirement>,
}

impl Selector {
    /// Whether labels are so.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.has(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.has(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        })
    }
}

/// Longest value of a label.
const VALUE_LONGEST: usize = 63;

/// Whether a text can be the value of a label: at most 63 characters, letters, digits, `-`, `_` and `.`, a letter or digit
/// first and last; or nothing (Kubernetes, "Labels and Selectors", syntax).
#[must_use]
pub fn is_label_value(text: &str) -> bool {
    let inside = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let ends = [text.bytes().next(), text.bytes().next_back()];
    text.len() <= VALUE_LONGEST && text.bytes().all(inside) && ends.iter().flatten().all(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    //! Must catch: `NotIn` that asks for the label, a value that the API refuses.

    use super::*;

    #[test]
    fn values_are_as_the_api_takes_them() {
        let (long, longer) = ("a".repeat(63), "a".repeat(64));
        for good in ["", "a", "7", "aks-vnet_1.west", long.as_str()] {
            assert!(is_label_value(good), "{good}");
        }
        for bad in [longer.as_str(), "-a", "a-", "group_", "a b", "(dev)", "ä"] {
            assert!(!is_label_value(bad), "{bad}");
        }
    }

    #[test]
    fn every_operator() {
        let text = |text: &str| text.to_owned();
        let values = |all: &[&str]| all.iter().map(|value| text(value)).collect::<Few<_>>();
        let labels = Labels::from([(text("app"), text("web")), (text("tier"), String::new())]);
        let table = [
            (Requirement::In(text("app"), values(&["db", "web"])), true),
            (Requirement::In(text("app"), values(&["db"])), false),
            (Requirement::In(text("zone"), values(&["a"])), false),
            (Requirement::NotIn(text("app"), values(&["db"])), true),
            (Requirement::NotIn(text("app"), values(&["db", "web"])), false),
            (Requirement::NotIn(text("zone"), values(&["a"])), true),
            (Requirement::In(text("tier"), values(&[""])), true),
            (Requirement::Exists(text("tier")), true),
            (Requirement::Exists(text("zone")), false),
            (Requirement::DoesNotExist(text("zone")), true),
            (Requirement::DoesNotExist(text("app")), false),
        ];
        for (requirement, selects) in &table {
            let selector = Selector { requirements: [requirement.clone()].into() };
            assert_eq!(selector.selects(&labels), *selects, "{requirement:?}");
        }
        let all = Selector { requirements: table.iter().filter(|(_, yes)| *yes).map(|(r, _)| r.clone()).collect() };
        assert!(all.selects(&labels) && Selector::default().selects(&Labels::new()));
        let one_more = all.requirements.iter().cloned().chain([table[1].0.clone()]).collect();
        assert!(!Selector { requirements: one_more }.selects(&labels), "each has to be met");
    }
}
