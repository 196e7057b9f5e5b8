//! The limits of a group, as the OCI specification names them.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxDeviceCgroup, LinuxDeviceType, LinuxInterfacePriority, LinuxMemory, LinuxResources,
    LinuxThrottleDevice, LinuxWeightDevice,
};

use crate::device::{Access, DeviceKind, DeviceRule};

/// What a group may use. Everything that is none is left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Relative CPU weight on the scale of v1: 2 to 262144, 1024 is one CPU's worth by Kubernetes' convention. What is beyond
    /// counts as the end of the range.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period; negative for no limit.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds, 1000 to 1000000.
    pub cpu_period: Option<u64>,
    /// Microseconds that may be used above the quota, saved from earlier periods.
    pub cpu_burst: Option<u64>,
    /// Microseconds per realtime period for real-time processes; v1 only, with CONFIG_RT_GROUP_SCHED.
    pub cpu_realtime_runtime: Option<i64>,
    /// That period in microseconds.
    pub cpu_realtime_period: Option<u64>,
    /// 1 puts the group below all others that are not idle, 0 is normal.
    pub cpu_idle: Option<i64>,
    /// CPUs as a list: `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes as a list.
    pub cpuset_mems: Option<String>,
    /// Bytes; -1 for no limit.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together, as v1 and the OCI specification count; -1 for no limit.
    pub memory_swap: Option<i64>,
    /// Bytes that the kernel tries to keep for the group, or to which it tries to hold it under pressure (v1).
    /// -1 for no limit.
    pub memory_reservation: Option<i64>,
    /// Bytes of kernel memory (v1 up to Linux 5.15; later kernels refuse it, v2 counts it as memory). Zero and less is no
    /// limit.
    pub memory_kernel: Option<i64>,
    /// Bytes of buffers of TCP (v1 only). Zero and less is no limit.
    pub memory_kernel_tcp: Option<i64>,
    /// Whether groups inside count towards this one. They always do in v2 and since Linux 5.11, which refuse `false`.
    pub memory_use_hierarchy: Option<bool>,
    /// Refuses a limit of memory that is below what is in use, where v2 would kill processes. v1 always does.
    pub memory_check_before_update: bool,
    /// 0 to 100; v1 only.
    pub memory_swappiness: Option<u64>,
    /// Stops processes at the limit instead of killing one; v1 only.
    pub disable_oom_killer: bool,
    /// Number of processes and threads, of which one is allowed in any case, as with runc; negative for no limit.
    pub pids_limit: Option<i64>,
    /// Bytes of huge pages, by page size (`2MB`); negative for no limit.
    pub hugepages: Vec<(String, i64)>,
    /// Relative weight of block IO, 10 to 1000.
    pub io_weight: Option<u16>,
    /// The same of the group's own processes against the groups inside (v1 with the CFQ scheduler, gone in Linux 5.0).
    pub io_leaf_weight: Option<u16>,
    /// The same for single devices.
    pub io_weight_devices: Vec<WeightDevice>,
    /// Bytes per second read.
    pub io_read_bps: Vec<ThrottleDevice>,
    /// Bytes per second written.
    pub io_write_bps: Vec<ThrottleDevice>,
    /// Reads per second.
    pub io_read_iops: Vec<ThrottleDevice>,
    /// Writes per second.
    pub io_write_iops: Vec<ThrottleDevice>,
    /// The mark on packets of the group's processes (v1 only).
    pub net_class_id: Option<u32>,
    /// The priority of their packets, by interface of the caller's network namespace (v1 only).
    pub net_priorities: Vec<(String, u32)>,
    /// What may be used of RDMA devices, by their names.
    pub rdma: BTreeMap<String, RdmaLimit>,
    /// Files of v2 with their values, written last; each line by itself.
    pub unified: BTreeMap<String, String>,
    /// Which devices may be used: rules in order, a later one overrides an earlier one, what none names is denied. None
    /// leaves the group as it is, which for a new one is as its parent.
    pub devices: Option<Vec<DeviceRule>>,
}

/// An IO weight for one block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightDevice {
    /// Major and minor number.
    pub device: (i64, i64),
    /// 10 to 1000.
    pub weight: Option<u16>,
    /// 10 to 1000; see [`Resources::io_leaf_weight`].
    pub leaf_weight: Option<u16>,
}

/// What may be used of an RDMA device. Nothing set leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RdmaLimit {
    /// Open handles of the device.
    pub handles: Option<u32>,
    /// Objects made on it.
    pub objects: Option<u32>,
}

/// An IO limit for one block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleDevice {
    /// Major and minor number.
    pub device: (i64, i64),
    /// Bytes or operations per second; 0 for no limit.
    pub rate: u64,
}

