use serde_json::Value;

use super::{Admission, Attributes, Operation, forbidden};
use crate::kinds::at::{Read, list};
use crate::kinds::resources::Amounts;
use crate::kinds::{POD, RUNTIME_CLASS};
use crate::{Cluster, Status};

/// The runtime class of a pod must exist; what it costs and which nodes have it goes into the pod.
pub(super) static RUNTIME_CLASSES: Admission = Admission { name: "RuntimeClass", mutate, check };

fn class(cluster: &Cluster, attributes: &Attributes<'_>, pod: &Value) -> Result<Option<Value>, Status> {
    let Some(name) = pod.dig(&["spec", "runtimeClassName"]).as_str() else { return Ok(None) };
    cluster.get(&RUNTIME_CLASS, "", name).map(|class| Some(class.value())).map_err(|status| {
        match status.code {
            404 => forbidden(attributes, pod, &format!("pod rejected: RuntimeClass {name:?} not found")),
            _ => status,
        }
    })
}

fn created(attributes: &Attributes<'_>) -> bool {
    *attributes.kind == POD && attributes.operation == Operation::Create && attributes.subresource.is_none()
}

fn mutate(cluster: &Cluster, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if !created(attributes) {
        return Ok(());
    }
    let Some(class) = class(cluster, attributes, pod)? else { return Ok(()) };
    if !class.dig(&["overhead"]).is_null() {
        let (own, fixed) = (pod.dig(&["spec", "overhead"]), class.dig(&["overhead", "podFixed"]));
        if own.as_object().is_some_and(|own| !own.is_empty()) && Amounts::of(own) != Amounts::of(fixed) {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(forbidden(attributes, pod, why));
        }
        pod.object("spec")["overhead"] = fixed.clone();
    }
    for (key, value) in class.dig(&["scheduling", "nodeSelector"]).as_object().into_iter().flatten() {
        let own = pod.dig(&["spec", "nodeSelector", key]).as_str().map(str::to_owned);
        if let Some(own) = own.filter(|own| Some(own.as_str()) != value.as_str()) {
            let class = value.as_str().unwrap_or_default();
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {class}; pod.spec.nodeSelector[{key}] = {own}"
            );
            return Err(forbidden(attributes, pod, &why));
        }
        pod.object("spec").object("nodeSelector")[key] = value.clone();
    }
    for toleration in class.list(&["scheduling", "tolerations"]) {
        if let Some(own) = pod.object("spec").make("tolerations", list).as_array_mut()
            && !own.contains(toleration)
        {
            own.push(toleration.clone());
        }
    }
    Ok(())
}

fn check(cluster: &Cluster, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    if !created(attributes) {
        return Ok(());
    }
    let class = class(cluster, attributes, pod)?;
    let fixed = class.as_ref().map(|class| class.dig(&["overhead"])).filter(|overhead| !overhead.is_null());
    let own = pod.dig(&["spec", "overhead"]);
    let why = match fixed {
        Some(fixed) if Amounts::of(fixed.dig(&["podFixed"])) != Amounts::of(own) => {
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
        }
        None if !own.is_null() => {
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
        }
        _ => return Ok(()),
    };
    Err(forbidden(attributes, pod, why))
}
