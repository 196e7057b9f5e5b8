//! From the CRI's configuration to an OCI specification. Pure: what has to be looked up was looked up before, but for the
//! CPUs and memory nodes, which come and go.
//!
//! What we cannot do is refused with the name of the field; nothing that was asked for is left out in silence.

pub(crate) mod adjust;
mod apparmor;
mod bandwidth;
pub(crate) mod cdi;
mod cpuset;
mod mounts;
mod process;
mod resources;
mod sandbox;
mod security;
pub(crate) mod selinux;
mod users;
mod volumes;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceCgroup, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxSeccomp, Mount, Root, Spec,
};
use vaquita_image::ImageConfig;
use vaquita_proto::cri;
use vaquita_shim::Namespaces;

use crate::host::Host;
use crate::{Error, Result};

pub(crate) use adjust::merge;
pub(crate) use apparmor::apparmor;
pub(crate) use bandwidth::bandwidth;
pub(crate) use process::{exec_process, oom_score_adj};
pub(crate) use resources::{cgroup_limits, limits, merged};
pub(crate) use sandbox::{apparmor as sandbox_apparmor, ports, request as sandbox_request};
pub(crate) use security::{PidNamespace, capabilities, context, pid_namespace, refuse_unsupported};
pub(crate) use users::{Users, users};
pub(crate) use volumes::volumes;

/// All that decides what a container is.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    /// What the client asked for, checked by [`refuse_unsupported`].
    pub(crate) config: &'a cri::ContainerConfig,
    /// What its sandbox was asked to be.
    pub(crate) sandbox: &'a cri::PodSandboxConfig,
    /// The id of the sandbox.
    pub(crate) sandbox_id: &'a str,
    /// The files that all containers of the pod share.
    pub(crate) pod: PodFiles<'a>,
    /// What the image says.
    pub(crate) image: &'a ImageConfig,
    /// Whom it runs as.
    pub(crate) user: &'a User,
    /// Where each of `config.mounts` comes from, symbolic links resolved.
    pub(crate) sources: &'a [PathBuf],
    /// Where each volume of the image goes, and where it comes from.
    pub(crate) volumes: &'a [(String, PathBuf)],
    /// The device nodes that it gets, beside the ones that every container has.
    pub(crate) devices: &'a [(LinuxDevice, String)],
    /// The profile that it is confined by.
    pub(crate) seccomp: Option<LinuxSeccomp>,
    /// The AppArmor profile that it is confined by; none leaves it as its maker is.
    pub(crate) apparmor: Option<String>,
    /// Its SELinux labels; none leaves them as the policy makes them.
    pub(crate) selinux: Option<selinux::Labels>,
    /// The process whose PID namespace it joins.
    pub(crate) target: Option<i32>,
    /// Its cgroup.
    pub(crate) cgroup: &'a Path,
    /// What the host can do.
    pub(crate) host: &'a Host,
    /// The host name that its processes see.
    pub(crate) hostname: &'a str,
}

/// The files of the pod directory that are mounted into every container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodFiles<'a> {
    /// `/etc/hosts`.
    pub(crate) hosts: &'a Path,
    /// `/etc/hostname`.
    pub(crate) hostname: &'a Path,
    /// `/etc/resolv.conf`.
    pub(crate) resolv: &'a Path,
    /// `/dev/shm`.
    pub(crate) shm: &'a Path,
}

/// Whom a container runs as, numbers only.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// All groups, the primary one first.
    pub(crate) groups: Vec<u32>,
    /// Home directory.
    pub(crate) home: String,
}

/// The specification of a container.
pub(crate) fn build(input: &Input<'_>) -> Result<Spec> {
    let context = context(input.config);
    let mut spec = Spec::default();
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(context.readonly_rootfs));
    spec.set_version("1.2.0".to_owned())
        .set_root(Some(root))
        .set_process(Some(process::build(input, &context)?))
        .set_hostname(None)
        .set_annotations(Some(annotations(input)))
        .set_mounts(Some(mounts::build(input, &context)?))
        .set_linux(Some(linux(input, &context)?));
    Ok(spec)
}

/// Whose container it is, for hooks and for what looks at a runtime's state, in containerd's words. What pods and images
/// have as annotations is not among them: runtimes obey some.
fn annotations(input: &Input<'_>) -> HashMap<String, String> {
    let pod = input.sandbox.metadata.clone().unwrap_or_default();
    let container = input.config.metadata.clone().unwrap_or_default();
    let image = input.config.image.clone().unwrap_or_default();
    let all = [
        ("container-type", "container".to_owned()),
        ("container-name", container.name),
        (
            "image-name",
            if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image },
        ),
        ("sandbox-id", input.sandbox_id.to_owned()),
        ("sandbox-name", pod.name),
        ("sandbox-namespace", pod.namespace),
        ("sandbox-uid", pod.uid),
    ];
    all.map(|(name, value)| (format!("io.kubernetes.cri.{name}"), value)).into()
}

