//! Statistics in runc's form (its types/events.go), which engines and monitors read.

use serde_json::{Map, Value, json};
use vaquita_cgroup::{
    Counter, CpuSet, Details, IoDetails, IoEntry, MemoryDetails, Pressure, PressureAverages,
};

/// The `data` of an event of type `stats`.
pub(super) fn data(details: &Details) -> Value {
    let stats = &details.stats;
    let mut memory = details.memory.as_ref().map(memory).unwrap_or_default();
    memory.insert("cache".to_owned(), json!(stats.memory.unwrap_or_default().cache));
    with_pressure(&mut memory, stats.memory_pressure.as_ref());
    let mut blkio = blkio(&details.io);
    with_pressure(&mut blkio, stats.io_pressure.as_ref());
    let pids = stats.pids.unwrap_or_default();
    let hugetlb: Map<String, Value> = details
        .hugepages
        .iter()
        .map(|(size, used)| {
            (size.clone(), json!({"usage": used.usage, "max": used.max_usage, "failcnt": used.failures}))
        })
        .collect();
    json!({
        "cpu": cpu(details),
        "cpuset": details.cpuset.as_ref().map_or_else(|| json!({}), cpuset),
        "memory": memory,
        "pids": {"current": pids.current, "limit": pids.limit.unwrap_or_default()},
        "blkio": blkio,
        "hugetlb": hugetlb,
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

fn cpu(details: &Details) -> Value {
    let used = details.stats.cpu.unwrap_or_default();
    let mut usage = json!({"total": used.usage_ns, "kernel": used.system_ns, "user": used.user_ns});
    if !details.per_cpu.is_empty() {
        usage["percpu"] = details.per_cpu.iter().map(|one| one.total).collect();
        usage["percpu_kernel"] = details.per_cpu.iter().map(|one| one.kernel).collect();
        usage["percpu_user"] = details.per_cpu.iter().map(|one| one.user).collect();
    }
    let mut cpu = Map::new();
    cpu.insert("usage".to_owned(), usage);
    let throttling = json!({
        "periods": used.periods,
        "throttledPeriods": used.throttled_periods,
        "throttledTime": used.throttled_ns,
    });
    cpu.insert("throttling".to_owned(), throttling);
    with_pressure(&mut cpu, details.stats.cpu_pressure.as_ref());
    Value::Object(cpu)
}

fn cpuset(set: &CpuSet) -> Value {
    let mut all = json!({"cpus": set.cpus, "mems": set.mems});
    for (name, value) in &set.flags {
        all[name] = json!(value);
    }
    all
}

fn memory(memory: &MemoryDetails) -> Map<String, Value> {
    let mut all = Map::new();
    for (name, counter) in [
        ("usage", &memory.memory),
        ("swap", &memory.memory_and_swap),
        ("kernel", &memory.kernel),
        ("kernelTCP", &memory.kernel_tcp),
    ] {
        all.insert(name.to_owned(), entry(counter));
    }
    all.insert("raw".to_owned(), json!(memory.raw));
    all
}

/// A limit that is none is the largest number, as v2 has it in runc.
fn entry(counter: &Counter) -> Value {
    json!({
        "limit": counter.limit.unwrap_or(u64::MAX),
        "usage": counter.usage,
        "max": counter.max_usage,
        "failcnt": counter.failures,
    })
}

fn blkio(io: &IoDetails) -> Map<String, Value> {
    let entry = |entry: &IoEntry| json!({"major": entry.device.major, "minor": entry.device.minor, "op": entry.operation, "value": entry.value});
    [
        ("ioServiceBytesRecursive", &io.service_bytes),
        ("ioServicedRecursive", &io.serviced),
        ("ioQueueRecursive", &io.queued),
        ("ioServiceTimeRecursive", &io.service_time),
        ("ioWaitTimeRecursive", &io.wait_time),
        ("ioMergedRecursive", &io.merged),
        ("ioTimeRecursive", &io.time),
        ("sectorsRecursive", &io.sectors),
    ]
    .into_iter()
    .filter(|(_, list)| !list.is_empty())
    .map(|(name, list)| (name.to_owned(), list.iter().map(entry).collect()))
    .collect()
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
