//! Taints of nodes and which of them pods stand.

use std::collections::BTreeSet;

use super::at::At;
use super::errors::Errors;
use super::labels::label_key;
use crate::names::label_value;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `tolerations` of a pod or runtime class.
pub(super) fn check(errors: &mut Errors, at: &At<'_>) {
    for toleration in at.items() {
        let (key, operator, value) =
            (toleration.at("key"), toleration.at("operator"), toleration.at("value"));
        let effect = toleration.at("effect");
        if !key.is_empty() {
            label_key(errors, &key, key.text());
        } else if operator.text() != "Exists" {
            let text =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid_as(&operator, operator.text(), text);
        }
        if toleration.at("tolerationSeconds").given() && effect.text() != "NoExecute" {
            errors.invalid_as(
                &effect,
                effect.text(),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator.text() {
            "" | "Equal" => {
                let messages = label_value(value.text());
                if !messages.is_empty() {
                    errors.invalid_as(&operator, value.text(), messages.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid_as(&operator, value.text(), "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            "Lt" | "Gt" => errors.not_supported(&operator, &["Equal", "Exists", "Lt", "Gt"]),
            _ => errors.not_supported(&operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect.text()) {
            errors.not_supported(&effect, EFFECTS);
        }
    }
}

/// `taints` of a node.
pub(super) fn taints(errors: &mut Errors, at: &At<'_>) {
    let mut seen = BTreeSet::new();
    for taint in at.items() {
        let (key, value, effect) = (taint.at("key"), taint.at("value"), taint.at("effect"));
        label_key(errors, &key, key.text());
        let messages = label_value(value.text());
        if !messages.is_empty() {
            errors.invalid_as(&value, value.text(), messages.join(";"));
        }
        errors.one_of(&effect, EFFECTS);
        if !seen.insert((effect.text(), key.text())) {
            errors.duplicate_because(&taint, "taints must be unique by key and effect pair");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts() {
        let object = json!({ "t": [
            { "key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 3 }, { "operator": "Exists" },
            { "operator": "Equal" },
            { "key": "a", "operator": "Exists", "value": "b", "effect": "NoSchedule", "tolerationSeconds": 3 },
            { "key": "a", "operator": "In", "effect": "Never" },
        ], "n": [{ "key": "a", "effect": "NoSchedule" }, { "key": "a", "effect": "NoSchedule" }, { "key": "b" }] });
        let mut errors = Errors::default();
        check(&mut errors, &At::root(&object).at("t"));
        taints(&mut errors, &At::root(&object).at("n"));
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                r#"t[2].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means "match all values and all keys""#,
                r#"t[3].effect: Invalid value: "NoSchedule": effect must be 'NoExecute' when `tolerationSeconds` is set"#,
                r#"t[3].operator: Invalid value: "b": value must be empty when `operator` is 'Exists'"#,
                r#"t[4].operator: Unsupported value: "In": supported values: "Equal", "Exists""#,
                r#"t[4].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute""#,
                r#"n[1]: Duplicate value: {"key":"a","effect":"NoSchedule"}: taints must be unique by key and effect pair"#,
                "n[2].effect: Required value",
            ]
        );
    }
}
