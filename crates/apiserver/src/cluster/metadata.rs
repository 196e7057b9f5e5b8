//! What holds for the metadata of every kind.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::{FieldError, Kind, Status, names, time};

const IMMUTABLE: &str = "field is immutable";
const ANNOTATION_BYTES: usize = 256 << 10;

/// The object's metadata, made if it is missing.
pub(super) fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    match metadata {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object"),
    }
}

/// A text in the metadata; empty if it is not there.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The names in metadata.finalizers.
pub(super) fn finalizers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Sets metadata.finalizers.
pub(super) fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    let metadata = of(object);
    if finalizers.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.to_vec().into());
    }
}

/// Puts the object where the request says.
pub(super) fn place(kind: &Kind, object: &mut Value, namespace: &str) -> Result<(), Status> {
    let metadata = of(object);
    let own = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if !kind.namespaced() {
        metadata.shift_remove("namespace");
    } else if own.is_empty() {
        metadata.insert("namespace".to_owned(), namespace.into());
    } else if own != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Gives a new object what the server gives: uid, time, name; takes away what only the server sets.
pub(super) fn begin(kind: &Kind, object: &mut Value) {
    let metadata = of(object);
    for field in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "generation"]
    {
        metadata.shift_remove(field);
    }
    metadata.insert("uid".to_owned(), names::uid().into());
    metadata.insert("creationTimestamp".to_owned(), time::now().into());
    if kind.generation {
        metadata.insert("generation".to_owned(), 1.into());
    }
}

/// Gives the object a name if it asks for one; whether it did.
pub(super) fn generate(object: &mut Value) -> bool {
    let metadata = of(object);
    let has = |field: &str| metadata.get(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    if has("name") || !has("generateName") {
        return false;
    }
    let name = names::generate(metadata["generateName"].as_str().unwrap_or_default());
    metadata.insert("name".to_owned(), name.into());
    true
}

/// Keeps what an update cannot change.
pub(super) fn keep(object: &mut Value, old: &Value) {
    let metadata = of(object);
    for field in ["selfLink", "managedFields"] {
        metadata.shift_remove(field);
    }
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        if let Some(value) = old["metadata"].get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    for field in ["uid", "name", "namespace"] {
        let missing = metadata.get(field).and_then(Value::as_str).is_none_or(str::is_empty);
        if let Some(value) = old["metadata"].get(field).filter(|_| missing) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
}

/// The order in which metadata is written, so that a change of one field does not move others.
pub(super) fn sort(object: &mut Value) {
    let metadata = std::mem::take(of(object));
    let mut fields: Vec<(String, Value)> =
        metadata.into_iter().filter(|(_, value)| !is_empty(value)).collect();
    fields.sort_by_key(|(name, _)| ORDER.iter().position(|one| one == name).unwrap_or(ORDER.len()));
    of(object).extend(fields);
}

const ORDER: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
];

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What is wrong with the metadata of an object.
pub(super) fn validate(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let prefix = text(object, "generateName");
    if !prefix.is_empty() {
        // The prefix may end in what a name may not end in.
        let mut end = prefix.len().min(58);
        while !prefix.is_char_boundary(end) {
            end -= 1;
        }
        let wrong = (kind.check_name)(&format!("{}x", &prefix[..end]));
        errors.extend(wrong.into_iter().map(|why| FieldError::invalid("metadata.generateName", prefix, why)));
    }
    let name = text(object, "name");
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        let wrong = (kind.check_name)(name);
        errors.extend(wrong.into_iter().map(|why| FieldError::invalid("metadata.name", name, why)));
    }
    if kind.namespaced() {
        let namespace = text(object, "namespace");
        if namespace.is_empty() {
            errors.push(FieldError::required("metadata.namespace", ""));
        } else {
            let wrong = names::label(namespace);
            errors.extend(
                wrong.into_iter().map(|why| FieldError::invalid("metadata.namespace", namespace, why)),
            );
        }
    }
    labels(&object["metadata"]["labels"], &mut errors);
    annotations(&object["metadata"]["annotations"], &mut errors);
    owners(&object["metadata"]["ownerReferences"], &mut errors);
    let finalizers = finalizers(object);
    for (index, finalizer) in finalizers.iter().enumerate() {
        let wrong = names::qualified(finalizer);
        errors.extend(
            wrong.into_iter().map(|why| FieldError::invalid("metadata.finalizers", finalizer.as_str(), why)),
        );
        if !finalizer.contains('/')
            && !matches!(finalizer.as_str(), "kubernetes" | "orphan" | "foregroundDeletion")
        {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            let path = format!("metadata.finalizers[{index}]");
            errors.push(FieldError::invalid(path, finalizer.as_str(), why));
        }
    }
    let has = |name: &str| finalizers.iter().any(|one| one == name);
    if has("orphan") && has("foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid("metadata.finalizers", finalizers.clone(), why));
    }
    errors
}

