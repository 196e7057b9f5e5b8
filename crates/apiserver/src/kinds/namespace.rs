use jiff::Timestamp;
use serde_json::{Value, json};

use super::at::{At, Read, keep, list};
use super::errors::Errors;
use super::labels::finalizer_name;
use crate::{Column, FieldError, Kind, Scope, Subresource, Verb, names, time};

/// A part of the cluster with names of its own.
pub static NAMESPACE: Kind = Kind {
    plural: "namespaces",
    singular: "namespace",
    name: "Namespace",
    scope: Scope::Cluster,
    short_names: &["ns"],
    verbs: &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch],
    subresources: &[Subresource::Finalize, Subresource::Status],
    columns: &[Column::NAME, Column::text("Status"), Column::AGE],
    cells,
    prepare,
    default: named,
    validate,
    check_name: names::label,
    selectable: &["status.phase"],
    terminate: |namespace| namespace.object("status")["phase"] = "Terminating".into(),
    held: |namespace| !namespace.list(&["spec", "finalizers"]).is_empty(),
    returns_deleted: true,
    ..Kind::PLAIN
};

fn cells(namespace: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        namespace["metadata"]["name"].clone(),
        namespace.text(&["status", "phase"]).into(),
        time::age(&namespace["metadata"]["creationTimestamp"], now).into(),
    ]
}

/// Every namespace has its name as a label, so that selectors can name it.
fn named(namespace: &mut Value) {
    let name = namespace.text(&["metadata", "name"]).to_owned();
    if !name.is_empty() {
        namespace.object("metadata").object("labels")["kubernetes.io/metadata.name"] = name.into();
    }
}

fn prepare(namespace: &mut Value, old: Option<&Value>, subresource: Option<Subresource>) {
    named(namespace);
    match (old, subresource) {
        (None, _) => {
            namespace["status"] = json!({ "phase": "Active" });
            let finalizers = namespace.object("spec").make("finalizers", list);
            if let Some(names) = finalizers.as_array_mut()
                && !names.iter().any(|name| name == "kubernetes")
            {
                names.push("kubernetes".into());
            }
        }
        (Some(old), None) => keep(namespace.object("spec"), old.dig(&["spec"]), "finalizers"),
        _ => {}
    }
}

fn validate(namespace: &Value, _: Option<&Value>, subresource: Option<Subresource>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = At::root(namespace);
    if subresource == Some(Subresource::Status) {
        let phase = root.at("status").at("phase");
        let ends = root.at("metadata").at("deletionTimestamp").given();
        // Kubernetes writes the name of the field of its own structure.
        let at = root.at("status").at("Phase");
        let (wanted, text) = if ends {
            ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
        } else {
            ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
        };
        if phase.text() != wanted {
            errors.invalid_as(&at, phase.text(), text);
        }
        return errors.0;
    }
    let finalizers = root.at("spec").at("finalizers");
    for one in finalizers.items() {
        let place = if subresource == Some(Subresource::Finalize) { one.clone() } else { finalizers.clone() };
        for message in names::qualified(one.text()) {
            errors.invalid_as(&place, one.text(), message);
        }
        finalizer_name(&mut errors, &place, one.text());
    }
    errors.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life() {
        let mut namespace = json!({ "metadata": { "name": "a" } });
        named(&mut namespace);
        prepare(&mut namespace, None, None);
        assert_eq!(
            namespace,
            json!({ "metadata": { "name": "a", "labels": { "kubernetes.io/metadata.name": "a" } },
                "status": { "phase": "Active" }, "spec": { "finalizers": ["kubernetes"] } })
        );
        let mut changed = json!({ "metadata": { "name": "a" }, "spec": { "finalizers": [] } });
        prepare(&mut changed, Some(&namespace), None);
        assert_eq!(changed["spec"], json!({ "finalizers": ["kubernetes"] }));
        assert!((NAMESPACE.held)(&namespace));
        (NAMESPACE.terminate)(&mut namespace);
        assert_eq!(cells(&namespace, Timestamp::now())[1], "Terminating");
        assert_eq!(
            validate(&namespace, None, Some(Subresource::Status))[0].to_string(),
            r#"status.Phase: Invalid value: "Terminating": may only be 'Active' if `deletionTimestamp` is empty"#
        );
    }
}
