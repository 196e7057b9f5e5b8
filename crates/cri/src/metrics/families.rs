//! The table of all metrics.

use vaquita_proto::cri::MetricType;

use super::measure::{Measured, MeasuredPod};
use super::{Family, Labelled, Read};

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// Microseconds of a second.
const MICROS: u64 = 1_000_000;

/// What pods have.
pub(super) const POD: &[Family<MeasuredPod>] = &[
    network("container_network_receive_bytes_total", "Bytes received.", |of| of.counters(0)),
    network("container_network_receive_packets_total", "Packets received.", |of| of.counters(1)),
    network(
        "container_network_receive_packets_dropped_total",
        "Packets that were dropped when they were to be received.",
        |of| of.counters(3),
    ),
    network("container_network_receive_errors_total", "Errors of packets received.", |of| of.counters(2)),
    network("container_network_transmit_bytes_total", "Bytes sent.", |of| of.counters(8)),
    network("container_network_transmit_packets_total", "Packets sent.", |of| of.counters(9)),
    network(
        "container_network_transmit_packets_dropped_total",
        "Packets that were dropped when they were to be sent.",
        |of| of.counters(11),
    ),
    network("container_network_transmit_errors_total", "Errors of packets sent.", |of| of.counters(10)),
];

/// What containers have.
pub(super) const CONTAINER: &[Family<Measured>] = &[
    gauge("container_last_seen", "When the container was measured last, in seconds since 1970.", |of| {
        Some(of.now)
    }),
    gauge("container_start_time_seconds", "When the container was started, in seconds since 1970.", |of| {
        Some(of.started)
    }),
    counter("container_cpu_usage_seconds_total", "CPU time in all, in seconds.", |of| {
        Some(of.cpu()?.usage_ns / SECOND)
    }),
    counter("container_cpu_user_seconds_total", "CPU time in user mode, in seconds.", |of| {
        Some(of.cpu()?.user_ns / SECOND)
    }),
    counter("container_cpu_system_seconds_total", "CPU time in the kernel, in seconds.", |of| {
        Some(of.cpu()?.system_ns / SECOND)
    }),
    counter("container_cpu_cfs_periods_total", "Periods of the CPU limit that have passed.", |of| {
        Some(of.cpu()?.periods)
    }),
    counter("container_cpu_cfs_throttled_periods_total", "Periods in which the CPU limit was hit.", |of| {
        Some(of.cpu()?.throttled_periods)
    }),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Seconds that work was held back by the CPU limit.",
        |of| Some(of.cpu()?.throttled_ns / SECOND),
    ),
    gauge(
        "container_memory_usage_bytes",
        "Memory that is charged to the container, with the page cache, in bytes.",
        |of| Some(of.memory()?.usage),
    ),
    gauge(
        "container_memory_working_set_bytes",
        "Memory that is charged to the container without the inactive page cache, in bytes.",
        |of| Some(of.memory()?.working_set),
    ),
    gauge("container_memory_rss", "Anonymous memory, in bytes.", |of| Some(of.memory()?.rss)),
    gauge("container_memory_cache", "Page cache, in bytes.", |of| Some(of.memory()?.cache)),
    gauge("container_memory_swap", "Swap in use, in bytes.", |of| Some(of.memory()?.swap)),
    gauge(
        "container_memory_max_usage_bytes",
        "The most memory that was charged at a time, in bytes.",
        |of| Some(of.memory_details()?.memory.max_usage),
    ),
    gauge("container_memory_kernel_usage", "Memory of the kernel, in bytes.", |of| {
        Some(of.memory_details()?.kernel.usage)
    }),
    gauge("container_memory_mapped_file", "Mapped files, in bytes.", |of| {
        of.memory_stat("mapped_file", "file_mapped")
    }),
    gauge("container_memory_total_active_file_bytes", "Page cache that was used lately, in bytes.", |of| {
        of.memory_stat("active_file", "active_file")
    }),
    gauge(
        "container_memory_total_inactive_file_bytes",
        "Page cache that was not used lately, in bytes.",
        |of| of.memory_stat("inactive_file", "inactive_file"),
    ),
    counter("container_memory_failcnt", "How often the memory limit was hit.", |of| {
        Some(of.memory_details()?.memory.failures)
    }),
    counter_by("container_memory_failures_total", "Page faults.", &["failure_type", "scope"], |of| {
        of.faults()
    }),
    counter("container_oom_events_total", "Processes that the kernel killed for want of memory.", |of| {
        of.oom_kills
    }),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Seconds in which some work waited for a CPU.",
        |of| Some(of.stats()?.cpu_pressure?.some.total / MICROS),
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Seconds in which all work waited for a CPU.",
        |of| Some(of.stats()?.cpu_pressure?.full.total / MICROS),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Seconds in which some work waited for memory.",
        |of| Some(of.stats()?.memory_pressure?.some.total / MICROS),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Seconds in which all work waited for memory.",
        |of| Some(of.stats()?.memory_pressure?.full.total / MICROS),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Seconds in which some work waited for IO.",
        |of| Some(of.stats()?.io_pressure?.some.total / MICROS),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Seconds in which all work waited for IO.",
        |of| Some(of.stats()?.io_pressure?.full.total / MICROS),
    ),
    counter_by("container_fs_reads_total", "Read operations.", &["device"], |of| {
        of.io(|io| &io.serviced, "Read")
    }),
    counter_by("container_fs_writes_total", "Write operations.", &["device"], |of| {
        of.io(|io| &io.serviced, "Write")
    }),
    counter_by("container_fs_reads_bytes_total", "Bytes read.", &["device"], |of| {
        of.io(|io| &io.service_bytes, "Read")
    }),
    counter_by("container_fs_writes_bytes_total", "Bytes written.", &["device"], |of| {
        of.io(|io| &io.service_bytes, "Write")
    }),
    counter_by(
        "container_blkio_device_usage_total",
        "Bytes by kind of operation.",
        &["device", "major", "minor", "operation"],
        |of| of.blkio(),
    ),
    gauge_by("container_fs_usage_bytes", "Bytes of the writable layer.", &["device"], |of| {
        of.disk(|disk| disk.used)
    }),
    gauge_by(
        "container_fs_limit_bytes",
        "Size of the filesystem that holds the writable layer, in bytes.",
        &["device"],
        |of| of.disk(|disk| disk.size),
    ),
    gauge_by(
        "container_fs_inodes_total",
        "Inodes of the filesystem that holds the writable layer.",
        &["device"],
        |of| of.disk(|disk| disk.inodes),
    ),
    gauge_by("container_fs_inodes_free", "Inodes of that filesystem that are free.", &["device"], |of| {
        of.disk(|disk| disk.inodes_free)
    }),
    gauge("container_processes", "Processes.", |of| Some(of.processes.as_ref()?.processes)),
    gauge("container_file_descriptors", "Open file descriptors of all processes.", |of| {
        Some(of.processes.as_ref()?.descriptors)
    }),
    gauge("container_sockets", "Open sockets of all processes.", |of| Some(of.processes.as_ref()?.sockets)),
    gauge("container_threads", "Threads of all processes.", |of| Some(of.stats()?.pids?.current)),
    gauge("container_threads_max", "Threads that there may be; 0 without a limit.", |of| {
        Some(of.stats()?.pids?.limit.unwrap_or_default())
    }),
    gauge_by(
        "container_ulimits_soft",
        "Soft limits of the first process; the largest number where there is none.",
        &["ulimit"],
        |of| of.ulimits(),
    ),
    gauge("container_spec_cpu_period", "Period of the CPU limit, in microseconds.", |of| {
        positive(of.resources.cpu_period)
    }),
    gauge("container_spec_cpu_quota", "CPU limit in a period, in microseconds.", |of| {
        positive(of.resources.cpu_quota)
    }),
    gauge("container_spec_cpu_shares", "CPU weight.", |of| positive(of.resources.cpu_shares)),
    gauge("container_spec_memory_limit_bytes", "Memory limit; 0 without one.", |of| {
        Some(or_none(of.resources.memory_limit_in_bytes))
    }),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Limit of memory and swap together; 0 without one.",
        |of| Some(or_none(of.resources.memory_swap_limit_in_bytes)),
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is protected when memory runs out; 0 where none is.",
        |of| Some(of.reservation()),
    ),
];

