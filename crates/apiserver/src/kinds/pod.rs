//! Pods, and what every kind with a template of pods needs of them.

mod affinity;
mod cells;
mod container;
mod defaults;
mod env;
mod matching;
mod mounts;
mod probe;
mod projected;
mod security;
mod spec;
mod update;
mod volume;
mod warnings;

use serde_json::{Value, json};

use super::at::{At, Read};
use super::errors::Errors;
use super::labels;
use super::resources::qos;
use crate::{FieldError, Kind, Subresource};

pub(crate) use defaults::spec as default_spec;

/// Containers that live and die together.
pub static POD: Kind = Kind {
    plural: "pods",
    singular: "pod",
    name: "Pod",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        Subresource::Attach,
        Subresource::Binding,
        Subresource::EphemeralContainers,
        Subresource::Eviction,
        Subresource::Exec,
        Subresource::Log,
        Subresource::PortForward,
        Subresource::Resize,
        Subresource::Status,
    ],
    columns: cells::COLUMNS,
    cells: cells::cells,
    prepare,
    default: defaults::pod,
    validate,
    warnings: warnings::pod,
    selectable: &[
        "spec.hostNetwork",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.nominatedNodeName",
        "status.phase",
        "status.podIP",
    ],
    generation: true,
    grace: Some(grace),
    returns_deleted: true,
    ..Kind::PLAIN
};

fn prepare(pod: &mut Value, old: Option<&Value>, subresource: Option<Subresource>) {
    match (old, subresource) {
        (None, _) => {
            let mut status = json!({ "phase": "Pending", "qosClass": qos(pod.dig(&["spec"])) });
            if !pod.list(&["spec", "schedulingGates"]).is_empty() {
                status["conditions"] = json!([{
                    "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates",
                    "lastTransitionTime": crate::time::now(),
                }]);
            }
            pod["status"] = status;
            matching::match_labels(pod);
        }
        (Some(old), Some(Subresource::Status)) => keep_in_status(pod, old),
        (Some(old), Some(Subresource::EphemeralContainers | Subresource::Resize)) => {
            let metadata = pod.object("metadata");
            for field in ["annotations", "finalizers", "labels", "ownerReferences"] {
                super::at::keep(metadata, old.dig(&["metadata"]), field);
            }
        }
        _ => {}
    }
}

/// What a writer of the status does not know or may not change.
fn keep_in_status(pod: &mut Value, old: &Value) {
    super::at::keep(pod.object("metadata"), old.dig(&["metadata"]), "ownerReferences");
    let class = old.text(&["status", "qosClass"]).to_owned();
    let generation = old.number(&["status", "observedGeneration"]);
    let status = pod.object("status");
    if !class.is_empty() {
        status.or_set("qosClass", class);
    }
    if generation != 0 {
        status.or_number("observedGeneration", generation);
    }
    let known = old.list(&["status", "conditions"]);
    for condition in status.list_mut("conditions") {
        let before = known.iter().find(|one| one.dig(&["type"]) == condition.dig(&["type"]));
        let generation = before.map_or(0, |before| before.number(&["observedGeneration"]));
        if generation != 0 {
            condition.or_number("observedGeneration", generation);
        }
    }
}

/// How long a pod that is deleted may take to end: what was asked, or what the pod says; no time at all if nothing of
/// it runs.
fn grace(pod: &Value, asked: Option<i64>) -> i64 {
    let seconds = asked.unwrap_or_else(|| pod.number(&["spec", "terminationGracePeriodSeconds"]));
    let nothing_runs = pod.text(&["spec", "nodeName"]).is_empty()
        || matches!(pod.text(&["status", "phase"]), "Failed" | "Succeeded");
    match seconds {
        _ if nothing_runs => 0,
        ..0 => 1,
        seconds => seconds,
    }
}

fn validate(pod: &Value, old: Option<&Value>, subresource: Option<Subresource>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = At::root(pod);
    match (old, subresource) {
        // What may be bound, and to what, is checked where it is done; the rest does not change.
        (Some(_), Some(Subresource::Binding)) => {}
        (Some(old), Some(Subresource::Status)) => update::status(&mut errors, &root, old),
        (Some(old), Some(Subresource::EphemeralContainers)) => {
            whole(&mut errors, &root);
            update::ephemeral(&mut errors, &root, old);
        }
        (Some(old), Some(Subresource::Resize)) => {
            whole(&mut errors, &root);
            update::resize(&mut errors, &root, old);
        }
        (Some(old), _) => {
            whole(&mut errors, &root);
            update::pod(&mut errors, &root, old);
        }
        (None, _) => {
            whole(&mut errors, &root);
            created(&mut errors, &root);
        }
    }
    errors.0
}

