//! What the machine and its pods use.
//!
//! A rate needs two looks. The first one is kept for who asks again; who asks for the first time waits a moment for the second.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tonic::transport::Channel;
use vaquita_apiserver::{NodeUsage, PodUsage, Status, Usage};
use vaquita_proto::cri;
use vaquita_proto::cri::runtime_service_client::RuntimeServiceClient;

use super::refused;

/// The least and the wished time between two looks, and how long one is kept.
const LEAST: Duration = Duration::from_secs(1);
const WISHED: Duration = Duration::from_secs(10);
const KEPT: Duration = Duration::from_secs(60);

/// Ticks in a second, as programs see them: the same on every kernel (time(7)).
const USER_HZ: u64 = 100;

/// The looks of the last minute, ten seconds apart.
#[derive(Debug, Default)]
pub(super) struct Looks(Mutex<Vec<Look>>);

/// One look at everything.
#[derive(Clone, Debug)]
struct Look {
    at: Instant,
    time: Timestamp,
    /// Nanoseconds of processors that were used, and bytes in use, of the machine.
    machine: (u64, u64),
    /// By pod (namespace, name) and container: id, time of the sample in nanoseconds, nanoseconds used, working set.
    containers: BTreeMap<(String, String), Vec<Sample>>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    id: String,
    at: i64,
    cpu: u64,
    memory: u64,
}

impl Looks {
    /// What is used, over ten seconds and more where somebody asked before, else over one.
    pub(super) async fn measure(
        &self,
        runtime: RuntimeServiceClient<Channel>,
        name: &str,
    ) -> Result<Option<NodeUsage>, Status> {
        let mut look = Look::take(runtime.clone()).await?;
        let first = match self.before(look.at) {
            Some(first) => first,
            None => {
                let first = look;
                self.keep(&first);
                tokio::time::sleep(LEAST).await;
                look = Look::take(runtime).await?;
                first
            }
        };
        self.keep(&look);
        Ok(Some(difference(name, &first, &look)))
    }

    /// The youngest look that is old enough, else the oldest that can be used at all.
    fn before(&self, now: Instant) -> Option<Look> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |look: &Look| now.saturating_duration_since(look.at);
        looks.retain(|look| age(look) < KEPT);
        let wished = looks.iter().rev().find(|look| age(look) >= WISHED);
        wished.or_else(|| looks.first().filter(|look| age(look) >= LEAST)).cloned()
    }

    fn keep(&self, look: &Look) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Who asks all the time adds one every few seconds.
        let recent = looks.last().is_some_and(|last| look.at.saturating_duration_since(last.at) < WISHED / 2);
        if !recent {
            looks.push(look.clone());
        }
    }
}

impl Look {
    async fn take(mut runtime: RuntimeServiceClient<Channel>) -> Result<Self, Status> {
        let request = cri::ListPodSandboxStatsRequest::default();
        let answer = runtime.list_pod_sandbox_stats(request).await.map_err(refused)?.into_inner();
        let mut containers: BTreeMap<_, Vec<Sample>> = BTreeMap::new();
        for pod in answer.stats {
            let metadata = pod.attributes.and_then(|attributes| attributes.metadata).unwrap_or_default();
            let samples = pod.linux.unwrap_or_default().containers.into_iter().filter_map(Sample::of);
            containers.entry((metadata.namespace, metadata.name)).or_default().extend(samples);
        }
        let machine = (processors().unwrap_or_default(), memory().unwrap_or_default());
        Ok(Self { at: Instant::now(), time: Timestamp::now(), machine, containers })
    }
}

impl Sample {
    fn of(stats: cri::ContainerStats) -> Option<Self> {
        let attributes = stats.attributes?;
        let cpu = stats.cpu?;
        Some(Self {
            name: attributes.metadata.unwrap_or_default().name,
            id: attributes.id,
            at: cpu.timestamp,
            cpu: cpu.usage_core_nano_seconds?.value,
            memory: stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |value| value.value),
        })
    }

    /// Billionths of a processor since another look at the same container.
    fn rate(&self, before: &Self) -> Option<u64> {
        let time = u64::try_from(self.at.checked_sub(before.at)?).ok().filter(|time| *time > 0)?;
        let used = u128::from(self.cpu.saturating_sub(before.cpu));
        u64::try_from(used * 1_000_000_000 / u128::from(time)).ok()
    }
}

