//! Limits that plugins set: those that the CRI has words for become a container's limits like any others; the rest is
//! given to the cgroup alone.

use oci_spec::runtime::{LinuxPids, LinuxResources};
use vaquita_nri::api;
use vaquita_proto::cri;

use crate::host::Host;
use crate::spec::security;
use crate::{Error, Result};

/// The limits of a container after a change: what the change does not give stays. A limit of memory is one of memory and
/// swap together, unless the change says otherwise: no plugin means to give swap by a word about memory.
pub(crate) fn merge(
    old: &cri::LinuxContainerResources,
    asked: &api::LinuxResources,
    host: &Host,
) -> cri::LinuxContainerResources {
    let mut new = old.clone();
    if let Some(memory) = &asked.memory {
        let limit = memory.limit.as_ref().map_or(0, |limit| limit.value);
        if limit != 0 {
            new.memory_limit_in_bytes = limit;
            new.memory_swap_limit_in_bytes = if host.swap { limit } else { 0 };
        }
        if let Some(swap) = &memory.swap {
            new.memory_swap_limit_in_bytes = swap.value;
        }
    }
    if let Some(cpu) = &asked.cpu {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        if let Some(shares) = &cpu.shares {
            new.cpu_shares = signed(shares.value);
        }
        if let Some(quota) = &cpu.quota {
            new.cpu_quota = quota.value;
        }
        if let Some(period) = &cpu.period {
            new.cpu_period = signed(period.value);
        }
        if !cpu.cpus.is_empty() {
            new.cpuset_cpus.clone_from(&cpu.cpus);
        }
        if !cpu.mems.is_empty() {
            new.cpuset_mems.clone_from(&cpu.mems);
        }
    }
    for asked in &asked.hugepage_limits {
        new.hugepage_limits.retain(|limit| limit.page_size != asked.page_size);
        let (page_size, limit) = (asked.page_size.clone(), asked.limit);
        new.hugepage_limits.push(cri::HugepageLimit { page_size, limit });
    }
    new.unified.extend(asked.unified.iter().map(|(file, value)| (file.clone(), value.clone())));
    new
}

/// Adds what [`merge`] leaves out. Classes of block I/O and of RDT are not among it.
///
/// # Errors
/// `Invalid` for types of devices that there are none of.
pub(crate) fn add_rest(oci: &mut LinuxResources, asked: &api::LinuxResources) -> Result<()> {
    if let Some(memory) = &asked.memory {
        let limits = oci.memory_mut().get_or_insert_default();
        if let Some(bytes) = &memory.reservation {
            limits.set_reservation(Some(bytes.value));
        }
        if let Some(bytes) = &memory.kernel {
            limits.set_kernel(Some(bytes.value));
        }
        if let Some(bytes) = &memory.kernel_tcp {
            limits.set_kernel_tcp(Some(bytes.value));
        }
        if let Some(percent) = &memory.swappiness {
            limits.set_swappiness(Some(percent.value));
        }
        if let Some(disable) = &memory.disable_oom_killer {
            limits.set_disable_oom_killer(Some(disable.value));
        }
        if let Some(hierarchy) = &memory.use_hierarchy {
            limits.set_use_hierarchy(Some(hierarchy.value));
        }
    }
    if let Some(cpu) = &asked.cpu {
        let limits = oci.cpu_mut().get_or_insert_default();
        if let Some(runtime) = &cpu.realtime_runtime {
            limits.set_realtime_runtime(Some(runtime.value));
        }
        if let Some(period) = &cpu.realtime_period {
            limits.set_realtime_period(Some(period.value));
        }
    }
    if let Some(pids) = &asked.pids {
        let mut limits = LinuxPids::default();
        limits.set_limit(pids.limit);
        oci.set_pids(Some(limits));
    }
    for rule in &asked.devices {
        let kind = match rule.r#type.as_str() {
            "" | "a" => None,
            kind => Some(super::linux::device_type("linux.resources.devices", kind)?),
        };
        let number = |number: &Option<api::OptionalInt64>| number.as_ref().map(|number| number.value);
        let numbers = Some((number(&rule.major), number(&rule.minor)));
        let made = security::device_rule(rule.allow, kind, numbers, &rule.access);
        oci.devices_mut().get_or_insert_default().push(made);
    }
    Ok(())
}

/// What cannot be changed of a container that is there.
pub(crate) fn refuse_late(asked: &api::LinuxResources) -> Result<()> {
    let refused = [
        ("blockio_class: there are no classes of block I/O here", asked.blockio_class.is_some()),
        ("rdt_class: it is chosen when a container is made", asked.rdt_class.is_some()),
        ("devices: they are chosen when a container is made", !asked.devices.is_empty()),
    ];
    match refused.iter().find(|(_, is_asked)| *is_asked) {
        Some((what, _)) => Err(Error::unsupported(format!("linux.resources.{what}"))),
        None => Ok(()),
    }
}