const fn counter(
    name: &'static str,
    help: &'static str,
    read: fn(&Measured) -> Option<u64>,
) -> Family<Measured> {
    Family { name, help, kind: MetricType::Counter, labels: &[], read: Read::One(read) }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    read: fn(&Measured) -> Option<u64>,
) -> Family<Measured> {
    Family { name, help, kind: MetricType::Gauge, labels: &[], read: Read::One(read) }
}

const fn counter_by(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: fn(&Measured) -> Vec<Labelled>,
) -> Family<Measured> {
    Family { name, help, kind: MetricType::Counter, labels, read: Read::Many(read) }
}

const fn gauge_by(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: fn(&Measured) -> Vec<Labelled>,
) -> Family<Measured> {
    Family { name, help, kind: MetricType::Gauge, labels, read: Read::Many(read) }
}

const fn network(
    name: &'static str,
    help: &'static str,
    read: fn(&MeasuredPod) -> Vec<Labelled>,
) -> Family<MeasuredPod> {
    Family { name, help, kind: MetricType::Counter, labels: &["interface"], read: Read::Many(read) }
}

/// What was asked for, if it was.
fn positive(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}

/// What was asked for; 0 where nothing was, or no limit.
fn or_none(value: i64) -> u64 {
    positive(value).unwrap_or_default()
}
