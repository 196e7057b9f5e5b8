//! What a pod has that the user left out (`pkg/apis/core/v1/defaults.go` and the defaults in the types).

use serde_json::Value;

use crate::kinds::at::{Read, list, object};
use crate::kinds::quantity::Quantity;
use crate::kinds::resources::{containers, round};

/// Completes a pod.
pub(super) fn pod(pod: &mut Value) {
    let spec = pod.object("spec");
    for kind in ["containers", "initContainers"] {
        for container in spec.list_mut(kind) {
            requests_from_limits(container);
        }
    }
    whole_pod(spec);
    if spec.dig(&["enableServiceLinks"]).is_null() {
        spec["enableServiceLinks"] = true.into();
    }
    if spec.yes(&["hostNetwork"]) {
        for kind in ["containers", "initContainers"] {
            for port in spec.list_mut(kind).iter_mut().flat_map(|container| container.list_mut("ports")) {
                let number = port.number(&["containerPort"]);
                port.or_number("hostPort", number);
            }
        }
    }
    self::spec(spec);
}

/// Completes the specification of a pod, in a pod or in a template of pods (`metadata` may be absent there).
pub(crate) fn spec(spec: &mut Value) {
    spec.or_set("dnsPolicy", "ClusterFirst");
    spec.or_set("restartPolicy", "Always");
    spec.or_set("schedulerName", "default-scheduler");
    spec.object("securityContext");
    match spec.dig(&["terminationGracePeriodSeconds"]).as_i64() {
        None => spec["terminationGracePeriodSeconds"] = 30.into(),
        Some(..0) => spec["terminationGracePeriodSeconds"] = 1.into(),
        Some(_) => {}
    }
    // Both names of the account are kept equal; the old one counts only where the new one is absent.
    for (from, to) in [("serviceAccount", "serviceAccountName"), ("serviceAccountName", "serviceAccount")] {
        let name = spec.text(&[from]).to_owned();
        if !name.is_empty() && (to == "serviceAccount" || spec.text(&[to]).is_empty()) {
            spec[to] = name.into();
        }
    }
    for volume in spec.list_mut("volumes") {
        self::volume(volume);
    }
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.list_mut(kind) {
            self::container(container);
        }
    }
    for field in ["limits", "requests"] {
        if let Some(amounts) = spec.get_mut("resources").and_then(|resources| resources.get_mut(field)) {
            round(amounts);
        }
    }
    if let Some(overhead) = spec.get_mut("overhead") {
        round(overhead);
    }
}

fn requests_from_limits(container: &mut Value) {
    let limits = container.dig(&["resources", "limits"]).clone();
    let Value::Object(limits) = limits else { return };
    let requests = container.object("resources").object("requests");
    for (name, amount) in limits {
        requests.make(&name, || amount);
    }
}

/// Requests and limits of the pod as a whole, where some are given: what containers need of memory and CPU, huge pages
/// that they may use, and otherwise the limits.
fn whole_pod(spec: &mut Value) {
    let own = |spec: &Value, field| {
        spec.dig(&["resources", field]).as_object().is_some_and(|list| !list.is_empty())
    };
    if !own(spec, "limits") && !own(spec, "requests") {
        return;
    }
    for (name, amount) in containers(spec, "limits").0 {
        if name.starts_with("hugepages-") && spec.dig(&["resources", "requests", &name]).is_null() {
            spec.object("resources").object("limits").make(&name, || amount.to_string().into());
        }
    }
    if !own(spec, "limits") {
        return;
    }
    let limits = spec.dig(&["resources", "limits"]).clone();
    let needed = containers(spec, "requests").0;
    let requests = spec.object("resources").object("requests");
    for (name, amount) in needed {
        if matches!(name.as_str(), "cpu" | "memory") {
            requests.make(&name, || amount.to_string().into());
        }
    }
    for (name, amount) in limits.as_object().into_iter().flatten() {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            requests.make(name, || amount.clone());
        }
    }
}