/// The rules for every state of a pod.
fn whole(errors: &mut Errors, pod: &At<'_>) {
    let spec = pod.at("spec");
    security::annotations(errors, &pod.at("metadata").at("annotations"), &spec);
    spec::check(errors, &spec, Some(pod));
    if spec.at("serviceAccountName").is_empty() {
        for volume in spec.at("volumes").items() {
            for source in volume.at("projected").at("sources").items() {
                let token = source.at("serviceAccountToken");
                if token.given() {
                    errors.forbidden(&token, "must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
    container::images(errors, &spec, "containers");
    container::images(errors, &spec, "initContainers");
}

fn created(errors: &mut Errors, pod: &At<'_>) {
    let spec = pod.at("spec");
    if !spec.at("ephemeralContainers").is_empty() {
        errors.forbidden(&spec.at("ephemeralContainers"), "cannot be set on create");
    }
    if !spec.at("nodeName").is_empty() && !spec.at("schedulingGates").is_empty() {
        let text = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&spec.at("nodeName"), text);
    }
}

/// A template of pods, as workloads have it (`ValidatePodTemplateSpec`).
pub(crate) fn template(errors: &mut Errors, template: &At<'_>) {
    let (meta, spec) = (template.at("metadata"), template.at("spec"));
    labels::labels(errors, &meta.at("labels"));
    labels::annotations(errors, &meta.at("annotations"));
    security::annotations(errors, &meta.at("annotations"), &spec);
    spec::check(errors, &spec, None);
    if !spec.at("ephemeralContainers").is_empty() {
        let text = "ephemeral containers not allowed in pod template";
        errors.forbidden(&spec.at("ephemeralContainers"), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creation() {
        let mut pod = json!({ "spec": { "containers": [{ "resources": { "requests": { "cpu": "1" } } }],
            "schedulingGates": [{ "name": "a" }] }, "status": { "phase": "Running" } });
        prepare(&mut pod, None, None);
        assert_eq!(pod["status"]["phase"], "Pending");
        assert_eq!(pod["status"]["qosClass"], "Burstable");
        assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
    }

    #[test]
    fn status() {
        let old = json!({ "metadata": { "ownerReferences": [1] }, "status": { "qosClass": "BestEffort", "observedGeneration": 2,
            "conditions": [{ "type": "Ready", "observedGeneration": 2 }] } });
        let mut new =
            json!({ "metadata": {}, "status": { "phase": "Running", "conditions": [{ "type": "Ready" }] } });
        prepare(&mut new, Some(&old), Some(Subresource::Status));
        assert_eq!(
            new,
            json!({ "metadata": { "ownerReferences": [1] }, "status": { "phase": "Running", "qosClass": "BestEffort",
                "observedGeneration": 2, "conditions": [{ "type": "Ready", "observedGeneration": 2 }] } })
        );
    }

    #[test]
    fn debugging_changes_no_labels() {
        let old = json!({ "metadata": { "name": "a", "labels": { "a": "b" } } });
        for subresource in [Subresource::EphemeralContainers, Subresource::Resize] {
            let mut new =
                json!({ "metadata": { "name": "a", "labels": { "c": "d" }, "finalizers": ["e/f"] } });
            prepare(&mut new, Some(&old), Some(subresource));
            assert_eq!(new, old);
        }
    }

    #[test]
    fn graceful() {
        let mut pod =
            json!({ "spec": { "terminationGracePeriodSeconds": 30 }, "status": { "phase": "Running" } });
        assert_eq!(grace(&pod, None), 0);
        pod["spec"]["nodeName"] = "n".into();
        assert_eq!(
            [grace(&pod, None), grace(&pod, Some(5)), grace(&pod, Some(0)), grace(&pod, Some(-3))],
            [30, 5, 0, 1]
        );
        pod["status"]["phase"] = "Succeeded".into();
        assert_eq!(grace(&pod, Some(5)), 0);
    }
}
