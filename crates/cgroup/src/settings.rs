//! Which files of a group get which values for a set of limits: pure, for v1 and v2.

mod cpu;
mod io;
mod memory;
mod rest;
mod unified;

use std::collections::BTreeSet;

use crate::{Error, Kind, Layout, Resources, Result, Version};

pub use cpu::cpu_weight;
pub use io::io_weight;
pub(crate) use memory::swap_max;

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The controller by its v2 name; `cgroup` for files of v2 itself.
    pub controller: String,
    /// Files with their values, of which the first one that exists is written.
    pub candidates: Vec<(String, String)>,
    /// Whether it is fine that none of the files exists.
    pub optional: bool,
}

impl Write {
    fn new(controller: &str, file: impl Into<String>, value: impl ToString) -> Self {
        let candidates = vec![(file.into(), value.to_string())];
        Self { controller: controller.to_owned(), candidates, optional: false }
    }

    fn or(mut self, file: &str, value: impl ToString) -> Self {
        self.candidates.push((file.to_owned(), value.to_string()));
        self
    }

    fn optional(self) -> Self {
        Self { optional: true, ..self }
    }
}

/// What to write for these limits, without the device rules. Inner lists are to be written in their order or, when that is
/// refused, in the reverse order: each of two values can be the one that the other must not exceed.
///
/// # Errors
/// `Unsupported` when the host has no controller for a limit, `Invalid` for a value that makes no sense.
pub fn writes(resources: &Resources, layout: &Layout) -> Result<Vec<Vec<Write>>> {
    let mut groups = Vec::new();
    cpu::cpu(resources, layout, &mut groups)?;
    cpu::cpuset(resources, layout, &mut groups)?;
    memory::memory(resources, layout, &mut groups)?;
    rest::pids(resources, layout, &mut groups)?;
    rest::hugepages(resources, layout, &mut groups)?;
    io::io(resources, layout, &mut groups)?;
    rest::network(resources, layout, &mut groups)?;
    rest::rdma(resources, layout, &mut groups)?;
    unified::unified(resources, layout, &mut groups)?;
    Ok(groups)
}

/// The controllers that these writes need.
pub(crate) fn controllers(groups: &[Vec<Write>]) -> BTreeSet<&str> {
    groups.iter().flatten().map(|write| write.controller.as_str()).filter(|name| *name != "cgroup").collect()
}

fn version(layout: &Layout, controller: &str, what: &str) -> Result<Version> {
    layout.controller(controller).map(|hierarchy| hierarchy.version).ok_or_else(|| {
        Error::refused(
            Kind::Unsupported,
            format!("{what} needs the {controller} controller, which this host lacks"),
        )
    })
}

/// Fails where the controller is of v2, which has nothing for `what`.
fn v1_only(layout: &Layout, controller: &str, what: &str) -> Result<()> {
    match version(layout, controller, what)? {
        Version::V1 => Ok(()),
        Version::V2 => Err(Error::refused(
            Kind::Unsupported,
            format!(
                "{what} is of cgroup v1: this host has the {controller} controller in v2, which knows no such thing"
            ),
        )),
    }
}

