use serde_json::Value;

use super::{Admission, Attributes, Operation, forbidden};
use crate::kinds::at::Read;
use crate::kinds::quantity::Quantity;
use crate::kinds::resources::{Amounts, pod as pod_amounts};
use crate::kinds::{LIMIT_RANGE, POD, thousandths};
use crate::{Cluster, ListOptions, Status, Subresource};

/// Containers and pods stay within the limit ranges of their namespace, which also say what containers get that ask for
/// nothing.
pub(super) static LIMITS: Admission = Admission { name: "LimitRanger", mutate, check };

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

fn concerned(attributes: &Attributes<'_>) -> bool {
    let resize = *attributes.kind == POD && attributes.subresource == Some(Subresource::Resize);
    let created = attributes.operation == Operation::Create && attributes.subresource.is_none();
    let ends = attributes.old.is_some_and(|old| !old.dig(&["metadata", "deletionTimestamp"]).is_null());
    let claim = attributes.kind.resource() == "persistentvolumeclaims";
    !ends && (resize || (created && (*attributes.kind == POD || claim)))
}

/// The items of every limit range of the namespace.
fn items(cluster: &Cluster, namespace: &str) -> Result<Vec<Value>, Status> {
    let ranges = cluster.list(&LIMIT_RANGE, Some(namespace), &ListOptions::default())?.items;
    Ok(ranges.iter().flat_map(|range| range.value().list(&["spec", "limits"]).to_vec()).collect())
}

fn mutate(cluster: &Cluster, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if !concerned(attributes) || *attributes.kind != POD {
        return Ok(());
    }
    let mut told = Vec::new();
    for limit in items(cluster, attributes.namespace)?.iter().filter(|one| one.text(&["type"]) == "Container")
    {
        let Some(spec) = pod.get_mut("spec") else { break };
        for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
            for container in spec.list_mut(list) {
                complete(container, limit, what, &mut told);
            }
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        pod.object("metadata").object("annotations")[ANNOTATION] = text.into();
    }
    Ok(())
}

/// Gives a container what it did not ask for.
fn complete(container: &mut Value, limit: &Value, what: &str, told: &mut Vec<String>) {
    let name = container.text(&["name"]).to_owned();
    for (list, from, word) in [("requests", "defaultRequest", "request"), ("limits", "default", "limit")] {
        let mut set = Vec::new();
        for (resource, amount) in limit.dig(&[from]).as_object().into_iter().flatten() {
            if container.dig(&["resources", list, resource]).is_null() {
                container.object("resources").object(list)[resource] = amount.clone();
                set.push(resource.as_str());
            }
        }
        if !set.is_empty() {
            set.sort_unstable();
            told.push(format!("{} {word} for {what} {name}", set.join(", ")));
        }
    }
}

fn check(cluster: &Cluster, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    if !concerned(attributes) {
        return Ok(());
    }
    // Each range is a decision of its own, with all that is wrong.
    let ranges = cluster.list(&LIMIT_RANGE, Some(attributes.namespace), &ListOptions::default())?.items;
    for range in ranges {
        let range = range.value();
        let errors = if *attributes.kind == POD { pod(&range, object) } else { claim(&range, object) };
        match errors.as_slice() {
            [] => {}
            [one] => return Err(forbidden(attributes, object, one)),
            all => return Err(forbidden(attributes, object, &format!("[{}]", all.join(", ")))),
        }
    }
    Ok(())
}

/// What is wrong with a pod by a limit range.
fn pod(range: &Value, pod: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for limit in range.list(&["spec", "limits"]) {
        let mut one = |requests: &Amounts, limits: &Amounts| {
            for error in within(limit, requests, limits) {
                if !errors.contains(&error) {
                    errors.push(error);
                }
            }
        };
        match limit.text(&["type"]) {
            "Container" => {
                let all = ["containers", "initContainers"].iter().flat_map(|list| pod.list(&["spec", list]));
                for container in all {
                    let amounts = |list| Amounts::of(container.dig(&["resources", list]));
                    one(&amounts("requests"), &amounts("limits"));
                }
            }
            "Pod" => {
                // Overhead is no part of what the pod asks for.
                let mut spec = pod.dig(&["spec"]).clone();
                crate::kinds::at::remove(&mut spec, "overhead");
                one(&pod_amounts(&spec, "requests"), &pod_amounts(&spec, "limits"));
            }
            _ => {}
        }
    }
    errors
}

