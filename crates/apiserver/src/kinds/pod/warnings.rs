//! What users should know of a pod that is taken all the same (`pkg/api/pod/warnings.go`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::kinds::at::At;
use crate::kinds::quantity::Quantity;
use crate::names;
use crate::status::quote;

/// Labels of nodes with newer names.
const OLD_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#),
    ("beta.kubernetes.io/os", r#"deprecated since v1.14; use "kubernetes.io/os" instead"#),
    (
        "failure-domain.beta.kubernetes.io/region",
        r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#,
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#,
    ),
    (
        "beta.kubernetes.io/instance-type",
        r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#,
    ),
];
const OLD_VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const OLD_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    ("security.alpha.kubernetes.io/sysctls", r#"non-functional in v1.11+; use the "sysctls" field instead"#),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
];

/// Warnings about a new pod; changes of pods are not for people to read.
pub(super) fn pod(pod: &Value, old: Option<&Value>) -> Vec<String> {
    let mut told = Vec::new();
    if old.is_some() {
        return told;
    }
    let root = At::root(pod);
    let messages = names::label(root.at("metadata").at("name").text());
    if !messages.is_empty() {
        told.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            messages.join(" ")
        ));
    }
    let spec = root.at("spec");
    let mut tell = |at: &At<'_>, text: &str| told.push(format!("{}: {text}", at.path()));
    for (label, _) in spec.at("nodeSelector").entries() {
        if let Some((_, text)) = OLD_LABELS.iter().find(|(old, _)| *old == label) {
            tell(&spec.at("nodeSelector").key(label), text);
        }
    }
    spread(&spec, &mut tell);
    for (name, text) in OLD_ANNOTATIONS {
        let at = root.at("metadata").at("annotations").key(name);
        if at.given() {
            tell(&at, text);
        }
    }
    for volume in spec.at("volumes").items() {
        for (kind, text) in OLD_VOLUMES.iter().filter(|(kind, _)| volume.at(kind).given()) {
            tell(&volume.at(kind), text);
        }
    }
    twice(&spec, &mut tell);
    containers(&spec, &mut tell);
    affinity(&spec, &mut tell);
    told
}

fn spread(spec: &At<'_>, tell: &mut impl FnMut(&At<'_>, &str)) {
    for constraint in spec.at("topologySpreadConstraints").items() {
        let key = constraint.at("topologyKey");
        if let Some((label, text)) = OLD_LABELS.iter().find(|(old, _)| *old == key.text()) {
            tell(&key, &format!("{label} is {text}"));
        }
        nothing_selected(&constraint, tell);
    }
}

fn nothing_selected(term: &At<'_>, tell: &mut impl FnMut(&At<'_>, &str)) {
    let selector = term.at("labelSelector");
    if !selector.given() {
        tell(&selector, "a null labelSelector results in matching no pod");
    }
}

fn affinity(spec: &At<'_>, tell: &mut impl FnMut(&At<'_>, &str)) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = spec.at("affinity").at(kind);
        for term in affinity.at("requiredDuringSchedulingIgnoredDuringExecution").items() {
            nothing_selected(&term, tell);
        }
        for term in affinity.at("preferredDuringSchedulingIgnoredDuringExecution").items() {
            nothing_selected(&term.at("podAffinityTerm"), tell);
        }
    }
}

/// Addresses and secrets that are there twice.
fn twice(spec: &At<'_>, tell: &mut impl FnMut(&At<'_>, &str)) {
    for (list, field, word) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let mut seen = BTreeSet::new();
        for at in spec.at(list).items().map(|item| item.at(field)) {
            if !seen.insert(at.text()) {
                tell(&at, &format!("duplicate {word} {}", quote(at.text())));
            }
        }
    }
    for name in spec.at("imagePullSecrets").items().map(|item| item.at("name")) {
        if name.is_empty() {
            tell(&name, "invalid empty name \"\"");
        }
    }
}

