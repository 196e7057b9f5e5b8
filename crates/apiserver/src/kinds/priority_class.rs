use jiff::Timestamp;
use serde_json::{Value, json};

use super::at::{At, Read};
use super::errors::Errors;
use crate::{Column, ColumnKind, FieldError, Kind, Scope, Subresource, time};

/// How important pods are to the scheduler.
pub static PRIORITY_CLASS: Kind = Kind {
    group: "scheduling.k8s.io",
    plural: "priorityclasses",
    singular: "priorityclass",
    name: "PriorityClass",
    scope: Scope::Cluster,
    short_names: &["pc"],
    columns: &[
        Column::NAME,
        Column::integer("Value"),
        Column { kind: ColumnKind::Boolean, ..Column::text("Global-Default") },
        Column::AGE,
        Column::text("PreemptionPolicy"),
    ],
    cells,
    default: |class| {
        class.or_set("preemptionPolicy", "PreemptLowerPriority");
        class.make("value", || 0.into());
    },
    validate,
    generation: true,
    ..Kind::PLAIN
};

const HIGHEST: i64 = 1_000_000_000;
const SYSTEM: &[(&str, i64, &str)] = &[
    (
        "system-node-critical",
        2 * HIGHEST + 1000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2 * HIGHEST,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// The classes that every cluster has.
pub fn built_in_priority_classes() -> Vec<Value> {
    let class = |(name, value, description): &(&str, i64, &str)| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": name },
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        })
    };
    SYSTEM.iter().map(class).collect()
}

fn cells(class: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        class["metadata"]["name"].clone(),
        class["value"].clone(),
        class.yes(&["globalDefault"]).into(),
        time::age(&class["metadata"]["creationTimestamp"], now).into(),
        class.text(&["preemptionPolicy"]).into(),
    ]
}

fn validate(class: &Value, old: Option<&Value>, _: Option<Subresource>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = At::root(class);
    let (name, value) = (root.at("metadata").at("name"), root.at("value"));
    if let Some(old) = old {
        if value.number() != old.number(&["value"]) {
            errors.forbidden(&value, "may not be changed in an update.");
        }
        errors.immutable(&root.at("preemptionPolicy"), old.dig(&["preemptionPolicy"]));
        return errors.0;
    }
    if name.text().starts_with("system-") {
        let known = SYSTEM.iter().find(|(known, ..)| *known == name.text());
        let why = match known {
            None => Some(format!("{} is not a known system priority class", name.text())),
            Some((known, amount, _)) if *amount != value.number() => {
                Some(format!("value of {known} PriorityClass must be {amount}"))
            }
            Some((known, ..)) if root.at("globalDefault").yes() => {
                Some(format!("globalDefault of {known} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(why) = why {
            let text = "priority class names with 'system-' prefix are reserved for system use only. error: ";
            errors.forbidden(&name, format!("{text}{why}"));
        }
    } else if value.number() > HIGHEST {
        errors.forbidden(&value, format!("maximum allowed value of a user defined priority is {HIGHEST}"));
    }
    errors.one_of(&root.at("preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
    errors.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(class: &Value, old: Option<&Value>) -> Vec<String> {
        validate(class, old, None).iter().map(ToString::to_string).collect()
    }

    fn class(name: &str, value: i64) -> Value {
        let mut class = json!({ "metadata": { "name": name }, "value": value });
        (PRIORITY_CLASS.default)(&mut class);
        class
    }

    #[test]
    fn values() {
        for built_in in built_in_priority_classes() {
            assert_eq!(texts(&built_in, None), [""; 0]);
        }
        assert_eq!(texts(&class("high", HIGHEST), None), [""; 0]);
        assert_eq!(
            texts(&class("high", HIGHEST + 1), None),
            ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
        );
        assert_eq!(
            texts(&class("system-mine", 1), None),
            [
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class"
            ]
        );
        assert_eq!(
            texts(&class("a", 2), Some(&class("a", 1))),
            ["value: Forbidden: may not be changed in an update."]
        );
    }
}