impl From<&LinuxResources> for Resources {
    /// Takes over what is set. The device list of a container is always a list: an absent one denies everything
    /// (GHSA-g54h-m393-cpwq).
    fn from(oci: &LinuxResources) -> Self {
        let mut own = Self { devices: Some(Vec::new()), ..Self::default() };
        if let Some(rules) = oci.devices() {
            own.devices = Some(rules.iter().filter_map(device_rule).collect());
        }
        if let Some(cpu) = oci.cpu() {
            own.cpu_shares = cpu.shares();
            own.cpu_quota = cpu.quota();
            own.cpu_period = cpu.period();
            own.cpu_burst = cpu.burst();
            own.cpu_realtime_runtime = cpu.realtime_runtime();
            own.cpu_realtime_period = cpu.realtime_period();
            own.cpu_idle = cpu.idle();
            own.cpuset_cpus.clone_from(cpu.cpus());
            own.cpuset_mems.clone_from(cpu.mems());
        }
        if let Some(memory) = oci.memory() {
            memory_from(memory, &mut own);
        }
        own.pids_limit = oci.pids().map(|pids| pids.limit());
        for limit in oci.hugepage_limits().iter().flatten() {
            own.hugepages.push((limit.page_size().clone(), limit.limit()));
        }
        if let Some(io) = oci.block_io() {
            io_from(io, &mut own);
        }
        if let Some(network) = oci.network() {
            own.net_class_id = network.class_id();
            let one = |entry: &LinuxInterfacePriority| (entry.name().clone(), entry.priority());
            own.net_priorities = network.priorities().iter().flatten().map(one).collect();
        }
        for (device, limit) in oci.rdma().iter().flatten() {
            let limit = RdmaLimit { handles: limit.hca_handles(), objects: limit.hca_objects() };
            own.rdma.insert(device.clone(), limit);
        }
        for (file, value) in oci.unified().iter().flatten() {
            own.unified.insert(file.clone(), value.clone());
        }
        own
    }
}

fn memory_from(memory: &LinuxMemory, own: &mut Resources) {
    own.memory_limit = memory.limit();
    own.memory_swap = memory.swap();
    own.memory_reservation = memory.reservation();
    own.memory_kernel = memory.kernel();
    own.memory_kernel_tcp = memory.kernel_tcp();
    own.memory_swappiness = memory.swappiness();
    own.memory_use_hierarchy = memory.use_hierarchy();
    own.memory_check_before_update = memory.check_before_update().unwrap_or_default();
    own.disable_oom_killer = memory.disable_oom_killer().unwrap_or_default();
}

fn io_from(io: &LinuxBlockIo, own: &mut Resources) {
    own.io_weight = io.weight();
    own.io_leaf_weight = io.leaf_weight();
    let weight = |entry: &LinuxWeightDevice| WeightDevice {
        device: (entry.major(), entry.minor()),
        weight: entry.weight(),
        leaf_weight: entry.leaf_weight(),
    };
    own.io_weight_devices = io.weight_device().iter().flatten().map(weight).collect();
    let throttles = |list: &Option<Vec<LinuxThrottleDevice>>| {
        let device = |entry: &LinuxThrottleDevice| ThrottleDevice {
            device: (entry.major(), entry.minor()),
            rate: entry.rate(),
        };
        list.iter().flatten().map(device).collect::<Vec<_>>()
    };
    own.io_read_bps = throttles(io.throttle_read_bps_device());
    own.io_write_bps = throttles(io.throttle_write_bps_device());
    own.io_read_iops = throttles(io.throttle_read_iops_device());
    own.io_write_iops = throttles(io.throttle_write_iops_device());
}

/// None for a rule that can match nothing: a FIFO is no device and the filter never sees one. A number that no device
/// has narrows what is allowed to nothing, and widens what is denied to everything.
fn device_rule(oci: &LinuxDeviceCgroup) -> Option<DeviceRule> {
    let kind = match oci.typ() {
        Some(LinuxDeviceType::P) => return None,
        Some(LinuxDeviceType::B) => DeviceKind::Block,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceKind::Char,
        Some(LinuxDeviceType::A) | None => DeviceKind::All,
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Some(None),
        // The eBPF program compares with a signed number; real ones have 12 and 20 bits.
        Some(number) => match i32::try_from(number).ok().and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Some(Some(number)),
            None if oci.allow() => None,
            None => Some(None),
        },
    };
    let access = oci.access().as_deref().map_or(Access::ALL, Access::from_letters);
    Some(DeviceRule {
        allow: oci.allow(),
        kind,
        major: number(oci.major())?,
        minor: number(oci.minor())?,
        access,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: &str) -> Resources {
        Resources::from(&serde_json::from_str::<LinuxResources>(json).unwrap())
    }

    #[test]
    fn no_device_list_denies_all() {
        for json in ["{}", r#"{"devices":[]}"#, r#"{"devices":null}"#] {
            assert_eq!(resources(json).devices, Some(Vec::new()), "{json}");
        }
    }

    #[test]
    fn a_device_number_that_is_none_never_allows_more() {
        let rules = resources(
            r#"{"devices":[{"allow":true,"type":"c","major":4294967296},{"allow":true,"type":"p"},
                {"allow":true,"type":"b","minor":-2},{"allow":false,"type":"b","major":-7}]}"#,
        );
        let denied = DeviceRule {
            allow: false,
            kind: DeviceKind::Block,
            major: None,
            minor: None,
            access: Access::ALL,
        };
        assert_eq!(rules.devices, Some(vec![denied]));
    }

    #[test]
    fn what_kubernetes_sets() {
        let own = resources(
            r#"{"cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"0"},
                "memory":{"limit":1048576,"swap":1048576},"pids":{"limit":100},
                "hugepageLimits":[{"pageSize":"2MB","limit":0}],"unified":{"memory.oom.group":"1"},
                "devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rw"}]}"#,
        );
        assert_eq!((own.cpu_shares, own.cpu_quota, own.cpu_period), (Some(512), Some(50_000), Some(100_000)));
        assert_eq!(
            (own.memory_limit, own.memory_swap, own.pids_limit),
            (Some(1 << 20), Some(1 << 20), Some(100))
        );
        assert_eq!(own.hugepages, [("2MB".to_owned(), 0)]);
        assert_eq!(own.unified["memory.oom.group"], "1");
        let rules = own.devices.unwrap();
        assert_eq!(
            rules[0],
            DeviceRule { allow: false, kind: DeviceKind::All, major: None, minor: None, access: Access::ALL }
        );
        assert_eq!(rules[1].access, Access::READ | Access::WRITE);
    }
}
