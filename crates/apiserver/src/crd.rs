//! From a CustomResourceDefinition to a served resource, and the status that clients wait for.

use serde_json::{Value, json};

use crate::builtin::drop_nulls;
use crate::meta::{at, now, text};
use crate::resource::{Column, Resource};
use crate::schema::Schema;

fn strings(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The resource that a definition describes: its storage version; other versions are not served.
///
/// # Errors
/// The rule that the definition breaks.
pub fn resource(crd: &Value) -> Result<Resource, String> {
    let names = at(crd, &["spec", "names"]).cloned().unwrap_or_default();
    let (group, plural, kind) = (text(crd, &["spec", "group"]), text(&names, &["plural"]), text(&names, &["kind"]));
    if group.is_empty() || plural.is_empty() || kind.is_empty() {
        return Err("spec.group, spec.names.plural and spec.names.kind are required".to_owned());
    }
    let name = text(crd, &["metadata", "name"]);
    if name != format!("{plural}.{group}") {
        return Err(format!("metadata.name must be spec.names.plural+\".\"+spec.group, {plural}.{group}"));
    }
    let versions = at(crd, &["spec", "versions"]).and_then(Value::as_array);
    let is_stored = |version: &&Value| version.get("storage") == Some(&Value::Bool(true));
    let version = versions.into_iter().flatten().find(is_stored).ok_or("no version has storage: true")?;
    let schema = at(version, &["schema", "openAPIV3Schema"]).cloned().ok_or("the stored version has no schema")?;
    let schema = Schema::new(schema).map_err(|error| error.to_string())?;
    let or = |field: &str, default: String| {
        let given = text(&names, &[field]);
        if given.is_empty() { default } else { given.to_owned() }
    };
    Ok(Resource {
        group: group.to_owned(),
        version: text(version, &["name"]).to_owned(),
        plural: plural.to_owned(),
        singular: or("singular", kind.to_lowercase()),
        kind: kind.to_owned(),
        list_kind: or("listKind", format!("{kind}List")),
        short_names: strings(names.get("shortNames")),
        categories: strings(names.get("categories")),
        namespaced: text(crd, &["spec", "scope"]) == "Namespaced",
        status: at(version, &["subresources", "status"]).is_some_and(|status| !status.is_null()),
        generation: true,
        unconditional_update: false,
        name_is_label: false,
        selectable: version
            .get("selectableFields")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|field| text(field, &["jsonPath"]).trim_start_matches('.').to_owned())
            .collect(),
        columns: columns(version),
        schema: Some(schema),
        table: (group.to_owned(), plural.to_owned()),
    })
}

fn columns(version: &Value) -> Vec<Column> {
    let declared = version.get("additionalPrinterColumns").and_then(Value::as_array);
    let mut columns: Vec<Column> = declared
        .into_iter()
        .flatten()
        .map(|column| Column {
            name: text(column, &["name"]).to_owned(),
            kind: text(column, &["type"]).to_owned(),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
            path: text(column, &["jsonPath"]).to_owned(),
        })
        .collect();
    if columns.is_empty() {
        columns.push(Column {
            name: "Age".to_owned(),
            kind: "date".to_owned(),
            priority: 0,
            path: ".metadata.creationTimestamp".to_owned(),
        });
    }
    columns
}

/// Fills in what the server adds to a definition: short forms of the names, conversion, and an established status.
pub fn complete(crd: &mut Value) {
    drop_nulls(crd);
    let kind = text(crd, &["spec", "names", "kind"]).to_owned();
    if let Some(names) = crd.pointer_mut("/spec/names").and_then(Value::as_object_mut) {
        names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
        names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
    }
    if let Some(spec) = crd.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    }
    if at(crd, &["status", "conditions"]).is_some_and(|conditions| conditions.get(0).is_some()) {
        return;
    }
    let stored: Vec<Value> = at(crd, &["spec", "versions"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|version| version.get("storage") == Some(&Value::Bool(true)))
        .filter_map(|version| version.get("name").cloned())
        .collect();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()});
    let status = json!({
        "acceptedNames": at(crd, &["spec", "names"]),
        "storedVersions": stored,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
    if let Some(crd) = crd.as_object_mut() {
        crd.insert("status".to_owned(), status);
    }
}
