//! What containers and pods use.

pub(crate) mod network;
mod sampler;
mod samples;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prost::bytes::Bytes;
use vaquita_cgroup::{Cgroup, Layout, Pressure, PressureAverages, Stats};
use vaquita_image::Usage;
use vaquita_proto::cri;

use crate::Result;
use crate::container::volumes::snapshots;
use crate::model::{Container, ContainerPhase, Sandbox, SandboxPhase, now};
use crate::node::Node;

use self::network::Network;
pub(crate) use self::sampler::{Measure, recent};
use self::sampler::{Sampler, measured};
pub(crate) use self::samples::Samples;

/// How long a count of a writable layer's files is good for: counting walks the tree.
const USAGE_AGE: Duration = Duration::from_secs(10);
/// The least time that a rate is told from: shorter ones say nothing.
const RATE_AGE: Duration = Duration::from_millis(100);
/// The controllers of v1 whose figures are told here.
const CONTROLLERS: [&str; 3] = ["cpuacct", "memory", "pids"];

/// How many times as old as other measurements the metrics may be: they take ten times as long, and Prometheus asks every ten seconds
/// at best.
const METRICS: u32 = 5;

/// What was measured before: disk use, CPU time to tell a rate from, and what is given out again.
#[derive(Debug)]
pub(crate) struct Cache {
    disk: Mutex<HashMap<String, (Instant, Counted)>>,
    cpu: Mutex<HashMap<String, Rate>>,
    containers: Samples<Measured>,
    pods: Samples<MeasuredPod>,
    pub(crate) metrics: Samples<Bytes>,
    sampler: Sampler,
}

/// A count of a writable layer's files, and when that was, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    time: i64,
    pub(crate) usage: Usage,
}

/// CPU time at a time, and nanoseconds of it per second before that.
#[derive(Clone, Copy, Debug)]
struct Rate {
    at: Instant,
    usage_ns: u64,
    rate: Option<u64>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            disk: Mutex::default(),
            cpu: Mutex::default(),
            containers: Samples::default(),
            pods: Samples::default(),
            metrics: Samples::patient(METRICS),
            sampler: Sampler::default(),
        }
    }
}

impl Cache {
    /// Drops what is known of an object that is gone.
    pub(crate) fn forget(&self, id: &str) {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.cpu.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.containers.forget(id);
        self.pods.forget(id);
        self.metrics.forget(id);
    }

    /// Nanoseconds of CPU per second since the time before; none the first time.
    fn rate(&self, id: &str, now: Instant, usage_ns: u64) -> Option<u64> {
        let mut all = self.cpu.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = all.get_mut(id) else {
            all.insert(id.to_owned(), Rate { at: now, usage_ns, rate: None });
            return None;
        };
        let elapsed = now.saturating_duration_since(before.at);
        if elapsed >= RATE_AGE {
            let used = u128::from(usage_ns.saturating_sub(before.usage_ns));
            let rate = u64::try_from(used * 1_000_000_000 / elapsed.as_nanos()).unwrap_or(u64::MAX);
            *before = Rate { at: now, usage_ns, rate: Some(rate) };
        }
        before.rate
    }

    /// What the writable layer of a container holds.
    pub(crate) fn disk(&self, node: &Node, id: &str) -> Option<Counted> {
        let recent = self.disk.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied();
        if let Some((when, counted)) = recent
            && when.elapsed() < USAGE_AGE
        {
            return Some(counted);
        }
        let mut usage = node.images.usage(id).ok()?;
        // With the volumes that its image asks for, which are as much its own.
        for volume in volumes(node, id).iter().filter_map(|volume| node.images.usage(volume).ok()) {
            usage.bytes += volume.bytes;
            usage.inodes += volume.inodes;
        }
        let counted = Counted { time: now(), usage };
        let mut all = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id.to_owned(), (Instant::now(), counted));
        Some(counted)
    }
}

