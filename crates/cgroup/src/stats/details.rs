//! All that the kernel tells of a group: what runc's `events --stats` prints, for both versions.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use super::{BlockDevice, Find, Stats, UNLIMITED, device, number};
use crate::files::{read, read_if_there};
use crate::{Result, Version};

/// Statistics in full. Parts that the host does not have are none, empty or 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// What every user wants to know.
    pub stats: Stats,
    /// CPU time by CPU (v1).
    pub per_cpu: Vec<PerCpu>,
    /// Periods in which more than the quota was used, and nanoseconds of that, since the group was made.
    pub bursts: (u64, u64),
    /// Which CPUs and memory nodes may be used.
    pub cpuset: Option<CpuSet>,
    /// Memory.
    pub memory: Option<MemoryDetails>,
    /// Block IO.
    pub io: IoDetails,
    /// Huge pages in bytes, by page size (`2MB`).
    pub hugepages: BTreeMap<String, Counter>,
    /// RDMA devices by name.
    pub rdma: BTreeMap<String, RdmaUse>,
}

/// Nanoseconds of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerCpu {
    /// In all.
    pub total: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub kernel: u64,
}

/// CPUs and memory nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet {
    /// The CPUs that are in effect, ascending.
    pub cpus: Vec<u16>,
    /// The memory nodes that are in effect, ascending.
    pub mems: Vec<u16>,
    /// The other numbers of v1, by their files without `cpuset.`: `cpu_exclusive`, `memory_migrate` and so on.
    pub flags: BTreeMap<String, i64>,
}

/// How much of something is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Now.
    pub usage: u64,
    /// At most, since the group was made; 0 where the kernel does not tell.
    pub max_usage: u64,
    /// How often the limit was hit.
    pub failures: u64,
    /// The limit; none without one.
    pub limit: Option<u64>,
}

/// Memory in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryDetails {
    /// Memory.
    pub memory: Counter,
    /// Memory and swap together, as v1 counts.
    pub memory_and_swap: Counter,
    /// Kernel memory.
    pub kernel: Counter,
    /// Buffers of TCP.
    pub kernel_tcp: Counter,
    /// The lines of `memory.stat` as the version at hand has them.
    pub raw: BTreeMap<String, u64>,
}

/// A number of one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoEntry {
    /// Which device.
    pub device: BlockDevice,
    /// What is counted: `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`; empty where there is one number only.
    pub operation: String,
    /// How many.
    pub value: u64,
}

/// Block IO since the group was made, by what is counted. Only the first two are on every kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoDetails {
    /// Bytes.
    pub service_bytes: Vec<IoEntry>,
    /// Operations.
    pub serviced: Vec<IoEntry>,
    /// Operations that wait now.
    pub queued: Vec<IoEntry>,
    /// Nanoseconds from dispatch to completion.
    pub service_time: Vec<IoEntry>,
    /// Nanoseconds in the scheduler's queues.
    pub wait_time: Vec<IoEntry>,
    /// Operations merged into others.
    pub merged: Vec<IoEntry>,
    /// Milliseconds of the disk's time.
    pub time: Vec<IoEntry>,
    /// Sectors.
    pub sectors: Vec<IoEntry>,
}

/// Use of an RDMA device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RdmaUse {
    /// Handles.
    pub handles: Counter,
    /// Objects.
    pub objects: Counter,
}

pub(crate) fn read_details<'a>(find: &Find<'a>, stats: Stats) -> Result<Details> {
    let mut all = Details { stats, ..Details::default() };
    if let Some((dir, Version::V1)) = find("cpuacct") {
        let text = |file| Ok::<_, crate::Error>(read_if_there(dir, file)?.unwrap_or_default());
        all.per_cpu = per_cpu(&text("cpuacct.usage_percpu")?, &text("cpuacct.usage_all")?);
    }
    if let Some((dir, version)) = find("cpu") {
        let stat = read_if_there(dir, "cpu.stat")?.unwrap_or_default();
        let key = |name| crate::group::key(&stat, name).unwrap_or_default();
        let time = if version == Version::V1 { key("burst_time") } else { key("burst_usec") * 1000 };
        all.bursts = (key("nr_bursts"), time);
    }
    all.cpuset = find("cpuset").map(|(dir, version)| cpuset(dir, version)).transpose()?.flatten();
    all.memory = find("memory").map(|(dir, version)| memory(dir, version)).transpose()?.flatten();
    all.io = find("io").map(|(dir, version)| io(dir, version)).transpose()?.unwrap_or_default();
    if let Some((dir, version)) = find("hugetlb") {
        for size in hugepage_sizes() {
            if let Some(counter) = hugepages(dir, version, &size)? {
                all.hugepages.insert(size, counter);
            }
        }
    }
    if let Some((dir, _)) = find("rdma") {
        let text = |file| Ok::<_, crate::Error>(read_if_there(dir, file)?.unwrap_or_default());
        all.rdma = rdma(&text("rdma.current")?, &text("rdma.max")?);
    }
    Ok(all)
}