fn within(limit: &Value, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let kind = limit.text(&["type"]);
    let mut errors = Vec::new();
    for (name, min) in Amounts::of(limit.dig(&["min"])).0 {
        let text = format!("minimum {name} usage per {kind} is {min}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => errors.push(format!("{text}.  No request is specified")),
            (Some(request), _) if request < min => errors.push(format!("{text}, but request is {request}")),
            (_, Some(limit)) if limit < min => errors.push(format!("{text}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, max) in Amounts::of(limit.dig(&["max"])).0 {
        let text = format!("maximum {name} usage per {kind} is {max}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => errors.push(format!("{text}.  No limit is specified")),
            (_, Some(limit)) if limit > max => errors.push(format!("{text}, but limit is {limit}")),
            (Some(request), _) if request > max => errors.push(format!("{text}, but request is {request}")),
            _ => {}
        }
    }
    for (name, most) in Amounts::of(limit.dig(&["maxLimitRequestRatio"])).0 {
        let text = format!("{name} max limit to request ratio per {kind} is {most}, but");
        match (given(requests, &name), given(limits, &name)) {
            (None, _) => errors.push(format!("{text} no request is specified or request is 0")),
            (_, None) => errors.push(format!("{text} no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = thousandths(limit) / thousandths(request);
                if ratio * 1000.0 > thousandths(most) {
                    errors.push(format!("{text} provided ratio is {ratio:.6}"));
                }
            }
        }
    }
    errors
}

fn given(amounts: &Amounts, name: &str) -> Option<Quantity> {
    amounts.get(name).filter(|amount| !amount.is_zero())
}

/// What is wrong with a claim of storage by a limit range.
fn claim(range: &Value, claim: &Value) -> Vec<String> {
    let requests = Amounts::of(claim.dig(&["spec", "resources", "requests"]));
    let kind = "PersistentVolumeClaim";
    let mut errors = Vec::new();
    for limit in range.list(&["spec", "limits"]).iter().filter(|limit| limit.text(&["type"]) == kind) {
        for (word, list) in [("minimum", "min"), ("maximum", "max")] {
            for (name, bound) in Amounts::of(limit.dig(&[list])).0 {
                let text = format!("{word} {name} usage per {kind} is {bound}");
                match requests.get(&name) {
                    None => errors.push(format!("{text}.  No request is specified")),
                    Some(request)
                        if (list == "min" && request < bound) || (list == "max" && request > bound) =>
                    {
                        errors.push(format!("{text}, but request is {request}"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words() {
        let range = json!({ "spec": { "limits": [
            { "type": "Container", "min": { "cpu": "100m" }, "max": { "memory": "1Gi" }, "maxLimitRequestRatio": { "cpu": "2" } },
            { "type": "Pod", "max": { "cpu": "1" } },
        ] } });
        let with = |requests: Value, limits: Value| json!({ "spec": { "containers": [{ "resources": { "requests": requests, "limits": limits } }] } });
        assert_eq!(
            pod(&range, &with(json!({}), json!({}))),
            [
                "minimum cpu usage per Container is 100m.  No request is specified",
                "maximum memory usage per Container is 1Gi.  No limit is specified",
                "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
                "maximum cpu usage per Pod is 1.  No limit is specified",
            ]
        );
        assert_eq!(
            pod(&range, &with(json!({ "cpu": "500m" }), json!({ "cpu": "1500m", "memory": "2Gi" }))),
            [
                "maximum memory usage per Container is 1Gi, but limit is 2Gi",
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
                "maximum cpu usage per Pod is 1, but limit is 1500m",
            ]
        );
        assert_eq!(
            pod(&range, &with(json!({ "cpu": "500m" }), json!({ "cpu": "1", "memory": "1Gi" }))),
            [""; 0]
        );
    }

    #[test]
    fn defaults() {
        let limit =
            json!({ "defaultRequest": { "memory": "1Gi", "cpu": "100m" }, "default": { "cpu": "1" } });
        let mut container = json!({ "name": "a", "resources": { "requests": { "cpu": "50m" } } });
        let mut told = Vec::new();
        complete(&mut container, &limit, "container", &mut told);
        assert_eq!(
            container["resources"],
            json!({ "requests": { "cpu": "50m", "memory": "1Gi" }, "limits": { "cpu": "1" } })
        );
        assert_eq!(told, ["memory request for container a", "cpu limit for container a"]);
    }
}