fn difference(name: &str, first: &Look, last: &Look) -> NodeUsage {
    let time = last.at.saturating_duration_since(first.at);
    let used = u128::from(last.machine.0.saturating_sub(first.machine.0));
    let cpu = u64::try_from(used * 1_000_000_000 / time.as_nanos().max(1)).unwrap_or(u64::MAX);
    let pods = last.containers.iter().map(|((namespace, name), samples)| {
        let before = first.containers.get(&(namespace.clone(), name.clone()));
        let before = |id: &str| before.into_iter().flatten().find(|sample| sample.id == id);
        let containers = samples.iter().filter_map(|sample| {
            let cpu = sample.rate(before(&sample.id)?)?;
            Some((sample.name.clone(), Usage { cpu, memory: sample.memory }))
        });
        PodUsage { namespace: namespace.clone(), name: name.clone(), containers: containers.collect() }
    });
    NodeUsage {
        name: name.to_owned(),
        total: Usage { cpu, memory: last.machine.1 },
        time: last.time,
        window: u32::try_from(time.as_secs_f64().round() as u64).unwrap_or(u32::MAX).max(1),
        pods: pods.collect(),
    }
}

/// Nanoseconds that all processors have worked since the start, from `/proc/stat` (proc_stat(5)).
fn processors() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    Some(busy(&text)? * (1_000_000_000 / USER_HZ))
}

/// Ticks that were neither idle nor waiting for a disk. What guests used is in that of users already.
fn busy(stat: &str) -> Option<u64> {
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _wait, irq, softirq, ..] = fields[..] else { return None };
    Some(user + nice + system + irq + softirq + fields.get(7).copied().unwrap_or_default())
}

/// Bytes that cannot be had without taking them from somebody, from `/proc/meminfo` (proc_meminfo(5)).
fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    taken(&text)
}

fn taken(meminfo: &str) -> Option<u64> {
    let field = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    field("MemTotal")?.checked_sub(field("MemAvailable")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: Instant, cpu: u64, id: &str) -> Look {
        let sample = Sample {
            name: "c".to_owned(),
            id: id.to_owned(),
            at: i64::try_from(cpu).unwrap(),
            cpu: cpu / 4,
            memory: 2 << 20,
        };
        let containers = [(("ns".to_owned(), "p".to_owned()), vec![sample])].into();
        Look { at, time: Timestamp::UNIX_EPOCH, machine: (cpu, 5), containers }
    }

    #[test]
    fn rates_come_from_two_looks() {
        let start = Instant::now();
        let first = look(start, 1_000_000_000, "1");
        let last = look(start + Duration::from_secs(10), 11_000_000_000, "1");
        let usage = difference("n", &first, &last);
        assert_eq!((usage.total.cpu, usage.total.memory, usage.window), (1_000_000_000, 5, 10));
        assert_eq!(usage.pods[0].containers, [("c".to_owned(), Usage { cpu: 250_000_000, memory: 2 << 20 })]);
        // Another container by the same name has begun anew.
        let last = look(start + Duration::from_secs(10), 11_000_000_000, "2");
        assert_eq!(difference("n", &first, &last).pods[0].containers, []);
    }

    #[test]
    fn the_look_before_is_ten_seconds_old_where_there_is_one() {
        let looks = Looks::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(looks.before(at(0)).is_none());
        for seconds in [0, 1, 6, 12, 18] {
            looks.keep(&look(at(seconds), 1, "1"));
        }
        assert_eq!(looks.0.lock().unwrap().len(), 4);
        assert_eq!(looks.before(at(20)).unwrap().at, at(6));
        assert_eq!(looks.before(at(70)).unwrap().at, at(18));
        assert!(looks.before(at(90)).is_none());
        looks.keep(&look(at(90), 1, "1"));
        assert_eq!(looks.before(at(92)).unwrap().at, at(90));
        assert!(looks.before(at(90)).is_none());
    }

    #[test]
    fn files_of_the_kernel_are_read() {
        assert_eq!(busy("cpu  10 1 5 100 7 2 3 4 9 9\ncpu0 1\n"), Some(25));
        assert_eq!(busy("cpu 1 2"), None);
        assert_eq!(taken("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable:   60 kB\n"), Some(40 << 10));
        assert!(processors().unwrap() > 0 && memory().unwrap() > 0);
    }
}
