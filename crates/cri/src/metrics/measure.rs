//! What the metrics are read from.

use std::os::linux::fs::MetadataExt as _;

use vaquita_cgroup::{Cgroup, Cpu, Details, IoDetails, IoEntry, Memory, MemoryDetails, Stats};
use vaquita_proto::cri;

use super::Labelled;
use crate::kernel;
use crate::model::{Container, Sandbox, now};
use crate::node::Node;
use crate::stats::network;

/// A container at one time.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Seconds since 1970.
    pub(super) now: u64,
    /// Seconds since 1970.
    pub(super) started: u64,
    pub(super) details: Option<Details>,
    pub(super) oom_kills: Option<u64>,
    pub(super) disk: Option<Disk>,
    pub(super) processes: Option<Processes>,
    pub(super) resources: cri::LinuxContainerResources,
}

/// The writable layer and what it is on.
#[derive(Debug, Default)]
pub(super) struct Disk {
    device: String,
    pub(super) used: u64,
    pub(super) size: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
}

/// The processes of a container.
#[derive(Debug, Default)]
pub(super) struct Processes {
    pub(super) processes: u64,
    pub(super) descriptors: u64,
    pub(super) sockets: u64,
    /// How many files the first process may open; none where it has ended.
    max_open_files: Option<u64>,
}

impl Measured {
    pub(super) fn of(node: &Node, container: &Container) -> Self {
        let life = container.life();
        let cgroup = Cgroup::open(&node.layout, &container.record.cgroup).ok();
        let seconds = |nanoseconds: i64| u64::try_from(nanoseconds / 1_000_000_000).unwrap_or_default();
        Self {
            now: seconds(now()),
            started: seconds(life.started_at),
            details: cgroup.as_ref().and_then(|cgroup| cgroup.metered().ok()),
            oom_kills: cgroup.as_ref().and_then(|cgroup| cgroup.oom_kills().ok()),
            disk: disk(node, container),
            processes: cgroup.and_then(|cgroup| cgroup.procs().ok()).map(|pids| processes(&pids, life.pid)),
            resources: container.resources(),
        }
    }

    pub(super) fn stats(&self) -> Option<&Stats> {
        self.details.as_ref().map(|details| &details.stats)
    }

    pub(super) fn cpu(&self) -> Option<&Cpu> {
        self.stats()?.cpu.as_ref()
    }

    pub(super) fn memory(&self) -> Option<&Memory> {
        self.stats()?.memory.as_ref()
    }

    pub(super) fn memory_details(&self) -> Option<&MemoryDetails> {
        self.details.as_ref()?.memory.as_ref()
    }

    /// A line of memory.stat, by its names in v1, where that of the whole tree counts, and in v2.
    pub(super) fn memory_stat(&self, v1: &str, v2: &str) -> Option<u64> {
        let raw = &self.memory_details()?.raw;
        raw.get(&format!("total_{v1}")).or_else(|| raw.get(v2)).copied()
    }

    pub(super) fn faults(&self) -> Vec<Labelled> {
        let Some(details) = self.memory_details() else { return Vec::new() };
        let mut all = Vec::new();
        for kind in ["pgfault", "pgmajfault"] {
            for (scope, name) in [("container", kind.to_owned()), ("hierarchy", format!("total_{kind}"))] {
                // v2 counts the tree only.
                let value = details.raw.get(&name).or_else(|| details.raw.get(kind)).copied();
                all.extend(value.map(|value| Labelled(vec![kind.to_owned(), scope.to_owned()], value)));
            }
        }
        all
    }

    pub(super) fn io(&self, table: fn(&IoDetails) -> &Vec<IoEntry>, operation: &str) -> Vec<Labelled> {
        let Some(details) = &self.details else { return Vec::new() };
        let of = table(&details.io).iter().filter(|entry| entry.operation == operation);
        of.map(|entry| Labelled(vec![device(entry.device.major, entry.device.minor)], entry.value)).collect()
    }

    pub(super) fn blkio(&self) -> Vec<Labelled> {
        let Some(details) = &self.details else { return Vec::new() };
        let row = |entry: &IoEntry| {
            let (major, minor) = (entry.device.major, entry.device.minor);
            let labels =
                vec![device(major, minor), major.to_string(), minor.to_string(), entry.operation.clone()];
            Labelled(labels, entry.value)
        };
        details.io.service_bytes.iter().map(row).collect()
    }

    pub(super) fn disk(&self, value: fn(&Disk) -> u64) -> Vec<Labelled> {
        self.disk.iter().map(|disk| Labelled(vec![disk.device.clone()], value(disk))).collect()
    }

