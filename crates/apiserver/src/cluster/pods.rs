//! What is particular to pods.

use serde_json::{Value, json};

use super::update::Target;
use super::{Cluster, metadata};
use crate::kinds::POD;
use crate::{Object, Status, Subresource, Write, time};

/// Chooses the pod's node, as a `Binding` says.
pub(super) async fn bind(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    binding: &Value,
    write: &Write,
) -> Result<Object, Status> {
    let named = metadata::text(binding, "name");
    if !named.is_empty() && named != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let target = &binding["target"];
    let (kind, node) =
        (target["kind"].as_str().unwrap_or_default(), target["name"].as_str().unwrap_or_default());
    if !kind.is_empty() && kind != "Node" {
        let quoted = crate::status::quote(kind);
        return Err(Status::bad_request(format!(
            "target.kind: Unsupported value: {quoted}: supported values: \"Node\""
        )));
    }
    if node.is_empty() {
        return Err(Status::bad_request("target.name: Required value"));
    }
    let place =
        Target { cluster, kind: &POD, namespace, name, subresource: Some(Subresource::Binding), write };
    place.modify(&mut |pod| assign(pod, name, node, binding).map(|()| true)).await
}

fn assign(pod: &mut Value, name: &str, node: &str, binding: &Value) -> Result<(), Status> {
    let conflict = |why: &str| {
        let mut status = Status::conflict(&POD, name, why);
        status.message = status.message.replacen("pods ", "pods/binding ", 1);
        status
    };
    let uid = metadata::text(binding, "uid");
    if !uid.is_empty() && uid != metadata::text(pod, "uid") {
        let own = metadata::text(pod, "uid");
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
        return Err(conflict(&why));
    }
    if !metadata::text(pod, "deletionTimestamp").is_empty() {
        return Err(conflict(&format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let before = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !before.is_empty() {
        return Err(conflict(&format!(
            "pod {name} is already assigned to node {}",
            crate::status::quote(before)
        )));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(conflict(&format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    pod["spec"]["nodeName"] = node.into();
    for field in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
            pod["metadata"][field][key] = value.clone();
        }
    }
    if let Some(status) = pod["status"].as_object_mut() {
        status.shift_remove("nominatedNodeName");
    }
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": time::now()});
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|one| one["type"] != "PodScheduled");
        list.push(scheduled);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let binding = json!({"metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"name": "n1"}});
        let mut pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}});
        assign(&mut pod, "p", "n1", &binding).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert_eq!(pod["metadata"]["annotations"]["a"], "b");
        assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
        let again = assign(&mut pod, "p", "n2", &binding).unwrap_err();
        assert_eq!(
            again.message,
            r#"Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n1""#
        );
    }
}
