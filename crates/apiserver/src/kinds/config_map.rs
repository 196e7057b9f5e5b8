use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::at::{At, Read};
use super::errors::{Errors, same};
use super::forms;
use crate::{Column, FieldError, Kind, Subresource, time};

/// Configuration as keys and values.
pub static CONFIG_MAP: Kind = Kind {
    plural: "configmaps",
    singular: "configmap",
    name: "ConfigMap",
    short_names: &["cm"],
    columns: &[Column::NAME, Column::text("Data"), Column::AGE],
    cells,
    validate,
    ..Kind::PLAIN
};

/// The most bytes that the values of a ConfigMap or Secret may have together.
pub(super) const MOST: usize = 1 << 20;

fn cells(map: &Value, now: Timestamp) -> Vec<Value> {
    let count = |field: &str| map[field].as_object().map_or(0, Map::len);
    vec![
        map["metadata"]["name"].clone(),
        (count("data") + count("binaryData")).into(),
        time::age(&map["metadata"]["creationTimestamp"], now).into(),
    ]
}

fn validate(map: &Value, old: Option<&Value>, _: Option<Subresource>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = At::root(map);
    if let Some(old) = old {
        unchanged(&mut errors, &root, old, &["data", "binaryData"]);
    }
    let (data, binary) = (root.at("data"), root.at("binaryData"));
    let mut size = 0;
    for (key, value) in data.entries() {
        config_key(&mut errors, &value, key);
        if binary.at(key).given() {
            errors.invalid_as(&value, key, "duplicate of key present in binaryData");
        }
        size += value.len();
    }
    for (key, value) in binary.entries() {
        config_key(&mut errors, &value, key);
        size += decoded(value.text()).len();
    }
    if size > MOST {
        errors.too_long(&root.whole(), MOST);
    }
    errors.0
}

/// A key, reported at its value.
pub(super) fn config_key(errors: &mut Errors, at: &At<'_>, key: &str) {
    for message in forms::config_key(key) {
        errors.invalid_as(at, key, message);
    }
}

/// The bytes of a base64 text; none if it is none (decoding refuses those).
pub(super) fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_default()
}

/// What an object that was declared immutable keeps.
pub(super) fn unchanged(errors: &mut Errors, new: &At<'_>, old: &Value, fields: &[&str]) {
    if !old.yes(&["immutable"]) {
        return;
    }
    let text = "field is immutable when `immutable` is set";
    if !new.at("immutable").yes() {
        errors.forbidden(&new.at("immutable"), text);
    }
    for field in fields {
        if !same(new.at(field).value(), old.dig(&[field])) {
            errors.forbidden(&new.at(field), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(new: &Value, old: Option<&Value>) -> Vec<String> {
        validate(new, old, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn keys_and_size() {
        assert_eq!(
            texts(&json!({ "data": { "a.b_c-D": "" }, "binaryData": { "x": "AA==" } }), None),
            [""; 0]
        );
        let both = json!({ "data": { "a": "1" }, "binaryData": { "a": "AA==" } });
        assert_eq!(
            texts(&both, None),
            [r#"data[a]: Invalid value: "a": duplicate of key present in binaryData"#]
        );
        assert_eq!(
            texts(&json!({ "data": { "": "1" } }), None),
            [
                r#"data[]: Invalid value: "": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"#
            ]
        );
        let large = json!({ "data": { "a": "x".repeat(MOST), "b": "y" } });
        assert_eq!(texts(&large, None), ["[]: Too long: may not be more than 1048576 bytes"]);
    }

    #[test]
    fn immutable() {
        let old = json!({ "immutable": true, "data": { "a": "1" } });
        assert_eq!(texts(&old, Some(&old)), [""; 0]);
        assert_eq!(
            texts(&json!({ "data": { "a": "2" } }), Some(&old)),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }
}
