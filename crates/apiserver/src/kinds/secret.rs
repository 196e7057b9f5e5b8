use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::at::{At, Read, remove};
use super::config_map::{MOST, config_key, decoded, unchanged};
use super::errors::Errors;
use crate::{Column, FieldError, Kind, Subresource, time};

/// Confidential bytes by key.
pub static SECRET: Kind = Kind {
    plural: "secrets",
    singular: "secret",
    name: "Secret",
    columns: &[Column::NAME, Column::text("Type"), Column::text("Data"), Column::AGE],
    cells,
    default,
    validate,
    selectable: &["type"],
    ..Kind::PLAIN
};

fn cells(secret: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        secret["metadata"]["name"].clone(),
        secret["type"].clone(),
        secret["data"].as_object().map_or(0, Map::len).into(),
        time::age(&secret["metadata"]["creationTimestamp"], now).into(),
    ]
}

/// `stringData` goes into `data` and is never answered.
fn default(secret: &mut Value) {
    secret.or_set("type", "Opaque");
    let texts = secret.dig(&["stringData"]).as_object().cloned().unwrap_or_default();
    remove(secret, "stringData");
    for (key, text) in texts {
        secret.object("data")[key] = STANDARD.encode(text.as_str().unwrap_or_default()).into();
    }
}

fn validate(secret: &Value, old: Option<&Value>, _: Option<Subresource>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = At::root(secret);
    if let Some(old) = old {
        errors.immutable(&root.at("type"), old.dig(&["type"]));
        unchanged(&mut errors, &root, old, &["data"]);
    }
    let data = root.at("data");
    let mut size = 0;
    for (key, value) in data.entries() {
        config_key(&mut errors, &value, key);
        size += decoded(value.text()).len();
    }
    if size > MOST {
        errors.too_long(&data, MOST);
    }
    let need = |errors: &mut Errors, key: &str| {
        let value = data.key(key);
        if !value.given() {
            errors.required(&value, "");
        }
    };
    match root.at("type").text() {
        "kubernetes.io/service-account-token" => {
            let name = root.at("metadata").at("annotations").key("kubernetes.io/service-account.name");
            errors.needs(&name);
        }
        "kubernetes.io/dockercfg" => json(&mut errors, &data.key(".dockercfg")),
        "kubernetes.io/dockerconfigjson" => json(&mut errors, &data.key(".dockerconfigjson")),
        "kubernetes.io/basic-auth" if !data.at("username").given() && !data.at("password").given() => {
            need(&mut errors, "username");
            need(&mut errors, "password");
        }
        "kubernetes.io/ssh-auth" => {
            errors.needs(&data.key("ssh-privatekey"));
        }
        "kubernetes.io/tls" => {
            need(&mut errors, "tls.crt");
            need(&mut errors, "tls.key");
        }
        _ => {}
    }
    errors.0
}

/// A key that must be there and hold a JSON object.
fn json(errors: &mut Errors, at: &At<'_>) {
    if !at.given() {
        errors.required(at, "");
    } else if let Some(why) = no_object(&decoded(at.text())) {
        errors.invalid_as(at, "<secret contents redacted>", why);
    }
}

/// Why bytes are no JSON object, in the words of Go for the mistakes that people make.
fn no_object(bytes: &[u8]) -> Option<String> {
    let found = match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_) | Value::Null) => return None,
        Ok(Value::Array(_)) => "array",
        Ok(Value::Bool(_)) => "bool",
        Ok(Value::Number(_)) => "number",
        Ok(Value::String(_)) => "string",
        Err(error) if error.is_eof() => return Some("unexpected end of JSON input".to_owned()),
        Err(error) => {
            let line = bytes.split(|b| *b == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
            let bad = line.get(error.column().saturating_sub(1)).copied().unwrap_or(b'?');
            return Some(format!("invalid character '{}' looking for beginning of value", char::from(bad)));
        }
    };
    Some(format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(new: &Value, old: Option<&Value>) -> Vec<String> {
        validate(new, old, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn string_data() {
        let mut secret =
            json!({ "data": { "a": "MQ==", "b": "Mg==" }, "stringData": { "b": "3", "c": "é" } });
        default(&mut secret);
        assert_eq!(secret, json!({ "data": { "a": "MQ==", "b": "Mw==", "c": "w6k=" }, "type": "Opaque" }));
    }

    #[test]
    fn types() {
        for (kind, data, expected) in [
            ("Opaque", json!({}), vec![]),
            ("example.com/x", json!({}), vec![]),
            ("kubernetes.io/tls", json!({ "tls.crt": "" }), vec!["data[tls.key]: Required value"]),
            (
                "kubernetes.io/ssh-auth",
                json!({ "ssh-privatekey": "" }),
                vec!["data[ssh-privatekey]: Required value"],
            ),
            (
                "kubernetes.io/basic-auth",
                json!({}),
                vec!["data[username]: Required value", "data[password]: Required value"],
            ),
            ("kubernetes.io/basic-auth", json!({ "username": "" }), vec![]),
            ("kubernetes.io/dockerconfigjson", json!({}), vec!["data[.dockerconfigjson]: Required value"]),
            ("kubernetes.io/dockerconfigjson", json!({ ".dockerconfigjson": "e30=" }), vec![]),
            (
                "kubernetes.io/dockercfg",
                json!({ ".dockercfg": "ew==" }),
                vec![
                    r#"data[.dockercfg]: Invalid value: "<secret contents redacted>": unexpected end of JSON input"#,
                ],
            ),
            (
                "kubernetes.io/service-account-token",
                json!({}),
                vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
        ] {
            assert_eq!(texts(&json!({ "type": kind, "data": data }), None), expected, "{kind}");
        }
    }

    #[test]
    fn updates() {
        let old = json!({ "type": "Opaque", "immutable": true, "data": { "a": "MQ==" } });
        let new = json!({ "type": "kubernetes.io/ssh-auth", "immutable": true, "data": { "ssh-privatekey": "MQ==" } });
        assert_eq!(
            texts(&new, Some(&old)),
            [
                r#"type: Invalid value: "kubernetes.io/ssh-auth": field is immutable"#,
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }
}
