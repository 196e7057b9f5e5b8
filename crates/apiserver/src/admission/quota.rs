use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Admission, Attributes, Operation, forbidden};
use crate::kinds::at::Read;
use crate::kinds::quantity::Quantity;
use crate::kinds::resources::{Amounts, pod as pod_amounts, qos};
use crate::kinds::{POD, RESOURCE_QUOTA};
use crate::{Cluster, Kind, ListOptions, Status, Subresource, time};

/// A namespace has no more than its quotas allow. What is used is counted at every write, so no two writes can share
/// what only one may have (creations in a namespace with a quota come one after the other).
pub(super) static QUOTA: Admission = Admission { name: "ResourceQuota", check, ..Admission::NONE };

/// Resources that quotas may name without `count/`.
const NAMED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// Resources that every container must say something about where a quota is about them.
const CONSTRAINED: &[&str] =
    &["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// What a namespace uses of each resource of a quota, as it belongs into `status.used`.
///
/// # Errors
/// What the store says.
pub fn used(cluster: &Cluster, namespace: &str, quota: &Value) -> Result<Map<String, Value>, Status> {
    let hard = Amounts::of(quota.dig(&["spec", "hard"]));
    let mut used = Amounts::default();
    let mut kinds: Vec<&'static Kind> = Vec::new();
    for kind in cluster.kinds().map(Kind::storage) {
        if kind.namespaced() && !kinds.contains(&kind) && hard.0.keys().any(|name| concerns(kind, name)) {
            kinds.push(kind);
        }
    }
    for kind in kinds {
        used.add(&used_by(cluster, kind, namespace, quota)?);
    }
    let amount = |name: &str| used.get(name).unwrap_or(Quantity::ZERO).to_string().into();
    Ok(hard.0.keys().map(|name| (name.clone(), amount(name))).collect())
}

fn used_by(
    cluster: &Cluster,
    kind: &'static Kind,
    namespace: &str,
    quota: &Value,
) -> Result<Amounts, Status> {
    let mut used = Amounts::default();
    for object in cluster.list(kind, Some(namespace), &ListOptions::default())?.items {
        let object = object.value();
        if matches(kind, quota, &object) {
            used.add(&usage(kind, &object));
        }
    }
    Ok(used)
}

/// Whether a resource of a quota is about objects of a kind.
fn concerns(kind: &Kind, name: &str) -> bool {
    if name.strip_prefix("count/") == Some(kind.resource().as_str()) {
        return true;
    }
    if *kind == POD {
        let of_containers = ["cpu", "memory", "ephemeral-storage"].iter().any(|resource| {
            [*resource, &format!("requests.{resource}"), &format!("limits.{resource}")].contains(&name)
        });
        let extended =
            name.starts_with("requests.") && name.contains('/') && !name.contains("kubernetes.io/");
        return of_containers
            || name == "pods"
            || name.starts_with("hugepages-")
            || name.starts_with("requests.hugepages-")
            || extended;
    }
    kind.group.is_empty() && kind.plural == name && NAMED.contains(&name)
}

/// What one object uses.
fn usage(kind: &Kind, object: &Value) -> Amounts {
    let mut used = Amounts::default();
    used.set(format!("count/{}", kind.resource()), Quantity::ONE);
    if *kind != POD {
        used.set(kind.plural, Quantity::ONE);
    } else if !is_over(object) {
        let spec = object.dig(&["spec"]);
        used.add(&compute(&pod_amounts(spec, "requests"), &pod_amounts(spec, "limits")));
        used.set("pods", Quantity::ONE);
    }
    used
}

/// Pods that have ended, or should have, use nothing.
fn is_over(pod: &Value) -> bool {
    let ended = matches!(pod.text(&["status", "phase"]), "Failed" | "Succeeded");
    // deletionTimestamp is the end of the grace period.
    let late = time::parse(pod.dig(&["metadata", "deletionTimestamp"]))
        .is_some_and(|end| end < jiff::Timestamp::now());
    ended || late
}

/// Requests and limits under the names that quotas have for them.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::default();
    for (name, amount) in &requests.0 {
        let plain =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if plain {
            used.set(name.clone(), *amount);
        }
        if plain || name.contains('/') {
            used.set(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in &limits.0 {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.set(format!("limits.{name}"), *amount);
        }
    }
    used
}

/// Whether a quota is about an object: its scopes are about pods alone.
fn matches(kind: &Kind, quota: &Value, object: &Value) -> bool {
    let scopes =
        quota.list(&["spec", "scopes"]).iter().map(|scope| (scope.as_str().unwrap_or_default(), None));
    let rules = quota.list(&["spec", "scopeSelector", "matchExpressions"]).iter();
    let mut all = scopes.chain(rules.map(|rule| (rule.text(&["scopeName"]), Some(rule))));
    all.all(|(scope, rule)| *kind == POD && in_scope(object, scope, rule))
}

fn in_scope(pod: &Value, scope: &str, rule: Option<&Value>) -> bool {
    let spec = pod.dig(&["spec"]);
    let terminating = spec.dig(&["activeDeadlineSeconds"]).as_i64().is_some_and(|seconds| seconds >= 0);
    let best_effort = || qos(spec) == "BestEffort";
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "CrossNamespacePodAffinity" => crosses(spec),
        "PriorityClass" => {
            let class = spec.text(&["priorityClassName"]);
            let listed = |rule: &Value| rule.list(&["values"]).iter().any(|value| value == class);
            match (rule, rule.map_or("Exists", |rule| rule.text(&["operator"]))) {
                (Some(rule), "In") => !class.is_empty() && listed(rule),
                (Some(rule), "NotIn") => class.is_empty() || !listed(rule),
                (_, "DoesNotExist") => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        _ => false,
    }
}

/// Whether an affinity of a pod looks at pods of other namespaces.
fn crosses(spec: &Value) -> bool {
    let across =
        |term: &Value| !term.list(&["namespaces"]).is_empty() || !term.dig(&["namespaceSelector"]).is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = spec.dig(&["affinity", kind]);
        let required = affinity.list(&["requiredDuringSchedulingIgnoredDuringExecution"]).iter();
        let preferred = affinity.list(&["preferredDuringSchedulingIgnoredDuringExecution"]).iter();
        required.chain(preferred.map(|term| term.dig(&["podAffinityTerm"]))).any(across)
    })
}

fn check(cluster: &Cluster, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let kind = attributes.kind.storage();
    let resize = *kind == POD && attributes.subresource == Some(Subresource::Resize);
    let created = attributes.operation == Operation::Create && attributes.subresource.is_none();
    if !kind.namespaced() || !(created || resize) {
        return Ok(());
    }
    for quota in cluster.list(&RESOURCE_QUOTA, Some(attributes.namespace), &ListOptions::default())?.items {
        let quota = quota.value();
        if !matches(kind, &quota, object) {
            continue;
        }
        let hard: BTreeMap<String, Quantity> = Amounts::of(quota.dig(&["spec", "hard"]))
            .0
            .into_iter()
            .filter(|(name, _)| concerns(kind, name))
            .collect();
        if hard.is_empty() {
            continue;
        }
        let name = quota.text(&["metadata", "name"]);
        if let Some(missing) = unsaid(kind, object, &hard) {
            return Err(forbidden(attributes, object, &format!("failed quota: {name}: {missing}")));
        }
        let mut wanted = usage(kind, object);
        if let Some(old) = attributes.old {
            let before = usage(kind, old);
            for (name, amount) in &mut wanted.0 {
                *amount = amount.minus(before.get(name).unwrap_or(Quantity::ZERO)).max(Quantity::ZERO);
            }
        }
        wanted.0.retain(|name, amount| hard.contains_key(name) && !amount.is_zero());
        if wanted.0.is_empty() {
            continue;
        }
        let used = used_by(cluster, kind, attributes.namespace, &quota)?;
        if let Some(why) = exceeded(name, &wanted, &used, &hard) {
            return Err(forbidden(attributes, object, &why));
        }
    }
    Ok(())
}

fn exceeded(
    quota: &str,
    wanted: &Amounts,
    used: &Amounts,
    hard: &BTreeMap<String, Quantity>,
) -> Option<String> {
    let used = |name: &str| used.get(name).unwrap_or(Quantity::ZERO);
    let over: Vec<&str> = wanted
        .0
        .iter()
        .filter(|(name, amount)| used(name).plus(**amount) > hard[*name])
        .map(|(name, _)| name.as_str())
        .collect();
    let list = |amount: &dyn Fn(&str) -> Quantity| {
        over.iter().map(|name| format!("{name}={}", amount(name))).collect::<Vec<_>>().join(",")
    };
    (!over.is_empty()).then(|| {
        format!(
            "exceeded quota: {quota}, requested: {}, used: {}, limited: {}",
            list(&|name| wanted.0[name]),
            list(&used),
            list(&|name| hard[name]),
        )
    })
}

/// What the containers of a pod must say for a quota but do not.
fn unsaid(kind: &Kind, pod: &Value, hard: &BTreeMap<String, Quantity>) -> Option<String> {
    let own = pod.dig(&["spec", "resources"]);
    let pod_level = ["requests", "limits"]
        .iter()
        .any(|list| own.dig(&[list]).as_object().is_some_and(|list| !list.is_empty()));
    if *kind != POD || pod_level {
        return None;
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in ["containers", "initContainers"].iter().flat_map(|list| pod.list(&["spec", list])) {
        let amounts = |list| Amounts::of(container.dig(&["resources", list]));
        let said = compute(&amounts("requests"), &amounts("limits"));
        for name in CONSTRAINED.iter().filter(|name| hard.contains_key(**name) && said.get(name).is_none()) {
            missing.entry(name).or_default().insert(container.text(&["name"]));
        }
    }
    let each = |(name, containers): (&str, BTreeSet<&str>)| {
        format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    };
    let texts: Vec<String> = missing.into_iter().map(each).collect();
    (!texts.is_empty()).then(|| format!("must specify {}", texts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::CONFIG_MAP;
    use serde_json::json;

    #[test]
    fn amounts() {
        let pod = json!({ "spec": { "containers": [{ "name": "a", "resources": {
            "requests": { "cpu": "500m", "example.com/gpu": "1", "hugepages-2Mi": "2Mi" }, "limits": { "memory": "1Gi" } } }] } });
        let used: Vec<String> =
            usage(&POD, &pod).0.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
        assert_eq!(
            used,
            [
                "count/pods=1",
                "cpu=500m",
                "hugepages-2Mi=2Mi",
                "limits.memory=1Gi",
                "pods=1",
                "requests.cpu=500m",
                "requests.example.com/gpu=1",
                "requests.hugepages-2Mi=2Mi"
            ]
        );
        for name in usage(&POD, &pod).0.keys() {
            assert!(concerns(&POD, name), "{name}");
        }
        assert!(concerns(&CONFIG_MAP, "configmaps") && concerns(&CONFIG_MAP, "count/configmaps"));
        assert!(!concerns(&CONFIG_MAP, "pods") && !concerns(&POD, "configmaps"));
        let ended = json!({ "spec": pod["spec"], "status": { "phase": "Succeeded" } });
        assert_eq!(usage(&POD, &ended).0.keys().collect::<Vec<_>>(), ["count/pods"]);
    }

    #[test]
    fn words() {
        let amounts = |value: Value| Amounts::of(&value);
        let hard = amounts(json!({ "pods": "2", "requests.cpu": "1" })).0;
        let used = amounts(json!({ "pods": "2", "requests.cpu": "500m" }));
        let wanted = amounts(json!({ "pods": "1", "requests.cpu": "600m" }));
        assert_eq!(
            exceeded("q", &wanted, &used, &hard).unwrap(),
            "exceeded quota: q, requested: pods=1,requests.cpu=600m, used: pods=2,requests.cpu=500m, limited: pods=2,requests.cpu=1"
        );
        assert_eq!(exceeded("q", &amounts(json!({ "requests.cpu": "500m" })), &used, &hard), None);
        let hard = amounts(json!({ "limits.cpu": "1", "memory": "1", "pods": "1" })).0;
        let pod = json!({ "spec": { "containers": [{ "name": "b" }, { "name": "a", "resources": { "limits": { "cpu": "1" } } }] } });
        assert_eq!(unsaid(&POD, &pod, &hard).unwrap(), "must specify limits.cpu for: b; memory for: a,b");
    }

    #[test]
    fn scopes() {
        let quota = |spec: Value| json!({ "spec": spec });
        let pod = json!({ "spec": { "activeDeadlineSeconds": 5, "priorityClassName": "high", "containers": [{}] } });
        for (spec, expected) in [
            (json!({}), true),
            (json!({ "scopes": ["Terminating", "BestEffort"] }), true),
            (json!({ "scopes": ["NotTerminating"] }), false),
            (json!({ "scopes": ["NotBestEffort"] }), false),
            (json!({ "scopes": ["CrossNamespacePodAffinity"] }), false),
            (
                json!({ "scopeSelector": { "matchExpressions": [{ "scopeName": "PriorityClass", "operator": "In", "values": ["high"] }] } }),
                true,
            ),
            (
                json!({ "scopeSelector": { "matchExpressions": [{ "scopeName": "PriorityClass", "operator": "NotIn", "values": ["high"] }] } }),
                false,
            ),
            (
                json!({ "scopeSelector": { "matchExpressions": [{ "scopeName": "PriorityClass", "operator": "Exists" }] } }),
                true,
            ),
        ] {
            assert_eq!(matches(&POD, &quota(spec.clone()), &pod), expected, "{spec}");
        }
        assert!(!matches(&CONFIG_MAP, &quota(json!({ "scopes": ["Terminating"] })), &json!({})));
    }
}
