//! Names and amounts of resources (`pkg/apis/core/helper`, `ValidateResourceRequirements`), and sums over containers.

use std::collections::BTreeMap;

use serde_json::Value;

use super::at::{At, Read};
use super::errors::Errors;
use super::quantity::Quantity;
use crate::names::qualified;

const QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whose resources are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// Any object, as a claim.
    Any,
    /// A container.
    Container,
    /// A pod as a whole.
    Pod,
    /// A resource quota.
    Quota,
}

fn huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn extended(name: &str) -> bool {
    !native(name) && !name.starts_with("requests.") && qualified(&format!("requests.{name}")).is_empty()
}

/// Whether limits may be above requests.
pub(crate) fn overcommit(name: &str) -> bool {
    native(name) && !huge(name)
}

/// Whether a quota can be about a resource without a domain.
pub(crate) fn quota_standard(name: &str) -> bool {
    QUOTA.contains(&name) || huge(name) || name.starts_with("requests.hugepages-")
}

/// The name of a resource, reported at `at`.
pub(crate) fn name(errors: &mut Errors, at: &At<'_>, name: &str, of: Of) {
    let messages = qualified(name);
    if !messages.is_empty() {
        for message in messages {
            errors.invalid_as(at, name, message);
        }
        if of == Of::Container && name.contains('/') && !native(name) {
            errors.invalid_as(at, name, "doesn't follow extended resource name standard");
        }
        return;
    }
    let domain = name.contains('/');
    if !domain && !quota_standard(name) && name != "storage" {
        errors.invalid_as(at, name, "must be a standard resource type or fully qualified");
        // Kubernetes goes on for containers and quotas and says the second error too.
        if !matches!(of, Of::Container | Of::Quota) {
            return;
        }
    }
    match of {
        Of::Container
            if !domain && !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !huge(name) =>
        {
            errors.invalid_as(at, name, "must be a standard resource for containers");
        }
        Of::Container if domain && !native(name) && !extended(name) => {
            errors.invalid_as(at, name, "doesn't follow extended resource name standard");
        }
        Of::Pod if !matches!(name, "cpu" | "memory") && !huge(name) => {
            errors.not_supported_as(at, name, &["cpu", "hugepages-", "memory"]);
        }
        Of::Quota if !domain && !quota_standard(name) => {
            errors.invalid_as(at, name, "must be a standard resource for quota");
        }
        _ => {}
    }
}

/// The amount of a resource.
pub(crate) fn amount(errors: &mut Errors, at: &At<'_>, name: &str) {
    let quantity = Quantity::of(at.value());
    if quantity.is_negative() {
        errors.invalid_as(at, quantity.to_string(), "must be greater than or equal to 0");
    }
    if (COUNTED.contains(&name) || extended(name)) && !quantity.is_whole() {
        errors.invalid_as(at, quantity.to_string(), "must be an integer");
    }
}

/// A map of resources to amounts.
pub(crate) fn list(errors: &mut Errors, at: &At<'_>, of: Of) {
    for (resource, value) in at.entries() {
        name(errors, &value, resource, of);
        amount(errors, &value, resource);
        if of != Of::Quota && huge(resource) {
            huge_pages(errors, &value, resource);
        }
    }
}

fn huge_pages(errors: &mut Errors, at: &At<'_>, resource: &str) {
    let quantity = Quantity::of(at.value());
    let page = resource.strip_prefix("hugepages-").and_then(Quantity::parse).unwrap_or(Quantity::ZERO);
    if !quantity.divisible_by(page) {
        let detail = format!("{quantity} is not positive integer multiple of {resource}");
        errors.invalid_as(at, quantity.to_string(), detail);
    }
}

/// `resources` of a container or pod: known names, amounts, requests within limits, claims of the pod.
pub(crate) fn requirements(errors: &mut Errors, at: &At<'_>, of: Of, claims: &[&str]) {
    let (limits, requests) = (at.at("limits"), at.at("requests"));
    list(errors, &limits, of);
    for (resource, value) in requests.entries() {
        name(errors, &value, resource, of);
        amount(errors, &value, resource);
        let (request, limit) = (Quantity::of(value.value()), limits.at(resource));
        if limit.given() {
            let limit = Quantity::of(limit.value());
            if request != limit && !overcommit(resource) {
                let detail = format!("must be equal to {resource} limit of {limit}");
                errors.invalid_as(&requests, request.to_string(), detail);
            } else if request > limit {
                let detail = format!("must be less than or equal to {resource} limit of {limit}");
                errors.invalid_as(&requests, request.to_string(), detail);
            }
        } else if !overcommit(resource) {
            errors.required(&limits, "Limit must be set for non overcommitable resources");
        }
        if huge(resource) {
            huge_pages(errors, &value, resource);
        }
    }
    let has = |wanted: fn(&str) -> bool| {
        [&limits, &requests].iter().any(|list| list.entries().any(|(resource, _)| wanted(resource)))
    };
    if has(huge) && !has(|resource| matches!(resource, "cpu" | "memory")) {
        errors.forbidden(at, "HugePages require cpu or memory");
    }
    claim_names(errors, &at.at("claims"), claims);
}

