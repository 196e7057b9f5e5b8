//! Mirrors: what the API shows of pods of manifests.

use std::sync::Arc;

use serde_json::{Value, json};
use vaquita_apiserver::kinds::{NODE, POD};
use vaquita_apiserver::{DeleteOptions, Deletion, Reason, Status, Write};

use super::keeper::MIRROR;
use crate::control::Shared;

/// Makes the mirror of a pod, if it is not there as it should be. Whether it was made.
pub(crate) async fn show(shared: &Arc<Shared>, pod: &Value) -> Result<bool, Status> {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
    match shared.cluster.get(&POD, namespace, name) {
        Ok(there) => {
            let there = there.value();
            let metadata = &there["metadata"];
            if metadata["annotations"][MIRROR].is_null() {
                return Err(Status::already_exists(&POD, name));
            }
            if metadata["annotations"][MIRROR] == uid && metadata["deletionTimestamp"].is_null() {
                return Ok(false);
            }
            hide(shared, &there).await?;
        }
        Err(error) if error.reason == Reason::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut mirror = pod.clone();
    let metadata = &mut mirror["metadata"];
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.retain(|field, _| matches!(field.as_str(), "name" | "namespace" | "labels" | "annotations"));
    }
    metadata["annotations"][MIRROR] = uid.into();
    let node = shared.cluster.get(&NODE, "", &shared.name)?;
    metadata["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "Node", "name": shared.name, "uid": node.uid(), "controller": true,
    }]);
    shared.cluster.create(&POD, namespace, mirror, &Write::system("node")).await?;
    Ok(true)
}

/// Removes a mirror at once.
pub(crate) async fn hide(shared: &Arc<Shared>, mirror: &Value) -> Result<(), Status> {
    let text = |field: &str| mirror["metadata"][field].as_str().unwrap_or_default();
    let options =
        DeleteOptions { grace: Some(0), uid: Some(text("uid").to_owned()), ..DeleteOptions::default() };
    let write = Write::system("node");
    match shared.cluster.delete(&POD, text("namespace"), text("name"), &options, &write).await {
        Ok(Deletion::Gone(_) | Deletion::Pending(_)) => Ok(()),
        Err(error) if matches!(error.reason, Reason::NotFound | Reason::Conflict) => Ok(()),
        Err(error) => Err(error),
    }
}