/// The part that is metered all the time: memory without swap and buffers of TCP, and the IO that every kernel counts.
pub(crate) fn read_metered<'a>(find: &Find<'a>, stats: Stats) -> Result<Details> {
    let mut all = Details { stats, ..Details::default() };
    all.memory = find("memory").map(|(dir, version)| metered_memory(dir, version)).transpose()?.flatten();
    if let Some((dir, version)) = find("io") {
        all.io = match version {
            Version::V2 => io(dir, version)?,
            Version::V1 => IoDetails {
                service_bytes: v1_io(dir, "io_service_bytes")?,
                serviced: v1_io(dir, "io_serviced")?,
                ..IoDetails::default()
            },
        };
    }
    Ok(all)
}

fn metered_memory(dir: BorrowedFd<'_>, version: Version) -> Result<Option<MemoryDetails>> {
    if version == Version::V2 {
        return memory(dir, version);
    }
    let Some(raw) = memory_stat(dir)? else { return Ok(None) };
    let kernel = read_if_there(dir, "memory.kmem.usage_in_bytes")?.and_then(|text| number(&text));
    let kernel = Counter { usage: kernel.unwrap_or_default(), ..Counter::default() };
    Ok(Some(MemoryDetails { raw, memory: v1_counter(dir, "memory")?, kernel, ..MemoryDetails::default() }))
}

fn per_cpu(totals: &str, table: &str) -> Vec<PerCpu> {
    let mut all: Vec<PerCpu> = totals
        .split_whitespace()
        .map(|total| PerCpu { total: total.parse().unwrap_or_default(), ..PerCpu::default() })
        .collect();
    // A heading, then lines like `0 12 34`: CPU, user, system.
    for line in table.lines().skip(1) {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or_default());
        let at = numbers.next().and_then(|at| usize::try_from(at).ok());
        if let Some(cpu) = at.and_then(|at| all.get_mut(at)) {
            cpu.user = numbers.next().unwrap_or_default();
            cpu.kernel = numbers.next().unwrap_or_default();
        }
    }
    all
}

fn cpuset(dir: BorrowedFd<'_>, version: Version) -> Result<Option<CpuSet>> {
    const FLAGS: [&str; 9] = [
        "cpu_exclusive",
        "mem_exclusive",
        "mem_hardwall",
        "memory_migrate",
        "memory_pressure",
        "memory_spread_page",
        "memory_spread_slab",
        "sched_load_balance",
        "sched_relax_domain_level",
    ];
    let file = |v1, v2| if version == Version::V1 { v1 } else { v2 };
    let Some(cpus) = read_if_there(dir, file("cpuset.cpus", "cpuset.cpus.effective"))? else {
        return Ok(None);
    };
    let mems = read_if_there(dir, file("cpuset.mems", "cpuset.mems.effective"))?.unwrap_or_default();
    let mut set = CpuSet { cpus: numbers(&cpus), mems: numbers(&mems), ..CpuSet::default() };
    if version == Version::V1 {
        for name in FLAGS {
            let text = read_if_there(dir, &format!("cpuset.{name}"))?;
            if let Some(value) = text.and_then(|text| text.trim().parse().ok()) {
                set.flags.insert(name.to_owned(), value);
            }
        }
    }
    Ok(Some(set))
}

/// The numbers of a list like `0-2,5`.
fn numbers(list: &str) -> Vec<u16> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
    };
    list.split(',').filter_map(part).flatten().collect()
}

