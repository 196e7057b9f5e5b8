//! Taints that follow from what a node is: what Kubernetes' node lifecycle controller does.

use serde_json::{Value, json};

use crate::scheduler::filters::UNSCHEDULABLE;

/// Conditions, the value that is bad, and the taint for it.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// Brings the taints of a node into agreement with its conditions and whether it is cordoned. Those of users stay.
/// Returns whether anything changed.
pub(crate) fn settle(node: &mut Value, now: &str) -> bool {
    let condition = |name: &str| {
        let all = node["status"]["conditions"].as_array();
        all.into_iter().flatten().find(|one| one["type"] == name).map(|one| one["status"].clone())
    };
    let mut wanted: Vec<&str> = BY_CONDITION
        .iter()
        .filter(|(name, bad, _)| condition(name).is_some_and(|value| value == *bad))
        .map(|(_, _, taint)| *taint)
        .collect();
    if node["spec"]["unschedulable"] == true {
        wanted.push(UNSCHEDULABLE);
    }
    let ours = |taint: &Value| {
        let known =
            |key: &str| key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, taint)| key == *taint);
        taint["effect"] == "NoSchedule" && taint["key"].as_str().is_some_and(known)
    };
    let old = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let has = |key: &str| old.iter().any(|taint| ours(taint) && taint["key"] == key);
    let mut taints: Vec<Value> = old
        .iter()
        .filter(|taint| !ours(taint) || wanted.iter().any(|key| taint["key"] == **key))
        .cloned()
        .collect();
    for key in &wanted {
        if !has(key) {
            taints.push(json!({"key": key, "effect": "NoSchedule", "timeAdded": now}));
        }
    }
    if taints == old {
        return false;
    }
    if taints.is_empty() {
        if let Some(spec) = node["spec"].as_object_mut() {
            spec.shift_remove("taints");
        }
    } else {
        node["spec"]["taints"] = taints.into();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(node: &Value) -> Vec<&str> {
        let taints = node["spec"]["taints"].as_array();
        taints.into_iter().flatten().map(|taint| taint["key"].as_str().unwrap()).collect()
    }

    #[test]
    fn taints_follow_conditions_and_cordons() {
        let mut node = json!({
            "spec": {"unschedulable": true, "taints": [{"key": "mine", "effect": "NoExecute"}]},
            "status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "DiskPressure", "status": "True"}]},
        });
        assert!(settle(&mut node, "now"));
        let all = ["mine", "node.kubernetes.io/not-ready", "node.kubernetes.io/disk-pressure", UNSCHEDULABLE];
        assert_eq!(keys(&node), all);
        assert!(!settle(&mut node, "later"));
        node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        node["spec"]["unschedulable"] = json!(false);
        assert!(settle(&mut node, "later"));
        assert_eq!(keys(&node), ["mine"]);
        let mut plain = json!({"spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(!settle(&mut plain, "now"));
        assert_eq!(plain["spec"], json!({}));
    }
}
