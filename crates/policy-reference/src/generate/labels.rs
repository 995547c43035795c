//! Labels of a small vocabulary, so that selectors hit and miss.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::Choices;

/// Keys, and the values that each may have.
pub(super) type Vocabulary = [(&'static str, &'static [&'static str])];

pub(super) const POD: &Vocabulary = &[("app", &["web", "db", "cache"]), ("tier", &["front", "back"])];
pub(super) const NAMESPACE: &Vocabulary = &[("team", &["red", "blue", "green"]), ("env", &["dev", "prod"])];
pub(super) const NODE: &Vocabulary = &[("zone", &["a", "b"]), ("role", &["worker", "control"])];

/// Each key with this chance.
pub(super) fn labels(choices: &mut Choices, vocabulary: &Vocabulary, percent: u64) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, values) in vocabulary {
        if choices.chance(percent) {
            labels.insert((*key).to_owned(), (*choices.pick(values)).to_owned());
        }
    }
    labels
}

/// A selector of any form, at times an empty one.
pub(super) fn selector(choices: &mut Choices, vocabulary: &Vocabulary) -> LabelSelector {
    let (labels, expressions) = match choices.weighted(&[12, 30, 40, 10, 8]) {
        0 => (None, None),
        1 => (Some(match_labels(choices, vocabulary)), None),
        2 => (None, Some(vec![requirement(choices, vocabulary)])),
        3 => (Some(match_labels(choices, vocabulary)), Some(vec![requirement(choices, vocabulary)])),
        _ => (None, Some(vec![requirement(choices, vocabulary), requirement(choices, vocabulary)])),
    };
    LabelSelector { match_labels: labels, match_expressions: expressions }
}

/// A selector with an operator that there is not.
pub(super) fn bad_selector(choices: &mut Choices, vocabulary: &Vocabulary) -> LabelSelector {
    let mut bad = requirement(choices, vocabulary);
    bad.operator = "Like".to_owned();
    LabelSelector { match_expressions: Some(vec![bad]), ..LabelSelector::default() }
}

fn match_labels(choices: &mut Choices, vocabulary: &Vocabulary) -> BTreeMap<String, String> {
    let (key, values) = choices.pick(vocabulary);
    BTreeMap::from([((*key).to_owned(), (*choices.pick(values)).to_owned())])
}

fn requirement(choices: &mut Choices, vocabulary: &Vocabulary) -> LabelSelectorRequirement {
    let (key, values) = choices.pick(vocabulary);
    let operator = ["In", "NotIn", "Exists", "DoesNotExist"][choices.weighted(&[35, 30, 20, 15])];
    let values = matches!(operator, "In" | "NotIn").then(|| some_values(choices, values));
    LabelSelectorRequirement { key: (*key).to_owned(), operator: operator.to_owned(), values }
}

/// One value or two, at times one that no object has.
fn some_values(choices: &mut Choices, values: &[&str]) -> Vec<String> {
    let mut chosen = vec![(*choices.pick(values)).to_owned()];
    if choices.chance(60) {
        let other = if choices.chance(25) { "none" } else { *choices.pick(values) };
        chosen.push(other.to_owned());
    }
    chosen
}
