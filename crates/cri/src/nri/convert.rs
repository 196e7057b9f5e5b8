//! Pods and containers as plugins see them. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use oci_spec::runtime::{Hook, LinuxNamespace, LinuxNamespaceType, LinuxResources, Spec};
use vaquita_nri::api;
use vaquita_proto::cri;
use vaquita_shim::Namespaces;

use super::limits;
use crate::cgroups;
use crate::model::{ContainerPhase, ContainerRecord, Life, SandboxLife, SandboxRecord, namespaces};
use crate::spec;

/// A pod. While it is being made `life` is what it is about to have.
pub(super) fn pod(record: &SandboxRecord, life: &SandboxLife) -> api::PodSandbox {
    let config = &record.config;
    let metadata = config.metadata.clone().unwrap_or_default();
    let asked = config.linux.clone().unwrap_or_default();
    let changed = life.resources.clone();
    let (overhead, resources) = match changed {
        Some(changed) => (changed.overhead.or(asked.overhead), changed.resources.or(asked.resources)),
        None => (asked.overhead, asked.resources),
    };
    api::PodSandbox {
        id: record.id.clone(),
        name: metadata.name,
        uid: metadata.uid,
        namespace: metadata.namespace,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
        linux: Some(api::LinuxPodSandbox {
            pod_overhead: overhead.as_ref().map(limits::from_cri),
            pod_resources: resources.as_ref().map(limits::from_cri),
            cgroup_parent: asked.cgroup_parent,
            cgroups_path: text(&cgroups::of_container(&record.cgroup, &record.id)),
            namespaces: life.pid.map(|pid| of_pause(pid, record)).unwrap_or_default(),
            resources: None,
        }),
        pid: life.pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
        ips: life.ips.iter().map(IpAddr::to_string).collect(),
    }
}

/// The namespaces that pause holds.
fn of_pause(pid: i32, record: &SandboxRecord) -> Vec<api::LinuxNamespace> {
    let options = namespaces(&record.config);
    let of_pod = |mode: i32| mode == cri::NamespaceMode::Pod as i32;
    let own = Namespaces {
        ipc: of_pod(options.ipc),
        net: of_pod(options.network),
        pid: of_pod(options.pid),
        user: matches!(spec::users(&record.config), Ok(Some(_))),
        uts: of_pod(options.network),
    };
    joined(pid, own)
}

/// The namespaces of a process that others join, by their types in the OCI specification.
fn joined(pid: i32, join: Namespaces) -> Vec<api::LinuxNamespace> {
    let all = [
        (join.ipc, "ipc", "ipc"),
        (join.net, "network", "net"),
        (join.pid, "pid", "pid"),
        (join.user, "user", "user"),
        (join.uts, "uts", "uts"),
    ];
    let named = |(_, kind, file): &(bool, &str, &str)| api::LinuxNamespace {
        r#type: (*kind).to_owned(),
        path: format!("/proc/{pid}/ns/{file}"),
    };
    all.iter().filter(|(is_joined, ..)| *is_joined).map(named).collect()
}

/// A container.
pub(super) struct Parts<'a> {
    pub(super) record: &'a ContainerRecord,
    pub(super) life: &'a Life,
    /// The limits as they are set.
    pub(super) limits: &'a cri::LinuxContainerResources,
    /// The specification; none where it could not be read.
    pub(super) spec: Option<&'a Spec>,
    pub(super) pod: &'a SandboxRecord,
    /// The pause process.
    pub(super) pause: Option<i32>,
}