    pub(super) fn ulimits(&self) -> Vec<Labelled> {
        let limit = self.processes.as_ref().and_then(|processes| processes.max_open_files);
        limit.map(|limit| Labelled(vec!["max_open_files".to_owned()], limit)).into_iter().collect()
    }

    /// Kubernetes asks for it in `unified`, where there is v2.
    pub(super) fn reservation(&self) -> u64 {
        let asked = |file: &str| self.resources.unified.get(file)?.parse().ok();
        asked("memory.low").or_else(|| asked("memory.min")).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn example() -> Self {
        let pressure = Some(vaquita_cgroup::Pressure::default());
        let stats = Stats {
            cpu: Some(Cpu::default()),
            memory: Some(Memory::default()),
            pids: Some(vaquita_cgroup::Pids::default()),
            cpu_pressure: pressure,
            memory_pressure: pressure,
            io_pressure: pressure,
            ..Stats::default()
        };
        let raw = ["total_mapped_file", "active_file", "inactive_file", "pgfault", "pgmajfault"];
        let memory =
            MemoryDetails { raw: raw.map(|name| (name.to_owned(), 7)).into(), ..MemoryDetails::default() };
        let entry =
            |operation: &str| IoEntry { operation: operation.to_owned(), value: 3, ..IoEntry::default() };
        let table = vec![entry("Read"), entry("Write")];
        let io = IoDetails { service_bytes: table.clone(), serviced: table, ..IoDetails::default() };
        Self {
            details: Some(Details { stats, memory: Some(memory), io, ..Details::default() }),
            oom_kills: Some(0),
            disk: Some(Disk::default()),
            processes: Some(Processes { max_open_files: Some(1024), ..Processes::default() }),
            resources: cri::LinuxContainerResources {
                cpu_period: 100_000,
                cpu_quota: 50_000,
                cpu_shares: 2,
                ..Default::default()
            },
            ..Self::default()
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the image store, by its own path")]
fn disk(node: &Node, container: &Container) -> Option<Disk> {
    let usage = node.usage.disk(node, container.id())?.usage;
    let path = node.images.mountpoint();
    let number = std::fs::metadata(path).ok()?.st_dev();
    let fs = rustix::fs::statvfs(path).ok()?;
    Some(Disk {
        device: device(rustix::fs::major(number), rustix::fs::minor(number)),
        used: usage.bytes,
        size: fs.f_blocks.saturating_mul(fs.f_frsize),
        inodes: fs.f_files,
        inodes_free: fs.f_ffree,
    })
}

/// The file of a block device, or its number where it has none: a filesystem without a device.
fn device(major: u32, minor: u32) -> String {
    // sysfs has ! for the / in names like cciss/c0d0.
    kernel::block_device(major, minor)
        .map_or_else(|| format!("{major}:{minor}"), |name| format!("/dev/{}", name.replace('!', "/")))
}

fn processes(pids: &[i32], first: Option<i32>) -> Processes {
    let mut all = Processes { processes: pids.len() as u64, ..Processes::default() };
    for pid in pids {
        // One that has ended has none.
        let Ok(targets) = kernel::descriptors(*pid) else { continue };
        for target in targets {
            all.descriptors += 1;
            all.sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        }
    }
    all.max_open_files = first
        .and_then(|pid| kernel::text_of_process(pid, "limits").ok())
        .and_then(|text| max_open_files(&text));
    all
}

/// From proc_pid_limits(5).
fn max_open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// A pod at one time: its network, where it has one of its own.
#[derive(Debug, Default)]
pub(super) struct MeasuredPod(Vec<network::Interface>);

impl MeasuredPod {
    pub(super) fn of(sandbox: &Sandbox) -> Self {
        Self(network::of(sandbox).map(|network| network.interfaces).unwrap_or_default())
    }

    /// A column of /proc/net/dev, by interface.
    pub(super) fn counters(&self, column: usize) -> Vec<Labelled> {
        self.0
            .iter()
            .map(|interface| Labelled(vec![interface.name.clone()], interface.counters[column]))
            .collect()
    }

    #[cfg(test)]
    pub(super) fn example() -> Self {
        Self(vec![network::Interface { name: "eth0".into(), counters: [1; 16] }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max open files            1024                 524288               files     \n";
        assert_eq!(max_open_files(text), Some(1024));
        assert_eq!(max_open_files("Max open files            unlimited  unlimited  files\n"), Some(u64::MAX));
        assert_eq!(max_open_files(""), None);
    }

    #[test]
    fn a_device_without_a_file_is_a_number() {
        assert_eq!(device(0, 999_999), "0:999999");
    }
}
