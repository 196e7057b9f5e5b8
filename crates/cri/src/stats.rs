//! What containers and pods use.

pub(crate) mod network;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vaquita_cgroup::{Cgroup, Layout, Pressure, PressureAverages, Stats};
use vaquita_image::Usage;
use vaquita_proto::cri;

use crate::Result;
use crate::model::{Container, ContainerPhase, Sandbox, SandboxPhase, now};
use crate::node::{Node, blocking};

/// How long a count of a writable layer's files is good for: counting walks the tree.
const USAGE_AGE: Duration = Duration::from_secs(10);

/// What was measured before: disk use, and CPU time to tell a rate from.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    disk: Mutex<HashMap<String, (Instant, Usage)>>,
    cpu: Mutex<HashMap<String, (Instant, u64)>>,
}

impl Cache {
    /// Drops what is known of an object that is gone.
    pub(crate) fn forget(&self, id: &str) {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.cpu.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Nanoseconds of CPU per second since the time before; none the first time.
    fn rate(&self, id: &str, usage_ns: u64) -> Option<u64> {
        let now = Instant::now();
        let before =
            self.cpu.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), (now, usage_ns));
        let (then, before) = before?;
        let elapsed = now.duration_since(then).as_nanos();
        let used = u128::from(usage_ns.saturating_sub(before));
        (elapsed > 0).then(|| u64::try_from(used * 1_000_000_000 / elapsed).unwrap_or(u64::MAX))
    }

    /// What the writable layer of a container holds.
    pub(crate) fn disk(&self, node: &Node, id: &str) -> Option<Usage> {
        let recent = self.disk.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied();
        if let Some((when, usage)) = recent
            && when.elapsed() < USAGE_AGE
        {
            return Some(usage);
        }
        let usage = node.images.usage(id).ok()?;
        self.disk
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.to_owned(), (Instant::now(), usage));
        Some(usage)
    }
}

/// The use of these containers, those left out that have nothing to be measured.
pub(crate) async fn containers(
    node: &Arc<Node>,
    containers: Vec<Arc<Container>>,
) -> Result<Vec<cri::ContainerStats>> {
    let node = node.clone();
    blocking("measure containers", move || {
        Ok(containers.iter().map(|container| container_stats(&node, container)).collect())
    })
    .await
}

/// The use of these sandboxes, with their containers.
pub(crate) async fn sandboxes(
    node: &Arc<Node>,
    sandboxes: Vec<Arc<Sandbox>>,
) -> Result<Vec<cri::PodSandboxStats>> {
    let node = node.clone();
    blocking("measure pods", move || {
        Ok(sandboxes.iter().map(|sandbox| sandbox_stats(&node, sandbox)).collect())
    })
    .await
}

/// Containers that run come with figures of their cgroup; others with their disk use alone.
fn container_stats(node: &Node, container: &Container) -> cri::ContainerStats {
    let record = &container.record;
    let running = container.life().phase == ContainerPhase::Running;
    let stats = Some(&record.cgroup).filter(|_| running).and_then(|path| measure(&node.layout, path));
    let time = now();
    let info = node.images.fs_info();
    let fs_id = cri::FilesystemIdentifier { mountpoint: info.mountpoint.to_string_lossy().into_owned() };
    let disk = node.usage.disk(node, container.id());
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: container.id().to_owned(),
            metadata: Some(container.metadata()),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        cpu: stats.as_ref().and_then(|stats| cpu(node, container.id(), stats, time)),
        memory: stats.as_ref().and_then(|stats| memory(stats, time)),
        writable_layer: disk.map(|usage| cri::FilesystemUsage {
            timestamp: time,
            fs_id: Some(fs_id),
            used_bytes: value(usage.bytes),
            inodes_used: value(usage.inodes),
        }),
        swap: stats.as_ref().and_then(|stats| stats.memory.as_ref()).map(|memory| cri::SwapUsage {
            timestamp: time,
            swap_available_bytes: swap_limit(&container.resources())
                .and_then(|limit| value(limit.saturating_sub(memory.swap))),
            swap_usage_bytes: value(memory.swap),
        }),
        io: stats.as_ref().and_then(|stats| stats.io_pressure).map(|pressure| io(pressure, time)),
    }
}

fn sandbox_stats(node: &Node, sandbox: &Sandbox) -> cri::PodSandboxStats {
    let record = &sandbox.record;
    let ready = sandbox.life().phase == SandboxPhase::Ready;
    let stats = Some(&record.cgroup).filter(|_| ready).and_then(|path| measure(&node.layout, path));
    let time = now();
    let containers = node
        .tables
        .containers_of(sandbox.id())
        .iter()
        .filter(|container| container.life().phase == ContainerPhase::Running)
        .map(|container| container_stats(node, container))
        .collect();
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: sandbox.id().to_owned(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: stats.as_ref().and_then(|stats| cpu(node, sandbox.id(), stats, time)),
            memory: stats.as_ref().and_then(|stats| memory(stats, time)),
            network: network::of(sandbox).map(|network| network.usage(time)),
            process: stats
                .as_ref()
                .and_then(|stats| stats.pids)
                .map(|pids| cri::ProcessUsage { timestamp: time, process_count: value(pids.current) }),
            containers,
            io: stats.as_ref().and_then(|stats| stats.io_pressure).map(|pressure| io(pressure, time)),
        }),
        windows: None,
    }
}

fn measure(layout: &Layout, path: &std::path::Path) -> Option<Stats> {
    Cgroup::open(layout, path).and_then(|cgroup| cgroup.stats()).ok()
}

fn cpu(node: &Node, id: &str, stats: &Stats, timestamp: i64) -> Option<cri::CpuUsage> {
    let cpu = stats.cpu.as_ref()?;
    Some(cri::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(cpu.usage_ns),
        usage_nano_cores: node.usage.rate(id, cpu.usage_ns).and_then(value),
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

fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_measurements() {
        let cache = Cache::default();
        assert_eq!(cache.rate("a", 5), None);
        assert!(cache.rate("a", 5).is_some_and(|rate| rate == 0));
        cache.forget("a");
        assert_eq!(cache.rate("a", 5), None);
    }

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
