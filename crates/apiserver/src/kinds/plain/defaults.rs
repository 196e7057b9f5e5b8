//! What objects of these kinds have that the user left out.

use serde_json::{Value, json};

use crate::Subresource;
use crate::kinds::at::{Read, list};
use crate::kinds::default_pod_spec;
use crate::kinds::resources::round;

/// A template of pods, which is completed as pods are.
fn template(spec: &mut Value) {
    default_pod_spec(spec.object("template").object("spec"));
}

fn texts(value: &mut Value, fields: &[(&str, Value)]) {
    for (name, default) in fields {
        if value.text(&[name]).is_empty() && !matches!(value.dig(&[name]), Value::Bool(_) | Value::Number(_))
        {
            value.or_set(name, default.clone());
        }
    }
}

fn numbers(value: &mut Value, fields: &[(&str, i64)]) {
    for (name, default) in fields {
        value.make(name, || (*default).into());
    }
}

pub(super) fn pod_template(value: &mut Value) {
    template(value);
}

pub(super) fn controller(value: &mut Value) {
    let labels = value.dig(&["spec", "template", "metadata", "labels"]).clone();
    let spec = value.object("spec");
    numbers(spec, &[("replicas", 1)]);
    if labels.is_object() {
        spec.make("selector", || labels.clone());
        value.object("metadata").make("labels", || labels);
    }
    template(value.object("spec"));
}

pub(super) fn replicas(value: &mut Value) {
    let spec = value.object("spec");
    numbers(spec, &[("replicas", 1)]);
    template(spec);
}

pub(super) fn deployment(value: &mut Value) {
    let spec = value.object("spec");
    numbers(spec, &[("replicas", 1), ("revisionHistoryLimit", 10), ("progressDeadlineSeconds", 600)]);
    let strategy = spec.object("strategy");
    strategy.or_set("type", "RollingUpdate");
    if strategy.text(&["type"]) == "RollingUpdate" {
        let rolling = strategy.object("rollingUpdate");
        for field in ["maxUnavailable", "maxSurge"] {
            rolling.make(field, || "25%".into());
        }
    }
    template(spec);
}

pub(super) fn daemons(value: &mut Value) {
    let spec = value.object("spec");
    numbers(spec, &[("revisionHistoryLimit", 10)]);
    let strategy = spec.object("updateStrategy");
    strategy.or_set("type", "RollingUpdate");
    if strategy.text(&["type"]) == "RollingUpdate" {
        numbers(strategy.object("rollingUpdate"), &[("maxUnavailable", 1), ("maxSurge", 0)]);
    }
    template(spec);
}

pub(super) fn stateful(value: &mut Value) {
    let spec = value.object("spec");
    texts(spec, &[("podManagementPolicy", "OrderedReady".into())]);
    numbers(spec, &[("replicas", 1), ("revisionHistoryLimit", 10)]);
    let strategy = spec.object("updateStrategy");
    if strategy.text(&["type"]).is_empty() {
        strategy.or_set("type", "RollingUpdate");
        strategy.object("rollingUpdate");
    }
    if let Some(rolling) = strategy.get_mut("rollingUpdate").filter(|rolling| rolling.is_object()) {
        numbers(rolling, &[("partition", 0)]);
    }
    let retention = spec.object("persistentVolumeClaimRetentionPolicy");
    texts(retention, &[("whenDeleted", "Retain".into()), ("whenScaled", "Retain".into())]);
    for claim in spec.list_mut("volumeClaimTemplates") {
        claim.or_set("apiVersion", "v1");
        claim.or_set("kind", "PersistentVolumeClaim");
        claim.object("status").or_set("phase", "Pending");
        self::claim(claim);
    }
    template(spec);
}

fn job_spec(spec: &mut Value) {
    if spec.dig(&["completions"]).is_null() && spec.dig(&["parallelism"]).is_null() {
        numbers(spec, &[("completions", 1)]);
    }
    let limit = if spec.dig(&["backoffLimitPerIndex"]).is_null() { 6 } else { i32::MAX.into() };
    numbers(spec, &[("parallelism", 1), ("backoffLimit", limit)]);
    let replacement =
        if spec.dig(&["podFailurePolicy"]).is_null() { "TerminatingOrFailed" } else { "Failed" };
    texts(
        spec,
        &[
            ("completionMode", "NonIndexed".into()),
            ("suspend", false.into()),
            ("podReplacementPolicy", replacement.into()),
            ("manualSelector", false.into()),
        ],
    );
}

pub(super) fn job(value: &mut Value) {
    let labels = value.dig(&["spec", "template", "metadata", "labels"]).clone();
    if labels.is_object() {
        value.object("metadata").make("labels", || labels);
    }
    let spec = value.object("spec");
    job_spec(spec);
    template(spec);
}

/// Pods of a job are known by its uid.
pub(super) fn prepare_job(value: &mut Value, old: Option<&Value>, _: Option<Subresource>) {
    if old.is_some() || value.yes(&["spec", "manualSelector"]) {
        return;
    }
    let (uid, name) =
        (value.text(&["metadata", "uid"]).to_owned(), value.text(&["metadata", "name"]).to_owned());
    let spec = value.object("spec");
    let labels = spec.object("template").object("metadata").object("labels");
    for (key, text) in [
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        labels.make(key, || text.as_str().into());
    }
    let selector = spec.object("selector").object("matchLabels");
    selector.make("batch.kubernetes.io/controller-uid", || uid.into());
}

