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
    let mut pod: Pod = decode(value, "Pod")?;
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
    None
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