fn claim_names(errors: &mut Errors, at: &At<'_>, claims: &[&str]) {
    let mut seen: Vec<String> = Vec::new();
    for claim in at.items() {
        let (name, request) = (claim.at("name").text(), claim.at("request").text());
        if name.is_empty() {
            errors.required(&claim, "");
            continue;
        }
        let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
        let overlaps = |seen: &String| {
            seen == name || *seen == key || (request.is_empty() && seen.split('/').next() == Some(name))
        };
        if seen.iter().any(overlaps) {
            errors.duplicate(&claim, name);
        }
        errors.messages(
            &claim.at("request"),
            if request.is_empty() { Vec::new() } else { crate::names::label(request) },
        );
        seen.push(key);
        if !claims.contains(&name) {
            let detail = match claims {
                [] => "must be one of the names in pod.spec.resourceClaims which is empty".to_owned(),
                claims => {
                    format!("must be one of the names in pod.spec.resourceClaims: {}", claims.join(", "))
                }
            };
            errors.not_found_as(&claim, name, detail);
        }
    }
}

/// Amounts by resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Amounts(pub(crate) BTreeMap<String, Quantity>);

impl Amounts {
    /// Those of a map of an object.
    pub(crate) fn of(value: &Value) -> Self {
        let fields = value.as_object().into_iter().flatten();
        Self(fields.map(|(name, value)| (name.clone(), Quantity::of(value))).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<Quantity> {
        self.0.get(name).copied()
    }

    pub(crate) fn set(&mut self, name: impl Into<String>, amount: Quantity) {
        self.0.insert(name.into(), amount);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.get(name).map_or(*amount, |sum| sum.plus(*amount));
            self.set(name.clone(), sum);
        }
    }

    fn at_least(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            if self.get(name).is_none_or(|own| own < *amount) {
                self.set(name.clone(), *amount);
            }
        }
    }
}

/// The sum of `requests` or `limits` over the containers of a pod's specification: those that run together, or what one
/// of the init containers needs beside the sidecars before it, whichever is more.
pub(crate) fn containers(spec: &Value, field: &str) -> Amounts {
    let mut sum = Amounts::default();
    for container in spec.list(&["containers"]) {
        sum.add(&Amounts::of(container.dig(&["resources", field])));
    }
    let (mut sidecars, mut most) = (Amounts::default(), Amounts::default());
    for container in spec.list(&["initContainers"]) {
        let own = Amounts::of(container.dig(&["resources", field]));
        let mut together = sidecars.clone();
        together.add(&own);
        if container.text(&["restartPolicy"]) == "Always" {
            sum.add(&own);
            sidecars = together.clone();
        }
        most.at_least(&together);
    }
    sum.at_least(&most);
    sum
}

/// What a pod asks for (`requests`) or may use (`limits`) as a whole: the sum over containers, or what is given for the
/// pod itself, and its overhead.
pub(crate) fn pod(spec: &Value, field: &str) -> Amounts {
    let mut sum = containers(spec, field);
    for (name, amount) in Amounts::of(spec.dig(&["resources", field])).0 {
        if matches!(name.as_str(), "cpu" | "memory") || huge(&name) {
            sum.set(name, amount);
        }
    }
    for (name, amount) in Amounts::of(spec.dig(&["overhead"])).0 {
        // Overhead raises limits only where there are some.
        match sum.get(&name) {
            Some(own) if field == "requests" || !own.is_zero() => sum.set(name, own.plus(amount)),
            None if field == "requests" => sum.set(name, amount),
            _ => {}
        }
    }
    sum
}

