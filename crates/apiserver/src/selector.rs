//! Label and field selectors.

use serde_json::Value;

use crate::failure::Failure;
use crate::meta::at;
use crate::resource::Resource;

#[derive(Clone, Debug, PartialEq)]
enum Requirement {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Above(String, i64),
    Below(String, i64),
}

#[derive(Clone, Debug, PartialEq)]
struct FieldRequirement {
    path: Vec<String>,
    equal: bool,
    value: String,
}

/// What a list or a watch is narrowed to. Empty: everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

impl Selector {
    /// Parses both selectors as they stand in a query.
    ///
    /// # Errors
    /// 400 for bad syntax, or a field that the resource cannot be selected by.
    pub fn parse(labels: &str, fields: &str, resource: &Resource) -> Result<Self, Failure> {
        let fields = fields.split(',').filter(|part| !part.trim().is_empty());
        Ok(Self {
            labels: clauses(labels).into_iter().map(|clause| label(&clause)).collect::<Result<_, _>>()?,
            fields: fields.map(|part| field(part.trim(), resource)).collect::<Result<_, _>>()?,
        })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether the object is among the selected.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = at(object, &["metadata", "labels"]);
        self.labels.iter().all(|requirement| requirement.matches(labels))
            && self.fields.iter().all(|requirement| requirement.matches(object))
    }

    /// The one name that can match, if a field says so.
    pub fn only_name(&self) -> Option<&str> {
        let names = |field: &&FieldRequirement| field.equal && field.path == ["metadata", "name"];
        self.fields.iter().find(names).map(|field| field.value.as_str())
    }
}

impl Requirement {
    fn matches(&self, labels: Option<&Value>) -> bool {
        let value = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        let number = |key: &str| value(key).and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::Exists(key) => value(key).is_some(),
            Self::Absent(key) => value(key).is_none(),
            Self::In(key, values) => value(key).is_some_and(|value| values.iter().any(|one| one == value)),
            Self::NotIn(key, values) => value(key).is_none_or(|value| values.iter().all(|one| one != value)),
            Self::Above(key, limit) => number(key).is_some_and(|number| number > *limit),
            Self::Below(key, limit) => number(key).is_some_and(|number| number < *limit),
        }
    }
}

impl FieldRequirement {
    fn matches(&self, object: &Value) -> bool {
        let found = self.path.iter().try_fold(object, |value, field| value.get(field));
        let equal = match found {
            None | Some(Value::Null) => self.value.is_empty() || self.value == "false",
            Some(Value::String(text)) => *text == self.value,
            Some(other) => other.to_string().as_str() == self.value,
        };
        equal == self.equal
    }
}

/// Splits at commas outside parentheses.
fn clauses(text: &str) -> Vec<String> {
    let (mut found, mut clause, mut depth) = (Vec::new(), String::new(), 0);
    for character in text.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(std::mem::take(&mut clause));
                continue;
            }
            _ => {}
        }
        clause.push(character);
    }
    found.push(clause);
    found.retain(|clause| !clause.trim().is_empty());
    found
}

fn label(clause: &str) -> Result<Requirement, Failure> {
    let bad = || Failure::bad_request(format!("unable to parse requirement: {clause:?}"));
    let key = |text: &str| {
        let text = text.trim();
        let fits = !text.is_empty() && text.chars().all(|one| one.is_ascii_alphanumeric() || "-_./".contains(one));
        if fits { Ok(text.to_owned()) } else { Err(bad()) }
    };
    let clause = clause.trim();
    for (sign, negated) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((name, value)) = clause.split_once(sign) {
            let values = vec![value.trim().to_owned()];
            return Ok(if negated {
                Requirement::NotIn(key(name)?, values)
            } else {
                Requirement::In(key(name)?, values)
            });
        }
    }
    for (sign, above) in [('>', true), ('<', false)] {
        if let Some((name, value)) = clause.split_once(sign) {
            let limit = value.trim().parse().map_err(|_| bad())?;
            return Ok(if above {
                Requirement::Above(key(name)?, limit)
            } else {
                Requirement::Below(key(name)?, limit)
            });
        }
    }
    if let Some((head, values)) = clause.split_once('(') {
        let values = values.trim_end().strip_suffix(')').ok_or_else(bad)?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(name), Some("in"), None) => Ok(Requirement::In(key(name)?, values)),
            (Some(name), Some("notin"), None) => Ok(Requirement::NotIn(key(name)?, values)),
            _ => Err(bad()),
        };
    }
    match clause.strip_prefix('!') {
        Some(name) => Ok(Requirement::Absent(key(name)?)),
        None => Ok(Requirement::Exists(key(clause)?)),
    }
}

fn field(part: &str, resource: &Resource) -> Result<FieldRequirement, Failure> {
    let split = |sign| part.split_once(sign);
    let (equal, (path, value)) = if let Some(both) = split("!=") {
        (false, both)
    } else if let Some(both) = split("==").or_else(|| split("=")) {
        (true, both)
    } else {
        return Err(Failure::bad_request(format!("invalid selector: {part:?}; can't understand {part:?}")));
    };
    let known = path == "metadata.name"
        || (path == "metadata.namespace" && (resource.namespaced || !resource.is_custom()))
        || resource.selectable.iter().any(|selectable| selectable == path);
    if !known {
        return Err(Failure::bad_request(format!("field label not supported: {path}")));
    }
    let value = value.replace("\\,", ",").replace("\\=", "=").replace("\\\\", "\\");
    // Objects are stored as core/v1 Events, and selected in that form.
    let path = match (resource.is_event_alias(), path) {
        (true, "reportingController") => "reportingComponent".to_owned(),
        (true, path) => path.replacen("regarding.", "involvedObject.", 1),
        (false, path) => path.to_owned(),
    };
    Ok(FieldRequirement { path: path.split('.').map(str::to_owned).collect(), equal, value })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn selects(labels: &str, fields: &str) -> bool {
        let registry = crate::builtin::registry();
        let pods = registry.find("", "v1", "pods").unwrap();
        let pod = json!({"metadata": {"name": "p", "labels": {"app": "web", "n": "5"}}, "spec": {"nodeName": "n1"},
            "status": {"phase": "Running"}});
        Selector::parse(labels, fields, &pods).unwrap().matches(&pod)
    }

    #[test]
    fn every_label_operator() {
        for yes in [
            "",
            "app",
            "!db",
            "app=web",
            "app==web",
            "app!=db",
            "db!=x",
            "app in (db, web)",
            "app notin (db)",
            "db notin (x)",
            "n>4",
            "n<6",
            "app=web,n>4,!db",
            " app in ( web ) , n ",
        ] {
            assert!(selects(yes, ""), "{yes}");
        }
        for no in
            ["db", "!app", "app=db", "app!=web", "db=x", "app in (db)", "app notin (web)", "n>5", "app>1", "app=web,db"]
        {
            assert!(!selects(no, ""), "{no}");
        }
    }

    #[test]
    fn fields_of_the_kind_and_no_others() {
        assert!(selects("", "spec.nodeName=n1,status.phase!=Failed,metadata.name==p"));
        assert!(!selects("", "spec.nodeName=n2"));
        assert!(selects("", "status.podIP="));
        let registry = crate::builtin::registry();
        let pods = registry.find("", "v1", "pods").unwrap();
        assert!(Selector::parse("", "spec.hostname=x", &pods).is_err());
        for bad in ["a in (b", "a like (b)", "a b", "=x"] {
            assert!(Selector::parse(bad, "", &pods).is_err(), "{bad}");
        }
    }
}
