//! What becomes of a body before it is stored: decoding, defaults, fields that only the server writes, validation.

use serde_json::{Map, Value, json};

use crate::failure::{Cause, Failure};
use crate::meta::{at, metadata, text};
use crate::request::Request;
use crate::resource::Resource;
use crate::store::Object;
use crate::{builtin, crd, events, meta, rules};

/// Metadata that a client may send; anything else is dropped.
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Metadata that stays as it is, whatever an update says.
const FIXED: [&str; 8] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generateName",
    "generation",
    "name",
    "namespace",
    "uid",
];

/// Decodes an object of the resource: checks its kind, drops what its schema does not know, fills in defaults.
///
/// # Errors
/// 400 for another kind, or values that the kind cannot hold.
pub fn decode(request: &Request, body: Value) -> Result<Value, Failure> {
    let resource = &*request.resource;
    let mut object = body;
    let fields = object.as_object_mut().ok_or_else(|| Failure::bad_request("the object provided is no JSON object"))?;
    for (field, wanted) in [("apiVersion", resource.api_version()), ("kind", resource.kind.clone())] {
        let given = fields.entry(field).or_insert_with(|| wanted.clone().into());
        if *given != *wanted {
            let message = format!("the {field} in the data ({given}) does not match the expected {field} ({wanted:?})");
            return Err(Failure::bad_request(message));
        }
    }
    let metadata = metadata(&mut object);
    metadata.retain(|field, value| METADATA.contains(&field.as_str()) && !value.is_null());
    metadata.values_mut().for_each(builtin::drop_nulls);
    if resource.is_event_alias() {
        object = events::inward(&object);
    }
    match &resource.schema {
        Some(schema) => {
            let dropped = schema.fit(&mut object);
            refuse_unknown(request, dropped)?;
        }
        None => {
            builtin::drop_nulls(&mut object);
            let group = if resource.is_event_alias() { "" } else { &resource.group };
            let known = builtin::known(&resource.kind, group, &object)
                .map_err(|error| Failure::bad_request(format!("{}{error}", unfit(resource))))?;
            let mut dropped = Vec::new();
            if let Some(known) = known {
                builtin::drop_unknown(&mut object, &known, "", &mut dropped);
            }
            refuse_unknown(request, dropped)?;
        }
    }
    Ok(object)
}

fn unfit(resource: &Resource) -> String {
    format!("{0} in version {1:?} cannot be handled as a {0}: ", resource.kind, resource.version)
}

/// Fields that nothing knows are dropped in silence, unless the client wants to hear of them.
fn refuse_unknown(request: &Request, dropped: Vec<String>) -> Result<(), Failure> {
    if dropped.is_empty() || request.query.get("fieldValidation") != "Strict" {
        return Ok(());
    }
    let told: Vec<String> = dropped.iter().map(|path| format!("unknown field {path:?}")).collect();
    let message = format!("{}strict decoding error: {}", unfit(&request.resource), told.join(", "));
    Err(Failure::bad_request(message))
}

/// The object as it is created.
///
/// # Errors
/// 400 if it contradicts the path, 422 if it breaks rules.
pub fn for_create(request: &Request, body: Value) -> Result<Value, Failure> {
    let mut object = decode(request, body)?;
    let resource = &*request.resource;
    place(request, &mut object)?;
    let metadata = metadata(&mut object);
    if metadata.get("resourceVersion").is_some_and(|version| version != "") {
        return Err(Failure::internal("resourceVersion should not be set on objects to be created"));
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"] {
        metadata.remove(field);
    }
    if request.name.is_none() {
        // Not by server-side apply: nobody owns a field.
        metadata.remove("managedFields");
    }
    metadata.insert("uid".to_owned(), meta::uid().into());
    metadata.insert("creationTimestamp".to_owned(), meta::now().into());
    if resource.generation {
        metadata.insert("generation".to_owned(), json!(1));
    }
    let generate = text(&object, &["metadata", "generateName"]).to_owned();
    if text(&object, &["metadata", "name"]).is_empty() && !generate.is_empty() {
        let name = format!("{generate}{}", meta::suffix());
        meta::metadata(&mut object).insert("name".to_owned(), name.into());
    }
    // A node says how it is when it registers; all others get their status later.
    let keeps_status = !resource.status || resource.is("", "nodes");
    if let (false, Some(fields)) = (keeps_status, object.as_object_mut()) {
        fields.remove("status");
    }
    finish(resource, object, None)
}

fn place(request: &Request, object: &mut Value) -> Result<(), Failure> {
    let metadata = metadata(object);
    if let Some(named) = &request.name {
        let given = metadata.entry("name").or_insert_with(|| named.as_str().into());
        if *given != **named {
            let message = format!("the name of the object ({given}) does not match the name on the URL ({named:?})");
            return Err(Failure::bad_request(message));
        }
    }
    let Some(namespace) = &request.namespace else {
        metadata.remove("namespace");
        return Ok(());
    };
    let given = metadata.entry("namespace").or_insert_with(|| namespace.as_str().into());
    if *given == "" {
        *given = namespace.as_str().into();
    }
    if *given != **namespace {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Failure::bad_request(why));
    }
    Ok(())
}

