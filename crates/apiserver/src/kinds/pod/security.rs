//! Who the processes of a pod are and what they may do.

use std::collections::BTreeSet;

use super::spec::Whole;
use super::volume::local;
use crate::kinds::at::{At, Read};
use crate::kinds::errors::Errors;

const IDS: (i64, i64) = (0, i32::MAX as i64);
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
/// Fields that a pod for Windows may not have, of the pod and of its containers.
const NOT_WINDOWS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const NOT_WINDOWS_CONTAINER: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// `securityContext` of the pod.
pub(super) fn pod(errors: &mut Errors, whole: &Whole<'_>) {
    let context = whole.spec.at("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        errors.range(&context.at(field), IDS.0, IDS.1);
    }
    for group in context.at("supplementalGroups").items() {
        errors.range(&group, IDS.0, IDS.1);
    }
    let share = whole.spec.at("shareProcessNamespace");
    if share.yes() && whole.spec.at("hostPID").yes() {
        let text = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&context.at("shareProcessNamespace").elsewhere(share.value()), text);
    }
    sysctls(errors, &context.at("sysctls"), whole);
    errors.one_of_if_given(&context.at("fsGroupChangePolicy"), &["Always", "OnRootMismatch"]);
    seccomp(errors, &context.at("seccompProfile"));
    app_armor(errors, &context.at("appArmorProfile"));
    errors.one_of_if_given(&context.at("supplementalGroupsPolicy"), &["Merge", "Strict"]);
    errors.one_of_if_given(&context.at("seLinuxChangePolicy"), &["Recursive"]);
}