fn memory(dir: BorrowedFd<'_>, version: Version) -> Result<Option<MemoryDetails>> {
    let Some(raw) = memory_stat(dir)? else { return Ok(None) };
    let mut all = MemoryDetails { raw, ..MemoryDetails::default() };
    if version == Version::V1 {
        all.memory = v1_counter(dir, "memory")?;
        all.memory_and_swap = v1_counter(dir, "memory.memsw")?;
        all.kernel = v1_counter(dir, "memory.kmem")?;
        all.kernel_tcp = v1_counter(dir, "memory.kmem.tcp")?;
        return Ok(Some(all));
    }
    all.memory = v2_counter(dir, "memory")?;
    all.memory.failures = crate::group::key(&read(dir, "memory.events")?, "max").unwrap_or_default();
    let swap = v2_counter(dir, "memory.swap")?;
    all.memory_and_swap = Counter {
        usage: all.memory.usage + swap.usage,
        // The two peaks need not have been at the same time.
        max_usage: 0,
        failures: swap.failures,
        limit: all.memory.limit.zip(swap.limit).map(|(memory, swap)| memory.saturating_add(swap)),
    };
    all.kernel.usage = all.raw.get("kernel").copied().unwrap_or_default();
    all.kernel_tcp.usage = all.raw.get("sock").copied().unwrap_or_default();
    Ok(Some(all))
}

fn memory_stat(dir: BorrowedFd<'_>) -> Result<Option<BTreeMap<String, u64>>> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    Ok(read_if_there(dir, "memory.stat")?.map(|text| text.lines().filter_map(pair).collect()))
}

fn v1_counter(dir: BorrowedFd<'_>, name: &str) -> Result<Counter> {
    let value = |file: &str| {
        Ok::<_, crate::Error>(read_if_there(dir, &format!("{name}.{file}"))?.and_then(|text| number(&text)))
    };
    Ok(Counter {
        usage: value("usage_in_bytes")?.unwrap_or_default(),
        max_usage: value("max_usage_in_bytes")?.unwrap_or_default(),
        failures: value("failcnt")?.unwrap_or_default(),
        limit: value("limit_in_bytes")?.filter(|limit| *limit < UNLIMITED),
    })
}

fn v2_counter(dir: BorrowedFd<'_>, name: &str) -> Result<Counter> {
    let value = |file: &str| {
        Ok::<_, crate::Error>(read_if_there(dir, &format!("{name}.{file}"))?.and_then(|text| number(&text)))
    };
    Ok(Counter {
        usage: value("current")?.unwrap_or_default(),
        // Linux 5.19, and 6.5 for swap.
        max_usage: value("peak")?.unwrap_or_default(),
        failures: 0,
        limit: value("max")?,
    })
}

fn io(dir: BorrowedFd<'_>, version: Version) -> Result<IoDetails> {
    if version == Version::V2 {
        return Ok(read_if_there(dir, "io.stat")?.map(|text| parse_io_v2(&text)).unwrap_or_default());
    }
    let table = |name: &str| v1_io(dir, name);
    Ok(IoDetails {
        service_bytes: table("io_service_bytes")?,
        serviced: table("io_serviced")?,
        queued: table("io_queued")?,
        service_time: table("io_service_time")?,
        wait_time: table("io_wait_time")?,
        merged: table("io_merged")?,
        time: table("time")?,
        sectors: table("sectors")?,
    })
}

/// The scheduler's own files count what the throttling ones do, and more, where it is BFQ, or was CFQ (Linux 4.20).
fn v1_io(dir: BorrowedFd<'_>, name: &str) -> Result<Vec<IoEntry>> {
    for file in [
        format!("blkio.bfq.{name}_recursive"),
        format!("blkio.{name}_recursive"),
        format!("blkio.throttle.{name}_recursive"),
        format!("blkio.throttle.{name}"),
    ] {
        let entries = read_if_there(dir, &file)?.map(|text| parse_io_v1(&text)).unwrap_or_default();
        if !entries.is_empty() {
            return Ok(entries);
        }
    }
    Ok(Vec::new())
}

/// Lines like `8:0 Read 4096`, or `8:0 4096`; that of all devices together is left out.
fn parse_io_v1(text: &str) -> Vec<IoEntry> {
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (number, operation, value) = match words[..] {
            [number, operation, value] => (number, operation, value),
            [number, value] => (number, "", value),
            _ => return None,
        };
        Some(IoEntry { device: device(number)?, operation: operation.to_owned(), value: value.parse().ok()? })
    };
    text.lines().filter_map(line).collect()
}

/// Lines like `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`, in the words of v1.
fn parse_io_v2(text: &str) -> IoDetails {
    let mut all = IoDetails::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(device) = words.next().and_then(device) else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (table, operation) = match name {
                "rbytes" => (&mut all.service_bytes, "Read"),
                "wbytes" => (&mut all.service_bytes, "Write"),
                "dbytes" => (&mut all.service_bytes, "Discard"),
                "rios" => (&mut all.serviced, "Read"),
                "wios" => (&mut all.serviced, "Write"),
                "dios" => (&mut all.serviced, "Discard"),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                table.push(IoEntry { device, operation: operation.to_owned(), value });
            }
        }
    }
    all
}

