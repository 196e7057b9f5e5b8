//! The pod as a whole.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{ip, label, qualified, range, subdomain};
use super::{Report, container, security, volume};
use crate::api::{Container, DnsPolicy, PodDNSConfig, PodSpec};
use crate::manifest::path::Path;

pub(super) fn spec(report: &mut Report, path: &Path, spec: &PodSpec) {
    volume::volumes(report, &path.field("volumes"), &spec.volumes, spec);
    containers(report, path, spec);
    times(report, path, spec);
    naming(report, path, spec);
    dns(report, path, spec);
    placement(report, path, spec);
    if let Some(context) = &spec.security_context {
        security::pod(report, &path.field("securityContext"), context, spec);
    }
    if spec.host_pid && spec.share_process_namespace == Some(true) {
        report.add(&path.field("shareProcessNamespace"), "cannot be combined with hostPID");
    }
    if spec.host_users == Some(false) {
        report.add(
            &path.field("hostUsers"),
            "false is known to Kubernetes, but vaquita does not support it yet",
        );
    }
}

fn containers(report: &mut Report, path: &Path, spec: &PodSpec) {
    if spec.containers.is_empty() {
        report.add(&path.field("containers"), "at least one container is required");
    }
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeMap::new();
    let groups = [("initContainers", &spec.init_containers, true), ("containers", &spec.containers, false)];
    for (field, list, init) in groups {
        for (index, one) in list.iter().enumerate() {
            let path = path.field(field).index(index);
            if report.required(&path.field("name"), &one.name) {
                report.check(&path.field("name"), label(&one.name));
                if !names.insert(one.name.as_str()) {
                    report.add(
                        &path.field("name"),
                        format!("{:?} is the name of another container as well", one.name),
                    );
                }
            }
            container::container(report, &path, one, spec);
            if init {
                init_container(report, &path, one);
            } else if one.restart_policy.is_some() {
                report.add(&path.field("restartPolicy"), "is for init containers only");
            }
            for (number, port) in one.ports.iter().enumerate() {
                let Some(host_port) = port.published() else { continue };
                // A plain init container has ended before the containers bind anything.
                if init && !one.is_sidecar() {
                    continue;
                }
                let key = (port.protocol, host_port, port.host_ip.as_str());
                if let Some(other) = host_ports.insert(key, one.name.as_str()) {
                    let message = format!(
                        "{host_port}/{:?} is a host port of container {other:?} already",
                        port.protocol
                    );
                    report.add(&path.field("ports").index(number).field("hostPort"), message);
                }
            }
        }
    }
}

fn init_container(report: &mut Report, path: &Path, container: &Container) {
    if container.is_sidecar() {
        return;
    }
    if let Some(policy) = container.restart_policy {
        let message = format!(
            "\"{policy:?}\" for one container is known to Kubernetes, but vaquita does not support it yet"
        );
        report.add(&path.field("restartPolicy"), message);
    }
    let fields = [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ];
    for (field, _) in fields.iter().filter(|(_, given)| *given) {
        report.add(&path.field(field), "is for init containers with restartPolicy: Always only");
    }
}

fn times(report: &mut Report, path: &Path, spec: &PodSpec) {
    if let Some(seconds) = spec.active_deadline_seconds {
        report.check(&path.field("activeDeadlineSeconds"), range(seconds, 1, i32::MAX.into()));
    }
    if let Some(seconds) = spec.termination_grace_period_seconds {
        report.check(&path.field("terminationGracePeriodSeconds"), range(seconds, 0, i32::MAX.into()));
    }
}

fn naming(report: &mut Report, path: &Path, spec: &PodSpec) {
    for (field, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if !value.is_empty() {
            report.check(&path.field(field), label(value));
        }
    }
    if !spec.runtime_class_name.is_empty() {
        report.check(&path.field("runtimeClassName"), subdomain(&spec.runtime_class_name));
    }
    for (index, alias) in spec.host_aliases.iter().enumerate() {
        let path = path.field("hostAliases").index(index);
        report.check(&path.field("ip"), ip(&alias.ip));
        for (index, name) in alias.hostnames.iter().enumerate() {
            report.check(&path.field("hostnames").index(index), subdomain(name));
        }
    }
    for (index, secret) in spec.image_pull_secrets.iter().enumerate() {
        report.required(&path.field("imagePullSecrets").index(index).field("name"), &secret.name);
    }
    for (index, gate) in spec.readiness_gates.iter().enumerate() {
        let path = path.field("readinessGates").index(index).field("conditionType");
        report.check(&path, qualified(&gate.condition_type));
    }
}

fn dns(report: &mut Report, path: &Path, spec: &PodSpec) {
    let empty = PodDNSConfig::default();
    let config = spec.dns_config.as_ref().unwrap_or(&empty);
    let path = path.field("dnsConfig");
    if spec.dns_policy == DnsPolicy::None && config.nameservers.is_empty() {
        report.add(&path.field("nameservers"), "at least one is required with dnsPolicy: None");
    }
    if config.nameservers.len() > 3 {
        report.add(&path.field("nameservers"), "at most 3 are possible");
    }
    for (index, server) in config.nameservers.iter().enumerate() {
        report.check(&path.field("nameservers").index(index), ip(server));
    }
    if config.searches.len() > 32
        || config.searches.iter().map(|search| search.len() + 1).sum::<usize>() > 2048
    {
        report.add(&path.field("searches"), "at most 32 with 2048 characters in all are possible");
    }
    for (index, search) in config.searches.iter().enumerate() {
        let name = search.strip_suffix('.').unwrap_or(search);
        if !name.is_empty() {
            report.check(&path.field("searches").index(index), subdomain(&name.replace('_', "-")));
        }
    }
    for (index, option) in config.options.iter().enumerate() {
        report.required(&path.field("options").index(index).field("name"), &option.name);
    }
}

/// What a scheduler would decide: there is this machine and no other.
fn placement(report: &mut Report, path: &Path, spec: &PodSpec) {
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    if !spec.node_name.is_empty() && spec.node_name != host {
        let message = format!(
            "{:?} is not this machine, which is {host:?}: the pod would never run here",
            spec.node_name
        );
        report.add(&path.field("nodeName"), message);
    }
    let labels = [
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("kubernetes.io/hostname", host.as_str()),
    ];
    for (key, value) in &spec.node_selector {
        if !labels.contains(&(key.as_str(), value.as_str())) {
            let have = labels.map(|(key, value)| format!("{key}={value}")).join(", ");
            let message = format!("this machine does not have the label {key}={value}: it has {have}");
            report.add(&path.field("nodeSelector").key(key), message);
        }
    }
    if spec.scheduler_name != "default-scheduler" {
        report.add(&path.field("schedulerName"), "there is no scheduler on a single machine; remove it");
    }
    if spec.service_account_name != "default" {
        let field = if spec.service_account.is_empty() { "serviceAccountName" } else { "serviceAccount" };
        report.add(
            &path.field(field),
            "vaquita does not support service accounts yet; only \"default\" is possible",
        );
    }
    if let Some(os) = &spec.os
        && os.name != "linux"
    {
        report.add(&path.fields(&["os", "name"]), format!("{:?}: this machine is linux", os.name));
    }
}

/// This machine's architecture, as Kubernetes calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
