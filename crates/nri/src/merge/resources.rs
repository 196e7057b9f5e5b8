//! Resources: what a wish names, and one laid over another.

use std::collections::BTreeSet;

use crate::api::{Field, LinuxResources};

/// The properties that are set, with the names of their entries. Rules for devices add up, and belong to nobody.
pub(super) fn named(resources: &LinuxResources) -> Vec<(Field, &str)> {
    let mut named = Vec::new();
    let mut note = |field: Field, is_set: bool| {
        if is_set {
            named.push((field, ""));
        }
    };
    if let Some(memory) = &resources.memory {
        note(Field::MemLimit, memory.limit.is_some());
        note(Field::MemReservation, memory.reservation.is_some());
        note(Field::MemSwapLimit, memory.swap.is_some());
        note(Field::MemKernelLimit, memory.kernel.is_some());
        note(Field::MemTcpLimit, memory.kernel_tcp.is_some());
        note(Field::MemSwappiness, memory.swappiness.is_some());
        note(Field::MemDisableOomKiller, memory.disable_oom_killer.is_some());
        note(Field::MemUseHierarchy, memory.use_hierarchy.is_some());
    }
    if let Some(cpu) = &resources.cpu {
        note(Field::CpuShares, cpu.shares.is_some());
        note(Field::CpuQuota, cpu.quota.is_some());
        note(Field::CpuPeriod, cpu.period.is_some());
        note(Field::CpuRealtimeRuntime, cpu.realtime_runtime.is_some());
        note(Field::CpuRealtimePeriod, cpu.realtime_period.is_some());
        note(Field::CpuSetCpUs, !cpu.cpus.is_empty());
        note(Field::CpuSetMems, !cpu.mems.is_empty());
    }
    note(Field::PidsLimit, resources.pids.is_some());
    note(Field::BlockioClass, resources.blockio_class.is_some());
    note(Field::RdtClass, resources.rdt_class.is_some());
    let pages = resources.hugepage_limits.iter().map(|limit| limit.page_size.as_str());
    named.extend(pages.map(|size| (Field::HugepageLimits, size)));
    named.extend(resources.unified.keys().map(|key| (Field::CgroupsUnified, key.as_str())));
    named
}

/// Sets what is set in `wish`.
pub(super) fn overlay(to: &mut LinuxResources, wish: LinuxResources) {
    macro_rules! set {
        ($to:expr, $from:expr, $($name:ident),*) => {$(
            if $from.$name.is_some() {
                $to.$name = $from.$name;
            }
        )*};
    }
    if let Some(memory) = wish.memory {
        let to = to.memory.get_or_insert_default();
        set!(to, memory, limit, reservation, swap, kernel, kernel_tcp, swappiness);
        set!(to, memory, disable_oom_killer, use_hierarchy);
    }
    if let Some(cpu) = wish.cpu {
        let to = to.cpu.get_or_insert_default();
        set!(to, cpu, shares, quota, period, realtime_runtime, realtime_period);
        if !cpu.cpus.is_empty() {
            to.cpus = cpu.cpus;
        }
        if !cpu.mems.is_empty() {
            to.mems = cpu.mems;
        }
    }
    set!(to, wish, pids, blockio_class, rdt_class);
    let changed: BTreeSet<&str> = wish.hugepage_limits.iter().map(|limit| limit.page_size.as_str()).collect();
    to.hugepage_limits.retain(|limit| !changed.contains(limit.page_size.as_str()));
    to.hugepage_limits.extend(wish.hugepage_limits);
    to.unified.extend(wish.unified);
    to.devices.extend(wish.devices);
}
