//! The number of replicas as an object of its own: `autoscaling/v1` `Scale`.

use serde_json::{Value, json};
use vaquita_schema::patch;

use crate::{FieldError, Kind, Object, Patch, Status, schema};

/// What an object has of it.
pub(crate) fn of(object: &Object) -> Value {
    let value = object.value();
    let metadata = &value["metadata"];
    let mut scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {}});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata.get(field) {
            scale["metadata"][field] = value.clone();
        }
    }
    scale["spec"] = match value["spec"]["replicas"].as_i64() {
        Some(0) | None => json!({}),
        Some(replicas) => json!({ "replicas": replicas }),
    };
    scale["status"] = json!({"replicas": value["status"]["replicas"].as_i64().unwrap_or_default()});
    let selector = selector(&value["spec"]["selector"]);
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// The scale with a patch applied.
pub(crate) fn patched(scale: &Value, change: &Patch) -> Result<Value, Status> {
    let result = match change {
        Patch::Json(change) => patch::json(scale, change),
        Patch::Merge(change) => patch::merge(scale, change),
        Patch::Strategic(change) => match vaquita_schema::type_of("autoscaling", "v1", "Scale") {
            Some(ty) => patch::strategic(scale, change, ty),
            None => patch::merge(scale, change),
        },
        Patch::Apply(_) => return Err(schema::no_apply()),
    };
    result.map_err(|error| schema::refused(&error))
}

/// Puts the number of a scale into the object; whether that changes it.
pub(crate) fn put(kind: &Kind, object: &mut Value, scale: &Value) -> Result<bool, Status> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let asked = scale["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !asked.is_empty() && object["metadata"]["resourceVersion"] != asked {
        return Err(Status::modified(kind, &name));
    }
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        value => value.as_i64().ok_or_else(|| Status::bad_request("spec.replicas is not a number"))?,
    };
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(Status::invalid_named("autoscaling", "Scale", &name, &[error]));
    }
    let changed = object["spec"]["replicas"].as_i64() != Some(replicas);
    object["spec"]["replicas"] = replicas.into();
    Ok(changed)
}

/// A selector as text. Replication controllers have plain labels.
fn selector(selector: &Value) -> String {
    let labels = selector.get("matchLabels").unwrap_or(selector);
    let mut terms: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let values = values.collect::<Vec<_>>().join(",");
        terms.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.sort();
    terms.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_read_and_written() {
        let mut object = json!({"metadata": {"name": "d", "resourceVersion": "3"}, "spec": {"replicas": 1}});
        let scale = json!({"spec": {"replicas": 3}});
        assert!(put(&Kind::PLAIN, &mut object, &scale).unwrap());
        assert!(!put(&Kind::PLAIN, &mut object, &scale).unwrap());
        assert_eq!(object["spec"]["replicas"], 3);
        let old = json!({"metadata": {"resourceVersion": "2"}, "spec": {"replicas": 3}});
        assert_eq!(put(&Kind::PLAIN, &mut object, &old).unwrap_err().code, 409);
        assert_eq!(put(&Kind::PLAIN, &mut object, &json!({"spec": {"replicas": -1}})).unwrap_err().code, 422);
        let told = selector(
            &json!({"matchLabels": {"b": "c"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["x", "y"]}]}),
        );
        assert_eq!(told, "a in (x,y),b=c");
    }
}