fn invalid(message: String) -> Error {
    Error::refused(Kind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hierarchy, RdmaLimit, ThrottleDevice, WeightDevice};

    fn layout(version: Version, controllers: &[&str]) -> Layout {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Layout::new(vec![Hierarchy { version, mount: "/sys/fs/cgroup".into(), controllers }]).unwrap()
    }

    fn v1() -> Layout {
        layout(
            Version::V1,
            &["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "net_cls", "net_prio", "rdma"],
        )
    }

    fn v2() -> Layout {
        layout(Version::V2, &["cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma"])
    }

    /// `file=value` of each write, those that may be swapped joined by ` + `.
    fn lines(resources: &Resources, layout: &Layout) -> Vec<String> {
        let one = |write: &Write| {
            let all: Vec<_> =
                write.candidates.iter().map(|(file, value)| format!("{file}={value}")).collect();
            all.join(" or ")
        };
        let groups = writes(resources, layout).unwrap();
        groups.iter().map(|group| group.iter().map(one).collect::<Vec<_>>().join(" + ")).collect()
    }

    #[test]
    fn weights() {
        for (shares, weight) in [
            (0, 1),
            (2, 1),
            (3, 2),
            (102, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        assert_eq!([10, 100, 1000].map(io_weight), [1, 910, 10_000]);
    }

    #[test]
    fn a_usual_container() {
        let resources = Resources {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            cpuset_cpus: Some("0-1".into()),
            memory_limit: Some(1 << 20),
            memory_swap: Some(1 << 20),
            pids_limit: Some(64),
            ..Resources::default()
        };
        assert_eq!(
            lines(&resources, &v1()),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000 + cpu.cfs_quota_us=50000",
                "cpuset.cpus=0-1",
                "memory.limit_in_bytes=1048576 + memory.memsw.limit_in_bytes=1048576",
                "pids.max=64",
            ]
        );
        assert_eq!(
            lines(&resources, &v2()),
            [
                "cpu.weight=100",
                "cpu.max=50000 100000",
                "cpuset.cpus=0-1",
                "memory.swap.max=0 + memory.max=1048576",
                "pids.max=64",
            ]
        );
    }

    #[test]
    fn no_limits() {
        let none = Resources {
            cpu_quota: Some(-1),
            memory_limit: Some(-1),
            pids_limit: Some(-1),
            hugepages: vec![("2MB".into(), -1)],
            ..Resources::default()
        };
        assert_eq!(
            lines(&none, &v1()),
            [
                "cpu.cfs_quota_us=-1",
                "memory.limit_in_bytes=-1 + memory.memsw.limit_in_bytes=-1",
                "pids.max=max",
                "hugetlb.2MB.limit_in_bytes=-1",
                "hugetlb.2MB.rsvd.limit_in_bytes=-1",
            ]
        );
        assert_eq!(
            lines(&none, &v2()),
            [
                "cpu.max=max 100000",
                "memory.swap.max=max + memory.max=max",
                "pids.max=max",
                "hugetlb.2MB.max=max",
                "hugetlb.2MB.rsvd.max=max"
            ]
        );
        assert!(lines(&Resources::default(), &v2()).is_empty());
    }

    #[test]
    fn block_io() {
        let device = (8, 0);
        let resources = Resources {
            io_weight: Some(100),
            io_read_bps: vec![ThrottleDevice { device, rate: 1024 }],
            io_write_iops: vec![ThrottleDevice { device, rate: 0 }],
            ..Resources::default()
        };
        assert_eq!(
            lines(&resources, &v1()),
            [
                "blkio.weight=100 or blkio.bfq.weight=100",
                "blkio.throttle.read_bps_device=8:0 1024",
                "blkio.throttle.write_iops_device=8:0 0",
            ]
        );
        assert_eq!(
            lines(&resources, &v2()),
            ["io.bfq.weight=100 or io.weight=910", "io.max=8:0 rbps=1024", "io.max=8:0 wiops=max"]
        );
    }

    #[test]
    fn memory_and_swap() {
        let of = |limit, both| Resources { memory_limit: limit, memory_swap: both, ..Resources::default() };
        for (limit, both, on_v1, on_v2) in [
            (
                Some(4),
                Some(4),
                "memory.limit_in_bytes=4 + memory.memsw.limit_in_bytes=4",
                "memory.swap.max=0 + memory.max=4",
            ),
            (
                Some(4),
                Some(6),
                "memory.limit_in_bytes=4 + memory.memsw.limit_in_bytes=6",
                "memory.swap.max=2 + memory.max=4",
            ),
            (
                Some(4),
                Some(-1),
                "memory.limit_in_bytes=4 + memory.memsw.limit_in_bytes=-1",
                "memory.swap.max=max + memory.max=4",
            ),
            (Some(4), None, "memory.limit_in_bytes=4", "memory.max=4"),
            (Some(4), Some(0), "memory.limit_in_bytes=4", "memory.max=4"),
            (None, Some(-1), "memory.memsw.limit_in_bytes=-1", "memory.swap.max=max"),
        ] {
            assert_eq!(lines(&of(limit, both), &v1()), [on_v1]);
            assert_eq!(lines(&of(limit, both), &v2()), [on_v2]);
        }
        assert_eq!(lines(&of(None, Some(6)), &v1()), ["memory.memsw.limit_in_bytes=6"]);
        assert!(lines(&of(Some(0), Some(0)), &v2()).is_empty());
        let refused =
            |resources: Resources, layout: &Layout| writes(&resources, layout).unwrap_err().to_string();
        assert!(refused(of(Some(4), Some(3)), &v1()).contains("below memory.limit"));
        assert!(refused(of(None, Some(3)), &v2()).contains("needs a memory.limit"));
        assert!(refused(of(Some(-1), Some(3)), &v2()).contains("needs a memory.limit"));
        assert!(refused(of(Some(-2), None), &v2()).contains("memory.limit is a number of bytes"));
        assert!(refused(of(None, Some(i64::MIN)), &v1()).contains("memory.swap is a number of bytes"));
    }

    #[test]
    fn what_only_v1_has() {
        let resources = Resources {
            cpu_realtime_period: Some(1_000_000),
            cpu_realtime_runtime: Some(950_000),
            memory_reservation: Some(7),
            memory_kernel: Some(5),
            memory_kernel_tcp: Some(6),
            memory_swappiness: Some(10),
            memory_use_hierarchy: Some(true),
            disable_oom_killer: true,
            io_leaf_weight: Some(20),
            io_weight_devices: vec![WeightDevice { device: (8, 0), weight: None, leaf_weight: Some(30) }],
            net_class_id: Some(0x10_0001),
            net_priorities: vec![("eth0".into(), 5)],
            ..Resources::default()
        };
        assert_eq!(
            lines(&resources, &v1()),
            [
                "cpu.rt_period_us=1000000 + cpu.rt_runtime_us=950000",
                "",
                "memory.soft_limit_in_bytes=7",
                "memory.kmem.limit_in_bytes=5",
                "memory.kmem.tcp.limit_in_bytes=6",
                "memory.swappiness=10",
                "memory.use_hierarchy=1",
                "memory.oom_control=1",
                "blkio.leaf_weight=20",
                "blkio.leaf_weight_device=8:0 30",
                "net_cls.classid=1048577",
                "net_prio.ifpriomap=eth0 5",
            ]
        );
        let none = Resources::default;
        let alone = [
            (Resources { cpu_realtime_period: Some(1), ..none() }, "cpu.realtimePeriod"),
            (Resources { cpu_realtime_runtime: Some(1), ..none() }, "cpu.realtimeRuntime"),
            (Resources { memory_kernel: Some(1), ..none() }, "memory.kernel "),
            (Resources { memory_kernel_tcp: Some(1), ..none() }, "memory.kernelTCP"),
            (Resources { memory_swappiness: Some(0), ..none() }, "memory.swappiness"),
            (Resources { memory_use_hierarchy: Some(false), ..none() }, "memory.useHierarchy"),
            (Resources { disable_oom_killer: true, ..none() }, "memory.disableOOMKiller"),
            (Resources { io_leaf_weight: Some(10), ..none() }, "blockIO.leafWeight"),
            (Resources { io_weight_devices: resources.io_weight_devices.clone(), ..none() }, "leafWeight"),
            (Resources { net_class_id: Some(1), ..none() }, "network.classID"),
            (Resources { net_priorities: resources.net_priorities, ..none() }, "network.priorities"),
        ];
        for (resources, name) in alone {
            let error = writes(&resources, &v2()).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{name}");
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
        // What stands in the specification's own example asks for nothing.
        let nothing = Resources {
            memory_kernel: Some(-1),
            memory_kernel_tcp: Some(-1),
            memory_use_hierarchy: Some(true),
            memory_check_before_update: true,
            net_class_id: Some(0),
            ..none()
        };
        assert!(lines(&nothing, &v2()).is_empty());
    }

    #[test]
    fn rdma_and_lines() {
        let rdma = [
            ("mlx5_1".to_owned(), RdmaLimit { handles: Some(3), objects: Some(10_000) }),
            ("rxe3".to_owned(), RdmaLimit { handles: None, objects: Some(1) }),
        ];
        let unified = [("io.max".to_owned(), "259:0 rbps=1\n253:0 wiops=2\n".to_owned())];
        let resources = Resources { rdma: rdma.into(), unified: unified.into(), ..Resources::default() };
        assert_eq!(
            lines(&resources, &v2()),
            [
                "rdma.max=mlx5_1 hca_handle=3 hca_object=10000",
                "rdma.max=rxe3 hca_object=1",
                "io.max=259:0 rbps=1",
                "io.max=253:0 wiops=2",
            ]
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let kind = |resources: Resources, layout: &Layout| writes(&resources, layout).unwrap_err().kind();
        let unified = |file: &str| Resources {
            unified: [(file.to_owned(), "1".to_owned())].into(),
            ..Resources::default()
        };
        assert_eq!(kind(unified("memory.high"), &v1()), Kind::Unsupported);
        assert_eq!(lines(&unified("memory.high"), &v2()), ["memory.high=1"]);
        let files = [
            "../memory.max",
            "memory",
            "cgroup.procs",
            "cgroup.kill",
            "memory.max\n",
            "..",
            "memory.",
            ".max",
            "a/b.c",
        ];
        for file in files {
            assert_eq!(kind(unified(file), &v2()), Kind::Invalid, "{file}");
        }
        let pids = Resources { pids_limit: Some(1), ..Resources::default() };
        assert_eq!(kind(pids, &layout(Version::V2, &["memory"])), Kind::Unsupported);
        let swap = |limit, both| Resources { memory_limit: limit, memory_swap: both, ..Resources::default() };
        assert_eq!(kind(swap(Some(2), Some(1)), &v1()), Kind::Invalid);
        assert_eq!(kind(swap(None, Some(1)), &v2()), Kind::Invalid);
        let none = Resources::default;
        let device = (8, 0);
        for wrong in [
            Resources { hugepages: vec![("../2MB".into(), 1)], ..none() },
            Resources { memory_swappiness: Some(101), ..none() },
            Resources { io_weight: Some(9), ..none() },
            Resources { io_weight: Some(1001), ..none() },
            Resources {
                io_weight_devices: vec![WeightDevice { device, weight: None, leaf_weight: None }],
                ..none()
            },
            Resources { io_read_bps: vec![ThrottleDevice { device: (-1, 0), rate: 1 }], ..none() },
            Resources { net_priorities: vec![("a b".into(), 1)], ..none() },
            Resources { rdma: [("a".to_owned(), RdmaLimit::default())].into(), ..none() },
            Resources {
                rdma: [("a\nb".to_owned(), RdmaLimit { handles: Some(1), objects: None })].into(),
                ..none()
            },
        ] {
            assert_eq!(kind(wrong.clone(), &v1()), Kind::Invalid, "{wrong:?}");
        }
    }
}
