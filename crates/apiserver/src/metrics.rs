//! metrics.k8s.io/v1beta1: what nodes and pods use, for `kubectl top` and for those who scale.
//!
//! Measured when somebody asks: nothing runs and nothing is kept otherwise.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::http::Api;
use crate::{ListOptions, NodeUsage, Status, Usage, time};

/// The group and its version.
pub(crate) const GROUP: &str = "metrics.k8s.io";
pub(crate) const VERSION: &str = "v1beta1";

/// What is measured: plural, singular, type, and whether it is in a namespace. Both can be read and listed.
pub(crate) const RESOURCES: [(&str, &str, &str, bool); 2] =
    [("nodes", "", "NodeMetrics", false), ("pods", "", "PodMetrics", true)];

/// Answers for one, where a name is given, or for all that the options select.
pub(crate) async fn read(
    api: &Api,
    resource: &str,
    namespace: &str,
    name: &str,
    options: &ListOptions,
) -> Result<Value, Status> {
    let usage = api.node.usage().await?.unwrap_or_default();
    let items = match resource {
        "nodes" => nodes(api, &usage, options)?,
        "pods" => pods(api, &usage, namespace, options)?,
        _ => return Err(Status::no_such_path()),
    };
    let kind = if resource == "nodes" { "NodeMetrics" } else { "PodMetrics" };
    let version = format!("{GROUP}/{VERSION}");
    if name.is_empty() {
        return Ok(json!({
            "kind": format!("{kind}List"), "apiVersion": version, "metadata": {}, "items": items,
        }));
    }
    let found = items.into_iter().find(|item| item["metadata"]["name"] == name);
    let mut found = found.ok_or_else(|| missing(resource, name))?;
    let mut one = json!({ "kind": kind, "apiVersion": version });
    if let (Some(one), Some(found)) = (one.as_object_mut(), found.as_object_mut()) {
        one.append(found);
    }
    Ok(one)
}

fn nodes(api: &Api, usage: &NodeUsage, options: &ListOptions) -> Result<Vec<Value>, Status> {
    let selected = labels(api, "nodes", None, options)?;
    let Some(labels) = selected.get(&(String::new(), usage.name.clone())) else { return Ok(Vec::new()) };
    Ok(vec![json!({
        "metadata": metadata(&usage.name, "", labels),
        "timestamp": time::format(usage.time),
        "window": window(usage),
        "usage": used(usage.total),
    })])
}

fn pods(api: &Api, usage: &NodeUsage, namespace: &str, options: &ListOptions) -> Result<Vec<Value>, Status> {
    let selected = labels(api, "pods", Some(namespace).filter(|namespace| !namespace.is_empty()), options)?;
    let known = usage.pods.iter().filter_map(|pod| {
        let labels = selected.get(&(pod.namespace.clone(), pod.name.clone()))?;
        let containers: Vec<Value> = pod
            .containers
            .iter()
            .map(|(name, usage)| json!({ "name": name, "usage": used(*usage) }))
            .collect();
        Some(json!({
            "metadata": metadata(&pod.name, &pod.namespace, labels),
            "timestamp": time::format(usage.time),
            "window": window(usage),
            "containers": containers,
        }))
    });
    Ok(known.filter(|pod| pod["containers"] != json!([])).collect())
}

/// The objects that are selected, by namespace and name, with their labels.
fn labels(
    api: &Api,
    resource: &str,
    namespace: Option<&str>,
    options: &ListOptions,
) -> Result<BTreeMap<(String, String), Value>, Status> {
    let kind = api.cluster.kind("", "v1", resource).ok_or_else(Status::no_such_path)?;
    let options = ListOptions {
        labels: options.labels.clone(),
        fields: options.fields.clone(),
        ..ListOptions::default()
    };
    let items = api.cluster.list(kind, namespace, &options)?.items;
    Ok(items
        .iter()
        .map(|item| {
            let mut metadata = item.value()["metadata"].take();
            let take = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
            let key = (take("namespace"), take("name"));
            (key, metadata["labels"].take())
        })
        .collect())
}

fn metadata(name: &str, namespace: &str, labels: &Value) -> Value {
    let mut metadata = json!({ "name": name });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    metadata["creationTimestamp"] = json!(time::format(Timestamp::now()));
    if !labels.is_null() {
        metadata["labels"] = labels.clone();
    }
    metadata
}

/// A duration as Go prints it.
fn window(usage: &NodeUsage) -> String {
    format!("{}s", usage.window)
}

fn used(usage: Usage) -> Value {
    json!({ "cpu": format!("{}n", usage.cpu), "memory": format!("{}Ki", usage.memory >> 10) })
}

fn missing(resource: &str, name: &str) -> Status {
    let message = format!("{resource}.{GROUP} {name:?} not found");
    Status::plain(404, crate::Reason::NotFound, message).with_details(crate::Details {
        name: name.to_owned(),
        group: GROUP.to_owned(),
        kind: resource.to_owned(),
        ..crate::Details::default()
    })
}
