//! How objects of the network are shown.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::at::Read;
use crate::{Column, time};

pub(super) fn name(value: &Value) -> Value {
    value["metadata"]["name"].clone()
}

pub(super) fn age(value: &Value, now: Timestamp) -> Value {
    time::age(&value["metadata"]["creationTimestamp"], now).into()
}

/// A text, or other words if there is none.
pub(super) fn or(value: &Value, path: &[&str], otherwise: &str) -> Value {
    match value.text(path) {
        "" => otherwise.into(),
        text => text.into(),
    }
}

/// A map of labels as text: `a=b,c=d`.
pub(super) fn labels(value: &Value) -> String {
    let mut pairs: Vec<String> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.text(&[])))
        .collect();
    pairs.sort_unstable();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// A `LabelSelector` as text: `a=b,c in (d,e)`.
pub(super) fn selector(value: &Value) -> String {
    let mut parts: Vec<String> = value
        .dig(&["matchLabels"])
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.text(&[])))
        .collect();
    for rule in value.list(&["matchExpressions"]) {
        let key = rule.text(&["key"]);
        let mut values: Vec<&str> = rule.list(&["values"]).iter().map(|value| value.text(&[])).collect();
        values.sort_unstable();
        parts.push(match rule.text(&["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.sort_unstable();
    if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") }
}

/// The first three, and how many more there are.
fn some(all: &[String], nothing: &str) -> Value {
    match all.len() {
        0 => nothing.into(),
        1..=3 => all.join(",").into(),
        more => format!("{} + {} more...", all[..3].join(","), more - 3).into(),
    }
}

pub(super) const SERVICE: &[Column] = &[
    Column::NAME,
    Column::text("Type"),
    Column::text("Cluster-IP"),
    Column::text("External-IP"),
    Column::text("Port(s)"),
    Column::AGE,
    Column::text("Selector").wide(),
];

pub(super) fn service(value: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = value
        .list(&["spec", "ports"])
        .iter()
        .map(|port| {
            let (number, protocol) = (port.number(&["port"]), port.text(&["protocol"]));
            match port.number(&["nodePort"]) {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    let cluster = value.list(&["spec", "clusterIPs"]).first().map_or("<none>", |ip| ip.text(&[]));
    vec![
        name(value),
        value.text(&["spec", "type"]).into(),
        cluster.into(),
        external(value).into(),
        ports.into(),
        age(value, now),
        labels(value.dig(&["spec", "selector"])).into(),
    ]
}

fn external(service: &Value) -> String {
    let own = service.list(&["spec", "externalIPs"]).iter().map(|ip| ip.text(&[]).to_owned());
    let mut all = balanced(service);
    let kind = service.text(&["spec", "type"]);
    if kind != "LoadBalancer" {
        all.clear();
    }
    all.extend(own);
    match kind {
        "ExternalName" => service.text(&["spec", "externalName"]).to_owned(),
        "LoadBalancer" if all.is_empty() => "<pending>".to_owned(),
        "ClusterIP" | "NodePort" if all.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "LoadBalancer" | "NodePort" => all.join(","),
        _ => "<unknown>".to_owned(),
    }
}

/// Addresses of the load balancer.
fn balanced(value: &Value) -> Vec<String> {
    let address = |one: &Value| match one.text(&["ip"]) {
        "" => one.text(&["hostname"]).to_owned(),
        ip => ip.to_owned(),
    };
    let mut all: Vec<String> =
        value.list(&["status", "loadBalancer", "ingress"]).iter().map(address).collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|one| !one.is_empty());
    all
}

pub(super) const ENDPOINTS: &[Column] = &[Column::NAME, Column::text("Endpoints"), Column::AGE];

pub(super) fn endpoints(value: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in value.list(&["subsets"]) {
        let addresses = || subset.list(&["addresses"]).iter().map(|address| address.text(&["ip"]));
        match subset.list(&["ports"]) {
            [] => all.extend(addresses().map(str::to_owned)),
            ports => {
                for port in ports {
                    let number = port.number(&["port"]);
                    let one = |ip: &str| {
                        if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }
                    };
                    all.extend(addresses().map(one));
                }
            }
        }
    }
    vec![name(value), some(&all, "<none>"), age(value, now)]
}

pub(super) const SLICE: &[Column] = &[
    Column::NAME,
    Column::text("AddressType"),
    Column::text("Ports"),
    Column::text("Endpoints"),
    Column::AGE,
];

pub(super) fn slice(value: &Value, now: Timestamp) -> Vec<Value> {
    let port = |port: &Value| match port.dig(&["port"]).as_i64() {
        Some(number) => number.to_string(),
        None if port.text(&["name"]).is_empty() => "*".to_owned(),
        None => port.text(&["name"]).to_owned(),
    };
    let ports: Vec<String> = value.list(&["ports"]).iter().map(port).collect();
    let addresses = value.list(&["endpoints"]).iter().flat_map(|endpoint| endpoint.list(&["addresses"]));
    let addresses: Vec<String> = addresses.map(|address| address.text(&[]).to_owned()).collect();
    vec![
        name(value),
        value.text(&["addressType"]).into(),
        some(&ports, "<unset>"),
        some(&addresses, "<unset>"),
        age(value, now),
    ]
}

pub(super) const INGRESS: &[Column] = &[
    Column::NAME,
    Column::text("Class"),
    Column::text("Hosts"),
    Column::text("Address"),
    Column::text("Ports"),
    Column::AGE,
];

pub(super) fn ingress(value: &Value, now: Timestamp) -> Vec<Value> {
    let hosts: Vec<String> = value
        .list(&["spec", "rules"])
        .iter()
        .map(|rule| rule.text(&["host"]).to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let ports = if value.list(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    vec![
        name(value),
        or(value, &["spec", "ingressClassName"], "<none>"),
        some(&hosts, "*"),
        balanced(value).join(",").into(),
        ports.into(),
        age(value, now),
    ]
}
