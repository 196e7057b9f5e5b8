use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;

use super::at::{At, Read};
use super::errors::Errors;
use super::resources::{amount, round};
use super::tolerations::taints;
use crate::{Column, FieldError, Kind, Scope, Subresource, time};

/// A machine that runs pods.
pub static NODE: Kind = Kind {
    plural: "nodes",
    singular: "node",
    name: "Node",
    scope: Scope::Cluster,
    short_names: &["no"],
    subresources: &[Subresource::Status],
    columns: &[
        Column::NAME,
        Column::text("Status"),
        Column::text("Roles"),
        Column::AGE,
        Column::text("Version"),
        Column::text("Internal-IP").wide(),
        Column::text("External-IP").wide(),
        Column::text("OS-Image").wide(),
        Column::text("Kernel-Version").wide(),
        Column::text("Container-Runtime").wide(),
    ],
    cells,
    default,
    validate,
    selectable: &["spec.unschedulable"],
    status_at_creation: true,
    ..Kind::PLAIN
};

const ROLE: &str = "node-role.kubernetes.io/";

fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let ready = node.list(&["status", "conditions"]).iter().rfind(|one| one.text(&["type"]) == "Ready");
    let mut status = match ready.map(|ready| ready.text(&["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.yes(&["spec", "unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let addresses = node.list(&["status", "addresses"]).iter();
        let mut of_kind = addresses.filter(|one| one.text(&["type"]) == kind);
        of_kind.next().map_or("<none>", |one| one.text(&["address"])).to_owned()
    };
    let info = |field: &str| node.text(&["status", "nodeInfo", field]);
    let known = |text: &str| if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() };
    let mut kernel = known(info("kernelVersion"));
    if !info("architecture").is_empty() {
        kernel = format!("{kernel} ({})", info("architecture"));
    }
    [
        node.text(&["metadata", "name"]).to_owned(),
        status,
        roles(node),
        time::age(&node["metadata"]["creationTimestamp"], now),
        info("kubeletVersion").to_owned(),
        address("InternalIP"),
        address("ExternalIP"),
        known(info("osImage")),
        kernel,
        known(info("containerRuntimeVersion")),
    ]
    .map(Value::String)
    .into()
}

fn roles(node: &Value) -> String {
    let labels = node.dig(&["metadata", "labels"]).as_object().into_iter().flatten();
    let role = |(key, value): (&String, &Value)| match key.strip_prefix(ROLE) {
        Some("") => None,
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => {
            value.as_str().filter(|role| !role.is_empty()).map(str::to_owned)
        }
        None => None,
    };
    let mut roles: Vec<String> = labels.filter_map(role).collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn default(node: &mut Value) {
    let Some(status) = node.get_mut("status").filter(|status| status.is_object()) else { return };
    let capacity = status.dig(&["capacity"]).clone();
    if capacity.is_object() {
        status.make("allocatable", || capacity);
    }
    for list in ["capacity", "allocatable"] {
        if let Some(amounts) = status.get_mut(list) {
            round(amounts);
        }
    }
}

fn validate(node: &Value, old: Option<&Value>, _: Option<Subresource>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = At::root(node);
    let (spec, status) = (root.at("spec"), root.at("status"));
    // Kubernetes reports taints below metadata.
    taints(&mut errors, &root.at("metadata").at("taints").elsewhere(spec.at("taints").value()));
    for list in ["capacity", "allocatable"] {
        let list = status.at(list);
        for (name, _) in list.entries() {
            amount(&mut errors, &list.at(name), name);
        }
    }
    let cidrs = spec.at("podCIDRs");
    let Some(old) = old else {
        for cidr in cidrs.items().filter(|cidr| !is_cidr(cidr.text())) {
            let text = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid_as(&cidr, cidr.text(), text);
        }
        if cidrs.len() > 2 {
            errors.invalid(&cidrs, "may specify no more than one CIDR for each IP family");
        }
        return errors.0;
    };
    let before = old.list(&["spec", "podCIDRs"]);
    if !before.is_empty() && cidrs.value().as_array().map(Vec::as_slice) != Some(before) {
        errors.forbidden(&cidrs, "node updates may not change podCIDR except from \"\" to valid");
    }
    let provider = spec.at("providerID");
    let before = old.text(&["spec", "providerID"]);
    if !before.is_empty() && before != provider.text() {
        errors.forbidden(&provider, "node updates may not change providerID except from \"\" to valid");
    }
    let addresses = status.at("addresses");
    let mut seen: Vec<&Value> = Vec::new();
    for address in addresses.items() {
        if seen.contains(&address.value()) {
            errors.duplicate(&address, address.value().clone());
        }
        seen.push(address.value());
    }
    errors.0
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    match (address.parse::<IpAddr>(), bits.parse::<u8>()) {
        (Ok(address), Ok(bits)) => bits <= if address.is_ipv4() { 32 } else { 128 },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn row() {
        let node = json!({
            "metadata": { "name": "n", "creationTimestamp": "2026-11-21T19:00:00Z",
                "labels": { "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "b", "node-role.kubernetes.io/": "" } },
            "spec": { "unschedulable": true },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }],
                "addresses": [{ "type": "InternalIP", "address": "10.0.0.1" }, { "type": "Hostname", "address": "n" }],
                "nodeInfo": { "kubeletVersion": "v1.36.2", "osImage": "Debian", "kernelVersion": "6.18", "architecture": "amd64" } },
        });
        assert_eq!(
            cells(&node, "2026-11-21T20:00:00Z".parse().unwrap()),
            [
                "n",
                "Ready,SchedulingDisabled",
                "b,control-plane",
                "60m",
                "v1.36.2",
                "10.0.0.1",
                "<none>",
                "Debian",
                "6.18 (amd64)",
                "<unknown>"
            ]
        );
        let bare = json!({ "metadata": { "name": "n" }, "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } });
        assert_eq!(cells(&bare, Timestamp::now())[..4], ["n", "NotReady", "<none>", "<unknown>"]);
    }

    #[test]
    fn checks() {
        let mut node = json!({
            "spec": { "podCIDRs": ["10.0.0.0/33"], "providerID": "x", "taints": [{ "key": "a", "effect": "x" }] },
            "status": { "capacity": { "cpu": "-1", "pods": "1500m" } },
        });
        let texts = |node: &Value, old: Option<&Value>| {
            validate(node, old, None).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            texts(&node, None),
            [
                r#"metadata.taints[0].effect: Unsupported value: "x": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute""#,
                r#"status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0"#,
                r#"status.capacity.pods: Invalid value: "1500m": must be an integer"#,
                r#"spec.podCIDRs[0]: Invalid value: "10.0.0.0/33": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#,
            ]
        );
        let old = node.clone();
        node["spec"] = json!({ "podCIDRs": [] });
        node["status"] = json!({ "addresses": [{ "type": "a" }, { "type": "a" }] });
        assert_eq!(
            texts(&node, Some(&old)),
            [
                r#"spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid"#,
                r#"spec.providerID: Forbidden: node updates may not change providerID except from "" to valid"#,
                r#"status.addresses[1]: Duplicate value: {"type":"a"}"#,
            ]
        );
        let mut node = json!({ "status": { "capacity": { "memory": "1024Mi" } } });
        default(&mut node);
        assert_eq!(node["status"]["allocatable"], json!({ "memory": "1Gi" }));
    }
}
