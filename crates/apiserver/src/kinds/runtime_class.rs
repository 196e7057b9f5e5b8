use jiff::Timestamp;
use serde_json::Value;

use super::at::{At, Read};
use super::errors::Errors;
use super::resources::{Of, requirements, round};
use super::{labels, tolerations};
use crate::{Column, FieldError, Kind, Scope, Subresource, names, time};

/// Another way to run containers.
pub static RUNTIME_CLASS: Kind = Kind {
    group: "node.k8s.io",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    name: "RuntimeClass",
    scope: Scope::Cluster,
    columns: &[Column::NAME, Column::text("Handler"), Column::AGE],
    cells,
    default: |class| {
        if let Some(overhead) = class.get_mut("overhead").and_then(|overhead| overhead.get_mut("podFixed")) {
            round(overhead);
        }
    },
    validate,
    ..Kind::PLAIN
};

fn cells(class: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        class["metadata"]["name"].clone(),
        class.text(&["handler"]).into(),
        time::age(&class["metadata"]["creationTimestamp"], now).into(),
    ]
}

fn validate(class: &Value, old: Option<&Value>, _: Option<Subresource>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = At::root(class);
    let handler = root.at("handler");
    if let Some(old) = old {
        errors.immutable(&handler, old.dig(&["handler"]));
        return errors.0;
    }
    if errors.needs(&handler) {
        errors.messages(&handler, names::label(handler.text()));
    }
    let overhead = root.at("overhead");
    if overhead.given() {
        let limits = serde_json::json!({ "limits": overhead.at("podFixed").value() });
        requirements(&mut errors, &overhead.elsewhere(&limits), Of::Container, &[]);
    }
    let scheduling = root.at("scheduling");
    labels::labels(&mut errors, &scheduling.at("nodeSelector"));
    let all = scheduling.at("tolerations");
    tolerations::check(&mut errors, &all);
    let key =
        |one: &At<'_>| ["key", "operator", "value", "effect"].map(|field| one.at(field).text().to_owned());
    for (index, one) in all.items().enumerate() {
        if all.items().take(index).any(|before| key(&before) == key(&one)) {
            errors.duplicate(&one, one.value().clone());
        }
    }
    errors.0
}
