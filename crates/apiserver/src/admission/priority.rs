use serde_json::Value;

use super::{Admission, Attributes, Operation, forbidden};
use crate::kinds::at::Read;
use crate::kinds::{POD, PRIORITY_CLASS};
use crate::{Cluster, ListOptions, Status};

/// The class of a pod says its priority; one class at most is the default.
pub(super) static PRIORITY: Admission = Admission { name: "Priority", mutate, check };

fn mutate(cluster: &Cluster, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if *attributes.kind != POD || attributes.subresource.is_some() {
        return Ok(());
    }
    if let (Operation::Update, Some(old)) = (attributes.operation, attributes.old) {
        for field in ["priority", "preemptionPolicy"] {
            let before = old.dig(&["spec", field]);
            if !before.is_null() {
                pod.object("spec").make(field, || before.clone());
            }
        }
    }
    if attributes.operation != Operation::Create {
        return Ok(());
    }
    let class = class(cluster, attributes, pod)?;
    let priority = class.as_ref().map_or(0, |class| class.number(&["value"]));
    let policy = match &class {
        Some(class) => class.text(&["preemptionPolicy"]).to_owned(),
        None => "PreemptLowerPriority".to_owned(),
    };
    if let Some(own) = pod.dig(&["spec", "priority"]).as_i64().filter(|own| *own != priority) {
        let why = format!(
            "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        );
        return Err(forbidden(attributes, pod, &why));
    }
    let own = pod.text(&["spec", "preemptionPolicy"]);
    if !own.is_empty() && own != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(forbidden(attributes, pod, &why));
    }
    let spec = pod.object("spec");
    spec["priority"] = priority.into();
    if let Some(class) = class {
        spec["priorityClassName"] = class["metadata"]["name"].clone();
    }
    if !policy.is_empty() {
        spec["preemptionPolicy"] = policy.into();
    }
    Ok(())
}

/// The class that a pod names, or the default one.
fn class(cluster: &Cluster, attributes: &Attributes<'_>, pod: &Value) -> Result<Option<Value>, Status> {
    let name = pod.text(&["spec", "priorityClassName"]);
    if name.is_empty() {
        return default_class(cluster);
    }
    cluster.get(&PRIORITY_CLASS, "", name).map(|class| Some(class.value())).map_err(|status| {
        match status.code {
            404 => forbidden(attributes, pod, &format!("no PriorityClass with name {name} was found")),
            _ => status,
        }
    })
}

/// Of several defaults the least important counts.
fn default_class(cluster: &Cluster) -> Result<Option<Value>, Status> {
    let classes = cluster.list(&PRIORITY_CLASS, None, &ListOptions::default())?.items;
    let defaults = classes.iter().map(crate::Object::value).filter(|class| class.yes(&["globalDefault"]));
    Ok(defaults.min_by_key(|class| class.number(&["value"])))
}

fn check(cluster: &Cluster, attributes: &Attributes<'_>, class: &Value) -> Result<(), Status> {
    let written = attributes.operation != Operation::Delete;
    if *attributes.kind != PRIORITY_CLASS || !written || !class.yes(&["globalDefault"]) {
        return Ok(());
    }
    match default_class(cluster)? {
        Some(other) if other["metadata"]["name"] != class["metadata"]["name"] => {
            let name = other.text(&["metadata", "name"]);
            let why =
                format!("PriorityClass {name} is already marked as default. Only one default can exist");
            Err(forbidden(attributes, class, &why))
        }
        _ => Ok(()),
    }
}
