//! Limits, as the CRI and as the OCI specification have them.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxCpu, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemory, LinuxResources,
};
use vaquita_proto::cri;

use crate::host::Host;
use crate::{Error, Result};

/// The limits for the cgroup. What is 0 or empty is not given.
pub(crate) fn limits(asked: &cri::LinuxContainerResources, host: &Host) -> Result<LinuxResources> {
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

/// Where swap can be limited and nothing is said about it, there is none: a limit is a limit.
fn memory(asked: &cri::LinuxContainerResources, host: &Host) -> Result<LinuxMemory> {
    let limit = Some(asked.memory_limit_in_bytes).filter(|limit| *limit != 0);
    let swap =
        Some(asked.memory_swap_limit_in_bytes).filter(|swap| *swap != 0).or(limit).filter(|_| host.swap);
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap >= 0
        && swap < limit
    {
        return Err(Error::invalid(format!(
            "resources.memory_swap_limit_in_bytes: {swap} counts memory and swap, so it cannot be below \
             memory_limit_in_bytes, {limit}"
        )));
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit).set_swap(swap);
    Ok(memory)
}

/// kubelet names every page size, with 0 for "none": on a host without the controller that holds anyway.
fn huge_pages(asked: &cri::LinuxContainerResources, host: &Host) -> Result<Vec<LinuxHugepageLimit>> {
    asked
        .hugepage_limits
        .iter()
        .filter(|limit| host.hugetlb || limit.limit > 0)
        .map(|limit| {
            if !host.hugetlb {
                return Err(Error::invalid(format!(
                    "resources.hugepage_limits[{}]: this host has no hugetlb controller",
                    limit.page_size
                )));
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