fn containers(spec: &At<'_>, tell: &mut impl FnMut(&At<'_>, &str)) {
    let all: Vec<At<'_>> = ["initContainers", "containers"]
        .iter()
        .flat_map(|list| spec.at(list).items().collect::<Vec<_>>())
        .collect();
    for container in &all {
        for list in ["limits", "requests"] {
            for resource in ["memory", "ephemeral-storage"] {
                let at = container.at("resources").at(list).key(resource);
                let amount = Quantity::of(at.value());
                if !amount.is_whole() {
                    let text = format!(
                        "fractional byte value {} is invalid, must be an integer",
                        quote(&amount.to_string())
                    );
                    tell(&at, &text);
                }
            }
        }
        variables(container, tell);
    }
    ports(&all, tell);
}

/// Variables that hide others of their name.
fn variables(container: &At<'_>, tell: &mut impl FnMut(&At<'_>, &str)) {
    let mut seen = BTreeSet::new();
    for variable in container.at("env").items() {
        let (name, value) = (variable.at("name").text(), variable.at("value").text());
        let reference = format!("$({name})");
        let uses_it = !variable.at("valueFrom").given() && value != reference && value.contains(&reference);
        if !seen.insert(name) && !uses_it {
            tell(
                &variable,
                &format!(
                    "hides previous definition of {}, which may be dropped when using apply",
                    quote(name)
                ),
            );
        }
    }
}

fn ports(containers: &[At<'_>], tell: &mut impl FnMut(&At<'_>, &str)) {
    let mut known: BTreeMap<String, Vec<At<'_>>> = BTreeMap::new();
    let mut named: BTreeMap<&str, String> = BTreeMap::new();
    let all: Vec<At<'_>> =
        containers.iter().flat_map(|container| container.at("ports").items().collect::<Vec<_>>()).collect();
    for port in &all {
        let (address, host) = (port.at("hostIP").text(), port.at("hostPort").number());
        let (number, protocol) = (port.at("containerPort").number(), port.at("protocol").text());
        if !address.is_empty() && host == 0 {
            let name = port.at("name").text();
            tell(
                port,
                &format!(
                    "hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{address}}}"
                ),
            );
        }
        let others = known.entry(format!("{number}/{protocol}")).or_default();
        for other in others.iter() {
            let (other_address, other_host) = (other.at("hostIP").text(), other.at("hostPort").number());
            let word = if (address, host) == (other_address, other_host) {
                "duplicate"
            } else if host == 0 || other_host == 0 {
                "overlapping"
            } else if host == other_host && address.is_empty() != other_address.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            tell(port, &format!("{word} port definition with {}", other.path()));
        }
        others.push(port.clone());
    }
    for port in &all {
        let name = port.at("name").text();
        match named.get(name) {
            Some(other) if !name.is_empty() => tell(
                port,
                &format!(
                    "duplicate port name {} with {other}, services and probes that select ports by name will use {other}",
                    quote(name)
                ),
            ),
            _ => drop(named.insert(name, port.path().to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn warnings() {
        let told = pod(
            &json!({ "metadata": { "name": "a.b" }, "spec": {
                "containers": [
                    { "name": "a", "env": [{ "name": "A", "value": "x" }, { "name": "A", "value": "y" }, { "name": "B" }, { "name": "B", "value": "1$(B)" }],
                        "ports": [{ "containerPort": 80, "hostIP": "1.2.3.4", "protocol": "TCP" }, { "containerPort": 80, "name": "x", "protocol": "TCP" }],
                        "resources": { "limits": { "memory": "100m" } } },
                    { "name": "b", "ports": [{ "containerPort": 81, "name": "x" }] },
                ],
                "imagePullSecrets": [{}], "hostAliases": [{ "ip": "1.1.1.1" }, { "ip": "1.1.1.1" }],
                "nodeSelector": { "beta.kubernetes.io/os": "linux" }, "volumes": [{ "name": "g", "gitRepo": {} }],
                "topologySpreadConstraints": [{ "topologyKey": "a" }],
            } }),
            None,
        );
        assert_eq!(
            told,
            [
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
                r#"spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead"#,
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
                r#"spec.hostAliases[1].ip: duplicate ip "1.1.1.1""#,
                r#"spec.imagePullSecrets[0].name: invalid empty name """#,
                r#"spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer"#,
                r#"spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply"#,
                "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:1.2.3.4}",
                "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
                r#"spec.containers[1].ports[0]: duplicate port name "x" with spec.containers[0].ports[1], services and probes that select ports by name will use spec.containers[0].ports[1]"#,
            ]
        );
    }
}
