//! `events`: what a container uses, and that it ran out of memory.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::{Map, Value, json};
use vaquita_cgroup::{Cgroup, Pressure, PressureAverages, Stats};

use crate::{Container, Error, Host, Id, Kind};

/// What a container uses now, as an event of type `stats` in runc's form.
///
/// # Errors
/// [`Kind::NotRunning`]; those of reading.
pub fn stats(host: &Host, id: &Id) -> Result<Value, Error> {
    let (_, cgroup) = running(host, id)?;
    Ok(stats_event(id, &cgroup.stats()?))
}

/// How often the count of killed processes is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Tells `tell` of what the container uses, every `interval`, and of processes that were killed for want of memory, until
/// it ends.
///
/// # Errors
/// As [`stats`], and those of `tell`.
pub fn watch(
    host: &Host,
    id: &Id,
    interval: Duration,
    mut tell: impl FnMut(&Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let (container, cgroup) = running(host, id)?;
    let init = container.init()?.ok_or_else(Error::not_running)?;
    let mut kills = cgroup.oom_kills().unwrap_or_default();
    let mut next = Instant::now() + interval;
    loop {
        let wait = next.saturating_duration_since(Instant::now()).min(LOOK);
        let wait = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        let mut polled = [PollFd::from_borrowed_fd(init.as_fd(), PollFlags::IN)];
        let ended = match rustix::event::poll(&mut polled, Some(&wait)) {
            Ok(ready) => ready > 0,
            Err(rustix::io::Errno::INTR) => false,
            Err(errno) => return Err(Error::kernel("poll(<first process>)", errno)),
        };
        let now = cgroup.oom_kills().unwrap_or(kills);
        for _ in kills..now {
            tell(&json!({"type": "oom", "id": id.as_str()}))?;
        }
        kills = now;
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            tell(&stats_event(id, &cgroup.stats()?))?;
            next += interval;
        }
    }
}

fn running(host: &Host, id: &Id) -> Result<(Container, Cgroup), Error> {
    let container = Container::open(host, id)?;
    if container.init()?.is_none() {
        return Err(Error::new(
            Kind::NotRunning,
            format!("container with id {id} is not running: container not running"),
        ));
    }
    let cgroup = container.cgroup()?.ok_or_else(|| {
        Error::new(Kind::Unsupported, "the container has no cgroup, and without one nothing is counted")
    })?;
    Ok((container, cgroup))
}

fn stats_event(id: &Id, stats: &Stats) -> Value {
    json!({"type": "stats", "id": id.as_str(), "data": data(stats)})
}

fn data(stats: &Stats) -> Value {
    let mut cpu = Map::new();
    if let Some(used) = stats.cpu {
        cpu.insert(
            "usage".to_owned(),
            json!({"total": used.usage_ns, "kernel": used.system_ns, "user": used.user_ns}),
        );
        cpu.insert(
            "throttling".to_owned(),
            json!({
                "periods": used.periods,
                "throttledPeriods": used.throttled_periods,
                "throttledTime": used.throttled_ns,
            }),
        );
    }
    with_pressure(&mut cpu, stats.cpu_pressure.as_ref());
    let mut memory = Map::new();
    if let Some(used) = stats.memory {
        memory.insert("cache".to_owned(), json!(used.cache));
        // As the kernel of v1 prints no limit, and runc with it.
        memory.insert(
            "usage".to_owned(),
            json!({"limit": used.limit.unwrap_or(u64::MAX), "usage": used.usage}),
        );
        memory.insert("swap".to_owned(), json!({"usage": used.swap}));
        memory.insert(
            "raw".to_owned(),
            json!({
                "anon": used.rss,
                "file": used.cache,
                "pgfault": used.page_faults,
                "pgmajfault": used.major_page_faults,
                "working_set": used.working_set,
            }),
        );
    }
    with_pressure(&mut memory, stats.memory_pressure.as_ref());
    let pids = stats.pids.unwrap_or_default();
    let mut bytes = Vec::new();
    let mut operations = Vec::new();
    for io in &stats.io {
        let entry = |op: &str, value: u64| json!({"major": io.device.major, "minor": io.device.minor, "op": op, "value": value});
        bytes.extend([entry("Read", io.read_bytes), entry("Write", io.write_bytes)]);
        operations.extend([entry("Read", io.reads), entry("Write", io.writes)]);
    }
    let mut blkio = Map::new();
    if !bytes.is_empty() {
        blkio.insert("ioServiceBytesRecursive".to_owned(), Value::Array(bytes));
        blkio.insert("ioServicedRecursive".to_owned(), Value::Array(operations));
    }
    with_pressure(&mut blkio, stats.io_pressure.as_ref());
    json!({
        "cpu": cpu,
        "memory": memory,
        "pids": {"current": pids.current, "limit": pids.limit.unwrap_or_default()},
        "blkio": blkio,
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

fn with_pressure(section: &mut Map<String, Value>, pressure: Option<&Pressure>) {
    let Some(pressure) = pressure else { return };
    // In hundredths of a percent here, in percent there.
    let percent = |hundredths: u64| f64::from(u32::try_from(hundredths).unwrap_or(u32::MAX)) / 100.0;
    let averages = |from: &PressureAverages| {
        json!({
            "avg10": percent(from.avg10),
            "avg60": percent(from.avg60),
            "avg300": percent(from.avg300),
            "total": from.total,
        })
    };
    section.insert(
        "psi".to_owned(),
        json!({"some": averages(&pressure.some), "full": averages(&pressure.full)}),
    );
}
