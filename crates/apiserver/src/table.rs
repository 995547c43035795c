//! `meta.k8s.io/v1` tables, as `kubectl get` asks for them.

use serde_json::{Value, json};

use crate::jsonpath;
use crate::meta::{age_seconds, text};
use crate::printers;
use crate::resource::{Column, Resource};
use crate::store::Object;
use crate::view::{Include, partial};

/// A table of objects; without headings if a watch has sent them before.
pub fn render<'a>(
    resource: &Resource,
    objects: impl Iterator<Item = &'a Object>,
    meta: &Value,
    include: Include,
    headings: bool,
) -> Value {
    let rows: Vec<Value> = objects
        .map(|object| {
            let carried = match include {
                Include::None => Value::Null,
                Include::Metadata => partial(&object.value),
                Include::Object => object.value.clone(),
            };
            json!({"cells": cells(resource, &object.value), "object": carried})
        })
        .collect();
    let columns = if headings { definitions(resource) } else { Vec::new() };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": columns, "rows": rows})
}

fn definitions(resource: &Resource) -> Vec<Value> {
    // Columns of a custom resource follow its name; the built-in kinds say where the name stands.
    let name = resource.is_custom().then(|| definition("Name", "string", "name", 0));
    let others = resource.columns.iter().map(|column| {
        let format = if column.name == "Name" && !resource.is_custom() { "name" } else { "" };
        definition(&column.name, &column.kind, format, column.priority)
    });
    name.into_iter().chain(others).collect()
}

fn definition(name: &str, kind: &str, format: &str, priority: i64) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": "", "priority": priority})
}

fn cells(resource: &Resource, object: &Value) -> Vec<Value> {
    if !resource.is_custom() {
        return printers::cells(resource, object);
    }
    let name = json!(text(object, &["metadata", "name"]));
    std::iter::once(name).chain(resource.columns.iter().map(|column| custom_cell(object, column))).collect()
}

/// As the real server prints it: the first value that the path leads to, even if there are more.
fn custom_cell(object: &Value, column: &Column) -> Value {
    let found = jsonpath::find(object, &column.path);
    let Some(value) = found.first().filter(|value| !value.is_null()) else {
        return Value::Null;
    };
    match column.kind.as_str() {
        "string" => match value {
            Value::String(text) => json!(text),
            other => json!(other.to_string()),
        },
        "date" => json!(value.as_str().map_or_else(|| "<invalid>".to_owned(), age)),
        "integer" => value.as_i64().map_or(Value::Null, |number| json!(number)),
        "number" if value.is_number() => (*value).clone(),
        "boolean" if value.is_boolean() => (*value).clone(),
        _ => Value::Null,
    }
}

/// How long ago a time was, in kubectl's words.
pub fn age(time: &str) -> String {
    age_seconds(time).map_or_else(|| "<unknown>".to_owned(), |seconds| duration(seconds.max(0)))
}

fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, of: i64, name: &str, small: i64, small_name: &str| {
        let (whole, rest) = (big / of, big % of / small);
        if rest == 0 { format!("{whole}{name}") } else { format!("{whole}{name}{rest}{small_name}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds, MINUTE, "m", 1, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds, HOUR, "h", MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(seconds, DAY, "d", HOUR, "h"),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two(seconds, YEAR, "y", DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn durations_as_kubectl_prints_them() {
        for (seconds, shown) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (3_600, "60m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (90_000, "25h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
    }
}
