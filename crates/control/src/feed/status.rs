//! A pod's status in the store: the agent's, with what others have written.

use serde_json::{Value, json};
use vaquita_kube::api::PodStatus;

/// Fields that the node writes. All others are of others.
const OURS: &[&str] = &[
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "observedGeneration",
];

/// Puts what the agent says into a pod. Conditions of others, and fields of others, stay. Returns whether anything changed.
pub(crate) fn merge(pod: &mut Value, agent: &PodStatus, now: &str) -> bool {
    let old = pod["status"].clone();
    // What has ended has ended.
    let ended = |status: &Value| matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
    let new = serde_json::to_value(agent).unwrap_or_default();
    if ended(&old) && !ended(&new) {
        return false;
    }
    let mut status = if old.is_object() { old.clone() } else { json!({}) };
    let Some(fields) = status.as_object_mut() else { return false };
    for field in OURS {
        match new.get(*field) {
            Some(value) => {
                fields.insert((*field).to_owned(), value.clone());
            }
            None => {
                fields.shift_remove(*field);
            }
        }
    }
    status["conditions"] = conditions(pod, &old, &new, now).into();
    if let Some(generation) = pod["metadata"]["generation"].as_i64() {
        status
            .as_object_mut()
            .map(|fields| fields.entry("observedGeneration").or_insert_with(|| generation.into()));
    }
    let changed = status != old;
    pod["status"] = status;
    changed
}

fn conditions(pod: &Value, old: &Value, new: &Value, now: &str) -> Vec<Value> {
    let none = Vec::new();
    let before = old["conditions"].as_array().unwrap_or(&none);
    let mut all = new["conditions"].as_array().cloned().unwrap_or_default();
    if let Some(ready) = ready(pod, &all, before) {
        match all.iter_mut().find(|one| one["type"] == "Ready") {
            Some(one) => *one = ready,
            None => all.push(ready),
        }
    }
    // A pod that runs here has its machine, however it came by it.
    all.push(json!({"type": "PodScheduled", "status": "True"}));
    let generation = pod["metadata"]["generation"].as_i64();
    for one in &mut all {
        let old = before.iter().find(|old| old["type"] == one["type"]);
        let since = old.filter(|old| old["status"] == one["status"]);
        let since = since.map(|old| old["lastTransitionTime"].clone()).filter(Value::is_string);
        let given = Some(one["lastTransitionTime"].clone()).filter(Value::is_string);
        one["lastTransitionTime"] = since.or(given).unwrap_or_else(|| now.into());
        one["lastProbeTime"] = Value::Null;
        if let Some(generation) = generation
            && one["observedGeneration"].is_null()
        {
            one["observedGeneration"] = generation.into();
        }
    }
    // These are the agent's alone: where it does not give them, they do not hold any more.
    let passing =
        |one: &Value| matches!(one["type"].as_str(), Some("PodResizePending" | "PodResizeInProgress"));
    let others =
        before.iter().filter(|old| !passing(old) && all.iter().all(|one| one["type"] != old["type"]));
    let others: Vec<Value> = others.cloned().collect();
    all.extend(others);
    all
}

