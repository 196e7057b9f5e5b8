//! Probes and hooks.

use super::Report;
use super::names::{port, range};
use crate::api::{Container, HTTPGetAction, IntOrString, LifecycleHandler, PodSpec, Probe};
use crate::manifest::path::Path;

pub(super) fn probes(report: &mut Report, path: &Path, container: &Container, spec: &PodSpec) {
    let list = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (field, given) in list {
        let Some(given) = given else { continue };
        let path = path.field(field);
        probe(report, &path, given, container);
        if field != "readinessProbe" && given.success_threshold != 1 {
            report.add(&path.field("successThreshold"), "must be 1 for liveness and startup probes");
        }
        if let Some(seconds) = given.termination_grace_period_seconds {
            let path = path.field("terminationGracePeriodSeconds");
            report.check(&path, range(seconds, 1, i32::MAX.into()));
            if field == "readinessProbe" {
                report.add(&path, "is for liveness and startup probes only");
            }
        }
    }
    let Some(hooks) = &container.lifecycle else { return };
    for (field, hook) in [("postStart", &hooks.post_start), ("preStop", &hooks.pre_stop)] {
        if let Some(hook) = hook {
            self::hook(report, &path.fields(&["lifecycle", field]), hook, container, spec);
        }
    }
}

fn probe(report: &mut Report, path: &Path, probe: &Probe, container: &Container) {
    report.exactly_one(
        path,
        &[
            ("exec", probe.exec.is_some()),
            ("httpGet", probe.http_get.is_some()),
            ("tcpSocket", probe.tcp_socket.is_some()),
            ("grpc", probe.grpc.is_some()),
        ],
    );
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds, 0),
        ("timeoutSeconds", probe.timeout_seconds, 1),
        ("periodSeconds", probe.period_seconds, 1),
        ("successThreshold", probe.success_threshold, 1),
        ("failureThreshold", probe.failure_threshold, 1),
    ];
    for (field, value, min) in numbers {
        report.check(&path.field(field), range(value.into(), min, i32::MAX.into()));
    }
    if let Some(exec) = &probe.exec
        && exec.command.is_empty()
    {
        report.add(&path.fields(&["exec", "command"]), "is required");
    }
    if let Some(get) = &probe.http_get {
        http(report, &path.field("httpGet"), get, container);
    }
    if let Some(socket) = &probe.tcp_socket {
        probe_port(report, &path.fields(&["tcpSocket", "port"]), &socket.port, container);
    }
    if let Some(grpc) = &probe.grpc {
        report.check(&path.fields(&["grpc", "port"]), range(grpc.port.into(), 1, 65535));
    }
}

fn hook(report: &mut Report, path: &Path, hook: &LifecycleHandler, container: &Container, spec: &PodSpec) {
    report.exactly_one(
        path,
        &[
            ("exec", hook.exec.is_some()),
            ("httpGet", hook.http_get.is_some()),
            ("sleep", hook.sleep.is_some()),
        ],
    );
    if let Some(exec) = &hook.exec
        && exec.command.is_empty()
    {
        report.add(&path.fields(&["exec", "command"]), "is required");
    }
    if let Some(get) = &hook.http_get {
        http(report, &path.field("httpGet"), get, container);
    }
    if let Some(sleep) = &hook.sleep {
        let grace = spec.termination_grace_period_seconds.unwrap_or(30);
        let path = path.fields(&["sleep", "seconds"]);
        if !(0..=grace).contains(&sleep.seconds) {
            let message = format!(
                "{}: must be from 0 to the pod's terminationGracePeriodSeconds, {grace}",
                sleep.seconds
            );
            report.add(&path, message);
        }
    }
}

fn http(report: &mut Report, path: &Path, get: &HTTPGetAction, container: &Container) {
    probe_port(report, &path.field("port"), &get.port, container);
    for (index, header) in get.http_headers.iter().enumerate() {
        let path = path.field("httpHeaders").index(index);
        if http::HeaderName::from_bytes(header.name.as_bytes()).is_err() {
            report.add(&path.field("name"), format!("{:?} is no name of an HTTP header", header.name));
        }
        if http::HeaderValue::from_str(&header.value).is_err() {
            report.add(&path.field("value"), "is no value of an HTTP header");
        }
    }
}

fn probe_port(report: &mut Report, path: &Path, given: &IntOrString, container: &Container) {
    match given {
        IntOrString::Int(number) => report.check(path, range((*number).into(), 1, 65535)),
        IntOrString::String(name) if container.ports.iter().any(|port| port.name == *name) => {}
        IntOrString::String(name) => {
            // Only a name can be missing; kubelet would find that out at every probe.
            if port(name).is_err() {
                report.check(path, port(name));
            } else {
                report.add(path, format!("the container has no port named {name:?}"));
            }
        }
    }
}