/// A container, as its specification has it.
pub(super) fn container(parts: &Parts<'_>) -> api::Container {
    let Parts { record, life, .. } = parts;
    let config = &record.config;
    let mut made = api::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox.clone(),
        name: config.metadata.clone().unwrap_or_default().name,
        state: state(life) as i32,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        pid: life.pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
        created_at: record.created_at,
        started_at: life.started_at,
        cdi_devices: config
            .cdi_devices
            .iter()
            .map(|device| api::CdiDevice { name: device.name.clone() })
            .collect(),
        ..Default::default()
    };
    if let ContainerPhase::Exited(ended) = &life.phase {
        made.finished_at = ended.finished_at;
        made.exit_code = ended.code;
        ended.reason.as_str().clone_into(&mut made.status_reason);
        made.status_message.clone_from(&ended.message);
    }
    if let Some(spec) = parts.spec {
        from_spec(&mut made, spec, parts);
    }
    made
}

fn state(life: &Life) -> api::ContainerState {
    match life.phase {
        // It is asked about before it exists.
        ContainerPhase::Creating => api::ContainerState::ContainerUnknown,
        ContainerPhase::Created => api::ContainerState::ContainerCreated,
        ContainerPhase::Running => api::ContainerState::ContainerRunning,
        ContainerPhase::Exited(_) => api::ContainerState::ContainerStopped,
    }
}

fn from_spec(made: &mut api::Container, spec: &Spec, parts: &Parts<'_>) {
    let annotations: BTreeMap<_, _> = spec.annotations().clone().unwrap_or_default().into_iter().collect();
    for (name, value) in annotations {
        made.annotations.entry(name).or_insert(value);
    }
    made.mounts = spec
        .mounts()
        .iter()
        .flatten()
        .map(|mount| api::Mount {
            destination: text(mount.destination()),
            r#type: mount.typ().clone().unwrap_or_default(),
            source: mount.source().as_deref().map(text).unwrap_or_default(),
            options: mount.options().clone().unwrap_or_default(),
        })
        .collect();
    if let Some(hooks) = spec.hooks() {
        made.hooks = Some(api::Hooks {
            prestart: list(hooks.prestart()),
            create_runtime: list(hooks.create_runtime()),
            create_container: list(hooks.create_container()),
            start_container: list(hooks.start_container()),
            poststart: list(hooks.poststart()),
            poststop: list(hooks.poststop()),
        });
    }
    if let Some(process) = spec.process() {
        made.args = process.args().clone().unwrap_or_default();
        made.env = process.env().clone().unwrap_or_default();
        made.rlimits = process
            .rlimits()
            .iter()
            .flatten()
            .map(|limit| api::PosixRlimit {
                r#type: word(&limit.typ()),
                hard: limit.hard(),
                soft: limit.soft(),
            })
            .collect();
        let user = process.user();
        made.user = Some(api::User {
            uid: user.uid(),
            gid: user.gid(),
            additional_gids: user.additional_gids().clone().unwrap_or_default(),
        });
    }
    made.linux = Some(linux(spec, parts));
}