pub(super) fn cron_job(value: &mut Value) {
    let spec = value.object("spec");
    texts(spec, &[("concurrencyPolicy", "Allow".into()), ("suspend", false.into())]);
    numbers(spec, &[("successfulJobsHistoryLimit", 3), ("failedJobsHistoryLimit", 1)]);
    template(spec.object("jobTemplate").object("spec"));
}

pub(super) fn service(value: &mut Value) {
    let spec = value.object("spec");
    texts(spec, &[("sessionAffinity", "None".into()), ("type", "ClusterIP".into())]);
    if spec.text(&["sessionAffinity"]) == "ClientIP" {
        let config = spec.object("sessionAffinityConfig").object("clientIP");
        numbers(config, &[("timeoutSeconds", 10800)]);
    }
    for port in spec.list_mut("ports") {
        port.or_set("protocol", "TCP");
        let number = port.dig(&["port"]).clone();
        if matches!(port.dig(&["targetPort"]).as_i64(), Some(0)) {
            port["targetPort"] = Value::Null;
        }
        port.or_set("targetPort", number);
    }
    let kind = spec.text(&["type"]).to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || !spec.list(&["externalIPs"]).is_empty() {
        spec.or_set("externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        spec.or_set("internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        spec.make("allocateLoadBalancerNodePorts", || true.into());
    }
}

/// A new claim or volume waits for its other half.
pub(super) fn prepare_pending(value: &mut Value, old: Option<&Value>, _: Option<Subresource>) {
    if old.is_none() {
        value.object("status").or_set("phase", "Pending");
    }
}

pub(super) fn claim(value: &mut Value) {
    let spec = value.object("spec");
    spec.or_set("volumeMode", "Filesystem");
    for field in ["limits", "requests"] {
        if let Some(amounts) = spec.object("resources").get_mut(field) {
            round(amounts);
        }
    }
}

pub(super) fn volume(value: &mut Value) {
    let spec = value.object("spec");
    texts(spec, &[("persistentVolumeReclaimPolicy", "Retain".into()), ("volumeMode", "Filesystem".into())]);
    if let Some(capacity) = spec.get_mut("capacity") {
        round(capacity);
    }
    if let Some(path) = spec.get_mut("hostPath") {
        path.make("type", || "".into());
    }
}

pub(super) fn endpoints(value: &mut Value) {
    for port in value.list_mut("subsets").iter_mut().flat_map(|subset| subset.list_mut("ports")) {
        port.or_set("protocol", "TCP");
    }
}

pub(super) fn autoscaler(value: &mut Value) {
    let spec = value.object("spec");
    numbers(spec, &[("minReplicas", 1)]);
    let utilization = json!({ "type": "Utilization", "averageUtilization": 80 });
    spec.make(
        "metrics",
        || json!([{ "type": "Resource", "resource": { "name": "cpu", "target": utilization } }]),
    );
}

/// Who a role is for: accounts have no group, users and groups are RBAC's own.
pub(super) fn binding(value: &mut Value) {
    value.object("roleRef").or_set("apiGroup", "rbac.authorization.k8s.io");
    for subject in value.list_mut("subjects") {
        if matches!(subject.text(&["kind"]), "User" | "Group") {
            subject.or_set("apiGroup", "rbac.authorization.k8s.io");
        }
    }
}

pub(super) fn storage_class(value: &mut Value) {
    texts(value, &[("reclaimPolicy", "Delete".into()), ("volumeBindingMode", "Immediate".into())]);
}

pub(super) fn csi_driver(value: &mut Value) {
    let spec = value.object("spec");
    texts(
        spec,
        &[
            ("attachRequired", true.into()),
            ("podInfoOnMount", false.into()),
            ("storageCapacity", false.into()),
            ("fsGroupPolicy", "ReadWriteOnceWithFSType".into()),
            ("requiresRepublish", false.into()),
            ("seLinuxMount", false.into()),
        ],
    );
    spec.make("volumeLifecycleModes", || json!(["Persistent"]));
}

pub(super) fn network_policy(value: &mut Value) {
    let spec = value.object("spec");
    let both = !spec.list(&["egress"]).is_empty();
    spec.make("policyTypes", || if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    for field in ["ingress", "egress"] {
        for rule in spec.list_mut(field) {
            for port in rule.list_mut("ports") {
                port.or_set("protocol", "TCP");
            }
        }
    }
}

pub(super) fn slice(value: &mut Value) {
    for port in value.make("ports", list).as_array_mut().into_iter().flatten() {
        port.make("name", || "".into());
        port.or_set("protocol", "TCP");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads() {
        let mut value =
            json!({ "spec": { "template": { "spec": { "containers": [{ "name": "a", "image": "a" }] } } } });
        deployment(&mut value);
        assert_eq!(value["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        assert_eq!(value["spec"]["template"]["spec"]["restartPolicy"], "Always");
        assert!(value["spec"]["template"]["spec"].get("enableServiceLinks").is_none());
        let mut value = json!({ "metadata": { "name": "j", "uid": "u" }, "spec": { "suspend": true } });
        job(&mut value);
        prepare_job(&mut value, None, None);
        assert_eq!(value["spec"]["suspend"], true);
        assert_eq!(value["spec"]["completions"], 1);
        assert_eq!(
            value["spec"]["selector"],
            json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": "u" } })
        );
        assert_eq!(value["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        let mut value =
            json!({ "spec": { "ports": [{ "port": 80 }, { "port": 81, "targetPort": "http" }] } });
        service(&mut value);
        assert_eq!(
            value["spec"]["ports"],
            json!([{ "port": 80, "protocol": "TCP", "targetPort": 80 }, { "port": 81, "targetPort": "http", "protocol": "TCP" }])
        );
    }
}
