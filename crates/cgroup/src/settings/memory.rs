//! Memory.

use super::{Write, invalid, version};
use crate::{Error, Kind, Layout, Resources, Result, Version};

/// The limit of swap for v2, which counts it alone where v1 and the OCI specification count memory and swap together: none
/// when nothing was said of it, and inside that none for no limit.
///
/// # Errors
/// `Invalid` for a sum below the limit of memory, or without one, and for numbers below -1.
pub(crate) fn swap_max(resources: &Resources) -> Result<Option<Option<u64>>> {
    let limit = bytes("memory.limit", resources.memory_limit)?;
    let both = bytes("memory.swap", resources.memory_swap)?;
    match (limit, both) {
        (_, Some(None)) => Ok(Some(None)),
        // All the memory there is, and no word of swap.
        (Some(None), None) => Ok(Some(None)),
        (_, None) => Ok(None),
        (Some(Some(limit)), Some(Some(both))) if both >= limit => Ok(Some(Some(both - limit))),
        (Some(Some(limit)), Some(Some(both))) => Err(invalid(format!(
            "memory.swap, the limit of memory and swap together, is {both}, which is below memory.limit, {limit}"
        ))),
        (_, Some(Some(both))) => Err(invalid(format!(
            "memory.swap, the limit of memory and swap together, is {both}: it needs a memory.limit"
        ))),
    }
}

pub(super) fn memory(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    let asks = [
        bytes("memory.limit", resources.memory_limit)?.is_some(),
        bytes("memory.swap", resources.memory_swap)?.is_some(),
        bytes("memory.reservation", resources.memory_reservation)?.is_some(),
        // Less than one byte of these is not a limit, and -1 stands in the specification's own example.
        resources.memory_kernel.is_some_and(|limit| limit > 0),
        resources.memory_kernel_tcp.is_some_and(|limit| limit > 0),
        resources.memory_swappiness.is_some(),
        resources.memory_use_hierarchy.is_some(),
        resources.disable_oom_killer,
    ];
    if !asks.contains(&true) {
        return Ok(());
    }
    match version(layout, "memory", "the memory limit")? {
        Version::V1 => v1(resources, groups),
        Version::V2 => v2(resources, groups),
    }
}

fn v1(resources: &Resources, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    let write = |file: &str, value: String| Write::new("memory", file, value);
    let limit = bytes("memory.limit", resources.memory_limit)?;
    // Checks the two against each other; a sum without a limit is one that the kernel judges here.
    if limit.is_some() {
        swap_max(resources)?;
    }
    // Without a limit of memory there can be none of both.
    let both = bytes("memory.swap", resources.memory_swap)?.or(limit.filter(Option::is_none));
    let mut limits = Vec::new();
    limits.extend(limit.map(|limit| write("memory.limit_in_bytes", v1_bytes(limit))));
    if let Some(both) = both {
        let swap = write("memory.memsw.limit_in_bytes", v1_bytes(both));
        limits.push(if both.is_none() { swap.optional() } else { swap });
    }
    groups.push(limits);
    if let Some(soft) = bytes("memory.reservation", resources.memory_reservation)? {
        groups.push(vec![write("memory.soft_limit_in_bytes", v1_bytes(soft))]);
    }
    let kernel = [
        ("memory.kmem.limit_in_bytes", resources.memory_kernel),
        ("memory.kmem.tcp.limit_in_bytes", resources.memory_kernel_tcp),
    ];
    for (file, limit) in kernel {
        groups.extend(limit.filter(|limit| *limit > 0).map(|limit| vec![write(file, limit.to_string())]));
    }
    if let Some(value) = resources.memory_swappiness {
        if value > 100 {
            return Err(invalid(format!("memory.swappiness is 0 to 100, not {value}")));
        }
        groups.push(vec![write("memory.swappiness", value.to_string())]);
    }
    if let Some(hierarchy) = resources.memory_use_hierarchy {
        let file = write("memory.use_hierarchy", u8::from(hierarchy).to_string());
        // It is always hierarchical where the file is gone.
        groups.push(vec![if hierarchy { file.optional() } else { file }]);
    }
    if resources.disable_oom_killer {
        groups.push(vec![write("memory.oom_control", "1".to_owned())]);
    }
    Ok(())
}

fn v2(resources: &Resources, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    let write = |file: &str, value: String| Write::new("memory", file, value);
    let of_v1 = [
        ("memory.kernel", resources.memory_kernel.is_some_and(|limit| limit > 0)),
        ("memory.kernelTCP", resources.memory_kernel_tcp.is_some_and(|limit| limit > 0)),
        ("memory.swappiness", resources.memory_swappiness.is_some()),
        ("memory.disableOOMKiller", resources.disable_oom_killer),
        ("memory.useHierarchy = false", resources.memory_use_hierarchy == Some(false)),
    ];
    if let Some((name, _)) = of_v1.iter().find(|(_, asked)| *asked) {
        let message = format!(
            "{name} is of cgroup v1: this host has the memory controller in v2, which knows no such thing"
        );
        return Err(Error::refused(Kind::Unsupported, message));
    }
    let mut limits = Vec::new();
    if let Some(swap) = swap_max(resources)? {
        let file = write("memory.swap.max", v2_bytes(swap));
        // Where the kernel has no swap accounting, no swap and any swap are what there is.
        limits.push(if swap.is_none_or(|swap| swap == 0) { file.optional() } else { file });
    }
    let limit = bytes("memory.limit", resources.memory_limit)?;
    limits.extend(limit.map(|limit| write("memory.max", v2_bytes(limit))));
    groups.extend((!limits.is_empty()).then_some(limits));
    let low = bytes("memory.reservation", resources.memory_reservation)?;
    groups.extend(low.map(|low| vec![write("memory.low", v2_bytes(low))]));
    Ok(())
}

/// A number of bytes as the specification has it: 0 is not set, -1 no limit.
fn bytes(name: &str, value: Option<i64>) -> Result<Option<Option<u64>>> {
    match value {
        None | Some(0) => Ok(None),
        Some(-1) => Ok(Some(None)),
        Some(value) => match u64::try_from(value) {
            Ok(bytes) => Ok(Some(Some(bytes))),
            Err(_) => Err(invalid(format!("{name} is a number of bytes, or -1 for no limit, not {value}"))),
        },
    }
}

fn v1_bytes(limit: Option<u64>) -> String {
    limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string())
}

fn v2_bytes(limit: Option<u64>) -> String {
    limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string())
}