/// The object as it is after an update. `replaces` tells a whole update from a patch of what is there.
///
/// # Errors
/// 400 if it contradicts the path, 409 if it was made for another state, 422 if it breaks rules.
pub fn for_update(request: &Request, old: &Object, body: Value, replaces: bool) -> Result<Value, Failure> {
    let mut object = decode(request, body)?;
    let (resource, name) = (&*request.resource, old.key.1.as_str());
    place(request, &mut object)?;
    let version = text(&object, &["metadata", "resourceVersion"]);
    if version.is_empty() && replaces && !resource.unconditional_update {
        let cause = Cause::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
        return Err(Failure::invalid(resource, name, &[cause]));
    }
    if !version.is_empty() && version != old.revision.to_string() {
        return Err(Failure::stale(resource, name));
    }
    let uid = text(&object, &["metadata", "uid"]);
    if !uid.is_empty() && uid != old.uid() && !replaces {
        let cause = Cause::invalid("metadata.uid", &uid.into(), "field is immutable");
        return Err(Failure::invalid(resource, name, &[cause]));
    }
    if !uid.is_empty() && uid != old.uid() {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.uid());
        return Err(Failure::conflict(resource, name, &why));
    }
    keep_metadata(&mut object, &old.value);
    keep_other_half(resource, &request.subresource, &mut object, &old.value);
    if resource.generation && !same_specification(resource, &object, &old.value) {
        bump_generation(&mut object);
    }
    finish(resource, object, Some(&old.value))
}

/// Counts a change of the specification.
pub fn bump_generation(object: &mut Value) {
    let generation = at(object, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
    metadata(object).insert("generation".to_owned(), json!(generation.saturating_add(1)));
}

fn keep_metadata(object: &mut Value, old: &Value) {
    let metadata = metadata(object);
    for field in FIXED {
        match at(old, &["metadata", field]) {
            Some(value) => drop(metadata.insert(field.to_owned(), value.clone())),
            None => drop(metadata.remove(field)),
        }
    }
    metadata.remove("selfLink");
    // The store puts it in; an equal one lets an update that changes nothing be seen as such.
    let version = at(old, &["metadata", "resourceVersion"]).cloned().unwrap_or_default();
    metadata.insert("resourceVersion".to_owned(), version);
}

/// Status is written by its own door only, and that door writes nothing else.
fn keep_other_half(resource: &Resource, subresource: &str, object: &mut Value, old: &Value) {
    let (Value::Object(fields), Some(old_fields)) = (&mut *object, old.as_object()) else {
        return;
    };
    let copy = |fields: &mut Map<String, Value>, name: &str| match old_fields.get(name) {
        Some(value) => drop(fields.insert(name.to_owned(), value.clone())),
        None => drop(fields.remove(name)),
    };
    if subresource != "status" {
        if resource.status {
            copy(fields, "status");
        }
        return;
    }
    let managed = fields.get("metadata").and_then(|metadata| metadata.get("managedFields")).cloned();
    let names: Vec<String> = fields.keys().chain(old_fields.keys()).cloned().collect();
    for name in names {
        // The built-in kinds let metadata be changed along with the status.
        if name != "status" && (name != "metadata" || resource.is_custom()) {
            copy(fields, &name);
        }
    }
    match managed {
        Some(managed) => drop(metadata(object).insert("managedFields".to_owned(), managed)),
        None => drop(metadata(object).remove("managedFields")),
    }
}

fn same_specification(resource: &Resource, new: &Value, old: &Value) -> bool {
    let relevant = |name: &str| name != "metadata" && !(name == "status" && resource.status);
    let names = |object: &Value| -> Vec<String> {
        object.as_object().into_iter().flatten().map(|(name, _)| name.clone()).filter(|name| relevant(name)).collect()
    };
    names(new).iter().chain(&names(old)).all(|name| new.get(name) == old.get(name))
}

fn finish(resource: &Resource, mut object: Value, old: Option<&Value>) -> Result<Value, Failure> {
    rules::set_defaults(resource, &mut object, old.is_none());
    if resource.kind == "CustomResourceDefinition" {
        crd::complete(&mut object);
    }
    let mut causes = meta::check(&object, resource.name_is_label);
    causes.extend(rules::check_rules(resource, &object, old));
    if let Some(schema) = &resource.schema {
        causes.extend(schema.check(&object));
    }
    if let Some(old) = old {
        causes.extend(new_finalizers(&object, old));
    }
    if resource.kind == "CustomResourceDefinition"
        && let Err(reason) = crd::resource(&object)
    {
        causes.push(Cause::invalid("spec", &Value::Null, &reason));
    }
    if causes.is_empty() {
        return Ok(object);
    }
    Err(Failure::invalid(resource, text(&object, &["metadata", "name"]), &causes))
}

fn new_finalizers(object: &Value, old: &Value) -> Option<Cause> {
    at(old, &["metadata", "deletionTimestamp"])?;
    let of =
        |object: &Value| at(object, &["metadata", "finalizers"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let before = of(old);
    let why = "no new finalizers can be added if the object is being deleted";
    of(object).iter().any(|finalizer| !before.contains(finalizer)).then(|| Cause::forbidden("metadata.finalizers", why))
}
