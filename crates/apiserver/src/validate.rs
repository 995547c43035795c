//! Which values a structural schema forbids.
//!
//! CEL rules (`x-kubernetes-validations`) are not evaluated.

use serde_json::Value;

use crate::failure::{Cause, type_name};
use crate::schema::{Schema, child, flag, join};

impl Schema {
    /// Every value that the schema forbids.
    pub fn check(&self, object: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        self.check_at(object, self.root(), "", &mut causes);
        causes
    }

    fn check_at(&self, value: &Value, schema: &Value, path: &str, causes: &mut Vec<Cause>) {
        if value.is_null() && flag(schema, "nullable") {
            return;
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            causes.push(Cause::not_supported(path, value, allowed));
            return;
        }
        if let Some(wanted) = schema.get("type").and_then(Value::as_str)
            && !has_type(value, wanted)
        {
            causes.push(Cause::wrong_type(path, value, wanted));
            return;
        }
        match value {
            Value::Object(fields) => self.check_object(fields, schema, path, causes),
            Value::Array(items) => self.check_array(items, schema, path, causes),
            Value::String(text) => self.check_string(text, schema, path, causes),
            Value::Number(number) => check_number(number, schema, path, causes),
            Value::Bool(_) | Value::Null => {}
        }
        self.check_combined(value, schema, path, causes);
    }

    fn check_object(
        &self,
        fields: &serde_json::Map<String, Value>,
        schema: &Value,
        path: &str,
        causes: &mut Vec<Cause>,
    ) {
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                causes.push(Cause::required(&join(path, name)));
            }
        }
        count(fields.len(), "Properties", schema, path, causes);
        for (name, value) in fields {
            if let Some(schema) = child(schema, name) {
                self.check_at(value, schema, &join(path, name), causes);
            }
        }
    }

    fn check_array(&self, items: &[Value], schema: &Value, path: &str, causes: &mut Vec<Cause>) {
        count(items.len(), "Items", schema, path, causes);
        if let Some(schema) = schema.get("items") {
            for (index, item) in items.iter().enumerate() {
                self.check_at(item, schema, &format!("{path}[{index}]"), causes);
            }
        }
        let kind = schema.get("x-kubernetes-list-type").and_then(Value::as_str).unwrap_or_default();
        let keys: Vec<&str> = schema
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let same = |one: &Value, two: &Value| match kind {
            "set" => one == two,
            "map" => keys.iter().all(|key| one.get(key) == two.get(key)),
            _ => false,
        };
        for (index, item) in items.iter().enumerate() {
            if items[..index].iter().any(|earlier| same(earlier, item)) {
                causes.push(Cause::invalid(&format!("{path}[{index}]"), item, "duplicate entry"));
            }
        }
    }

    fn check_string(&self, text: &str, schema: &Value, path: &str, causes: &mut Vec<Cause>) {
        count(text.chars().count(), "Length", schema, path, causes);
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
            && self.patterns.get(pattern).is_some_and(|regex| !regex.is_match(text))
        {
            causes.push(Cause::invalid(path, &text.into(), &format!("{path} in body should match '{pattern}'")));
        }
    }

    fn check_combined(&self, value: &Value, schema: &Value, path: &str, causes: &mut Vec<Cause>) {
        let fits = |schema: &Value| {
            let mut found = Vec::new();
            self.check_at(value, schema, path, &mut found);
            found.is_empty()
        };
        let list = |name| schema.get(name).and_then(Value::as_array).map(Vec::as_slice);
        let broken = |rule: &str| Cause::invalid(path, value, &format!("{path} in body must validate {rule} schema"));
        for schema in list("allOf").unwrap_or_default() {
            self.check_at(value, schema, path, causes);
        }
        if list("anyOf").is_some_and(|schemas| !schemas.iter().any(fits)) {
            causes.push(broken("at least one"));
        }
        if list("oneOf").is_some_and(|schemas| schemas.iter().filter(|schema| fits(schema)).count() != 1) {
            causes.push(broken("one and only one"));
        }
        if schema.get("not").is_some_and(fits) {
            causes.push(broken("none of the forbidden"));
        }
    }
}

fn has_type(value: &Value, wanted: &str) -> bool {
    match (type_name(value), wanted) {
        // 3.0 is an integer, too.
        ("number", "integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        ("integer", "number") => true,
        (found, wanted) => found == wanted,
    }
}

fn count(found: usize, what: &str, schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    let limit = |name: &str| schema.get(format!("{name}{what}")).and_then(Value::as_u64);
    let found = found as u64;
    let complain = |word: &str, limit: u64| {
        let what = what.to_lowercase();
        Cause::invalid(path, &found.into(), &format!("{path} in body should have at {word} {limit} {what}"))
    };
    if let Some(least) = limit("min").filter(|least| found < *least) {
        causes.push(complain("least", least));
    }
    if let Some(most) = limit("max").filter(|most| found > *most) {
        causes.push(complain("most", most));
    }
}

fn check_number(number: &serde_json::Number, schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(found) = number.as_f64() else { return };
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    let mut complain = |rule: String| {
        causes.push(Cause::invalid(path, &number.clone().into(), &format!("{path} in body should be {rule}")));
    };
    if let Some(least) = limit("minimum") {
        if flag(schema, "exclusiveMinimum") && found <= least {
            complain(format!("greater than {least}"));
        } else if found < least {
            complain(format!("greater than or equal to {least}"));
        }
    }
    if let Some(most) = limit("maximum") {
        if flag(schema, "exclusiveMaximum") && found >= most {
            complain(format!("less than {most}"));
        } else if found > most {
            complain(format!("less than or equal to {most}"));
        }
    }
    if let Some(step) = limit("multipleOf").filter(|step| *step != 0.0 && found % *step != 0.0) {
        complain(format!("a multiple of {step}"));
    }
    let range = match schema.get("format").and_then(Value::as_str) {
        Some("int32") => f64::from(i32::MIN)..=f64::from(i32::MAX),
        Some("uint8") => 0.0..=f64::from(u8::MAX),
        Some("uint16") => 0.0..=f64::from(u16::MAX),
        Some("uint32") => 0.0..=f64::from(u32::MAX),
        _ => return,
    };
    if !range.contains(&found) {
        complain(format!("between {} and {}", range.start(), range.end()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use crate::schema::tests::schema;
    use serde_json::json;

    #[test]
    fn every_fault_is_found_at_once() {
        let object = json!({"spec": {
            "name": "toolong1", "mode": "c", "size": 9, "note": 3, "list": {}, "map": {"k": 1},
        }});
        // name breaks two rules.
        assert_eq!(schema().check(&object).len(), 7);
        assert_eq!(schema().check(&json!({"spec": {"size": 251}})).len(), 2);
        assert_eq!(schema().check(&json!({"spec": {"name": "a", "size": 10.5}})).len(), 1);
    }
}
