//! Selectors that a pod completes by its own labels.

use serde_json::{Value, json};

use crate::kinds::at::{Read, list as new_list};

/// Labels of the pod that its terms select by go into their selectors, as `matchLabelKeys` asks.
pub(super) fn match_labels(pod: &mut Value) {
    let labels = pod.dig(&["metadata", "labels"]).clone();
    let Some(spec) = pod.get_mut("spec") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get_mut("affinity").and_then(|affinity| affinity.get_mut(kind)) else {
            continue;
        };
        for term in affinity.list_mut("requiredDuringSchedulingIgnoredDuringExecution") {
            select(term, &labels);
        }
        for term in affinity.list_mut("preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = term.get_mut("podAffinityTerm") {
                select(term, &labels);
            }
        }
    }
    for constraint in spec.list_mut("topologySpreadConstraints") {
        select(constraint, &labels);
    }
}

fn select(term: &mut Value, labels: &Value) {
    if !term.dig(&["labelSelector"]).is_object() {
        return;
    }
    for (list, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.list(&[list]).to_vec() {
            let value = labels.dig(&[key.text(&[])]);
            if value.is_string()
                && let Some(rules) =
                    term.object("labelSelector").make("matchExpressions", new_list).as_array_mut()
            {
                rules.push(json!({ "key": key, "operator": operator, "values": [value] }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        let mut value = json!({ "metadata": { "labels": { "app": "x" } }, "spec": { "topologySpreadConstraints": [
            { "labelSelector": {}, "matchLabelKeys": ["app", "other"] }, { "matchLabelKeys": ["app"] } ] } });
        match_labels(&mut value);
        let constraints = &value["spec"]["topologySpreadConstraints"];
        let rule = json!([{ "key": "app", "operator": "In", "values": ["x"] }]);
        assert_eq!(constraints[0]["labelSelector"], json!({ "matchExpressions": rule }));
        assert!(constraints[1].get("labelSelector").is_none());
    }
}
