use serde_json::{Value, json};

use super::{Admission, Attributes, Operation, forbidden};
use crate::kinds::at::{Read, list};
use crate::kinds::{POD, SERVICE_ACCOUNT};
use crate::{Cluster, Status, Subresource, names};

/// Every pod has a service account, which must exist, its token and its credentials for images.
pub(super) static SERVICE_ACCOUNTS: Admission = Admission { name: "ServiceAccount", mutate, check };

const MIRROR: &str = "kubernetes.io/config.mirror";
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";

fn created(attributes: &Attributes<'_>) -> bool {
    *attributes.kind == POD && attributes.operation == Operation::Create && attributes.subresource.is_none()
}

fn account(cluster: &Cluster, attributes: &Attributes<'_>, pod: &Value) -> Result<Value, Status> {
    let (namespace, name) = (attributes.namespace, pod.text(&["spec", "serviceAccountName"]));
    if name.is_empty() {
        let pod_name = pod.text(&["metadata", "name"]);
        let why = format!("no service account specified for pod {namespace}/{pod_name}");
        return Err(forbidden(attributes, pod, &why));
    }
    cluster.get(&SERVICE_ACCOUNT, namespace, name).map(|account| account.value()).map_err(|status| {
        let why = match status.code {
            404 => format!("serviceaccount \"{name}\" not found"),
            _ => status.message,
        };
        forbidden(attributes, pod, &format!("error looking up service account {namespace}/{name}: {why}"))
    })
}

fn is_mirror(pod: &Value) -> bool {
    !pod.dig(&["metadata", "annotations", MIRROR]).is_null()
}

fn mutate(cluster: &Cluster, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if !created(attributes) || is_mirror(pod) {
        return Ok(());
    }
    if pod.text(&["spec", "serviceAccountName"]).is_empty() {
        pod.object("spec")["serviceAccountName"] = "default".into();
    }
    pod.object("spec")["serviceAccount"] = pod["spec"]["serviceAccountName"].clone();
    let account = account(cluster, attributes, pod)?;
    let spec = pod.object("spec");
    let automount = ["automountServiceAccountToken"];
    let wanted = spec.dig(&automount).as_bool().or_else(|| account.dig(&automount).as_bool());
    if wanted.unwrap_or(true) {
        mount_token(spec);
    }
    let secrets = account.list(&["imagePullSecrets"]);
    if spec.list(&["imagePullSecrets"]).is_empty() && !secrets.is_empty() {
        spec["imagePullSecrets"] = secrets.iter().map(|secret| json!({ "name": secret["name"] })).collect();
    }
    Ok(())
}

fn mount_token(spec: &mut Value) {
    let volumes = spec.list(&["volumes"]).iter().map(|volume| volume.text(&["name"]));
    let known = volumes.into_iter().find(|name| name.starts_with(VOLUME)).map(str::to_owned);
    let name = known.clone().unwrap_or_else(|| names::generate(VOLUME));
    let mut mounted = false;
    for kind in ["initContainers", "containers"] {
        for container in spec.list_mut(kind) {
            // Whoever mounts something there has it so.
            if container.list(&["volumeMounts"]).iter().any(|mount| mount.text(&["mountPath"]) == MOUNT) {
                continue;
            }
            if let Some(mounts) = container.make("volumeMounts", list).as_array_mut() {
                mounts.push(json!({ "name": name, "readOnly": true, "mountPath": MOUNT }));
                mounted = true;
            }
        }
    }
    if mounted
        && known.is_none()
        && let Some(volumes) = spec.make("volumes", list).as_array_mut()
    {
        volumes.push(json!({ "name": name, "projected": {
            "sources": [
                // Seven seconds more than an hour, by which Kubernetes knows the tokens that it injected.
                { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [
                    { "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } },
                ] } },
            ],
            "defaultMode": 0o644,
        } }));
    }
}

fn check(cluster: &Cluster, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    if *attributes.kind == POD && attributes.subresource == Some(Subresource::EphemeralContainers) {
        return account(cluster, attributes, pod).map(drop);
    }
    if !created(attributes) {
        return Ok(());
    }
    if !is_mirror(pod) {
        return account(cluster, attributes, pod).map(drop);
    }
    let why = if !pod.text(&["spec", "serviceAccountName"]).is_empty() {
        "a mirror pod may not reference service accounts"
    } else if ["volumes", "containers", "initContainers"].iter().any(|list| uses_secrets(&pod["spec"][*list]))
        || !pod.list(&["spec", "imagePullSecrets"]).is_empty()
    {
        "a mirror pod may not reference secrets"
    } else if has_field(&pod["spec"]["volumes"], &["serviceAccountToken"]) {
        "a mirror pod may not use ServiceAccountToken volume projections"
    } else {
        return Ok(());
    };
    Err(forbidden(attributes, pod, why))
}

/// Whether a field that names a secret is anywhere below.
fn uses_secrets(value: &Value) -> bool {
    has_field(value, &["secret", "secretRef", "secretKeyRef", "nodePublishSecretRef"])
}

fn has_field(value: &Value, names: &[&str]) -> bool {
    match value {
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| names.contains(&name.as_str()) || has_field(value, names))
        }
        Value::Array(items) => items.iter().any(|item| has_field(item, names)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token() {
        let mut spec = json!({ "containers": [{ "name": "a" }, { "name": "b", "volumeMounts": [{ "name": "x", "mountPath": MOUNT }] }],
            "initContainers": [{ "name": "i" }] });
        mount_token(&mut spec);
        let name = spec["volumes"][0]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with(VOLUME) && name.len() == VOLUME.len() + 5, "{name}");
        let mount = json!([{ "name": name, "readOnly": true, "mountPath": MOUNT }]);
        assert_eq!(spec["containers"][0]["volumeMounts"], mount);
        assert_eq!(spec["initContainers"][0]["volumeMounts"], mount);
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let again = spec.clone();
        mount_token(&mut spec);
        assert_eq!(spec, again, "a pod that has the token gets no other");
    }

    #[test]
    fn secrets_of_mirrors() {
        assert!(uses_secrets(&json!([{ "env": [{ "valueFrom": { "secretKeyRef": {} } }] }])));
        assert!(!uses_secrets(&json!([{ "env": [{ "name": "secret" }] }])));
    }
}
