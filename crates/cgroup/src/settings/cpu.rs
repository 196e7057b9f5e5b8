//! CPU time, and which CPUs and memory nodes.

use super::{Write, v1_only, version};
use crate::{Layout, Resources, Result, Version};

/// The v2 weight of v1 shares: `ceil(10^((l² + 125 l) / 612 - 7 / 34))` with l the binary logarithm of the shares, so that
/// 2, 1024 and 262144 become 1, 100 and 10000 (runc 1.3.2, crun 1.23, systemd's default stays the default).
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the values are small and positive"
)]
pub fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

pub(super) fn cpu(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    let write = |file: &str, value: String| Write::new("cpu", file, value);
    if let Some(idle) = resources.cpu_idle {
        version(layout, "cpu", "cpu.idle")?;
        groups.push(vec![write("cpu.idle", idle.to_string())]);
    }
    // 0 means "not set" in the OCI specification's Go types, from which configurations come. An idle group has a weight of
    // its own, below all others, and the kernel takes no other for it.
    let shares = resources.cpu_shares.filter(|shares| *shares != 0 && resources.cpu_idle != Some(1));
    if let Some(shares) = shares {
        groups.push(vec![match version(layout, "cpu", "cpu.shares")? {
            // What is out of range the kernel takes for the end of it, here as in the conversion.
            Version::V1 => write("cpu.shares", shares.clamp(2, 262_144).to_string()),
            Version::V2 => write("cpu.weight", cpu_weight(shares).to_string()),
        }]);
    }
    bandwidth(resources, layout, groups)?;
    realtime(resources, layout, groups)
}

fn bandwidth(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    let write = |file: &str, value: String| Write::new("cpu", file, value);
    let quota = resources.cpu_quota.filter(|quota| *quota != 0);
    let period = resources.cpu_period.filter(|period| *period != 0);
    if quota.is_none() && period.is_none() && resources.cpu_burst.is_none() {
        return Ok(());
    }
    // The burst must not exceed the quota, nor the quota a parent's in its own period: whichever is refused at first is
    // taken in the reverse order.
    let mut limits = Vec::new();
    match version(layout, "cpu", "cpu.quota")? {
        Version::V1 => {
            limits.extend(period.map(|period| write("cpu.cfs_period_us", period.to_string())));
            limits.extend(quota.map(|quota| write("cpu.cfs_quota_us", quota.max(-1).to_string())));
            limits.extend(resources.cpu_burst.map(|burst| write("cpu.cfs_burst_us", burst.to_string())));
        }
        Version::V2 => {
            if quota.is_some() || period.is_some() {
                let quota = quota
                    .filter(|quota| *quota > 0)
                    .map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                limits.push(write("cpu.max", format!("{quota} {}", period.unwrap_or(100_000))));
            }
            limits.extend(resources.cpu_burst.map(|burst| write("cpu.max.burst", burst.to_string())));
        }
    }
    groups.push(limits);
    Ok(())
}

/// Time for real-time processes, which v1 kernels with `CONFIG_RT_GROUP_SCHED` hand out. v2 never did.
fn realtime(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    let period = resources.cpu_realtime_period.filter(|period| *period != 0);
    let runtime = resources.cpu_realtime_runtime.filter(|runtime| *runtime != 0);
    if period.is_none() && runtime.is_none() {
        return Ok(());
    }
    v1_only(layout, "cpu", "cpu.realtimeRuntime and cpu.realtimePeriod")?;
    let mut limits = Vec::new();
    limits.extend(period.map(|period| Write::new("cpu", "cpu.rt_period_us", period)));
    limits.extend(runtime.map(|runtime| Write::new("cpu", "cpu.rt_runtime_us", runtime)));
    groups.push(limits);
    Ok(())
}

pub(super) fn cpuset(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    for (file, value) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            version(layout, "cpuset", file)?;
            groups.push(vec![Write::new("cpuset", file, value)]);
        }
    }
    Ok(())
}
