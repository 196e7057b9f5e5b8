//! One container.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{config_key, ip, port, range, relative, variable};
use super::{Report, probe, security};
use crate::api::{
    Container, ContainerPort, EnvFromSource, EnvVar, MountPropagation, ObjectFieldSelector, PodSpec,
    Quantity, RecursiveReadOnly, ResourceFieldSelector, ResourceRequirements, VolumeMount,
};
use crate::manifest::path::Path;

pub(super) fn container(report: &mut Report, path: &Path, container: &Container, spec: &PodSpec) {
    if report.required(&path.field("image"), &container.image) && container.image.trim() != container.image {
        report.add(&path.field("image"), "must not begin or end with white space");
    }
    ports(report, &path.field("ports"), &container.ports, spec);
    env(report, path, container, spec);
    resources(report, &path.field("resources"), &container.resources);
    mounts(report, &path.field("volumeMounts"), container, spec);
    probe::probes(report, path, container, spec);
    if let Some(context) = &container.security_context {
        security::container(report, &path.field("securityContext"), context);
    }
}

fn ports(report: &mut Report, path: &Path, ports: &[ContainerPort], spec: &PodSpec) {
    let mut names = BTreeSet::new();
    for (index, one) in ports.iter().enumerate() {
        let path = path.index(index);
        if !one.name.is_empty() {
            report.check(&path.field("name"), port(&one.name));
            if !names.insert(&one.name) {
                report
                    .add(&path.field("name"), format!("{:?} is the name of another port as well", one.name));
            }
        }
        report.check(&path.field("containerPort"), range(one.container_port.into(), 1, 65535));
        if let Some(host_port) = one.published() {
            report.check(&path.field("hostPort"), range(host_port.into(), 1, 65535));
            if spec.host_network && host_port != one.container_port {
                report.add(&path.field("hostPort"), "must equal containerPort on the host's network");
            }
        }
        if !one.host_ip.is_empty() {
            report.check(&path.field("hostIP"), ip(&one.host_ip));
        }
    }
}

fn env(report: &mut Report, path: &Path, container: &Container, spec: &PodSpec) {
    for (index, var) in container.env.iter().enumerate() {
        env_var(report, &path.field("env").index(index), var, spec);
    }
    for (index, source) in container.env_from.iter().enumerate() {
        env_from(report, &path.field("envFrom").index(index), source);
    }
}

fn env_var(report: &mut Report, path: &Path, var: &EnvVar, spec: &PodSpec) {
    if report.required(&path.field("name"), &var.name) {
        report.check(&path.field("name"), variable(&var.name));
    }
    let Some(source) = &var.value_from else { return };
    let path = path.field("valueFrom");
    if !var.value.is_empty() {
        report.add(&path, "cannot be combined with a value");
    }
    report.exactly_one(
        &path,
        &[
            ("fieldRef", source.field_ref.is_some()),
            ("resourceFieldRef", source.resource_field_ref.is_some()),
            ("configMapKeyRef", source.config_map_key_ref.is_some()),
            ("secretKeyRef", source.secret_key_ref.is_some()),
        ],
    );
    if let Some(field) = &source.field_ref {
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
        field_ref(report, &path.field("fieldRef"), field, FIELDS);
    }
    if let Some(resource) = &source.resource_field_ref {
        resource_field_ref(report, &path.field("resourceFieldRef"), resource, spec, false);
    }
    let keys = [
        ("configMapKeyRef", source.config_map_key_ref.as_ref().map(|key| (&key.name, &key.key))),
        ("secretKeyRef", source.secret_key_ref.as_ref().map(|key| (&key.name, &key.key))),
    ];
    for (field, selector) in keys {
        let Some((name, key)) = selector else { continue };
        report.required(&path.fields(&[field, "name"]), name);
        if report.required(&path.fields(&[field, "key"]), key) {
            report.check(&path.fields(&[field, "key"]), config_key(key));
        }
    }
}

fn env_from(report: &mut Report, path: &Path, source: &EnvFromSource) {
    if !source.prefix.is_empty() {
        report.check(&path.field("prefix"), variable(&source.prefix));
    }
    report.exactly_one(
        path,
        &[("configMapRef", source.config_map_ref.is_some()), ("secretRef", source.secret_ref.is_some())],
    );
    if let Some(reference) = &source.config_map_ref {
        report.required(&path.fields(&["configMapRef", "name"]), &reference.name);
    }
    if let Some(reference) = &source.secret_ref {
        report.required(&path.fields(&["secretRef", "name"]), &reference.name);
    }
}