/// What is wrong with the change of the metadata.
pub(super) fn validate_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !text(old, "deletionTimestamp").is_empty() {
        let before = finalizers(old);
        let new: BTreeSet<String> =
            finalizers(object).into_iter().filter(|one| !before.contains(one)).collect();
        if !new.is_empty() {
            let list: Vec<String> = new.iter().map(|one| crate::status::quote(one)).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", why));
        }
    }
    for field in ["name", "namespace", "uid", "deletionTimestamp"] {
        if text(object, field) != text(old, field) {
            errors.push(FieldError::invalid(format!("metadata.{field}"), text(object, field), IMMUTABLE));
        }
    }
    errors
}

fn labels(labels: &Value, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let wrong = names::qualified(key);
        errors.extend(wrong.into_iter().map(|why| FieldError::invalid("metadata.labels", key.as_str(), why)));
        let wrong = names::label_value(value);
        errors.extend(wrong.into_iter().map(|why| FieldError::invalid("metadata.labels", value, why)));
    }
}

fn annotations(annotations: &Value, errors: &mut Vec<FieldError>) {
    let mut bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        let wrong = names::qualified(&key.to_lowercase());
        errors.extend(
            wrong.into_iter().map(|why| FieldError::invalid("metadata.annotations", key.as_str(), why)),
        );
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATION_BYTES {
        errors.push(FieldError::too_long("metadata.annotations", ANNOTATION_BYTES));
    }
}

fn owners(owners: &Value, errors: &mut Vec<FieldError>) {
    const PATH: &str = "metadata.ownerReferences";
    let mut controller: Option<String> = None;
    for owner in owners.as_array().into_iter().flatten() {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        for (field, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(field).is_empty() {
                errors.push(FieldError::invalid(format!("{PATH}.{field}"), "", why));
            }
        }
        if text("kind") == "Event" && matches!(text("apiVersion"), "v1" | "events.k8s.io/v1") {
            let why = format!("{}, Kind=Event is disallowed from being an owner", text("apiVersion"));
            errors.push(FieldError::invalid(PATH, owner.clone(), why));
        }
        if owner["controller"] == true {
            let own = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {own}"
                    );
                    errors.push(FieldError::invalid(PATH, owners.clone(), why));
                }
                None => controller = Some(own),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::CONFIG_MAP;

    #[test]
    fn metadata_is_checked() {
        let told = |metadata: Value| -> Vec<String> {
            let object = json!({ "metadata": metadata });
            validate(&CONFIG_MAP, &object).iter().map(ToString::to_string).collect()
        };
        assert_eq!(told(json!({"name": "a", "namespace": "b"})), Vec::<String>::new());
        // Three bytes each: the place where a prefix is cut may be amid one.
        assert_eq!(told(json!({"name": "a", "namespace": "b", "generateName": "€".repeat(40)})).len(), 1);
        assert_eq!(
            told(json!({})),
            [
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Required value"
            ]
        );
        let wrong = told(
            json!({"name": "A", "namespace": "b", "labels": {"/": "x y"}, "finalizers": ["orphan", "foregroundDeletion"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
        );
        assert_eq!(wrong.len(), 7, "{wrong:#?}");
    }

    #[test]
    fn a_deleted_object_gets_no_new_finalizers() {
        let old = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-11-21T20:00:00Z", "finalizers": ["a/b"]}});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["a/b", "a/c"]);
        assert_eq!(
            validate_update(&new, &old)[0].to_string(),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a/c\"}"
        );
    }
}