fn sysctls(errors: &mut Errors, sysctls: &At<'_>, whole: &Whole<'_>) {
    let mut seen = BTreeSet::new();
    for sysctl in sysctls.items() {
        let name = sysctl.at("name");
        let text = name.text();
        let segment = |part: &str| {
            let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            part.starts_with(edge)
                && part.ends_with(edge)
                && part.chars().all(|c| edge(c) || matches!(c, '-' | '_'))
        };
        if text.is_empty() {
            errors.required(&name, "");
        } else if text.len() > 253 || !text.split(['.', '/']).all(segment) {
            errors.invalid(&name, format!("must have at most 253 characters and match regex {SYSCTL}"));
        } else if seen.contains(text) {
            errors.duplicate(&name, text);
        }
        let dotted = text.replace('/', ".");
        let ipc = ["kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|one| dotted.starts_with(one));
        if dotted.starts_with("net.") && whole.spec.at("hostNetwork").yes() {
            errors.invalid_as(&name, text, "may not be specified when 'hostNetwork' is true");
        } else if ipc && whole.spec.at("hostIPC").yes() {
            errors.invalid_as(&name, text, "may not be specified when 'hostIPC' is true");
        }
        seen.insert(text);
    }
}

/// `securityContext` of a container.
pub(super) fn container(errors: &mut Errors, context: &At<'_>, whole: &Whole<'_>) {
    for field in ["runAsUser", "runAsGroup"] {
        errors.range(&context.at(field), IDS.0, IDS.1);
    }
    let proc = context.at("procMount");
    errors.one_of_if_given(&proc, &["Default", "Unmasked"]);
    if proc.text() == "Unmasked" && whole.host_users() {
        errors.invalid(&proc, "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(errors, &context.at("seccompProfile"));
    if context.at("allowPrivilegeEscalation").value().as_bool() == Some(false) {
        if context.at("privileged").yes() {
            errors
                .invalid(context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if context.at("capabilities").at("add").items().any(|one| one.text() == "CAP_SYS_ADMIN") {
            let text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(context, text);
        }
    }
    app_armor(errors, &context.at("appArmorProfile"));
}

fn seccomp(errors: &mut Errors, profile: &At<'_>) {
    if !profile.given() {
        return;
    }
    let (kind, file) = (profile.at("type"), profile.at("localhostProfile"));
    if kind.is_empty() {
        errors.required(&kind, "type is required when seccompProfile is set");
    } else if !PROFILES.contains(&kind.text()) {
        errors.not_supported(&kind, PROFILES);
    }
    match (kind.text(), file.given()) {
        ("Localhost", false) => errors.required(&file, "must be set when seccomp type is Localhost"),
        ("Localhost", true) => local(errors, &file, file.text()),
        (_, true) => {
            let text = "can only be set when seccomp type is Localhost";
            errors.invalid_as(&file, profile.value().clone(), text);
        }
        (_, false) => {}
    }
}

fn app_armor(errors: &mut Errors, profile: &At<'_>) {
    if !profile.given() {
        return;
    }
    let (kind, name) = (profile.at("type"), profile.at("localhostProfile"));
    match kind.text() {
        "Localhost" if name.text().trim() != name.text() => {
            errors.invalid(&name, "must not be padded with whitespace");
        }
        "Localhost" => {
            if name.is_empty() {
                errors.required(&name, "must be set when AppArmor type is Localhost");
            }
            if name.len() > 4095 {
                errors.too_long(&name, 4095);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if name.given() {
                errors.invalid(&name, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => errors.required(&kind, "type is required when appArmorProfile is set"),
        _ => errors.not_supported(&kind, PROFILES),
    }
}

/// A pod with users of its own shares nothing else with the host.
pub(super) fn host_users(errors: &mut Errors, whole: &Whole<'_>) {
    if whole.host_users() {
        return;
    }
    let text = "when `hostUsers` is false";
    // Two of these are written with capitals in Kubernetes.
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if whole.spec.at(field).yes() {
            errors.forbidden(&whole.spec.at(shown), text);
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in whole.spec.at(list).items().filter(|one| !one.at("volumeDevices").is_empty()) {
            errors.forbidden(&container.at("volumeDevices"), text);
        }
    }
}

/// What goes with the operating system that the pod names.
pub(super) fn system(errors: &mut Errors, whole: &Whole<'_>) {
    let os = whole.spec.at("os");
    if !os.given() {
        return;
    }
    let name = os.at("name");
    let context = whole.spec.at("securityContext");
    match name.text() {
        "" => return errors.required(&name, ""),
        "linux" => {
            let text = "windows options cannot be set for a linux pod";
            if context.at("windowsOptions").given() {
                errors.forbidden(&context.at("windowsOptions"), text);
            }
        }
        "windows" => {
            for field in ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"] {
                if whole.spec.at(field).given() && (whole.spec.at(field).yes() || field != "hostPID") {
                    errors.forbidden(&whole.spec.at(field), "cannot be set for a windows pod");
                }
            }
            for field in NOT_WINDOWS.iter().filter(|field| context.at(field).given()) {
                errors.forbidden(&context.at(field), "cannot be set for a windows pod");
            }
        }
        _ => return errors.not_supported_as(&os, name.text(), &["linux", "windows"]),
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in whole.spec.at(list).items() {
            let context = container.at("securityContext");
            if name.text() == "linux" && context.at("windowsOptions").given() {
                let text = "windows options cannot be set for a linux pod";
                errors.forbidden(&context.at("windowsOptions"), text);
            }
            let given = NOT_WINDOWS_CONTAINER.iter().filter(|field| context.at(field).given());
            for field in given.filter(|_| name.text() == "windows") {
                errors.forbidden(&context.at(field), "cannot be set for a windows pod");
            }
        }
    }
}

/// Annotations that mean something for pods.
pub(super) fn annotations(errors: &mut Errors, at: &At<'_>, spec: &At<'_>) {
    let known = |name: &str| {
        let all = ["initContainers", "containers", "ephemeralContainers"];
        all.iter().any(|list| spec.value().list(&[list]).iter().any(|one| one.text(&["name"]) == name))
    };
    for (key, value) in at.entries() {
        let text = value.text();
        match key {
            "kubernetes.io/config.mirror" if spec.at("nodeName").is_empty() => {
                errors.invalid(&value, "must set spec.nodeName if mirror pod annotation is set");
            }
            "controller.kubernetes.io/pod-deletion-cost" if text.parse::<i32>().is_err() => {
                errors.invalid(&value, "must be a 32bit integer");
            }
            "seccomp.security.alpha.kubernetes.io/pod" => seccomp_text(errors, &at.at(key), text),
            key if key.starts_with("container.seccomp.security.alpha.kubernetes.io/") => {
                seccomp_text(errors, &at.at(key), text);
            }
            _ => {}
        }
        if let Some(container) = key.strip_prefix("container.apparmor.security.beta.kubernetes.io/") {
            if !known(container) {
                errors.invalid_as(&value, container, "container not found");
            }
            if !matches!(text, "" | "runtime/default" | "unconfined") && !text.starts_with("localhost/") {
                errors.invalid(
                    &value,
                    format!("invalid AppArmor profile name: {}", crate::status::quote(text)),
                );
            }
        }
    }
}

fn seccomp_text(errors: &mut Errors, at: &At<'_>, profile: &str) {
    match profile.strip_prefix("localhost/") {
        Some(path) => local(errors, at, path),
        None if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => {}
        None => errors.invalid_as(at, profile, "must be a valid seccomp profile"),
    }
}
