//! Objects from an API server, which has checked them: what a node does not need is passed over.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{ConfigMap, Pod, PodStatus, Secret};
use crate::{Error, Result};

/// Sources of volumes that the agent can make.
const SOURCES: &[&str] = &["emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected", "nfs"];

/// Sources of projected volumes that the agent can make.
const PROJECTIONS: &[&str] = &["configMap", "secret", "downwardAPI", "serviceAccountToken"];

impl ConfigMap {
    /// A ConfigMap as an API server has it.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`]: it is none.
    pub fn from_value(value: Value) -> Result<Self> {
        decode(value, "ConfigMap")
    }
}

impl Secret {
    /// A Secret as an API server has it.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`]: it is none.
    pub fn from_value(value: Value) -> Result<Self> {
        decode(value, "Secret")
    }
}

/// See [`Pod::from_value`].
pub(super) fn pod(mut value: Value) -> Result<Pod> {
    let status = value.as_object_mut().and_then(|object| object.shift_remove("status"));
    let foreign: Vec<Option<String>> = volumes(&value).map(foreign_source).collect();
    let unsupported = unsupported(&value);
    let mut pod: Pod = decode(value, "Pod")?;
    pod.unsupported = unsupported;
    for (volume, foreign) in pod.spec.volumes.iter_mut().zip(foreign) {
        volume.foreign = foreign;
    }
    // What others have written there is no reason not to run the pod.
    pod.status = status.and_then(|status| decode::<PodStatus>(status, "PodStatus").ok()).unwrap_or_default();
    Ok(pod)
}

/// See [`Pod::refusal`].
pub(super) fn refusal(pod: &Pod) -> Option<(&'static str, String)> {
    let spec = &pod.spec;
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        let message = format!("Failed to admit pod: its os is {:?}, this node's is \"linux\"", os.name);
        return Some(("PodOSNotSupported", message));
    }
    if spec.host_users == Some(false) {
        let message = "hostUsers: false: this node gives pods no user namespace of their own yet";
        return Some(("UserNamespacesNotSupported", message.to_owned()));
    }
    let field = pod.unsupported.as_ref()?;
    Some(("UnsupportedPodSpec", format!("{field} is not supported by this node")))
}

/// The first field that says what this node cannot do.
fn unsupported(pod: &Value) -> Option<String> {
    let given = |value: &Value, field: &str| value.get(field).is_some_and(|value| !is_empty(value));
    let spec = pod.get("spec")?;
    if let Some(field) = ["resources", "resourceClaims"].into_iter().find(|field| given(spec, field)) {
        return Some(format!("spec.{field}"));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let containers = spec.get(list).and_then(Value::as_array);
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let path = format!("spec.{list}[{index}]");
            if given(container, "volumeDevices") {
                return Some(format!("{path}.volumeDevices"));
            }
            if container.get("resources").is_some_and(|resources| given(resources, "claims")) {
                return Some(format!("{path}.resources.claims"));
            }
            let variables = container.get("env").and_then(Value::as_array).into_iter().flatten();
            let from = |variable: &Value| variable.pointer("/valueFrom/fileKeyRef").is_some();
            if let Some(at) = variables.into_iter().position(from) {
                return Some(format!("{path}.env[{at}].valueFrom.fileKeyRef"));
            }
        }
    }
    None
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.values().all(is_empty),
        _ => false,
    }
}

fn volumes(pod: &Value) -> impl Iterator<Item = &Map<String, Value>> {
    let list = pod.pointer("/spec/volumes").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_object)
}

fn foreign_source(volume: &Map<String, Value>) -> Option<String> {
    let unknown = |source: &Map<String, Value>, known: &[&str]| {
        let given = source.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key);
        given.map(String::as_str).find(|key| *key != "name" && !known.contains(key)).map(str::to_owned)
    };
    unknown(volume, SOURCES).or_else(|| {
        let sources = volume.get("projected")?.get("sources")?.as_array()?;
        let found =
            sources.iter().filter_map(Value::as_object).find_map(|source| unknown(source, PROJECTIONS));
        Some(format!("projected {}", found?))
    })
}

fn decode<T: DeserializeOwned>(mut value: Value, kind: &str) -> Result<T> {
    drop_nulls(&mut value);
    serde_path_to_error::deserialize(value).map_err(|error| Error::invalid(format!("{kind}: {error}")))
}

/// `null` is an absent field.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(spec: Value) -> Pod {
        let pod = json!({"metadata": {"name": "p", "creationTimestamp": null, "ownerReferences": [], "managedFields": [{}]}, "spec": spec, "status": {"phase": "Novel"}});
        Pod::from_value(pod).unwrap()
    }

    #[test]
    fn what_means_nothing_to_a_node_is_passed_over() {
        let pod = read(json!({
            "affinity": {"nodeAffinity": {}}, "priority": 0, "preemptionPolicy": "PreemptLowerPriority", "overhead": {"cpu": "1"},
            "topologySpreadConstraints": [], "resources": {}, "nodeSelector": null,
            "containers": [{"name": "a", "image": "x", "resources": {}, "terminationMessagePolicy": "File", "lifecycle": {"stopSignal": "SIGHUP"}}],
        }));
        assert_eq!(pod.spec.containers.len(), 1);
        assert_eq!(pod.refusal(), None);
        assert_eq!(pod.status, PodStatus::default());
    }

    #[test]
    fn what_cannot_be_had_is_told() {
        for (spec, told) in [
            (json!({"os": {"name": "windows"}}), "PodOSNotSupported"),
            (json!({"hostUsers": false}), "UserNamespacesNotSupported"),
            (json!({"resourceClaims": [{"name": "g"}]}), "spec.resourceClaims is not"),
            (
                json!({"containers": [{"name": "a", "env": [{"name": "A"}, {"name": "B", "valueFrom": {"fileKeyRef": {}}}]}]}),
                "spec.containers[0].env[1].valueFrom.fileKeyRef is not",
            ),
        ] {
            let (reason, message) = read(spec).refusal().unwrap();
            assert!(format!("{reason} {message}").contains(told), "{reason} {message}");
        }
        let volumes = json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "persistentVolumeClaim": {"claimName": "c"}}]});
        let foreign: Vec<Option<String>> =
            read(volumes).spec.volumes.into_iter().map(|volume| volume.foreign).collect();
        assert_eq!(foreign, [None, Some("persistentVolumeClaim".to_owned())]);
    }

    #[test]
    fn what_is_no_pod_is_refused_with_the_place() {
        let error = Pod::from_value(json!({"spec": {"containers": [{"ports": [{"containerPort": "x"}]}]}}))
            .unwrap_err();
        assert!(error.to_string().contains("spec.containers[0].ports[0].containerPort"), "{error}");
    }
}