fn volumes(node: &Node, id: &str) -> Vec<String> {
    let container = node.tables.container(id);
    container.map(|container| snapshots(&container.record).collect()).unwrap_or_default()
}

/// A container at a time, in nanoseconds since 1970.
#[derive(Debug)]
pub(crate) struct Measured {
    time: i64,
    group: Option<Group>,
    disk: Option<Counted>,
}

/// A pod at a time, in nanoseconds since 1970.
#[derive(Debug)]
pub(crate) struct MeasuredPod {
    time: i64,
    group: Option<Group>,
    network: Option<Network>,
}

/// A cgroup, and nanoseconds of CPU that it used per second.
#[derive(Debug)]
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

/// Containers that run come with figures of their cgroup; others with their disk use alone.
#[derive(Debug)]
pub(crate) struct Containers;

impl Measure for Containers {
    type Of = Container;
    type Value = Measured;

    fn samples(node: &Node) -> &Samples<Measured> {
        &node.usage.containers
    }

    fn all(node: &Node) -> Vec<Arc<Container>> {
        let mut all = node.tables.containers();
        all.retain(|container| container.life().phase == ContainerPhase::Running);
        all
    }

    fn id(of: &Container) -> &str {
        of.id()
    }

    fn tag(_: &Node, of: &Container) -> u64 {
        u64::from(of.life().phase == ContainerPhase::Running)
    }

    fn read(node: &Node, of: &Container) -> Measured {
        let running = of.life().phase == ContainerPhase::Running;
        let time = now();
        let group = running.then(|| Group::read(node, of.id(), &of.record.cgroup)).flatten();
        Measured { time, group, disk: node.usage.disk(node, of.id()) }
    }
}

/// Pods that are ready come with figures of their cgroup.
#[derive(Debug)]
pub(crate) struct Pods;

impl Measure for Pods {
    type Of = Sandbox;
    type Value = MeasuredPod;

    fn samples(node: &Node) -> &Samples<MeasuredPod> {
        &node.usage.pods
    }

    fn all(node: &Node) -> Vec<Arc<Sandbox>> {
        let mut all = node.tables.sandboxes();
        all.retain(|sandbox| sandbox.life().phase == SandboxPhase::Ready);
        all
    }

    fn id(of: &Sandbox) -> &str {
        of.id()
    }

    fn tag(_: &Node, of: &Sandbox) -> u64 {
        u64::from(of.life().phase == SandboxPhase::Ready)
    }

    fn read(node: &Node, of: &Sandbox) -> MeasuredPod {
        let ready = of.life().phase == SandboxPhase::Ready;
        let time = now();
        let group = ready.then(|| Group::read(node, of.id(), &of.record.cgroup)).flatten();
        MeasuredPod { time, group, network: network::of(of) }
    }
}

/// What a container uses at this moment.
pub(crate) async fn container(node: &Arc<Node>, container: Arc<Container>) -> Result<cri::ContainerStats> {
    let measured = measured::<Containers>(node, vec![container.clone()]).await?;
    Ok(container_stats(node, &container, &measured[0]))
}

/// What a sandbox with its containers uses at this moment.
pub(crate) async fn sandbox(node: &Arc<Node>, sandbox: Arc<Sandbox>) -> Result<cri::PodSandboxStats> {
    let containers = running(node, &sandbox);
    let pod = measured::<Pods>(node, vec![sandbox.clone()]).await?;
    let measured = measured::<Containers>(node, containers.clone()).await?;
    let of_containers = containers.iter().zip(&measured);
    let of_containers = of_containers.map(|(container, measured)| container_stats(node, container, measured));
    Ok(sandbox_stats(&sandbox, &pod[0], of_containers.collect()))
}

/// What containers used a moment ago.
pub(crate) async fn containers(
    node: &Arc<Node>,
    containers: Vec<Arc<Container>>,
) -> Result<Vec<cri::ContainerStats>> {
    let measured = recent::<Containers>(node, &containers).await?;
    let all = containers.iter().zip(&measured);
    Ok(all.map(|(container, measured)| container_stats(node, container, measured)).collect())
}

