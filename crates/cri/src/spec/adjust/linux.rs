//! Devices, cgroup, namespaces, filters and the rest of what only Linux has.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxIntelRdt, LinuxMemoryPolicy, LinuxNamespace,
    LinuxNamespaceType, LinuxNetDevice, LinuxSeccomp, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall, Spec,
};
use vaquita_nri::api;
use vaquita_shim::Namespaces;

use super::resources::{add_rest, merge};
use super::{Adjusted, Context, marked, unknown, word};
use crate::spec::{limits, process::oom_score_adj, security};
use crate::{Error, Result};

pub(super) fn adjust(
    spec: &mut Spec,
    asked: Option<&api::LinuxContainerAdjustment>,
    context: &Context<'_>,
) -> Result<Adjusted> {
    let mut adjusted = Adjusted { limits: context.limits.clone(), join: context.join, cgroup: None };
    let Some(asked) = asked else { return Ok(adjusted) };
    refuse_for_other_runtimes(asked, context)?;
    let user = spec.process().as_ref().map(|process| (process.user().uid(), process.user().gid()));
    let linux = spec.linux_mut().get_or_insert_default();
    devices(linux, &asked.devices, user.unwrap_or_default(), context)?;
    sysctl(linux, asked);
    links(linux, asked);
    if let Some(asked) = &asked.seccomp_policy {
        linux.set_seccomp(Some(seccomp(asked)?));
    }
    if let Some(asked) = &asked.memory_policy {
        linux.set_memory_policy(Some(memory_policy(asked)?));
    }
    namespaces(linux, &asked.namespaces, &mut adjusted.join)?;
    let resources = asked.resources.as_ref();
    class(linux, resources.and_then(|resources| resources.rdt_class.as_ref()), asked.rdt.as_ref());
    if let Some(asked) = resources {
        adjusted.limits = merge(context.limits, asked, context.host);
        set_limits(linux, asked, &adjusted, context)?;
    }
    if let Some(score) = &asked.oom_score_adj {
        adjusted.limits.oom_score_adj = score.value;
        let score = oom_score_adj(&adjusted.limits, context.host)?;
        spec.process_mut().get_or_insert_default().set_oom_score_adj(Some(score));
    }
    if !asked.cgroups_path.is_empty() {
        adjusted.cgroup = Some(PathBuf::from(&asked.cgroups_path));
    }
    Ok(adjusted)
}

/// Other runtimes leave out what they do not know and say nothing.
fn refuse_for_other_runtimes(asked: &api::LinuxContainerAdjustment, context: &Context<'_>) -> Result<()> {
    let is_new = |rdt: &api::LinuxRdt| rdt.schemata.is_some() || rdt.enable_monitoring.is_some();
    let new = [
        ("net_devices", !asked.net_devices.is_empty()),
        ("memory_policy", asked.memory_policy.is_some()),
        ("namespaces", !asked.namespaces.is_empty()),
        ("rdt: schemata or enable_monitoring", asked.rdt.as_ref().is_some_and(is_new)),
    ];
    match new.iter().find(|(_, is_asked)| *is_asked && !context.is_built_in) {
        Some((name, _)) => Err(Error::unsupported(format!(
            "linux.{name}: only the built-in runtime is known to do that: not for pods of another runtime handler"
        ))),
        None => Ok(()),
    }
}

fn set_limits(
    linux: &mut Linux,
    asked: &api::LinuxResources,
    adjusted: &Adjusted,
    context: &Context<'_>,
) -> Result<()> {
    if asked.blockio_class.as_ref().is_some_and(|class| !class.value.is_empty()) {
        return Err(Error::unsupported(
            "linux.resources.blockio_class: there are no classes of block I/O here: give weights by unified, or nothing",
        ));
    }
    let made = limits(&adjusted.limits, context.host).map_err(|error| error.within("linux.resources"))?;
    let all = linux.resources_mut().get_or_insert_default();
    all.set_cpu(made.cpu().clone())
        .set_memory(*made.memory())
        .set_hugepage_limits(made.hugepage_limits().clone())
        .set_unified(made.unified().clone());
    add_rest(all, asked)
}

