//! What confines a container, and what we refuse because we could not keep it.

use oci_spec::runtime::{Capabilities, LinuxDeviceCgroup, LinuxDeviceType};
use vaquita_proto::cri;

use crate::host::{Host, capability};
use crate::{Error, Result};

/// Whose processes a container sees.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PidNamespace {
    /// Those of the host.
    Host,
    /// Its own.
    Own,
    /// Those of its pod.
    Pod,
    /// Those of another container, and its own.
    Target,
}

/// The security context, empty where none was given.
pub(crate) fn context(config: &cri::ContainerConfig) -> cri::LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
}

/// Refuses everything in a request that we cannot do on this host, by the name of its field.
pub(crate) fn refuse_unsupported(
    config: &cri::ContainerConfig,
    sandbox: &cri::PodSandboxConfig,
    host: &Host,
) -> Result<()> {
    let context = context(config);
    if context.privileged && !is_privileged(sandbox) {
        return Err(Error::invalid(
            "privileged: no privileged container in a sandbox that is not privileged",
        ));
    }
    if config.windows.is_some() {
        return Err(Error::invalid("windows: this is not Windows"));
    }
    if cri::SupplementalGroupsPolicy::try_from(context.supplemental_groups_policy).is_err() {
        let policy = context.supplemental_groups_policy;
        return Err(Error::invalid(format!("supplemental_groups_policy: {policy} is unknown")));
    }
    if let Some(capabilities) = &context.capabilities
        && let Some(name) = capabilities.add_ambient_capabilities.first()
    {
        return Err(Error::unsupported(format!("add_ambient_capabilities: {name:?}: not supported yet")));
    }
    super::users::same_as_sandbox(context.namespace_options.as_ref(), sandbox)?;
    if super::users(sandbox)?.is_some() {
        refuse_for_other_users(config)?;
    }
    super::selinux::of_container(config, sandbox, None, host)?;
    super::apparmor(config, host)?;
    same_as_sandbox(context.namespace_options.as_ref(), sandbox)?;
    pid_namespace(config, sandbox)?;
    capabilities(config, host)?;
    Ok(())
}

/// Whether a sandbox may hold privileged containers.
pub(super) fn is_privileged(sandbox: &cri::PodSandboxConfig) -> bool {
    sandbox
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .is_some_and(|context| context.privileged)
}

/// What a container with users of its own cannot have.
fn refuse_for_other_users(config: &cri::ContainerConfig) -> Result<()> {
    let bidirectional = cri::MountPropagation::PropagationBidirectional as i32;
    match config.mounts.iter().find(|mount| mount.propagation == bidirectional) {
        // Whoever has CAP_SYS_ADMIN there could mount on the host.
        Some(mount) => Err(Error::invalid(format!(
            "mounts[{}].propagation: BIDIRECTIONAL is not possible in a pod with users of its own (userns_options)",
            mount.container_path
        ))),
        None => Ok(()),
    }
}

/// Network and IPC are the sandbox's; a container cannot have the host's where the sandbox has its own.
fn same_as_sandbox(options: Option<&cri::NamespaceOption>, sandbox: &cri::PodSandboxConfig) -> Result<()> {
    let Some(options) = options else { return Ok(()) };
    let of_sandbox = crate::model::namespaces(sandbox);
    let node = cri::NamespaceMode::Node as i32;
    for (name, asked, given) in
        [("network", options.network, of_sandbox.network), ("ipc", options.ipc, of_sandbox.ipc)]
    {
        if asked == node && given != node {
            return Err(Error::invalid(format!(
                "namespace_options.{name}: NODE, but the sandbox has a namespace of its own"
            )));
        }
    }
    Ok(())
}

/// Whose processes the container sees. Without options of its own it follows its sandbox.
pub(crate) fn pid_namespace(
    config: &cri::ContainerConfig,
    sandbox: &cri::PodSandboxConfig,
) -> Result<PidNamespace> {
    use cri::NamespaceMode::{Container, Node, Pod, Target};
    let mode = |value: i32| {
        cri::NamespaceMode::try_from(value)
            .map_err(|_| Error::invalid(format!("namespace_options.pid: {value} is unknown")))
    };
    let of_sandbox = mode(crate::model::namespaces(sandbox).pid)?;
    let asked = match context(config).namespace_options {
        Some(options) => mode(options.pid)?,
        None => of_sandbox,
    };
    match (asked, of_sandbox) {
        (Target, _) => Ok(PidNamespace::Target),
        (Container, _) => Ok(PidNamespace::Own),
        (Node, Node) | (Pod, Node) => Ok(PidNamespace::Host),
        (Pod, Pod) => Ok(PidNamespace::Pod),
        (Node, _) => Err(Error::invalid("namespace_options.pid: NODE, but the sandbox does not have it")),
        (Pod, _) => Err(Error::invalid(
            "namespace_options.pid: POD, but the sandbox was not made with a PID namespace; say so there too",
        )),
    }
}

/// The capabilities of a container: the defaults, changed as asked; all of the host's where it is privileged.
pub(crate) fn capabilities(config: &cri::ContainerConfig, host: &Host) -> Result<Capabilities> {
    let context = context(config);
    if context.privileged {
        return Ok(host.capabilities.clone());
    }
    let mut set: Capabilities = vaquita_runtime::defaults::CAPABILITIES.iter().copied().collect();
    let Some(asked) = &context.capabilities else { return Ok(set) };
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    if asked.add_capabilities.iter().any(is_all) {
        set.clone_from(&host.capabilities);
    }
    if asked.drop_capabilities.iter().any(is_all) {
        set.clear();
    }
    let named = |field: &str, name: &String| {
        capability(name).ok_or_else(|| Error::invalid(format!("{field}: {name:?} is not a capability")))
    };
    for name in asked.add_capabilities.iter().filter(|name| !is_all(name)) {
        set.insert(named("add_capabilities", name)?);
    }
    for name in asked.drop_capabilities.iter().filter(|name| !is_all(name)) {
        set.remove(&named("drop_capabilities", name)?);
    }
    Ok(set)
}

/// A rule of the device filter. No type is every type; no number is every number.
pub(super) fn device_rule(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    numbers: Option<(Option<i64>, Option<i64>)>,
    access: &str,
) -> LinuxDeviceCgroup {
    let (major, minor) = numbers.unwrap_or_default();
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_typ(kind).set_major(major).set_minor(minor).set_access(Some(access.to_owned()));
    rule
}

/// What every container may use: null, zero, full, random, urandom, tty, console, ptmx and its terminals; making nodes
/// is allowed because opening them is not.
pub(super) fn everybodys_devices() -> Vec<LinuxDeviceCgroup> {
    let mut rules = vec![
        device_rule(true, Some(LinuxDeviceType::C), None, "m"),
        device_rule(true, Some(LinuxDeviceType::B), None, "m"),
    ];
    let nodes = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ];
    rules.extend(nodes.map(|(major, minor)| {
        device_rule(true, Some(LinuxDeviceType::C), Some((Some(major), minor)), "rwm")
    }));
    rules
}
