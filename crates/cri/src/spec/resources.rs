//! Limits, as the CRI and as the OCI specification have them.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxCpu, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemory, LinuxResources,
};
use vaquita_proto::cri;

use super::cpuset;
use crate::host::Host;
use crate::{Error, Result};

/// The limits for the cgroup. What is 0 or empty is not given.
///
/// # Errors
/// The name of the field whose value the kernel would refuse, or which this host cannot limit.
pub(crate) fn limits(asked: &cri::LinuxContainerResources, host: &Host) -> Result<LinuxResources> {
    for (field, asked, available) in [
        ("cpuset_cpus", &asked.cpuset_cpus, &host.cpus),
        ("cpuset_mems", &asked.cpuset_mems, &host.memory_nodes),
    ] {
        if !asked.is_empty() {
            cpuset::check(field, asked, &available.read())?;
        }
    }
    let mut resources = LinuxResources::default();
    resources.set_devices(None).set_cpu(Some(cpu(asked)?)).set_memory(Some(memory(asked, host)?));
    let pages = huge_pages(asked, host)?;
    resources.set_hugepage_limits(Some(pages).filter(|pages| !pages.is_empty()));
    if !asked.unified.is_empty() {
        if !host.cgroup_v2 {
            return Err(Error::invalid("resources.unified: this host has no unified cgroup hierarchy"));
        }
        if let Some(name) = asked.unified.keys().find(|name| name.contains('/') || !name.contains('.')) {
            return Err(Error::invalid(format!(
                "resources.unified: {name:?} is not a file of a cgroup controller"
            )));
        }
        let unified: HashMap<_, _> = asked.unified.clone().into_iter().collect();
        resources.set_unified(Some(unified));
    }
    Ok(resources)
}

/// The limits as the cgroup takes them, without a word about devices: those of a container are set when it is made.
pub(crate) fn cgroup_limits(limits: &LinuxResources) -> vaquita_cgroup::Resources {
    vaquita_cgroup::Resources { devices: None, ..limits.into() }
}

/// The limits after an update: what the update does not give stays.
pub(crate) fn merged(
    old: &cri::LinuxContainerResources,
    new: &cri::LinuxContainerResources,
) -> cri::LinuxContainerResources {
    let number = |new: i64, old: i64| if new == 0 { old } else { new };
    let text = |new: &String, old: &String| if new.is_empty() { old.clone() } else { new.clone() };
    let mut unified = old.unified.clone();
    unified.extend(new.unified.clone());
    cri::LinuxContainerResources {
        cpu_period: number(new.cpu_period, old.cpu_period),
        cpu_quota: number(new.cpu_quota, old.cpu_quota),
        cpu_shares: number(new.cpu_shares, old.cpu_shares),
        memory_limit_in_bytes: number(new.memory_limit_in_bytes, old.memory_limit_in_bytes),
        oom_score_adj: number(new.oom_score_adj, old.oom_score_adj),
        cpuset_cpus: text(&new.cpuset_cpus, &old.cpuset_cpus),
        cpuset_mems: text(&new.cpuset_mems, &old.cpuset_mems),
        hugepage_limits: if new.hugepage_limits.is_empty() {
            &old.hugepage_limits
        } else {
            &new.hugepage_limits
        }
        .clone(),
        unified,
        memory_swap_limit_in_bytes: number(new.memory_swap_limit_in_bytes, old.memory_swap_limit_in_bytes),
    }
}

fn cpu(asked: &cri::LinuxContainerResources) -> Result<LinuxCpu> {
    /// The shortest time that the kernel hands out, in microseconds (Linux, scheduler/sched-bwc.rst).
    const LEAST: i64 = 1000;
    /// The longest period, in microseconds.
    const LONGEST: i64 = 1_000_000;
    if (1..LEAST).contains(&asked.cpu_quota) {
        return Err(Error::invalid(format!(
            "resources.cpu_quota: {} microseconds are fewer than {LEAST}, the least that the kernel hands out",
            asked.cpu_quota
        )));
    }
    if asked.cpu_period > 0 && !(LEAST..=LONGEST).contains(&asked.cpu_period) {
        return Err(Error::invalid(format!(
            "resources.cpu_period: {} microseconds are not in {LEAST}…{LONGEST}",
            asked.cpu_period
        )));
    }
    let positive = |name: &str, value: i64| match value {
        0 => Ok(None),
        1.. => Ok(Some(value.unsigned_abs())),
        _ => Err(Error::invalid(format!("resources.{name}: {value} is negative"))),
    };
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive("cpu_shares", asked.cpu_shares)?)
        .set_quota(Some(asked.cpu_quota).filter(|quota| *quota != 0))
        .set_period(positive("cpu_period", asked.cpu_period)?)
        .set_cpus(Some(asked.cpuset_cpus.clone()).filter(|set| !set.is_empty()))
        .set_mems(Some(asked.cpuset_mems.clone()).filter(|set| !set.is_empty()));
    Ok(cpu)
}

/// Where swap can be limited and nothing is said about it, there is none: a limit is a limit. -1 is no limit.
fn memory(asked: &cri::LinuxContainerResources, host: &Host) -> Result<LinuxMemory> {
    const SWAP: &str = "resources.memory_swap_limit_in_bytes";
    let bytes = |field: &str, value: i64| match value {
        0 => Ok(None),
        -1.. => Ok(Some(value)),
        _ => {
            Err(Error::invalid(format!("{field}: {value} is neither a number of bytes nor -1 for no limit")))
        }
    };
    let limit = bytes("resources.memory_limit_in_bytes", asked.memory_limit_in_bytes)?;
    let both = bytes(SWAP, asked.memory_swap_limit_in_bytes)?;
    match (limit, both) {
        (_, Some(both)) if both > 0 && !host.swap => {
            return Err(Error::unsupported(format!(
                "{SWAP}: this host cannot limit swap: its kernel does not count it (swapaccount=1)"
            )));
        }
        (Some(limit @ 1..), Some(both @ 1..)) if both < limit => {
            return Err(Error::invalid(format!(
                "{SWAP}: {both} counts memory and swap, so it cannot be below memory_limit_in_bytes, {limit}"
            )));
        }
        (None | Some(-1), Some(both @ 1..)) => {
            return Err(Error::invalid(format!(
                "{SWAP}: {both} counts memory and swap: it needs a memory_limit_in_bytes"
            )));
        }
        _ => {}
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit).set_swap(both.or(limit).filter(|_| host.swap));
    Ok(memory)
}

/// kubelet names every page size, with 0 for "none": on a host without the controller that holds anyway.
fn huge_pages(asked: &cri::LinuxContainerResources, host: &Host) -> Result<Vec<LinuxHugepageLimit>> {
    asked
        .hugepage_limits
        .iter()
        .filter(|limit| host.hugetlb || limit.limit > 0)
        .map(|limit| {
            let size = &limit.page_size;
            let refuse =
                |why: String| Err(Error::unsupported(format!("resources.hugepage_limits[{size}]: {why}")));
            if !host.hugetlb {
                return refuse("this host has no hugetlb controller".into());
            }
            // A limit for a size by another name would be a limit for nothing.
            if !host.huge_pages.contains(size) {
                return refuse(format!(
                    "this host has no huge pages of that size, only {}",
                    host.huge_pages.join(", ")
                ));
            }
            let bytes = i64::try_from(limit.limit).unwrap_or(i64::MAX);
            LinuxHugepageLimitBuilder::default()
                .page_size(limit.page_size.clone())
                .limit(bytes)
                .build()
                .map_err(|error| Error::invalid(error.to_string()))
        })
        .collect()
}
