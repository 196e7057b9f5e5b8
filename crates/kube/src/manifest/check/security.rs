//! Security contexts.

use std::collections::{BTreeMap, BTreeSet};

use super::Report;
use super::names::{range, relative};
use crate::api::{
    AppArmorProfile, AppArmorProfileType, PodSecurityContext, PodSpec, ProcMount, SeccompProfile,
    SeccompProfileType, SecurityContext, Sysctl,
};
use crate::manifest::path::Path;

pub(super) fn pod(report: &mut Report, path: &Path, context: &PodSecurityContext, spec: &PodSpec) {
    let ids = [
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
        ("fsGroup", context.fs_group),
    ];
    ids_in_range(report, path, &ids);
    for (index, group) in context.supplemental_groups.iter().enumerate() {
        report.check(&path.field("supplementalGroups").index(index), range(*group, 0, MAX_ID));
    }
    non_root(report, path, context.run_as_non_root, context.run_as_user);
    seccomp(report, &path.field("seccompProfile"), context.seccomp_profile.as_ref());
    app_armor(report, &path.field("appArmorProfile"), context.app_armor_profile.as_ref());
    sysctls(report, &path.field("sysctls"), &context.sysctls, spec);
}

pub(super) fn container(report: &mut Report, path: &Path, context: &SecurityContext) {
    ids_in_range(report, path, &[("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)]);
    non_root(report, path, context.run_as_non_root, context.run_as_user);
    seccomp(report, &path.field("seccompProfile"), context.seccomp_profile.as_ref());
    app_armor(report, &path.field("appArmorProfile"), context.app_armor_profile.as_ref());
    if context.allow_privilege_escalation == Some(false) {
        let field = path.field("allowPrivilegeEscalation");
        if context.privileged == Some(true) {
            report.add(&field, "cannot be false in a privileged container");
        }
        let added = context.capabilities.iter().flat_map(|capabilities| &capabilities.add);
        if added.into_iter().any(|name| matches!(name.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN")) {
            report.add(&field, "cannot be false with the capability SYS_ADMIN");
        }
    }
    if context.proc_mount == Some(ProcMount::Unmasked) {
        report.add(
            &path.field("procMount"),
            "Unmasked is known to Kubernetes, but vaquita does not support it yet",
        );
    }
    if let Some(capabilities) = &context.capabilities {
        for (field, list) in [("add", &capabilities.add), ("drop", &capabilities.drop)] {
            for (index, name) in list.iter().enumerate() {
                let form = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                if !form {
                    let path = path.field("capabilities").field(field).index(index);
                    report.add(
                        &path,
                        format!("{name:?} is no capability; write NET_ADMIN, SYS_TIME, …, or ALL"),
                    );
                }
            }
        }
    }
}

/// What Kubernetes allows as a user or group id.
const MAX_ID: i64 = i32::MAX as i64;

fn ids_in_range(report: &mut Report, path: &Path, ids: &[(&str, Option<i64>)]) {
    for (field, id) in ids {
        if let Some(id) = id
            && !(0..=MAX_ID).contains(id)
        {
            report.add(&path.field(field), format!("{id}: must be from 0 to {MAX_ID}"));
        }
    }
}

fn non_root(report: &mut Report, path: &Path, non_root: Option<bool>, user: Option<i64>) {
    if non_root == Some(true) && user == Some(0) {
        report.add(&path.field("runAsUser"), "0 is root, which runAsNonRoot forbids");
    }
}

fn seccomp(report: &mut Report, path: &Path, profile: Option<&SeccompProfile>) {
    let Some(profile) = profile else { return };
    let path = path.field("localhostProfile");
    match (&profile.localhost_profile, profile.type_ == SeccompProfileType::Localhost) {
        (Some(file), true) if !file.is_empty() => report.check(&path, relative(file)),
        (_, true) => report.add(&path, "is required with type: Localhost"),
        (Some(_), false) => report.add(&path, "is for type: Localhost only"),
        (None, false) => {}
    }
}

fn app_armor(report: &mut Report, path: &Path, profile: Option<&AppArmorProfile>) {
    let Some(profile) = profile else { return };
    let path = path.field("localhostProfile");
    match (&profile.localhost_profile, profile.type_ == AppArmorProfileType::Localhost) {
        (Some(name), true) if !name.trim().is_empty() => {}
        (_, true) => report.add(&path, "is required with type: Localhost"),
        (Some(_), false) => report.add(&path, "is for type: Localhost only"),
        (None, false) => {}
    }
}

/// AppArmor profiles in their old form (`ValidateAppArmorPodAnnotations`).
pub(super) fn annotations(
    report: &mut Report,
    path: &Path,
    annotations: &BTreeMap<String, String>,
    spec: &PodSpec,
) {
    for (key, value) in annotations {
        let Some(container) = key.strip_prefix(AppArmorProfile::ANNOTATION) else { continue };
        if !spec.init_containers.iter().chain(&spec.containers).any(|one| one.name == container) {
            report.add(&path.key(key), format!("there is no container {container:?}"));
        }
        if AppArmorProfile::from_annotation(value).is_none() {
            let message = format!("{value:?} is none of runtime/default, unconfined and localhost/NAME");
            report.add(&path.key(key), message);
        }
    }
}

fn sysctls(report: &mut Report, path: &Path, sysctls: &[Sysctl], spec: &PodSpec) {
    let mut names = BTreeSet::new();
    for (index, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(index).field("name");
        if !report.required(&path, &sysctl.name) {
            continue;
        }
        let name = dotted(&sysctl.name);
        if !names.insert(name.clone()) {
            report.add(&path, format!("{name:?} is set twice"));
        }
        match namespace(&name) {
            Some("network") if spec.host_network => report.add(&path, "cannot be set on the host's network"),
            Some("IPC") if spec.host_ipc => report.add(&path, "cannot be set in the host's IPC namespace"),
            Some(_) => {}
            None => report.add(
                &path,
                format!("{name:?} is not a parameter of a pod's own namespaces: it would change the host"),
            ),
        }
    }
}

/// A parameter's name with dots: slashes separate where the first separator is a slash (sysctl.d(5)).
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name.as_bytes()[first] == b'/' => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                c => c,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// The namespace that a parameter belongs to, if it belongs to one of the pod's.
fn namespace(name: &str) -> Option<&'static str> {
    let ipc = ["kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced", "kernel.sem"];
    if ipc.contains(&name) || name.starts_with("kernel.msg") || name.starts_with("fs.mqueue.") {
        Some("IPC")
    } else if name.starts_with("net.") {
        Some("network")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names() {
        assert_eq!(dotted("net/ipv4/conf/eth0.1/forwarding"), "net.ipv4.conf.eth0/1.forwarding");
        assert_eq!(dotted("net.ipv4.ip_forward"), "net.ipv4.ip_forward");
        assert_eq!(namespace("kernel.msgmax"), Some("IPC"));
        assert_eq!(namespace("kernel.pid_max"), None);
        assert_eq!(namespace("vm.swappiness"), None);
    }
}