fn hugepages(dir: BorrowedFd<'_>, version: Version, size: &str) -> Result<Option<Counter>> {
    let value = |file: &str| {
        Ok::<_, crate::Error>(
            read_if_there(dir, &format!("hugetlb.{size}.{file}"))?.and_then(|text| number(&text)),
        )
    };
    // Reservations where the kernel counts them (Linux 5.7), as the limits do.
    for prefix in ["rsvd.", ""] {
        let value = |file: &str| value(&format!("{prefix}{file}"));
        let names = match version {
            Version::V1 => ["usage_in_bytes", "max_usage_in_bytes", "limit_in_bytes"],
            Version::V2 => ["current", "", "max"],
        };
        let Some(usage) = value(names[0])? else { continue };
        let failures = match version {
            Version::V1 => value("failcnt")?.unwrap_or_default(),
            Version::V2 => {
                let events = read_if_there(dir, &format!("hugetlb.{size}.events"))?.unwrap_or_default();
                crate::group::key(&events, "max").unwrap_or_default()
            }
        };
        let max_usage = if names[1].is_empty() { 0 } else { value(names[1])?.unwrap_or_default() };
        let limit = value(names[2])?.filter(|limit| *limit < UNLIMITED);
        return Ok(Some(Counter { usage, max_usage, failures, limit }));
    }
    Ok(None)
}

/// The sizes of huge pages that the kernel has, as the files of groups spell them: `2MB`.
#[expect(clippy::disallowed_methods, reason = "the host's own sysfs")]
fn hugepage_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let size = |name: String| {
        let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(match kilobytes {
            _ if kilobytes.is_multiple_of(1 << 20) => format!("{}GB", kilobytes >> 20),
            _ if kilobytes.is_multiple_of(1 << 10) => format!("{}MB", kilobytes >> 10),
            _ => format!("{kilobytes}KB"),
        })
    };
    entries.flatten().filter_map(|entry| size(entry.file_name().into_string().ok()?)).collect()
}

/// Lines like `mlx4_0 hca_handle=2 hca_object=2000`, or `max`.
fn rdma(current: &str, limits: &str) -> BTreeMap<String, RdmaUse> {
    let mut all = BTreeMap::<String, RdmaUse>::new();
    for (text, is_limit) in [(current, false), (limits, true)] {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some(device) = words.next() else { continue };
            let entry = all.entry(device.to_owned()).or_default();
            for (name, value) in words.filter_map(|word| word.split_once('=')) {
                let counter = match name {
                    "hca_handle" => &mut entry.handles,
                    "hca_object" => &mut entry.objects,
                    _ => continue,
                };
                match is_limit {
                    true => counter.limit = value.parse().ok(),
                    false => counter.usage = value.parse().unwrap_or_default(),
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus() {
        let all = per_cpu("10 20 \n", "cpu user system\n0 4 6\n1 15 5\n7 1 1\n");
        assert_eq!(
            all,
            [PerCpu { total: 10, user: 4, kernel: 6 }, PerCpu { total: 20, user: 15, kernel: 5 }]
        );
        assert_eq!(numbers("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(numbers("\n"), [] as [u16; 0]);
    }

    #[test]
    fn io_in_the_words_of_v1() {
        let entry = |operation: &str, value| IoEntry {
            device: BlockDevice { major: 8, minor: 0 },
            operation: operation.to_owned(),
            value,
        };
        let v2 = parse_io_v2("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=9\n");
        assert_eq!(v2.service_bytes, [entry("Read", 1), entry("Write", 2), entry("Discard", 5)]);
        assert_eq!(v2.serviced, [entry("Read", 3), entry("Write", 4), entry("Discard", 6)]);
        let v1 = parse_io_v1("8:0 Read 1\n8:0 Total 3\n8:0 77\nTotal 3\nTotal\n");
        assert_eq!(v1, [entry("Read", 1), entry("Total", 3), entry("", 77)]);
    }

    #[test]
    fn rdma_devices() {
        let all = rdma("mlx4_0 hca_handle=2 hca_object=20\n", "mlx4_0 hca_handle=5 hca_object=max\n");
        assert_eq!(all["mlx4_0"].handles, Counter { usage: 2, limit: Some(5), ..Counter::default() });
        assert_eq!(all["mlx4_0"].objects, Counter { usage: 20, limit: None, ..Counter::default() });
    }
}
