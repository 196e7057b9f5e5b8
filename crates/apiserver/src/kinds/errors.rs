//! Collecting what is wrong with an object.

use serde_json::Value;

use super::at::At;
use crate::status::quote;
use crate::{FieldError, FieldErrorKind};

/// The errors found so far.
#[derive(Debug, Default)]
pub(crate) struct Errors(pub(crate) Vec<FieldError>);

impl Errors {
    fn add(&mut self, kind: FieldErrorKind, at: &At<'_>, value: Value, detail: impl Into<String>) {
        self.0.push(FieldError::new(kind, at.path(), value, detail));
    }

    pub(crate) fn required(&mut self, at: &At<'_>, detail: &str) {
        self.add(FieldErrorKind::Required, at, Value::Null, detail);
    }

    pub(crate) fn forbidden(&mut self, at: &At<'_>, detail: impl Into<String>) {
        self.add(FieldErrorKind::Forbidden, at, Value::Null, detail);
    }

    /// The value at `at` is wrong.
    pub(crate) fn invalid(&mut self, at: &At<'_>, detail: impl Into<String>) {
        self.add(FieldErrorKind::Invalid, at, at.value().clone(), detail);
    }

    /// Another value than the one at `at` is shown.
    pub(crate) fn invalid_as(&mut self, at: &At<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.add(FieldErrorKind::Invalid, at, value.into(), detail);
    }

    /// One error for each of the messages about the text at `at`.
    pub(crate) fn messages(&mut self, at: &At<'_>, messages: Vec<String>) {
        for message in messages {
            self.invalid_as(at, at.text(), message);
        }
    }

    pub(crate) fn not_supported(&mut self, at: &At<'_>, supported: &[&str]) {
        self.not_supported_as(at, at.text(), supported);
    }

    pub(crate) fn not_supported_as(&mut self, at: &At<'_>, value: &str, supported: &[&str]) {
        let values: Vec<String> = supported.iter().map(|value| quote(value)).collect();
        let detail = format!("supported values: {}", values.join(", "));
        self.add(FieldErrorKind::NotSupported, at, value.into(), detail);
    }

    pub(crate) fn duplicate(&mut self, at: &At<'_>, value: impl Into<Value>) {
        self.add(FieldErrorKind::Duplicate, at, value.into(), "");
    }

    pub(crate) fn duplicate_because(&mut self, at: &At<'_>, detail: &str) {
        self.add(FieldErrorKind::Duplicate, at, at.value().clone(), detail);
    }

    pub(crate) fn not_found(&mut self, at: &At<'_>, detail: impl Into<String>) {
        self.not_found_as(at, at.text(), detail);
    }

    pub(crate) fn not_found_as(&mut self, at: &At<'_>, name: &str, detail: impl Into<String>) {
        self.add(FieldErrorKind::NotFound, at, name.into(), detail);
    }

    pub(crate) fn too_long(&mut self, at: &At<'_>, max: usize) {
        let unit = if max == 1 { "byte" } else { "bytes" };
        self.add(FieldErrorKind::TooLong, at, Value::Null, format!("may not be more than {max} {unit}"));
    }

    pub(crate) fn too_many(&mut self, at: &At<'_>, actual: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        self.add(FieldErrorKind::TooMany, at, actual.into(), detail);
    }

    /// One of `supported`; nothing at all is "required".
    pub(crate) fn one_of(&mut self, at: &At<'_>, supported: &[&str]) {
        if at.text().is_empty() {
            self.required(at, "");
        } else if !supported.contains(&at.text()) {
            self.not_supported(at, supported);
        }
    }

    /// One of `supported`, if it is given.
    pub(crate) fn one_of_if_given(&mut self, at: &At<'_>, supported: &[&str]) {
        if at.given() && !supported.contains(&at.text()) {
            self.not_supported(at, supported);
        }
    }

    /// A text that must be there. Returns whether it is.
    pub(crate) fn needs(&mut self, at: &At<'_>) -> bool {
        if at.text().is_empty() {
            self.required(at, "");
        }
        !at.text().is_empty()
    }

    pub(crate) fn not_negative(&mut self, at: &At<'_>) {
        if at.number() < 0 {
            self.invalid(at, "must be greater than or equal to 0");
        }
    }

    /// A number from `min` to `max`, if it is given.
    pub(crate) fn range(&mut self, at: &At<'_>, min: i64, max: i64) {
        if let Some(number) = at.int()
            && !(min..=max).contains(&number)
        {
            self.invalid(at, format!("must be between {min} and {max}, inclusive"));
        }
    }

    /// The value must be that of before. Absent and empty are the same.
    pub(crate) fn immutable(&mut self, at: &At<'_>, old: &Value) {
        if !same(at.value(), old) {
            self.invalid(at, "field is immutable");
        }
    }
}

/// Whether two values are the same for Kubernetes (`Semantic.DeepEqual`): absent, empty and zero are, and quantities
/// are compared by their text, which is canonical.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.into_iter()
                .all(|key| same(a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Null, other) | (other, Value::Null) => empty(other),
        (a, b) => a == b,
    }
}

/// Only containers and texts: a given `false` or 0 differs from nothing for a pointer.
fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts() {
        let object = json!({ "spec": { "ports": [{ "name": "a\"\n\u{1}é", "port": 70000, "on": true, "list": ["x"] }] } });
        let root = At::root(&object);
        let port = root.at("spec").at("ports").index(0);
        let mut errors = Errors::default();
        errors.required(&port.at("protocol"), "");
        errors.required(&port.at("protocol"), "must be given");
        errors.invalid(&port.at("name"), "no");
        errors.range(&port.at("port"), 1, 65535);
        errors.invalid(&port.at("on"), "no");
        errors.invalid(&port.at("list"), "no");
        errors.not_supported(&port.at("name"), &["b", "c"]);
        errors.too_long(&root, 1_048_576);
        errors.too_many(&port.at("list"), 21, 20);
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        let name = r#""a\"\n\x01é""#;
        assert_eq!(
            texts,
            [
                "spec.ports[0].protocol: Required value",
                "spec.ports[0].protocol: Required value: must be given",
                &format!("spec.ports[0].name: Invalid value: {name}: no"),
                "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.ports[0].on: Invalid value: true: no",
                r#"spec.ports[0].list: Invalid value: ["x"]: no"#,
                &format!(r#"spec.ports[0].name: Unsupported value: {name}: supported values: "b", "c""#),
                ": Too long: may not be more than 1048576 bytes",
                "spec.ports[0].list: Too many: 21: must have at most 20 items",
            ]
        );
    }

    #[test]
    fn sameness() {
        assert!(same(&json!({ "a": {}, "b": [] }), &json!({ "c": "" })));
        assert!(!same(&json!({ "a": false }), &json!({})));
        assert!(!same(&json!({ "a": [1] }), &json!({ "a": [1, 2] })));
    }
}
