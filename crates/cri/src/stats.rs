//! What containers and pods use.

mod messages;
pub(crate) mod network;
mod sampler;
mod samples;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use vaquita_image::Usage;
use vaquita_proto::cri;

use crate::container::volumes::snapshots;
use crate::model::{Container, Sandbox, now};
use crate::node::Node;
use crate::{Result, encoded};

pub(crate) use self::sampler::{Measure, recent};
use self::sampler::{Sampler, measured};
pub(crate) use self::samples::Samples;

/// How long a count of a writable layer's files is good for: counting walks the tree.
const USAGE_AGE: Duration = Duration::from_secs(10);
/// The least time that a rate is told from: shorter ones say nothing.
const RATE_AGE: Duration = Duration::from_millis(100);

/// How many times as old as other measurements the metrics may be: they take ten times as long, and Prometheus asks every ten seconds
/// at best.
const METRICS: u32 = 5;

/// What was measured before: disk use, CPU time to tell a rate from, and what is given out again.
#[derive(Debug)]
pub(crate) struct Cache {
    disk: Mutex<HashMap<String, (Instant, Counted)>>,
    cpu: Mutex<HashMap<String, Rate>>,
    containers: Samples<Bytes>,
    pods: Samples<Pod>,
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

/// Containers that run come with figures of their cgroup; others with their disk use alone.
#[derive(Debug)]
pub(crate) struct Containers;

impl Measure for Containers {
    type Of = Container;
    /// A [`cri::ContainerStats`], as an item of a list.
    type Value = Bytes;

    fn samples(node: &Node) -> &Samples<Bytes> {
        &node.usage.containers
    }

    fn all(node: &Node) -> Vec<Arc<Container>> {
        let mut all = node.tables.containers();
        all.retain(|container| container.is_running());
        all
    }

    fn id(of: &Container) -> &str {
        of.id()
    }

    fn tag(_: &Node, of: &Container) -> u64 {
        u64::from(of.is_running())
    }

    fn read(node: &Node, of: &Container) -> Bytes {
        encoded::item(&messages::container(node, of))
    }
}

/// Pods that are ready come with figures of their cgroup.
#[derive(Debug)]
pub(crate) struct Pods;

/// A [`cri::PodSandboxStats`] without its containers, which are measured at other times.
#[derive(Debug)]
pub(crate) struct Pod {
    /// What it is about.
    head: Bytes,
    /// A [`cri::LinuxPodSandboxStats`].
    linux: Bytes,
}

impl Measure for Pods {
    type Of = Sandbox;
    type Value = Pod;

    fn samples(node: &Node) -> &Samples<Pod> {
        &node.usage.pods
    }

    fn all(node: &Node) -> Vec<Arc<Sandbox>> {
        let mut all = node.tables.sandboxes();
        all.retain(|sandbox| sandbox.is_ready());
        all
    }

    fn id(of: &Sandbox) -> &str {
        of.id()
    }

    fn tag(_: &Node, of: &Sandbox) -> u64 {
        u64::from(of.is_ready())
    }

    fn read(node: &Node, of: &Sandbox) -> Pod {
        Pod::new(messages::sandbox(node, of))
    }
}

impl Pod {
    fn new(mut stats: cri::PodSandboxStats) -> Self {
        let linux = stats.linux.take().unwrap_or_default();
        Self { head: stats.encode_to_vec().into(), linux: linux.encode_to_vec().into() }
    }

    /// An item of a list, with the containers that run in the pod.
    fn with(&self, containers: &[Arc<Bytes>]) -> Bytes {
        /// Their fields in the messages.
        const LINUX: u32 = 2;
        const CONTAINERS: u32 = 5;

        let inside: usize = containers.iter().map(|container| container.len()).sum();
        let linux = self.linux.len() + inside;
        let length = self.head.len() + encoded::field_length(LINUX, linux);
        let mut bytes = Vec::with_capacity(encoded::field_length(encoded::LIST, length));
        encoded::begin(encoded::LIST, length, &mut bytes);
        bytes.extend_from_slice(&self.head);
        encoded::begin(LINUX, linux, &mut bytes);
        bytes.extend_from_slice(&self.linux);
        containers.iter().for_each(|container| encoded::put_item(CONTAINERS, container, &mut bytes));
        bytes.into()
    }
}

/// What a container uses at this moment, as the item of a list.
pub(crate) async fn container(node: &Arc<Node>, container: Arc<Container>) -> Result<Bytes> {
    Ok(Bytes::clone(&measured::<Containers>(node, vec![container]).await?[0]))
}

/// What a sandbox with its containers uses at this moment, as the item of a list.
pub(crate) async fn sandbox(node: &Arc<Node>, sandbox: Arc<Sandbox>) -> Result<Bytes> {
    let containers = running(node, &sandbox);
    let pod = measured::<Pods>(node, vec![sandbox]).await?;
    Ok(pod[0].with(&measured::<Containers>(node, containers).await?))
}

/// One [`cri::ContainerStats`] for each of some containers, as it was a moment ago, as the items of a list.
pub(crate) async fn containers(node: &Arc<Node>, containers: Vec<Arc<Container>>) -> Result<Vec<Bytes>> {
    let measured = recent::<Containers>(node, &containers).await?;
    Ok(measured.iter().map(|item| Bytes::clone(item)).collect())
}

/// One [`cri::PodSandboxStats`] for each of some sandboxes, as it was a moment ago, as the items of a list.
pub(crate) async fn sandboxes(node: &Arc<Node>, sandboxes: Vec<Arc<Sandbox>>) -> Result<Vec<Bytes>> {
    let (mut containers, mut ends) = (Vec::new(), Vec::with_capacity(sandboxes.len()));
    for sandbox in &sandboxes {
        containers.extend(running(node, sandbox));
        ends.push(containers.len());
    }
    let pods = recent::<Pods>(node, &sandboxes).await?;
    let containers = recent::<Containers>(node, &containers).await?;
    let mut begin = 0;
    let of = |(pod, end): (&Arc<Pod>, usize)| pod.with(&containers[std::mem::replace(&mut begin, end)..end]);
    Ok(pods.iter().zip(ends).map(of).collect())
}

/// The containers of a sandbox that run.
pub(crate) fn running(node: &Node, sandbox: &Sandbox) -> Vec<Arc<Container>> {
    let mut containers = node.tables.containers_of(sandbox.id());
    containers.retain(|container| container.is_running());
    containers
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

    /// The parts of a message at the places where they belong.
    #[test]
    fn a_pod_with_its_containers_is_one_message() {
        let container = |number: usize| cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes { id: "c".repeat(number), ..Default::default() }),
            ..Default::default()
        };
        let mut pod = cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes { id: "a".into(), ..Default::default() }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: Some(cri::CpuUsage { timestamp: 1, ..Default::default() }),
                io: Some(cri::IoUsage { timestamp: 2, ..Default::default() }),
                ..Default::default()
            }),
            windows: None,
        };
        for containers in [&[][..], &[1], &[0, 1, 200, 3000]] {
            let containers: Vec<_> = containers.iter().map(|number| container(*number)).collect();
            let items: Vec<_> = containers.iter().map(|one| Arc::new(encoded::item(one))).collect();
            pod.linux.as_mut().unwrap().containers.clear();
            let item = Pod::new(pod.clone()).with(&items);
            let list = cri::ListPodSandboxStatsResponse::decode(item).unwrap();
            pod.linux.as_mut().unwrap().containers = containers;
            assert_eq!(list.stats, [pod.clone()]);
        }
    }
}