/// The quality of service of a pod (`ComputePodQOS`).
pub(crate) fn qos(spec: &Value) -> &'static str {
    let computed = |list: &Value| {
        let amounts = Amounts::of(list).0.into_iter();
        amounts
            .filter(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && *amount > Quantity::ZERO)
            .collect::<BTreeMap<_, _>>()
    };
    let own = spec.dig(&["resources"]);
    let all: Vec<&Value> = if own.is_null() {
        let both = spec.list(&["containers"]).iter().chain(spec.list(&["initContainers"]));
        both.map(|container| container.dig(&["resources"])).collect()
    } else {
        vec![own]
    };
    let (mut requests, mut limits, mut guaranteed) = (Amounts::default(), Amounts::default(), true);
    for resources in all {
        requests.add(&Amounts(computed(resources.dig(&["requests"]))));
        let own = computed(resources.dig(&["limits"]));
        guaranteed &= own.len() == 2;
        limits.add(&Amounts(own));
    }
    if requests.0.is_empty() && limits.0.is_empty() {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Rounds the amounts of a list up to thousandths and writes them as Go does (`SetDefaults_ResourceList`).
pub(crate) fn round(list: &mut Value) {
    for (_, value) in list.as_object_mut().into_iter().flatten() {
        let quantity = match value {
            Value::String(text) => Quantity::parse(text),
            Value::Number(number) => Quantity::parse(&number.to_string()),
            _ => None,
        };
        if let Some(quantity) = quantity {
            *value = quantity.rounded().to_string().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let spec = |requests: Value, limits: Value| json!({ "containers": [{ "resources": { "requests": requests, "limits": limits } }] });
        let full = json!({ "cpu": "1", "memory": "1Gi" });
        assert_eq!(qos(&spec(json!({}), json!({}))), "BestEffort");
        assert_eq!(qos(&spec(json!({ "cpu": "0" }), json!({}))), "BestEffort");
        assert_eq!(qos(&spec(json!({ "cpu": "1" }), json!({}))), "Burstable");
        assert_eq!(qos(&spec(full.clone(), full.clone())), "Guaranteed");
        assert_eq!(qos(&spec(full.clone(), json!({ "cpu": "1000m", "memory": "1024Mi" }))), "Guaranteed");
        assert_eq!(qos(&spec(json!({ "cpu": "500m", "memory": "1Gi" }), full.clone())), "Burstable");
        assert_eq!(
            qos(&json!({ "resources": { "limits": full, "requests": full }, "containers": [{}] })),
            "Guaranteed"
        );
    }

    #[test]
    fn sums() {
        let cpu = |amount: &str| json!({ "requests": { "cpu": amount } });
        let mut spec = json!({
            "containers": [{ "resources": cpu("100m") }, { "resources": cpu("200m") }],
            "initContainers": [{ "resources": cpu("50m"), "restartPolicy": "Always" }, { "resources": cpu("400m") }],
        });
        assert_eq!(pod(&spec, "requests").get("cpu").unwrap().to_string(), "450m");
        spec["overhead"] = json!({ "cpu": "50m" });
        assert_eq!(pod(&spec, "requests").get("cpu").unwrap().to_string(), "500m");
        assert!(pod(&spec, "limits").0.is_empty());
    }

    #[test]
    fn requirement_texts() {
        let texts = |resources: Value| {
            let mut errors = Errors::default();
            requirements(
                &mut errors,
                &At::root(&json!({ "resources": resources })).at("resources"),
                Of::Container,
                &[],
            );
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            texts(json!({ "requests": { "memory": "2Gi" }, "limits": { "memory": "1Gi" } })),
            [
                r#"resources.requests: Invalid value: "2Gi": must be less than or equal to memory limit of 1Gi"#
            ]
        );
        assert_eq!(
            texts(json!({ "limits": { "gpu": "1" } })),
            [
                r#"resources.limits[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified"#,
                r#"resources.limits[gpu]: Invalid value: "gpu": must be a standard resource for containers"#
            ]
        );
        assert_eq!(
            texts(json!({ "limits": { "example.com/gpu": "500m", "cpu": "-1" } })),
            [
                r#"resources.limits[example.com/gpu]: Invalid value: "500m": must be an integer"#,
                r#"resources.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0"#
            ]
        );
        assert_eq!(
            texts(json!({ "requests": { "hugepages-2Mi": "3Mi" } })),
            [
                "resources.limits: Required value: Limit must be set for non overcommitable resources",
                r#"resources.requests[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi"#,
                "resources: Forbidden: HugePages require cpu or memory"
            ]
        );
        assert_eq!(
            texts(json!({ "claims": [{ "name": "a" }] })),
            [
                r#"resources.claims[0]: Not found: "a": must be one of the names in pod.spec.resourceClaims which is empty"#
            ]
        );
    }
}
