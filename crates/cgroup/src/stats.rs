//! What a group has used.

mod details;

use std::os::fd::BorrowedFd;

use crate::files::{read, read_if_there};
use crate::group::key;
use crate::{Result, Version};

pub use details::{Counter, CpuSet, Details, IoDetails, IoEntry, MemoryDetails, PerCpu, RdmaUse};
pub(crate) use details::{read_details, read_metered};

/// A snapshot of a group's use. Parts of controllers that the host lacks are none or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub pids: Option<Pids>,
    /// Block IO, by device.
    pub io: Vec<Io>,
    /// How long work waited for a CPU; v2 hierarchies only (Linux 5.2 with CONFIG_PSI).
    pub cpu_pressure: Option<Pressure>,
    /// How long work waited for memory.
    pub memory_pressure: Option<Pressure>,
    /// How long work waited for IO.
    pub io_pressure: Option<Pressure>,
}

/// CPU time since the group was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Nanoseconds, in all.
    pub usage_ns: u64,
    /// Nanoseconds in user mode.
    pub user_ns: u64,
    /// Nanoseconds in the kernel.
    pub system_ns: u64,
    /// Periods of the CPU limit that have passed.
    pub periods: u64,
    /// Periods in which the limit was hit.
    pub throttled_periods: u64,
    /// Nanoseconds that work was held back by the limit.
    pub throttled_ns: u64,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is charged, with the page cache.
    pub usage: u64,
    /// What is charged without the inactive page cache: what Kubernetes calls the working set.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Swap in use.
    pub swap: u64,
    /// Page faults since the group was made.
    pub page_faults: u64,
    /// Those that needed IO.
    pub major_page_faults: u64,
    /// The limit; none without one.
    pub limit: Option<u64>,
    /// What the working set may still grow by; none without a limit.
    pub available: Option<u64>,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// How many there are.
    pub current: u64,
    /// How many there may be; none without a limit.
    pub limit: Option<u64>,
}

/// A block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockDevice {
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
}

/// IO of one block device since the group was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// Which one.
    pub device: BlockDevice,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// While some work waited.
    pub some: PressureAverages,
    /// While all work waited.
    pub full: PressureAverages,
}

/// Shares of time in hundredths of a percent, as the kernel prints them: 150 is 1.50 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PressureAverages {
    /// Over the last 10 seconds.
    pub avg10: u64,
    /// Over the last minute.
    pub avg60: u64,
    /// Over the last five minutes.
    pub avg300: u64,
    /// Microseconds in all.
    pub total: u64,
}

/// Finds the directory and version of a controller.
type Find<'a> = dyn Fn(&str) -> Option<(BorrowedFd<'a>, Version)> + 'a;

pub(crate) fn read_all<'a>(find: &Find<'a>, v2: Option<BorrowedFd<'a>>) -> Result<Stats> {
    Ok(Stats {
        cpu: cpu(find)?,
        memory: find("memory").map(|(dir, version)| memory(dir, version)).transpose()?.flatten(),
        pids: find("pids").map(|(dir, _)| pids(dir)).transpose()?.flatten(),
        io: find("io").map(|(dir, version)| io(dir, version)).transpose()?.unwrap_or_default(),
        cpu_pressure: pressure(v2, "cpu.pressure")?,
        memory_pressure: pressure(v2, "memory.pressure")?,
        io_pressure: pressure(v2, "io.pressure")?,
    })
}

fn cpu(find: &Find<'_>) -> Result<Option<Cpu>> {
    let mut cpu = Cpu::default();
    match (find("cpuacct"), find("cpu")) {
        (Some((acct, Version::V1)), limit) => {
            cpu.usage_ns = number(&read(acct, "cpuacct.usage")?).unwrap_or_default();
            let part = |file: &str| {
                Ok(read_if_there(acct, file)?.and_then(|text| number(&text)).unwrap_or_default())
            };
            cpu.user_ns = part("cpuacct.usage_user")?;
            cpu.system_ns = part("cpuacct.usage_sys")?;
            if let Some((dir, Version::V1)) = limit {
                let stat = read(dir, "cpu.stat")?;
                cpu.periods = key(&stat, "nr_periods").unwrap_or_default();
                cpu.throttled_periods = key(&stat, "nr_throttled").unwrap_or_default();
                cpu.throttled_ns = key(&stat, "throttled_time").unwrap_or_default();
            }
        }
        (_, Some((dir, Version::V2))) => {
            let stat = read(dir, "cpu.stat")?;
            let micros = |name: &str| key(&stat, name).unwrap_or_default() * 1000;
            cpu.usage_ns = micros("usage_usec");
            cpu.user_ns = micros("user_usec");
            cpu.system_ns = micros("system_usec");
            cpu.periods = key(&stat, "nr_periods").unwrap_or_default();
            cpu.throttled_periods = key(&stat, "nr_throttled").unwrap_or_default();
            cpu.throttled_ns = micros("throttled_usec");
        }
        _ => return Ok(None),
    }
    Ok(Some(cpu))
}