/// The namespaces of the sandbox that the container joins.
pub(crate) fn joined(sandbox: &cri::PodSandboxConfig, pid: PidNamespace) -> Namespaces {
    let options = crate::model::namespaces(sandbox);
    let of_pod = |mode: i32| mode == cri::NamespaceMode::Pod as i32;
    Namespaces {
        ipc: of_pod(options.ipc),
        net: of_pod(options.network),
        pid: pid == PidNamespace::Pod,
        user: matches!(users(sandbox), Ok(Some(_))),
        uts: of_pod(options.network),
    }
}

fn linux(input: &Input<'_>, context: &cri::LinuxContainerSecurityContext) -> Result<Linux> {
    let mut linux = Linux::default();
    let mut resources = limits(&limits_of(input.config), input.host)?;
    resources.set_devices(Some(device_rules(input, context)));
    let mut devices: Vec<LinuxDevice> = input.devices.iter().map(|(device, _)| device.clone()).collect();
    if users(input.sandbox)?.is_some() {
        // The host's nodes are bound there, as they are.
        for device in &mut devices {
            device.set_file_mode(None).set_uid(None).set_gid(None);
        }
    }
    linux
        .set_uid_mappings(None)
        .set_gid_mappings(None)
        .set_sysctl(None)
        .set_resources(Some(resources))
        .set_cgroups_path(Some(input.cgroup.to_owned()))
        .set_namespaces(Some(namespaces(input, context)?))
        .set_devices(Some(devices).filter(|devices| !devices.is_empty()))
        .set_mount_label(input.selinux.as_ref().map(|labels| labels.mount.clone()))
        .set_seccomp(input.seccomp.clone())
        .set_rootfs_propagation(mounts::root_propagation(input.config))
        .set_masked_paths(visible(&context.masked_paths, context))
        .set_readonly_paths(visible(&context.readonly_paths, context));
    Ok(linux)
}

/// The paths to hide or protect: exactly what the client names, and none in a privileged container.
fn visible(paths: &[String], context: &cri::LinuxContainerSecurityContext) -> Option<Vec<String>> {
    Some(if context.privileged { Vec::new() } else { paths.to_vec() })
}

fn namespaces(
    input: &Input<'_>,
    context: &cri::LinuxContainerSecurityContext,
) -> Result<Vec<LinuxNamespace>> {
    let mut kinds = vec![(LinuxNamespaceType::Mount, None)];
    match pid_namespace(input.config, input.sandbox)? {
        PidNamespace::Own => kinds.push((LinuxNamespaceType::Pid, None)),
        PidNamespace::Target => {
            let pid =
                input.target.ok_or_else(|| Error::invalid("namespace_options.target_id: no such process"))?;
            kinds.push((LinuxNamespaceType::Pid, Some(PathBuf::from(format!("/proc/{pid}/ns/pid")))));
        }
        PidNamespace::Host | PidNamespace::Pod => {}
    }
    if input.host.cgroup_v2 && !context.privileged {
        kinds.push((LinuxNamespaceType::Cgroup, None));
    }
    kinds
        .into_iter()
        .map(|(kind, path)| {
            let builder = LinuxNamespaceBuilder::default().typ(kind);
            match path {
                Some(path) => builder.path(path),
                None => builder,
            }
            .build()
            .map_err(|error| Error::invalid(error.to_string()))
        })
        .collect()
}

/// Who may open which device nodes: a list from the last rule that matches.
fn device_rules(input: &Input<'_>, context: &cri::LinuxContainerSecurityContext) -> Vec<LinuxDeviceCgroup> {
    if context.privileged {
        return vec![security::device_rule(true, None, None, "rwm")];
    }
    let mut rules = vec![security::device_rule(false, None, None, "rwm")];
    rules.extend(security::everybodys_devices());
    rules.extend(input.devices.iter().map(|(device, access)| {
        security::device_rule(
            true,
            Some(device.typ()),
            Some((Some(device.major()), Some(device.minor()))),
            access,
        )
    }));
    rules
}

fn limits_of(config: &cri::ContainerConfig) -> cri::LinuxContainerResources {
    config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default()
}

/// A user or group id. The last one is no id: it means "do not change" to the kernel.
pub(crate) fn id(field: &str, value: i64) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|id| i32::try_from(*id).is_ok())
        .ok_or_else(|| Error::invalid(format!("{field}: {value} is not in 0…2147483647")))
}

/// One mount of a specification.
fn mount(destination: &str, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

#[cfg(test)]
mod tests;