fn linux(spec: &Spec, parts: &Parts<'_>) -> api::LinuxContainer {
    let config = &parts.record.config;
    let process = spec.process().as_ref();
    let mut made = api::LinuxContainer {
        oom_score_adj: process
            .and_then(|process| process.oom_score_adj())
            .map(|score| api::OptionalInt { value: score.into() }),
        cgroups_path: text(&parts.record.cgroup),
        seccomp_profile: seccomp_profile(config),
        ..Default::default()
    };
    if let Some(priority) = process.and_then(|process| process.io_priority().as_ref()) {
        let class = api::IoPrioClass::from_str_name(&word(&priority.class())).unwrap_or_default();
        let priority = i32::try_from(priority.priority()).unwrap_or_default();
        made.io_priority = Some(api::LinuxIoPriority { class: class as i32, priority });
    }
    let Some(linux) = spec.linux() else { return made };
    let join = spec::pid_namespace(config, &parts.pod.config).map(|pid| spec::joined(&parts.pod.config, pid));
    let own = linux.namespaces().iter().flatten().map(namespace);
    let of_pod = parts.pause.zip(join.ok()).map(|(pid, join)| joined(pid, join)).unwrap_or_default();
    made.namespaces = own.collect();
    for namespace in of_pod {
        if !made.namespaces.iter().any(|other| other.r#type == namespace.r#type) {
            made.namespaces.push(namespace);
        }
    }
    made.devices = linux
        .devices()
        .iter()
        .flatten()
        .map(|device| api::LinuxDevice {
            path: text(device.path()),
            r#type: device.typ().as_str().to_owned(),
            major: device.major(),
            minor: device.minor(),
            file_mode: device.file_mode().map(|value| api::OptionalFileMode { value }),
            uid: device.uid().map(|value| api::OptionalUInt32 { value }),
            gid: device.gid().map(|value| api::OptionalUInt32 { value }),
        })
        .collect();
    made.sysctl = linux.sysctl().clone().unwrap_or_default().into_iter().collect();
    made.net_devices = linux
        .net_devices()
        .iter()
        .flatten()
        .map(|(link, device)| {
            (link.clone(), api::LinuxNetDevice { name: device.name().clone().unwrap_or_default() })
        })
        .collect();
    made.rdt = linux.intel_rdt().as_ref().map(|class| api::LinuxRdt {
        clos_id: class.clos_id().clone().map(|value| api::OptionalString { value }),
        schemata: class.schemata().clone().map(|value| api::OptionalRepeatedString { value }),
        enable_monitoring: class.enable_monitoring().map(|value| api::OptionalBool { value }),
        remove: false,
    });
    let mut resources = limits::from_cri(parts.limits);
    rest(&mut resources, linux.resources().as_ref());
    made.resources = Some(resources);
    made
}

/// What only the specification knows of the limits.
fn rest(made: &mut api::LinuxResources, spec: Option<&LinuxResources>) {
    let Some(spec) = spec else { return };
    made.pids = spec.pids().map(|pids| api::LinuxPids { limit: pids.limit() });
    made.devices = spec
        .devices()
        .iter()
        .flatten()
        .map(|rule| api::LinuxDeviceCgroup {
            allow: rule.allow(),
            r#type: rule.typ().map_or_else(|| "a".to_owned(), |kind| kind.as_str().to_owned()),
            major: rule.major().map(|value| api::OptionalInt64 { value }),
            minor: rule.minor().map(|value| api::OptionalInt64 { value }),
            access: rule.access().clone().unwrap_or_default(),
        })
        .collect();
    if let Some(bytes) = spec.memory().as_ref().and_then(|memory| memory.reservation()) {
        made.memory.get_or_insert_default().reservation = Some(api::OptionalInt64 { value: bytes });
    }
}

fn seccomp_profile(config: &cri::ContainerConfig) -> Option<api::SecurityProfile> {
    let asked = spec::context(config).seccomp?;
    use cri::security_profile::ProfileType;
    let kind = match asked.profile_type() {
        ProfileType::RuntimeDefault => api::security_profile::ProfileType::RuntimeDefault,
        ProfileType::Unconfined => api::security_profile::ProfileType::Unconfined,
        ProfileType::Localhost => api::security_profile::ProfileType::Localhost,
    };
    Some(api::SecurityProfile { profile_type: kind as i32, localhost_ref: asked.localhost_ref })
}

fn namespace(namespace: &LinuxNamespace) -> api::LinuxNamespace {
    // In one word of its own the type is that of the file below /proc.
    let kind = match namespace.typ() {
        LinuxNamespaceType::Mount => "mount".to_owned(),
        LinuxNamespaceType::Network => "network".to_owned(),
        other => other.to_string(),
    };
    api::LinuxNamespace { r#type: kind, path: namespace.path().as_deref().map(text).unwrap_or_default() }
}

fn list(hooks: &Option<Vec<Hook>>) -> Vec<api::Hook> {
    hooks
        .iter()
        .flatten()
        .map(|hook| api::Hook {
            path: text(hook.path()),
            args: hook.args().clone().unwrap_or_default(),
            env: hook.env().clone().unwrap_or_default(),
            timeout: hook.timeout().map(|value| api::OptionalInt { value }),
        })
        .collect()
}

/// A word of the OCI specification.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}