/// What sandboxes with their containers used a moment ago.
pub(crate) async fn sandboxes(
    node: &Arc<Node>,
    sandboxes: Vec<Arc<Sandbox>>,
) -> Result<Vec<cri::PodSandboxStats>> {
    let inside: Vec<_> = sandboxes.iter().map(|sandbox| running(node, sandbox)).collect();
    let containers: Vec<_> = inside.iter().flatten().cloned().collect();
    let pods = recent::<Pods>(node, &sandboxes).await?;
    let measured = recent::<Containers>(node, &containers).await?;
    let mut of_containers = containers
        .iter()
        .zip(&measured)
        .map(|(container, measured)| container_stats(node, container, measured));
    let all = sandboxes.iter().zip(&pods).zip(&inside);
    Ok(all
        .map(|((sandbox, pod), inside)| {
            sandbox_stats(sandbox, pod, of_containers.by_ref().take(inside.len()).collect())
        })
        .collect())
}

/// The containers of a sandbox that run.
pub(crate) fn running(node: &Node, sandbox: &Sandbox) -> Vec<Arc<Container>> {
    let mut containers = node.tables.containers_of(sandbox.id());
    containers.retain(|container| container.life().phase == ContainerPhase::Running);
    containers
}

fn container_stats(node: &Node, container: &Container, measured: &Measured) -> cri::ContainerStats {
    let record = &container.record;
    let Measured { time, group, disk } = measured;
    let stats = group.as_ref().map(|group| &group.stats);
    let mountpoint = || node.images.mountpoint().to_string_lossy().into_owned();
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: container.id().to_owned(),
            metadata: Some(container.metadata()),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        cpu: group.as_ref().and_then(|group| cpu(group, *time)),
        memory: stats.and_then(|stats| memory(stats, *time)),
        writable_layer: disk.map(|counted| cri::FilesystemUsage {
            timestamp: counted.time,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: mountpoint() }),
            used_bytes: value(counted.usage.bytes),
            inodes_used: value(counted.usage.inodes),
        }),
        swap: stats.and_then(|stats| stats.memory.as_ref()).map(|memory| cri::SwapUsage {
            timestamp: *time,
            swap_available_bytes: swap_limit(&container.resources())
                .and_then(|limit| value(limit.saturating_sub(memory.swap))),
            swap_usage_bytes: value(memory.swap),
        }),
        io: stats.and_then(|stats| stats.io_pressure).map(|pressure| io(pressure, *time)),
    }
}

fn sandbox_stats(
    sandbox: &Sandbox,
    measured: &MeasuredPod,
    containers: Vec<cri::ContainerStats>,
) -> cri::PodSandboxStats {
    let record = &sandbox.record;
    let MeasuredPod { time, group, network } = measured;
    let stats = group.as_ref().map(|group| &group.stats);
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: sandbox.id().to_owned(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: group.as_ref().and_then(|group| cpu(group, *time)),
            memory: stats.and_then(|stats| memory(stats, *time)),
            network: network.as_ref().map(|network| network.usage(*time)),
            process: stats
                .and_then(|stats| stats.pids)
                .map(|pids| cri::ProcessUsage { timestamp: *time, process_count: value(pids.current) }),
            containers,
            io: stats.and_then(|stats| stats.io_pressure).map(|pressure| io(pressure, *time)),
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

fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_measurements_and_time_between_them() {
        let (cache, start) = (Cache::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(cache.rate("a", start, 5), None);
        assert_eq!(cache.rate("a", at(1), 500_000), None);
        assert_eq!(cache.rate("a", at(200), 100_000_005), Some(500_000_000));
        assert_eq!(cache.rate("a", at(201), 200_000_000), Some(500_000_000));
        assert_eq!(cache.rate("a", at(400), 100_000_005), Some(0));
        cache.forget("a");
        assert_eq!(cache.rate("a", at(500), 5), None);
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