fn devices(
    linux: &mut Linux,
    asked: &[api::LinuxDevice],
    (uid, gid): (u32, u32),
    context: &Context<'_>,
) -> Result<()> {
    for asked in asked {
        let (path, is_removal) = marked(&asked.path);
        linux.devices_mut().get_or_insert_default().retain(|other| other.path() != Path::new(path));
        if is_removal {
            continue;
        }
        let field = format!("linux.devices[{path}]");
        if !path.starts_with('/') {
            return Err(Error::invalid(format!("{field}: its path is not absolute")));
        }
        let kind = device_type(&field, &asked.r#type)?;
        let mut device = LinuxDevice::default();
        device.set_path(path.into()).set_typ(kind).set_major(asked.major).set_minor(asked.minor);
        let owned = asked.file_mode.is_some() || asked.uid.is_some() || asked.gid.is_some();
        if context.has_own_users {
            if owned {
                return Err(Error::unsupported(format!(
                    "{field}: file_mode, uid and gid cannot be had in a pod with users of its own (userns_options): its nodes are the host's"
                )));
            }
            device.set_file_mode(None).set_uid(None).set_gid(None);
        } else {
            device
                .set_file_mode(asked.file_mode.as_ref().map(|mode| mode.value))
                .set_uid(Some(asked.uid.as_ref().map_or(uid, |uid| uid.value)))
                .set_gid(Some(asked.gid.as_ref().map_or(gid, |gid| gid.value)));
        }
        if kind != LinuxDeviceType::P {
            let numbers = Some((Some(asked.major), Some(asked.minor)));
            let kind = if kind == LinuxDeviceType::B { kind } else { LinuxDeviceType::C };
            let rule = security::device_rule(true, Some(kind), numbers, "rwm");
            linux.resources_mut().get_or_insert_default().devices_mut().get_or_insert_default().push(rule);
        }
        linux.devices_mut().get_or_insert_default().push(device);
    }
    Ok(())
}

pub(super) fn device_type(field: &str, text: &str) -> Result<LinuxDeviceType> {
    Ok(match text {
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        "u" => LinuxDeviceType::U,
        "p" => LinuxDeviceType::P,
        _ => return Err(Error::invalid(format!("{field}: {text:?} is not the type of a device"))),
    })
}

fn sysctl(linux: &mut Linux, asked: &api::LinuxContainerAdjustment) {
    if asked.sysctl.is_empty() {
        return;
    }
    let mut all = linux.sysctl().clone().unwrap_or_default();
    for name in asked.sysctl.keys().filter_map(|name| name.strip_prefix('-')) {
        all.remove(name);
    }
    let kept = asked.sysctl.iter().filter(|(name, _)| !name.starts_with('-'));
    all.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
    linux.set_sysctl(Some(all));
}

fn links(linux: &mut Linux, asked: &api::LinuxContainerAdjustment) {
    if asked.net_devices.is_empty() {
        return;
    }
    let mut all: HashMap<String, LinuxNetDevice> = linux.net_devices().clone().unwrap_or_default();
    for name in asked.net_devices.keys().filter_map(|name| name.strip_prefix('-')) {
        all.remove(name);
    }
    for (name, device) in asked.net_devices.iter().filter(|(name, _)| !name.starts_with('-')) {
        let mut made = LinuxNetDevice::default();
        made.set_name(Some(device.name.clone()).filter(|name| !name.is_empty()));
        all.insert(name.clone(), made);
    }
    linux.set_net_devices(Some(all));
}

/// A namespace that a plugin names is not the pod's; one that it removes is that of whoever makes the container.
fn namespaces(linux: &mut Linux, asked: &[api::LinuxNamespace], join: &mut Namespaces) -> Result<()> {
    // Removals first: a type may be among both.
    let (gone, made): (Vec<_>, Vec<_>) = asked.iter().partition(|asked| asked.r#type.starts_with('-'));
    for asked in gone.into_iter().chain(made) {
        let (name, is_removal) = marked(&asked.r#type);
        let field = format!("linux.namespaces[{name}]");
        let kind = LinuxNamespaceType::try_from(name)
            .map_err(|_| Error::invalid(format!("{field}: there is no such type of namespace")))?;
        match kind {
            LinuxNamespaceType::Ipc => join.ipc = false,
            LinuxNamespaceType::Network => join.net = false,
            LinuxNamespaceType::Pid => join.pid = false,
            LinuxNamespaceType::Uts => join.uts = false,
            LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time => {}
            LinuxNamespaceType::User | LinuxNamespaceType::Mount => {
                return Err(Error::unsupported(format!(
                    "{field}: users are the pod's, and mounts the container's own: neither can be changed"
                )));
            }
        }
        let mut all = linux.namespaces().clone().unwrap_or_default();
        all.retain(|other| other.typ() != kind);
        if !is_removal {
            let mut namespace = LinuxNamespace::default();
            let path = Some(PathBuf::from(&asked.path)).filter(|_| !asked.path.is_empty());
            namespace.set_typ(kind).set_path(path);
            all.push(namespace);
        }
        linux.set_namespaces(Some(all));
    }
    Ok(())
}

/// Classes of RDT are what administrators have made of them in resctrl: a name is that of a directory there.
fn class(linux: &mut Linux, name: Option<&api::OptionalString>, asked: Option<&api::LinuxRdt>) {
    if let Some(name) = name {
        let mut class = LinuxIntelRdt::default();
        class.set_clos_id(Some(name.value.clone()));
        linux.set_intel_rdt(Some(class).filter(|_| !name.value.is_empty()));
    }
    let Some(asked) = asked else { return };
    let mut class = linux.intel_rdt().clone().filter(|_| !asked.remove);
    if let Some(name) = &asked.clos_id {
        class.get_or_insert_default().set_clos_id(Some(name.value.clone()));
    }
    if let Some(schemata) = &asked.schemata {
        class.get_or_insert_default().set_schemata(Some(schemata.value.clone()));
    }
    if let Some(enable) = &asked.enable_monitoring {
        class.get_or_insert_default().set_enable_monitoring(Some(enable.value));
    }
    linux.set_intel_rdt(class);
}

fn seccomp(asked: &api::LinuxSeccomp) -> Result<LinuxSeccomp> {
    const FIELD: &str = "linux.seccomp_policy";
    let words = |texts: &[String]| texts.iter().map(|text| word(FIELD, text)).collect::<Result<Vec<_>>>();
    let flags = asked.flags.iter().map(|text| word(FIELD, text)).collect::<Result<Vec<_>>>()?;
    let calls = asked.syscalls.iter().map(system_call).collect::<Result<Vec<_>>>()?;
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let mut made = LinuxSeccomp::default();
    made.set_default_action(word(FIELD, &asked.default_action)?)
        .set_default_errno_ret(asked.default_errno.as_ref().map(|errno| errno.value))
        .set_architectures(Some(words(&asked.architectures)?).filter(|all| !all.is_empty()))
        .set_flags(Some(flags).filter(|all| !all.is_empty()))
        .set_listener_path(some(&asked.listener_path).map(PathBuf::from))
        .set_listener_metadata(some(&asked.listener_metadata))
        .set_syscalls(Some(calls));
    Ok(made)
}

fn system_call(asked: &api::LinuxSyscall) -> Result<LinuxSyscall> {
    const FIELD: &str = "linux.seccomp_policy.syscalls";
    let args = asked.args.iter().map(|asked| {
        let made = LinuxSeccompArgBuilder::default()
            .index(usize::try_from(asked.index).unwrap_or(usize::MAX))
            .value(asked.value)
            .value_two(asked.value_two)
            .op(word::<LinuxSeccompOperator>(FIELD, &asked.op)?);
        made.build().map_err(|error| Error::invalid(format!("{FIELD}: {error}")))
    });
    let args = args.collect::<Result<Vec<_>>>()?;
    let mut made = LinuxSyscall::default();
    made.set_names(asked.names.clone())
        .set_action(word(FIELD, &asked.action)?)
        .set_errno_ret(asked.errno_ret.as_ref().map(|errno| errno.value))
        .set_args(Some(args).filter(|all| !all.is_empty()));
    Ok(made)
}

fn memory_policy(asked: &api::LinuxMemoryPolicy) -> Result<LinuxMemoryPolicy> {
    let field = "linux.memory_policy";
    let mode = api::MpolMode::try_from(asked.mode).map_err(|_| unknown(field, asked.mode))?;
    let flags = asked.flags.iter().map(|flag| {
        let flag = api::MpolFlag::try_from(*flag).map_err(|_| unknown(field, *flag))?;
        word(field, flag.as_str_name())
    });
    let flags = flags.collect::<Result<Vec<_>>>()?;
    let mut made = LinuxMemoryPolicy::default();
    made.set_mode(word(field, mode.as_str_name())?)
        .set_nodes(Some(asked.nodes.clone()).filter(|nodes| !nodes.is_empty()))
        .set_flags(Some(flags).filter(|flags| !flags.is_empty()));
    Ok(made)
}
