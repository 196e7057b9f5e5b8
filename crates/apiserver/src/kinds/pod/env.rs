//! Environment variables and where they come from.

use crate::kinds::at::At;
use crate::kinds::errors::Errors;
use crate::kinds::forms::{config_key, variable};
use crate::kinds::labels::label_key;
use crate::kinds::quantity::Quantity;
use crate::names::{label, subdomain};

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of a pod that conversion knows; each place allows some of them.
const KNOWN: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.host",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub(super) fn variables(errors: &mut Errors, container: &At<'_>) {
    for one in container.at("env").items() {
        let name = one.at("name");
        if errors.needs(&name) {
            errors.messages(&name, variable(name.text()));
        }
        let source = one.at("valueFrom");
        if source.given() {
            self::source(errors, &source, !one.at("value").is_empty());
        }
    }
    let from = container.at("envFrom");
    for one in from.items() {
        let prefix = one.at("prefix");
        if !prefix.is_empty() {
            errors.messages(&prefix, variable(prefix.text()));
        }
        let given: Vec<At<'_>> =
            ["configMapRef", "secretRef"].iter().map(|field| one.at(field)).filter(At::given).collect();
        for source in &given {
            let name = source.at("name");
            if errors.needs(&name) {
                errors.messages(&name, subdomain(name.text().trim_end_matches('-')));
            }
        }
        match given.len() {
            0 => errors.invalid_as(&from, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid_as(&from, "", "may not have more than one field specified at a time"),
        }
    }
}

fn source(errors: &mut Errors, source: &At<'_>, has_value: bool) {
    let mut count = 0;
    let mut given = |name: &str| {
        let at = source.at(name);
        count += usize::from(at.given());
        at.given().then_some(at)
    };
    if let Some(field) = given("fieldRef") {
        self::field(errors, &field, FIELDS);
    }
    if let Some(resource) = given("resourceFieldRef") {
        self::resource(errors, &resource, false);
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(reference) = given(name) {
            errors.messages(&reference.at("name"), subdomain(reference.at("name").text()));
            let key = reference.at("key");
            if errors.needs(&key) {
                errors.messages(&key, config_key(key.text()));
            }
        }
    }
    if let Some(file) = given("fileKeyRef") {
        let (key, volume, path) = (file.at("key"), file.at("volumeName"), file.at("path"));
        if errors.needs(&key) {
            errors.messages(&key, variable(key.text()));
        }
        if errors.needs(&volume) {
            errors.messages(&volume, label(volume.text()));
        }
        if errors.needs(&path) {
            super::volume::no_backsteps(errors, &path, path.text());
        }
    }
    if count == 0 {
        let text = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid_as(source, "", text);
    } else if has_value {
        errors.invalid_as(source, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid_as(source, "", "may not have more than one field specified at a time");
    }
}

/// A `fieldRef` to one of `allowed`, or to one label or annotation.
pub(super) fn field(errors: &mut Errors, at: &At<'_>, allowed: &[&str]) {
    let (version, path) = (at.at("apiVersion"), at.at("fieldPath"));
    if !errors.needs(&version) || !errors.needs(&path) {
        return;
    }
    let subscript = path.text().strip_suffix("']").and_then(|rest| rest.split_once("['"));
    let unknown = match subscript {
        _ if version.text() != "v1" => Some(format!("unsupported pod version: {}", version.text())),
        Some(("metadata.annotations" | "metadata.labels", _)) => None,
        Some(("", _)) | None if KNOWN.contains(&path.text()) => None,
        Some((map, _)) if !map.is_empty() => {
            Some(format!("field label does not support subscript: {}", path.text()))
        }
        _ => Some(format!("field label not supported: {}", path.text())),
    };
    // Old clients call it so.
    let allowed = if path.text() == "spec.host" && allowed.contains(&"spec.nodeName") {
        &["spec.host"]
    } else {
        allowed
    };
    match (unknown, subscript) {
        (Some(why), _) => errors.invalid(&path, format!("error converting fieldPath: {why}")),
        (None, Some(("metadata.annotations", key))) => label_key(errors, at, &key.to_lowercase()),
        (None, Some((_, key))) => label_key(errors, at, key),
        (None, None) if !allowed.contains(&path.text()) => {
            let mut sorted = allowed.to_vec();
            sorted.sort_unstable();
            errors.not_supported(&path, &sorted);
        }
        (None, None) => {}
    }
}

/// A `resourceFieldRef`, which in a volume must name the container.
pub(super) fn resource(errors: &mut Errors, at: &At<'_>, in_volume: bool) {
    let (container, resource) = (at.at("containerName"), at.at("resource"));
    let huge =
        ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.text().starts_with(prefix));
    if in_volume && container.is_empty() {
        errors.required(&container, "");
    } else if resource.is_empty() {
        errors.required(&resource, "");
    } else if !RESOURCES.contains(&resource.text()) && !huge {
        errors.not_supported(&resource, RESOURCES);
    }
    let divisor = Quantity::of(at.at("divisor").value());
    if divisor.is_zero() {
        return;
    }
    let (allowed, text): (&[&str], _) = match resource.text().split_once('.').map(|(_, name)| name) {
        Some("cpu") => (&["1m", "1"], "1m and 1 are supported with the cpu resource"),
        Some("memory") => (
            BYTES,
            "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource",
        ),
        Some("ephemeral-storage") => (
            BYTES,
            "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the local ephemeral storage resource",
        ),
        _ if huge => (
            BYTES,
            "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the hugepages resource",
        ),
        _ => return,
    };
    if !allowed.contains(&divisor.to_string().as_str()) {
        errors.invalid_as(&at.at("divisor"), resource.text(), format!("only divisor's values {text}"));
    }
}
