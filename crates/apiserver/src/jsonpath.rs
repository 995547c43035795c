//! The part of JSONPath that printer columns use: fields, `['field']`, `[n]`, `[*]` and `[?(@.field=="value")]`.

use serde_json::Value;

enum Step<'a> {
    Field(String),
    Index(i64),
    All,
    Where(Vec<Step<'a>>, &'a str),
}

fn parse(path: &str) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('[') {
            let end = if tail.starts_with('?') { tail.find(")]")? + 1 } else { tail.find(']')? };
            steps.push(bracket(&tail[..end])?);
            rest = &tail[end + 1..];
        } else {
            let tail = rest.strip_prefix('.').unwrap_or(rest);
            let (field, after) = field(tail);
            if field == "*" {
                steps.push(Step::All);
            } else if !field.is_empty() {
                steps.push(Step::Field(field));
            } else if tail.len() == rest.len() {
                return None;
            }
            rest = after;
        }
    }
    Some(steps)
}

/// A field name up to the next dot or bracket; a backslash escapes either.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '.' | '[' => return (name, &text[index..]),
            '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
            other => name.push(other),
        }
    }
    (name, "")
}

fn unquoted(text: &str) -> Option<&str> {
    ['"', '\''].iter().find_map(|quote| text.trim().strip_prefix(*quote)?.strip_suffix(*quote))
}

fn bracket(inside: &str) -> Option<Step<'_>> {
    if let Some(filter) = inside.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        let (left, right) = filter.split_once("==")?;
        let path = left.trim().strip_prefix('@')?;
        return Some(Step::Where(parse(path)?, unquoted(right).unwrap_or(right.trim())));
    }
    match inside {
        "*" => Some(Step::All),
        quoted if unquoted(quoted).is_some() => unquoted(quoted).map(|name| Step::Field(name.to_owned())),
        number => number.trim().parse().ok().map(Step::Index),
    }
}

/// All values that the path leads to, in order. A path that cannot be parsed leads nowhere.
pub fn find<'a>(value: &'a Value, path: &str) -> Vec<&'a Value> {
    parse(path).map_or_else(Vec::new, |steps| walk(vec![value], &steps))
}

fn walk<'a>(values: Vec<&'a Value>, steps: &[Step<'_>]) -> Vec<&'a Value> {
    steps.iter().fold(values, |values, step| values.into_iter().flat_map(|value| step.apply(value)).collect())
}

impl Step<'_> {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Self::Field(name), value) => value.get(name).into_iter().collect(),
            (Self::Index(index), Value::Array(items)) => {
                let place = if *index < 0 { *index + items.len() as i64 } else { *index };
                usize::try_from(place).ok().and_then(|place| items.get(place)).into_iter().collect()
            }
            (Self::All, Value::Array(items)) => items.iter().collect(),
            (Self::All, Value::Object(fields)) => fields.values().collect(),
            (Self::Where(path, wanted), Value::Array(items)) => {
                let fits = |item: &&Value| match walk(vec![*item], path).as_slice() {
                    [Value::String(text)] => text == wanted,
                    [other] => other.to_string().as_str() == *wanted,
                    _ => false,
                };
                items.iter().filter(fits).collect()
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_of_printer_columns() {
        let object = json!({"spec": {"list": [{"n": 1, "ip": "a"}, {"n": 2, "ip": "b"}], "a.b": "dotted"},
            "status": {"conditions": [{"type": "Up", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        for (path, expected) in [
            (".spec.list[*].ip", json!(["a", "b"])),
            (".spec.list[0].n", json!([1])),
            (".spec.list[-1].n", json!([2])),
            (".spec.list[5].n", json!([])),
            (".spec.list[?(@.n==2)].ip", json!(["b"])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='Gone')].status", json!([])),
            (".spec['a.b']", json!(["dotted"])),
            (".spec.a\\.b", json!(["dotted"])),
            (".spec.none.deeper", json!([])),
            (".spec.list[", json!([])),
            (".spec.list[?(@.n=2)]", json!([])),
        ] {
            assert_eq!(json!(find(&object, path)), expected, "{path}");
        }
    }
}