/// A `fieldRef`: one of `fields`, or one label or annotation.
pub(super) fn field_ref(report: &mut Report, path: &Path, selector: &ObjectFieldSelector, fields: &[&str]) {
    if selector.api_version != "v1" {
        report.add(&path.field("apiVersion"), format!("{:?}: only \"v1\" is possible", selector.api_version));
    }
    let path = path.field("fieldPath");
    let name = selector.field_path.as_str();
    if !report.required(&path, name) || fields.contains(&name) {
        return;
    }
    let subscript = ["metadata.labels", "metadata.annotations"]
        .iter()
        .find_map(|map| name.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']"));
    match subscript {
        Some(key) if !key.is_empty() => {}
        _ => {
            let message = format!(
                "{name:?} cannot be used here; use one of {}, metadata.labels['<key>'], metadata.annotations['<key>']",
                fields.join(", ")
            );
            report.add(&path, message);
        }
    }
}

/// A `resourceFieldRef`.
pub(super) fn resource_field_ref(
    report: &mut Report,
    path: &Path,
    selector: &ResourceFieldSelector,
    spec: &PodSpec,
    in_volume: bool,
) {
    let name = &selector.container_name;
    if in_volume {
        report.required(&path.field("containerName"), name);
    }
    let known = spec.containers.iter().chain(&spec.init_containers).any(|container| container.name == *name);
    if !name.is_empty() && !known {
        report.add(&path.field("containerName"), format!("{name:?} is no container of this pod"));
    }
    let resource = selector.resource.split_once('.');
    let divisors: &[&str] = match resource {
        Some(("limits" | "requests", "cpu")) => &["1m", "1"],
        Some(("limits" | "requests", "memory")) => MEMORY_DIVISORS,
        Some(("limits" | "requests", name)) if name.starts_with("hugepages-") => MEMORY_DIVISORS,
        _ => {
            let message = format!(
                "{:?}: use limits.cpu, limits.memory, requests.cpu or requests.memory",
                selector.resource
            );
            return report.add(&path.field("resource"), message);
        }
    };
    if let Some(divisor) = &selector.divisor
        && !divisor.is_zero()
        && !divisors
            .iter()
            .any(|allowed| allowed.parse::<Quantity>().is_ok_and(|allowed| allowed == *divisor))
    {
        report.add(&path.field("divisor"), format!("{divisor}: use one of {}", divisors.join(", ")));
    }
}

const MEMORY_DIVISORS: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

fn resources(report: &mut Report, path: &Path, resources: &ResourceRequirements) {
    let mut huge = None;
    for (field, list) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, quantity) in list {
            let path = path.field(field).key(name);
            if quantity.nanos() < 0 {
                report.add(&path, format!("{quantity}: must not be negative"));
            }
            match name.as_str() {
                "cpu" | "memory" => {}
                // A request that defaulting copied from the limit is reported once, at the limit.
                "ephemeral-storage" if field == "requests" && resources.limits.contains_key(name) => {}
                "ephemeral-storage" => {
                    report.add(&path, "is known to Kubernetes, but vaquita does not support it yet");
                }
                _ if name.starts_with("hugepages-") => huge = Some(path.clone()),
                _ if field == "limits" || !resources.limits.contains_key(name) => {
                    report.add(&path, format!("this machine has no resource {name:?}: cpu, memory and hugepages-<size> are possible"));
                }
                _ => {}
            }
            let copied = field == "requests" && resources.limits.get(name) == Some(quantity);
            if name == "memory" && !copied && quantity.nanos() % 1_000_000_000 != 0 {
                report.add(
                    &path,
                    format!(
                        "{quantity} is not a whole number of bytes; did you mean {}Mi?",
                        quantity.milli().max(1)
                    ),
                );
            }
        }
    }
    for (name, request) in &resources.requests {
        let Some(limit) = resources.limits.get(name) else { continue };
        if request > limit {
            report.add(
                &path.field("requests").key(name),
                format!("{request} is more than the limit of {limit}"),
            );
        } else if name.starts_with("hugepages-") && request != limit {
            report.add(&path.field("requests").key(name), "must equal the limit");
        }
    }
    if let Some(huge) = huge {
        hugepages(report, &huge, resources);
    }
}

fn hugepages(report: &mut Report, path: &Path, resources: &ResourceRequirements) {
    let all: BTreeMap<_, _> = resources.limits.iter().chain(&resources.requests).collect();
    if !all.keys().any(|name| matches!(name.as_str(), "cpu" | "memory")) {
        report.add(path, "huge pages need a cpu or memory request as well");
    }
    for name in resources.requests.keys().filter(|name| name.starts_with("hugepages-")) {
        if !resources.limits.contains_key(name) {
            report.add(path, "huge pages need a limit");
        }
    }
}

fn mounts(report: &mut Report, path: &Path, container: &Container, spec: &PodSpec) {
    let mut paths = BTreeSet::new();
    let privileged = container.security_context.as_ref().and_then(|context| context.privileged) == Some(true);
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let path = path.index(index);
        if report.required(&path.field("name"), &mount.name)
            && !spec.volumes.iter().any(|volume| volume.name == mount.name)
        {
            report.add(&path.field("name"), format!("{:?} is no volume of this pod", mount.name));
        }
        if report.required(&path.field("mountPath"), &mount.mount_path) {
            if !paths.insert(mount.mount_path.trim_end_matches('/')) {
                report.add(&path.field("mountPath"), format!("{:?} is mounted twice", mount.mount_path));
            }
            if mount.mount_path.contains(':') {
                report.add(&path.field("mountPath"), "must not contain ':'");
            }
        }
        one_mount(report, &path, mount, privileged);
    }
}

fn one_mount(report: &mut Report, path: &Path, mount: &VolumeMount, privileged: bool) {
    if !mount.sub_path.is_empty() {
        report.check(&path.field("subPath"), relative(&mount.sub_path));
    }
    if !mount.sub_path_expr.is_empty() {
        report.check(&path.field("subPathExpr"), relative(&mount.sub_path_expr));
        if !mount.sub_path.is_empty() {
            report.add(&path.field("subPathExpr"), "cannot be combined with subPath");
        }
    }
    let propagation = mount.mount_propagation.unwrap_or_default();
    if propagation == MountPropagation::Bidirectional && !privileged {
        report.add(&path.field("mountPropagation"), "Bidirectional is for privileged containers only");
    }
    if mount.recursive_read_only.unwrap_or_default() != RecursiveReadOnly::Disabled {
        if !mount.read_only {
            report.add(&path.field("recursiveReadOnly"), "needs readOnly: true");
        }
        if propagation != MountPropagation::None {
            report.add(&path.field("recursiveReadOnly"), "needs mountPropagation: None");
        }
    }
}
