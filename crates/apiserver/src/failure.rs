//! What the server answers when it refuses: `metav1.Status` with the reason, code and details of the real API server.

use serde_json::{Value, json};

use crate::resource::Resource;

/// A refusal, as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Failure {
    /// HTTP status code.
    pub code: u16,
    reason: &'static str,
    message: String,
    details: Value,
}

/// One field that breaks a rule.
#[derive(Clone, Debug)]
pub struct Cause {
    reason: &'static str,
    field: String,
    message: String,
}

impl Cause {
    /// The value does not fit the field.
    pub fn invalid(field: &str, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: {}: {why}", shown(value));
        Self { reason: "FieldValueInvalid", field: field.to_owned(), message }
    }

    /// The value is of the wrong type.
    pub fn wrong_type(field: &str, value: &Value, wanted: &str) -> Self {
        let found = json!(type_name(value));
        let message = format!("Invalid value: {found}: {field} in body must be of type {wanted}: {found}");
        Self { reason: "FieldValueTypeInvalid", field: field.to_owned(), message }
    }

    /// The field is missing.
    pub fn required(field: &str) -> Self {
        Self { reason: "FieldValueRequired", field: field.to_owned(), message: "Required value".to_owned() }
    }

    /// The value is none of the allowed ones.
    pub fn not_supported(field: &str, value: &Value, allowed: &[Value]) -> Self {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let message = format!("Unsupported value: {}: supported values: {}", shown(value), allowed.join(", "));
        Self { reason: "FieldValueNotSupported", field: field.to_owned(), message }
    }

    /// The field is missing, for this reason.
    pub fn required_for(field: &str, why: &str) -> Self {
        Self { message: format!("Required value: {why}"), ..Self::required(field) }
    }

    /// The field may not be set, or not be changed.
    pub fn forbidden(field: &str, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.to_owned(), message: format!("Forbidden: {why}") }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

/// The name of a JSON value's type, as schemas spell it.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: json!({}) }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = json!({"name": name, "group": resource.group, "kind": resource.plural});
        self
    }

    /// Its subject is a subresource: `pods/binding`.
    pub fn of_subresource(mut self, subresource: &str) -> Self {
        if let Some(kind) = self.details["kind"].as_str() {
            let qualified = format!("{kind}/{subresource}");
            self.message = self.message.replacen(&format!(" on {kind} "), &format!(" on {qualified} "), 1);
            self.details["kind"] = qualified.into();
        }
        self
    }

    /// No such object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified())).about(resource, name)
    }

    /// No such path.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// The name is taken.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.qualified()))
            .about(resource, name)
    }

    /// The object is not in the state that the request was made for.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// The resourceVersion sent is not the object's.
    pub fn stale(resource: &Resource, name: &str) -> Self {
        const WHY: &str = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, WHY)
    }

    /// Server-side apply would take fields of other managers: `(manager, field)` each.
    pub fn apply_conflict(conflicts: &[(String, String)]) -> Self {
        let managers: std::collections::BTreeSet<&str> =
            conflicts.iter().map(|(manager, _)| manager.as_str()).collect();
        let fields: Vec<&str> = conflicts.iter().map(|(_, field)| field.as_str()).collect();
        let count = conflicts.len();
        let message = format!(
            "Apply failed with {count} conflict{0}: conflict{0} with {1}: {2}",
            if count == 1 { "" } else { "s" },
            managers.iter().map(|manager| format!("\"{manager}\"")).collect::<Vec<_>>().join(", "),
            fields.join(", ")
        );
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|(manager, field)| {
                json!({"reason": "FieldManagerConflict", "message": format!("conflict with \"{manager}\""), "field": field})
            })
            .collect();
        Self { details: json!({"causes": causes}), ..Self::new(409, "Conflict", message) }
    }

    /// Fields break rules.
    pub fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Self {
        let texts: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let text = if let [only] = texts.as_slice() { only.clone() } else { format!("[{}]", texts.join(", ")) };
        let kind = if resource.group.is_empty() {
            resource.kind.clone()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let causes: Vec<Value> = causes
            .iter()
            .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
            .collect();
        let details = json!({"name": name, "group": resource.group, "kind": resource.kind, "causes": causes});
        Self { details, ..Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {text}")) }
    }

    /// Parameters of the query break rules; `kind` is that of the verb: `PatchOptions`.
    pub fn bad_options(kind: &str, cause: &Cause) -> Self {
        let details = json!({
            "group": "meta.k8s.io", "kind": kind,
            "causes": [{"reason": cause.reason, "message": cause.message, "field": cause.field}],
        });
        let message = format!("{kind}.meta.k8s.io \"\" is invalid: {}: {}", cause.field, cause.message);
        Self { details, ..Self::new(422, "Invalid", message) }
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// Not allowed, though well-formed.
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.qualified());
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// The resource has no such verb.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// The body is in a format that the verb does not take.
    pub fn unsupported_media_type(found: &str) -> Self {
        let message = format!("the body of the request was in an unknown format: {found}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// The body is longer than the API server takes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// The history that the request needs is gone.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// The resourceVersion asked for lies in the future.
    pub fn too_new(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let causes = json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
        Self { details: json!({"causes": causes, "retryAfterSeconds": 1}), ..Self::new(504, "Timeout", message) }
    }

    /// The server itself went wrong.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// The `metav1.Status`.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        // What is empty is left out.
        let mut details = self.details.clone();
        if let Some(details) = details.as_object_mut() {
            details.retain(|_, value| value != "");
        }
        if details != json!({}) {
            status["details"] = details;
        }
        status
    }
}