/// Whether a pod with readiness gates is ready: its containers must be, and others must have said so too.
fn ready(pod: &Value, all: &[Value], before: &[Value]) -> Option<Value> {
    let gates = pod["spec"]["readinessGates"].as_array().filter(|gates| !gates.is_empty())?;
    let containers = all.iter().find(|one| one["type"] == "ContainersReady")?;
    if containers["status"] != "True" {
        return None;
    }
    let open = |gate: &&Value| {
        let condition = before.iter().find(|one| one["type"] == gate["conditionType"]);
        condition.is_some_and(|one| one["status"] == "True")
    };
    let words = |gate: &Value| {
        let name = gate["conditionType"].as_str().unwrap_or_default();
        match before.iter().find(|one| one["type"] == gate["conditionType"]) {
            None => format!("corresponding condition of pod readiness gate \"{name}\" does not exist."),
            Some(_) => {
                format!("the status of pod readiness gate \"{name}\" is not \"True\", but False")
            }
        }
    };
    let shut: Vec<String> = gates.iter().filter(|gate| !open(gate)).map(words).collect();
    Some(match shut.as_slice() {
        [] => json!({"type": "Ready", "status": "True"}),
        shut => json!({
            "type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady", "message": shut.join(", "),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(phase: &str, conditions: &[(&str, &str)]) -> PodStatus {
        let conditions: Vec<Value> =
            conditions.iter().map(|(name, status)| json!({"type": name, "status": status})).collect();
        serde_json::from_value(json!({"phase": phase, "conditions": conditions, "podIP": "10.0.0.2"}))
            .unwrap()
    }

    fn find<'a>(pod: &'a Value, name: &str) -> &'a Value {
        let mut all = pod["status"]["conditions"].as_array().unwrap().iter();
        all.find(|one| one["type"] == name).unwrap()
    }

    #[test]
    fn what_others_wrote_stays() {
        let mut pod = json!({
            "metadata": {"generation": 3},
            "spec": {},
            "status": {
                "phase": "Pending", "qosClass": "Burstable", "nominatedNodeName": "n1", "message": "old",
                "conditions": [
                    {"type": "PodScheduled", "status": "True", "lastTransitionTime": "t0"},
                    {"type": "example.com/gate", "status": "True"},
                    {"type": "Ready", "status": "False", "lastTransitionTime": "t1"},
                ],
            },
        });
        let running =
            agent("Running", &[("Initialized", "True"), ("Ready", "True"), ("ContainersReady", "True")]);
        assert!(merge(&mut pod, &running, "t2"));
        let status = &pod["status"];
        assert_eq!((&status["phase"], &status["qosClass"]), (&json!("Running"), &json!("Burstable")));
        assert_eq!((&status["nominatedNodeName"], &status["message"]), (&json!("n1"), &Value::Null));
        assert_eq!(status["observedGeneration"], 3);
        assert_eq!(find(&pod, "PodScheduled")["lastTransitionTime"], "t0");
        assert_eq!(find(&pod, "example.com/gate")["status"], "True");
        assert_eq!(find(&pod, "Ready")["lastTransitionTime"], "t2");
        assert_eq!(find(&pod, "Ready")["observedGeneration"], 3);
        let names: Vec<&Value> =
            status["conditions"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
        assert_eq!(names, ["Initialized", "Ready", "ContainersReady", "PodScheduled", "example.com/gate"]);
        // The same again is no change, whatever the time.
        assert!(!merge(&mut pod, &running, "t3"));
    }

    #[test]
    fn what_has_ended_does_not_begin_again() {
        let mut pod = json!({"metadata": {}, "spec": {}, "status": {"phase": "Failed"}});
        assert!(!merge(&mut pod, &agent("Running", &[]), "t"));
        assert_eq!(pod["status"], json!({"phase": "Failed"}));
        assert!(merge(&mut pod, &agent("Failed", &[]), "t"));
    }

    #[test]
    fn readiness_gates() {
        let gate = |status: &[Value]| {
            json!({
                "metadata": {}, "spec": {"readinessGates": [{"conditionType": "a/b"}]},
                "status": {"conditions": status},
            })
        };
        let fine = agent("Running", &[("ContainersReady", "True"), ("Ready", "True")]);
        let mut pod = gate(&[]);
        merge(&mut pod, &fine, "t");
        assert_eq!(find(&pod, "Ready")["status"], "False");
        assert_eq!(find(&pod, "Ready")["reason"], "ReadinessGatesNotReady");
        assert_eq!(
            find(&pod, "Ready")["message"],
            "corresponding condition of pod readiness gate \"a/b\" does not exist."
        );
        let mut pod = gate(&[json!({"type": "a/b", "status": "False"})]);
        merge(&mut pod, &fine, "t");
        assert_eq!(
            find(&pod, "Ready")["message"],
            "the status of pod readiness gate \"a/b\" is not \"True\", but False"
        );
        let mut pod = gate(&[json!({"type": "a/b", "status": "True"})]);
        merge(&mut pod, &fine, "t");
        assert_eq!(find(&pod, "Ready")["status"], "True");
        // Containers come first.
        let unready = agent("Running", &[("ContainersReady", "False"), ("Ready", "False")]);
        merge(&mut pod, &unready, "t");
        assert_eq!(find(&pod, "Ready")["reason"], Value::Null);
    }
}
