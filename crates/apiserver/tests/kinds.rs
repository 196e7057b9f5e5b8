//! Rules and defaults of kinds against what kube-apiserver 1.36.2 said to the same objects.
//!
//! `kinds/refused.json` has objects with the errors that they were refused with, `kinds/completed.json` objects and what
//! they were after their defaults, `kinds/updates.json` pods, changes of them (as merge patches) and the errors. What
//! metadata and admission say is left out: it is no part of a kind. Of several lines of an error the first counts.

#![allow(clippy::unwrap_used, reason = "fixtures that do not parse shall fail the test")]

use serde_json::{Value, json};
use vaquita_apiserver::kinds::KINDS;
use vaquita_apiserver::{Kind, Subresource};

fn kind(object: &Value) -> &'static Kind {
    let is = |kind: &&&Kind| object["kind"] == kind.name && object["apiVersion"] == kind.api_version();
    KINDS.iter().find(is).unwrap_or_else(|| panic!("no kind for {object}"))
}

fn errors(object: &Value, old: Option<&Value>, subresource: Option<Subresource>) -> Vec<String> {
    let errors = (kind(object).validate)(object, old, subresource);
    let first = |error: String| error.lines().next().unwrap_or_default().to_owned();
    let mut texts: Vec<String> = errors.into_iter().map(|error| first(error.to_string())).collect();
    texts.sort_unstable();
    texts
}

fn complete(object: &mut Value, old: Option<&Value>, subresource: Option<Subresource>) {
    let kind = kind(object);
    (kind.default)(object);
    (kind.prepare)(object, old, subresource);
}

fn cases(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

#[test]
fn errors_are_those_of_kubernetes() {
    for mut case in cases(include_str!("kinds/refused.json")) {
        let mut object = case["object"].take();
        complete(&mut object, None, None);
        assert_eq!(json!(errors(&object, None, None)), case["errors"], "{object}");
    }
}

#[test]
fn defaults_are_those_of_kubernetes() {
    for mut case in cases(include_str!("kinds/completed.json")) {
        let mut object = case["object"].take();
        complete(&mut object, None, None);
        assert_eq!(errors(&object, None, None), [""; 0], "{object}");
        let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten() {
            condition.as_object_mut().unwrap().shift_remove("lastTransitionTime");
        }
        if case["result"].get("status").is_none() {
            object.as_object_mut().unwrap().shift_remove("status");
        }
        assert_eq!(object, case["result"]);
    }
}

#[test]
fn changes_are_refused_as_by_kubernetes() {
    let all: Value = serde_json::from_str(include_str!("kinds/updates.json")).unwrap();
    for case in all["changes"].as_array().unwrap() {
        let old = &all["pods"][case["old"].as_str().unwrap()];
        let mut object = old.clone();
        merge(&mut object, &case["change"]);
        let subresource = Subresource::named(case["subresource"].as_str().unwrap());
        complete(&mut object, Some(old), subresource);
        assert_eq!(json!(errors(&object, Some(old), subresource)), case["errors"], "{case}");
    }
}

/// A JSON merge patch (RFC 7396).
fn merge(object: &mut Value, change: &Value) {
    let Some(fields) = change.as_object() else {
        *object = change.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (name, change) in fields {
        if change.is_null() {
            object.as_object_mut().unwrap().shift_remove(name);
        } else {
            merge(&mut object[name], change);
        }
    }
}

/// Decoding refuses values of wrong types, but objects that this process makes are not decoded.
#[test]
fn nothing_panics_on_strange_values() {
    let strange = [
        json!(null),
        json!(""),
        json!(-1),
        json!(true),
        json!([]),
        json!({}),
        json!([null, 1, {}]),
        json!({"a": null}),
    ];
    for case in cases(include_str!("kinds/completed.json")) {
        for object in [&case["object"], &case["result"]] {
            let mut places = Vec::new();
            walk(object, String::new(), &mut places);
            for place in places.iter().filter(|place| !matches!(place.as_str(), "/kind" | "/apiVersion")) {
                for value in &strange {
                    let mut changed = object.clone();
                    *changed.pointer_mut(place).unwrap() = value.clone();
                    all(&changed, object);
                }
            }
        }
    }
}

fn walk(value: &Value, place: String, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                walk(value, format!("{place}/{}", name.replace('~', "~0").replace('/', "~1")), places);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                walk(value, format!("{place}/{index}"), places);
            }
        }
        _ => {}
    }
    if !place.is_empty() {
        places.push(place);
    }
}

/// Everything that a kind does with an object.
fn all(object: &Value, other: &Value) {
    let kind = kind(object);
    let writes =
        [None, Some(Subresource::Status), Some(Subresource::Resize), Some(Subresource::EphemeralContainers)];
    for (old, subresource) in writes.into_iter().flat_map(|write| [(None, write), (Some(other), write)]) {
        let mut new = object.clone();
        complete(&mut new, old, subresource);
        let _ = (kind.validate)(&new, old, subresource);
        if let Some(old) = old {
            let _ = (kind.validate)(old, Some(object), subresource);
        }
    }
    let _ = (kind.cells)(object, jiff::Timestamp::UNIX_EPOCH);
    let _ = (kind.warnings)(object, None);
    let _ = (kind.held)(object);
    (kind.terminate)(&mut object.clone());
    if let Some(grace) = kind.grace {
        let _ = grace(object, None);
    }
}