/// Completes a container of any sort.
fn container(container: &mut Value) {
    let policy = pull_policy(container.text(&["image"]));
    container.object("resources");
    container.or_set("terminationMessagePath", "/dev/termination-log");
    container.or_set("terminationMessagePolicy", "File");
    container.or_set("imagePullPolicy", policy);
    for port in container.list_mut("ports") {
        port.or_set("protocol", "TCP");
    }
    for source in container.list_mut("env").iter_mut().filter_map(|env| env.get_mut("valueFrom")) {
        if let Some(field) = source.get_mut("fieldRef") {
            field.or_set("apiVersion", "v1");
        }
        if let Some(resource) = source.get_mut("resourceFieldRef") {
            resource.or_set("divisor", "0");
        }
        if let Some(file) = source.get_mut("fileKeyRef") {
            file.make("optional", || false.into());
        }
    }
    for field in ["limits", "requests"] {
        if let Some(amounts) = container.object("resources").get_mut(field) {
            round(amounts);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) {
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                probe.or_number(field, value);
            }
            http(probe);
            if let Some(grpc) = probe.get_mut("grpc") {
                grpc.make("service", || "".into());
            }
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(hook)) {
            http(handler);
        }
    }
}

/// `Always` for the tag `latest`, given or meant, otherwise `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let tag = name.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    match tag {
        Some("latest") => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn http(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet").filter(|get| get.is_object()) {
        get.or_set("path", "/");
        get.or_set("scheme", "HTTP");
    }
}