fn memory(dir: BorrowedFd<'_>, version: Version) -> Result<Option<Memory>> {
    let file = |v1, v2| if version == Version::V1 { v1 } else { v2 };
    let value = |file: &str| Ok::<_, crate::Error>(read_if_there(dir, file)?.and_then(|text| number(&text)));
    // None in v2 when the controller is not switched on for this group.
    let Some(usage) = value(file("memory.usage_in_bytes", "memory.current"))? else { return Ok(None) };
    let stat = read(dir, "memory.stat")?;
    let stat = |v1: &str, v2: &str| key(&stat, file_name(version, v1, v2)).unwrap_or_default();
    let swap = match version {
        Version::V1 => stat("total_swap", ""),
        Version::V2 => value("memory.swap.current")?.unwrap_or_default(),
    };
    let limit = value(file("memory.limit_in_bytes", "memory.max"))?.filter(|limit| *limit < UNLIMITED);
    let working_set = usage.saturating_sub(stat("total_inactive_file", "inactive_file"));
    Ok(Some(Memory {
        usage,
        working_set,
        rss: stat("total_rss", "anon"),
        cache: stat("total_cache", "file"),
        swap,
        page_faults: stat("total_pgfault", "pgfault"),
        major_page_faults: stat("total_pgmajfault", "pgmajfault"),
        limit,
        available: limit.map(|limit| limit.saturating_sub(working_set)),
    }))
}

/// v1 prints "no limit" as the largest number of pages in bytes.
pub(crate) const UNLIMITED: u64 = i64::MAX as u64 - (1 << 20);

fn file_name<'a>(version: Version, v1: &'a str, v2: &'a str) -> &'a str {
    if version == Version::V1 { v1 } else { v2 }
}

fn pids(dir: BorrowedFd<'_>) -> Result<Option<Pids>> {
    let Some(current) = read_if_there(dir, "pids.current")?.and_then(|text| number(&text)) else {
        return Ok(None);
    };
    let limit = read_if_there(dir, "pids.max")?.and_then(|text| number(&text));
    Ok(Some(Pids { current, limit }))
}

fn io(dir: BorrowedFd<'_>, version: Version) -> Result<Vec<Io>> {
    if version == Version::V2 {
        return Ok(read_if_there(dir, "io.stat")?.map(|text| parse_io_v2(&text)).unwrap_or_default());
    }
    let text = |file: &str| Ok::<_, crate::Error>(read_if_there(dir, file)?.unwrap_or_default());
    let bytes = text("blkio.throttle.io_service_bytes_recursive")?;
    let operations = text("blkio.throttle.io_serviced_recursive")?;
    Ok(parse_io_v1(&bytes, &operations))
}

/// Lines like `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn parse_io_v2(text: &str) -> Vec<Io> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let mut io = Io { device: device(words.next()?)?, ..Io::default() };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or_default();
            match name {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.write_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

/// Lines like `8:0 Read 4096`.
fn parse_io_v1(bytes: &str, operations: &str) -> Vec<Io> {
    let mut all = std::collections::BTreeMap::<BlockDevice, Io>::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [number, what, value] = words[..] else { continue };
            let (Some(device), Ok(value)) = (device(number), value.parse()) else { continue };
            let io = all.entry(device).or_insert(Io { device, ..Io::default() });
            match (what, is_bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", true) => io.write_bytes = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    }
    all.into_values().collect()
}

fn device(text: &str) -> Option<BlockDevice> {
    let (major, minor) = text.split_once(':')?;
    Some(BlockDevice { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

fn pressure(dir: Option<BorrowedFd<'_>>, file: &str) -> Result<Option<Pressure>> {
    let Some(dir) = dir else { return Ok(None) };
    Ok(read_if_there(dir, file)?.map(|text| parse_pressure(&text)))
}

/// Lines like `some avg10=0.12 avg60=0.00 avg300=0.00 total=1234`.
fn parse_pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let averages = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            // Two digits behind the point, always.
            let value = value.replace('.', "").parse().unwrap_or_default();
            match name {
                "avg10" => averages.avg10 = value,
                "avg60" => averages.avg60 = value,
                "avg300" => averages.avg300 = value,
                "total" => averages.total = value,
                _ => {}
            }
        }
    }
    pressure
}

/// A file that is one number; none for `max`.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_of_both_versions_reads_alike() {
        let expected = Io {
            device: BlockDevice { major: 254, minor: 0 },
            read_bytes: 4096,
            write_bytes: 8192,
            reads: 1,
            writes: 2,
        };
        assert_eq!(parse_io_v2("254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"), [expected]);
        let bytes = "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 1\n254:0 Total 12288\nTotal 12288\n";
        assert_eq!(parse_io_v1(bytes, "254:0 Read 1\n254:0 Write 2\nTotal 3\n"), [expected]);
        assert!(parse_io_v2("garbage\n\n8 rbytes=1\n").is_empty());
    }

    #[test]
    fn pressure_reads() {
        let text = "some avg10=1.50 avg60=0.02 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        let pressure = parse_pressure(text);
        assert_eq!((pressure.some.avg10, pressure.some.avg60, pressure.some.total), (150, 2, 77));
        assert_eq!(pressure.full.total, 5);
    }
}
