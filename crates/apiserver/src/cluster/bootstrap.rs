use serde_json::{Value, json};

use super::Cluster;
use crate::kinds::{NAMESPACE, PRIORITY_CLASS, built_in_priority_classes};
use crate::{Kind, Reason, Status, Write};

const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

pub(super) async fn bootstrap(cluster: &Cluster) -> Result<(), Status> {
    for name in NAMESPACES {
        make(cluster, &NAMESPACE, json!({ "metadata": { "name": name } })).await?;
    }
    for class in built_in_priority_classes() {
        make(cluster, &PRIORITY_CLASS, class).await?;
    }
    Ok(())
}

async fn make(cluster: &Cluster, kind: &'static Kind, object: Value) -> Result<(), Status> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if cluster.get(kind, "", name).is_ok() {
        return Ok(());
    }
    match cluster.create(kind, "", object, &Write::system("apiserver")).await {
        Err(status) if status.reason != Reason::AlreadyExists => Err(status),
        _ => Ok(()),
    }
}