fn volume(volume: &mut Value) {
    if volume
        .as_object()
        .is_some_and(|fields| fields.iter().all(|(name, value)| name == "name" || value.is_null()))
    {
        volume["emptyDir"] = object();
    }
    let Some(fields) = volume.as_object_mut() else { return };
    for (kind, source) in fields.iter_mut().filter(|(_, source)| source.is_object()) {
        let texts: &[(&str, &str)] = match kind.as_str() {
            "azureDisk" => &[("cachingMode", "ReadWrite"), ("fsType", "ext4"), ("kind", "Shared")],
            "iscsi" => &[("iscsiInterface", "default")],
            "rbd" => &[("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")],
            "scaleIO" => &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")],
            "hostPath" => {
                source.make("type", || "".into());
                &[]
            }
            _ => &[],
        };
        for (field, value) in texts {
            source.or_set(field, *value);
        }
        match kind.as_str() {
            "configMap" | "downwardAPI" | "projected" | "secret" => {
                source.make("defaultMode", || 0o644.into());
                downward(source);
                if kind == "projected" {
                    projected(source);
                }
            }
            "azureDisk" => {
                source.make("readOnly", || false.into());
            }
            "image" => {
                let policy = pull_policy(source.text(&["reference"]));
                source.or_set("pullPolicy", policy);
            }
            "emptyDir" => amount(source, "sizeLimit"),
            "ephemeral" => {
                if let Some(claim) = source.get_mut("volumeClaimTemplate") {
                    let spec = claim.object("spec");
                    spec.or_set("volumeMode", "Filesystem");
                    for field in ["limits", "requests"] {
                        if let Some(amounts) = spec.object("resources").get_mut(field) {
                            round(amounts);
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

fn projected(source: &mut Value) {
    for one in source.make("sources", list).as_array_mut().into_iter().flatten() {
        if let Some(token) = one.get_mut("serviceAccountToken") {
            token.make("expirationSeconds", || 3600.into());
        }
        if let Some(fields) = one.get_mut("downwardAPI") {
            downward(fields);
        }
    }
}

fn downward(source: &mut Value) {
    for item in source.list_mut("items") {
        if let Some(field) = item.get_mut("fieldRef") {
            field.or_set("apiVersion", "v1");
        }
        if let Some(resource) = item.get_mut("resourceFieldRef") {
            resource.or_set("divisor", "0");
        }
    }
}

/// Writes one amount as Go does.
fn amount(fields: &mut Value, name: &str) {
    if let Some(quantity) = fields.get(name).and_then(Value::as_str).and_then(Quantity::parse) {
        fields[name] = quantity.to_string().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn minimal() {
        let mut minimal = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" },
            "spec": { "containers": [{ "name": "a", "image": "busybox" }] },
        });
        pod(&mut minimal);
        assert_eq!(
            minimal["spec"],
            json!({
                "containers": [{
                    "name": "a", "image": "busybox", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "imagePullPolicy": "Always",
                }],
                "enableServiceLinks": true, "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            })
        );
    }

    #[test]
    fn tags() {
        for (image, policy) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("localhost:5000/busybox", "Always"),
            ("localhost:5000/busybox:1", "IfNotPresent"),
            ("busybox@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn everything_else() {
        let mut full = json!({ "spec": {
            "hostNetwork": true, "serviceAccount": "old",
            "volumes": [
                { "name": "a" }, { "name": "b", "configMap": { "name": "x" } }, { "name": "c", "hostPath": { "path": "/" } },
                { "name": "d", "projected": { "sources": [
                    { "serviceAccountToken": { "path": "t" } },
                    { "downwardAPI": { "items": [{ "path": "l", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
                ] } },
                { "name": "e", "emptyDir": { "sizeLimit": "1024Mi" } },
            ],
            "containers": [{
                "name": "a", "image": "a:1", "ports": [{ "containerPort": 80 }],
                "resources": { "limits": { "cpu": "0.1", "memory": "1024Mi" }, "requests": { "cpu": "50m" } },
                "env": [{ "name": "N", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
                    { "name": "M", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } }],
                "livenessProbe": { "httpGet": { "port": 80 }, "initialDelaySeconds": 5 },
                "readinessProbe": { "grpc": { "port": 9000 }, "periodSeconds": 3 },
                "lifecycle": { "preStop": { "httpGet": { "port": 80, "path": "/x", "scheme": "HTTPS" } } },
            }],
        } });
        pod(&mut full);
        let spec = &full["spec"];
        assert_eq!(spec["serviceAccountName"], "old");
        assert_eq!(
            spec["volumes"],
            json!([
                { "name": "a", "emptyDir": {} },
                { "name": "b", "configMap": { "name": "x", "defaultMode": 420 } },
                { "name": "c", "hostPath": { "path": "/", "type": "" } },
                { "name": "d", "projected": { "sources": [
                    { "serviceAccountToken": { "path": "t", "expirationSeconds": 3600 } },
                    { "downwardAPI": { "items": [{ "path": "l", "fieldRef": { "fieldPath": "metadata.labels", "apiVersion": "v1" } }] } },
                ], "defaultMode": 420 } },
                { "name": "e", "emptyDir": { "sizeLimit": "1Gi" } },
            ])
        );
        let container = &spec["containers"][0];
        assert_eq!(container["ports"], json!([{ "containerPort": 80, "hostPort": 80, "protocol": "TCP" }]));
        assert_eq!(
            container["resources"],
            json!({ "limits": { "cpu": "100m", "memory": "1Gi" }, "requests": { "cpu": "50m", "memory": "1Gi" } })
        );
        assert_eq!(container["env"][1]["valueFrom"]["resourceFieldRef"]["divisor"], "0");
        assert_eq!(
            container["livenessProbe"],
            json!({ "httpGet": { "port": 80, "path": "/", "scheme": "HTTP" }, "initialDelaySeconds": 5,
                "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3 })
        );
        assert_eq!(container["readinessProbe"]["grpc"], json!({ "port": 9000, "service": "" }));
        assert_eq!(container["readinessProbe"]["periodSeconds"], 3);
        let again = full.clone();
        pod(&mut full);
        assert_eq!(full, again, "defaulting twice changes nothing");
    }

    #[test]
    fn pod_level() {
        let mut pod_level = json!({ "spec": { "resources": { "limits": { "cpu": "2", "memory": "1Gi" } },
            "containers": [{ "name": "a", "image": "a", "resources": { "requests": { "cpu": "300m" } } }] } });
        pod(&mut pod_level);
        assert_eq!(
            pod_level["spec"]["resources"],
            json!({ "limits": { "cpu": "2", "memory": "1Gi" }, "requests": { "cpu": "300m", "memory": "1Gi" } })
        );
    }
}
