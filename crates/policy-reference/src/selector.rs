//! Label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Whether every requirement is one that the API knows.
pub(crate) fn valid(selector: &LabelSelector) -> bool {
    selector.match_expressions.iter().flatten().all(|requirement| {
        let none = values(requirement).is_empty();
        match requirement.operator.as_str() {
            "In" | "NotIn" => !none,
            "Exists" | "DoesNotExist" => none,
            _ => false,
        }
    })
}

/// Whether a valid selector selects an object of these labels.
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let value_of = |key: &String| labels.and_then(|labels| labels.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| value_of(key) == Some(value));
    let met = selector.match_expressions.iter().flatten().all(|requirement| {
        let value = value_of(&requirement.key);
        match requirement.operator.as_str() {
            "In" => value.is_some_and(|value| values(requirement).contains(value)),
            "NotIn" => value.is_none_or(|value| !values(requirement).contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    equal && met
}

fn values(requirement: &LabelSelectorRequirement) -> &[String] {
    requirement.values.as_deref().unwrap_or_default()
}
