//! What the kernel counts of containers and pods, as the CRI says it.

use std::path::Path;
use std::time::Instant;

use vaquita_cgroup::{Cgroup, Layout, Pressure, PressureAverages, Stats};
use vaquita_proto::cri;

use super::network;
use crate::model::{Container, Sandbox, now};
use crate::node::Node;

/// The controllers of v1 whose figures are told here.
const CONTROLLERS: [&str; 3] = ["cpuacct", "memory", "pids"];

/// A cgroup, and nanoseconds of CPU that it used per second.
struct Group {
    stats: Stats,
    rate: Option<u64>,
}

impl Group {
    fn read(node: &Node, id: &str, path: &Path) -> Option<Self> {
        let stats = measure(&node.layout, path)?;
        let rate = stats.cpu.as_ref().and_then(|cpu| node.usage.rate(id, Instant::now(), cpu.usage_ns));
        Some(Self { stats, rate })
    }
}

/// What a container uses now. May block for a moment.
pub(super) fn container(node: &Node, container: &Container) -> cri::ContainerStats {
    let record = &container.record;
    let time = now();
    let group = container.is_running().then(|| Group::read(node, &record.id, &record.cgroup)).flatten();
    let stats = group.as_ref().map(|group| &group.stats);
    let mountpoint = || node.images.mountpoint().to_string_lossy().into_owned();
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: record.id.clone(),
            metadata: Some(container.metadata()),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        cpu: group.as_ref().and_then(|group| cpu(group, time)),
        memory: stats.and_then(|stats| memory(stats, time)),
        writable_layer: node.usage.disk(node, &record.id).map(|counted| cri::FilesystemUsage {
            timestamp: counted.time,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: mountpoint() }),
            used_bytes: value(counted.usage.bytes),
            inodes_used: value(counted.usage.inodes),
        }),
        swap: stats.and_then(|stats| stats.memory.as_ref()).map(|memory| cri::SwapUsage {
            timestamp: time,
            swap_available_bytes: swap_limit(&container.resources())
                .and_then(|limit| value(limit.saturating_sub(memory.swap))),
            swap_usage_bytes: value(memory.swap),
        }),
        io: stats.and_then(|stats| stats.io_pressure).map(|pressure| io(pressure, time)),
    }
}

/// What a sandbox uses now, without its containers. May block for a moment.
pub(super) fn sandbox(node: &Node, sandbox: &Sandbox) -> cri::PodSandboxStats {
    let record = &sandbox.record;
    let time = now();
    let group = sandbox.is_ready().then(|| Group::read(node, &record.id, &record.cgroup)).flatten();
    let stats = group.as_ref().map(|group| &group.stats);
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: group.as_ref().and_then(|group| cpu(group, time)),
            memory: stats.and_then(|stats| memory(stats, time)),
            network: network::of(sandbox).map(|network| network.usage(time)),
            process: stats
                .and_then(|stats| stats.pids)
                .map(|pids| cri::ProcessUsage { timestamp: time, process_count: value(pids.current) }),
            containers: Vec::new(),
            io: stats.and_then(|stats| stats.io_pressure).map(|pressure| io(pressure, time)),
        }),
        windows: None,
    }
}

fn measure(layout: &Layout, path: &Path) -> Option<Stats> {
    Cgroup::open_for(layout, path, &CONTROLLERS).and_then(|cgroup| cgroup.stats()).ok()
}

fn cpu(Group { stats, rate }: &Group, timestamp: i64) -> Option<cri::CpuUsage> {
    let cpu = stats.cpu.as_ref()?;
    Some(cri::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(cpu.usage_ns),
        usage_nano_cores: rate.and_then(value),
        psi: stats.cpu_pressure.map(psi),
    })
}

fn memory(stats: &Stats, timestamp: i64) -> Option<cri::MemoryUsage> {
    let memory = stats.memory.as_ref()?;
    Some(cri::MemoryUsage {
        timestamp,
        working_set_bytes: value(memory.working_set),
        available_bytes: memory.available.and_then(value),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: stats.memory_pressure.map(psi),
    })
}

/// How much swap may be used; none without a limit. The CRI's limit is that of memory and swap together.
fn swap_limit(resources: &cri::LinuxContainerResources) -> Option<u64> {
    let limit = |asked: i64| u64::try_from(asked).ok().filter(|limit| *limit > 0);
    let both = limit(resources.memory_swap_limit_in_bytes)?;
    Some(both.saturating_sub(limit(resources.memory_limit_in_bytes)?))
}

fn io(pressure: Pressure, timestamp: i64) -> cri::IoUsage {
    cri::IoUsage { timestamp, psi: Some(psi(pressure)) }
}

fn psi(pressure: Pressure) -> cri::PsiStats {
    let data = |averages: PressureAverages| cri::PsiData {
        total: averages.total.saturating_mul(1000),
        avg10: percent(averages.avg10),
        avg60: percent(averages.avg60),
        avg300: percent(averages.avg300),
    };
    cri::PsiStats { full: Some(data(pressure.full)), some: Some(data(pressure.some)) }
}

fn percent(hundredths: u64) -> f64 {
    u32::try_from(hundredths).map_or(100.0, f64::from) / 100.0
}

pub(super) fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_has_what_both_limits_leave() {
        let of = |memory, both| {
            swap_limit(&cri::LinuxContainerResources {
                memory_limit_in_bytes: memory,
                memory_swap_limit_in_bytes: both,
                ..Default::default()
            })
        };
        assert_eq!((of(100, 150), of(100, 100), of(100, 0)), (Some(50), Some(0), None));
        assert_eq!((of(100, -1), of(0, 100)), (None, None));
    }
}
