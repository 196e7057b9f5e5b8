//! Each limit of the specification: it is in the kernel's file afterwards, or refused by the name of what is missing.

use vaquita_cgroup::{Cgroup, Kind, Layout, RdmaLimit, Resources, ThrottleDevice, Version, WeightDevice};
use vaquita_testing::require_root;

use crate::harness::{Member, file, with_group};

fn is_v1(layout: &Layout, controller: &str) -> bool {
    layout.controller(controller).is_some_and(|hierarchy| hierarchy.version == Version::V1)
}

#[test]
fn memory_goes_up_and_down_with_its_swap() {
    let both = |limit: i64, both: i64| Resources {
        memory_limit: Some(limit << 20),
        memory_swap: Some(both << 20),
        ..Resources::default()
    };
    with_group(&both(64, 64), |layout, group| {
        let limit = || file(layout, group, "memory", "memory.limit_in_bytes", "memory.max");
        let swap = || file(layout, group, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
        // Each step is one that one of the two orders of writing cannot do on v1.
        for (memory, together) in [(64, 64), (128, 256), (32, 32), (256, 256), (16, 512), (16, 16)] {
            group.apply(&both(memory, together)).unwrap();
            assert_eq!(limit(), (memory << 20).to_string());
            let expected = if is_v1(layout, "memory") { together } else { together - memory };
            assert_eq!(swap(), (expected << 20).to_string(), "{memory} {together}");
        }
        // All the memory there is means all the swap, too.
        group.apply(&Resources { memory_limit: Some(-1), ..Resources::default() }).unwrap();
        let details = group.details().unwrap().memory.unwrap();
        assert_eq!((details.memory.limit, details.memory_and_swap.limit), (None, None));
        let before = Resources { memory_reservation: Some(4 << 20), ..Resources::default() };
        group.apply(&before).unwrap();
        let soft = file(layout, group, "memory", "memory.soft_limit_in_bytes", "memory.low");
        assert_eq!(soft, (4 << 20).to_string());
        // What is not set stays.
        group.apply(&Resources { memory_reservation: Some(0), ..Resources::default() }).unwrap();
        assert_eq!(file(layout, group, "memory", "memory.soft_limit_in_bytes", "memory.low"), soft);
    });
}

#[test]
fn a_limit_below_what_is_in_use_is_refused_with_the_numbers() {
    with_group(&Resources::default(), |_, group| {
        let member = Member::new(group, true, || {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | libc::MAP_LOCKED;
            // SAFETY: a new mapping, not used by anything; stopping itself.
            unsafe {
                libc::mmap(core::ptr::null_mut(), 8 << 20, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
                libc::raise(libc::SIGSTOP);
            }
            0
        });
        member.go();
        crate::wait_stopped(&member.pidfd);
        let limit = Resources {
            memory_limit: Some(1 << 20),
            memory_check_before_update: true,
            ..Resources::default()
        };
        let before = group.details().unwrap().memory.unwrap().memory.limit;
        let error = group.apply(&limit).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.to_string().contains("bytes are in use"), "{error}");
        assert_eq!(group.details().unwrap().memory.unwrap().memory.limit, before);
        assert_eq!(group.oom_kills().unwrap(), 0);
    });
}

/// The kernel itself says no on v1.
#[test]
fn v1_refuses_a_limit_that_cannot_be_reclaimed() {
    with_group(&Resources::default(), |layout, group| {
        if !is_v1(layout, "memory") {
            return;
        }
        let member = Member::new(group, true, || {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | libc::MAP_LOCKED;
            // SAFETY: as above.
            unsafe {
                libc::mmap(core::ptr::null_mut(), 8 << 20, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
                libc::raise(libc::SIGSTOP);
            }
            0
        });
        member.go();
        crate::wait_stopped(&member.pidfd);
        let error =
            group.apply(&Resources { memory_limit: Some(1 << 20), ..Resources::default() }).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.to_string().contains("cannot be freed"), "{error}");
    });
}

#[test]
fn cpu_in_every_respect() {
    let resources = Resources {
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        cpu_burst: Some(20_000),
        ..Resources::default()
    };
    with_group(&resources, |layout, group| {
        let burst = || file(layout, group, "cpu", "cpu.cfs_burst_us", "cpu.max.burst");
        assert_eq!(burst(), "20000");
        // Down below the burst, which has to go first; and up again.
        for (quota, most) in [(10_000, 5_000), (90_000, 80_000)] {
            let change = Resources { cpu_quota: Some(quota), cpu_burst: Some(most), ..Resources::default() };
            group.apply(&change).unwrap();
            assert_eq!(burst(), most.to_string());
        }
        // Into being idle and out of it, with the weight that only counts when it is not.
        for idle in [1, 1, 0, 1] {
            let change = Resources { cpu_idle: Some(idle), cpu_shares: Some(512), ..Resources::default() };
            group.apply(&change).unwrap();
            assert_eq!(file(layout, group, "cpu", "cpu.idle", "cpu.idle"), idle.to_string());
            if idle == 0 {
                let weight = file(layout, group, "cpu", "cpu.shares", "cpu.weight");
                assert_eq!(weight, if is_v1(layout, "cpu") { "512" } else { "59" });
            }
        }
        let error = group.apply(&Resources { cpu_burst: Some(900_000), ..Resources::default() }).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert_eq!(burst(), "80000");
        let realtime = Resources {
            cpu_realtime_period: Some(1_000_000),
            cpu_realtime_runtime: Some(1_000),
            ..Resources::default()
        };
        match group.apply(&realtime) {
            Ok(()) => assert_eq!(file(layout, group, "cpu", "cpu.rt_runtime_us", ""), "1000"),
            Err(error) if is_v1(layout, "cpu") => {
                // Without a share in the groups above there is none to give.
                assert!(error.to_string().contains("cpu.rt_"), "{error}");
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unsupported);
                assert!(error.to_string().contains("cpu.realtimeRuntime"), "{error}");
            }
        }
    });
}

#[test]
fn memory_of_v1() {
    with_group(&Resources::default(), |layout, group| {
        let none = Resources::default;
        let table = [
            (Resources { memory_swappiness: Some(13), ..none() }, "memory.swappiness", "13"),
            (
                Resources { memory_kernel_tcp: Some(1 << 20), ..none() },
                "memory.kmem.tcp.limit_in_bytes",
                "1048576",
            ),
            (Resources { memory_use_hierarchy: Some(true), ..none() }, "memory.use_hierarchy", "1"),
            (Resources { disable_oom_killer: true, ..none() }, "memory.oom_control", "oom_kill_disable 1"),
        ];
        for (resources, name, value) in table {
            let done = group.apply(&resources);
            if is_v1(layout, "memory") {
                done.unwrap();
                assert!(file(layout, group, "memory", name, "").starts_with(value), "{name}");
            } else if resources.memory_use_hierarchy != Some(true) {
                assert_eq!(done.unwrap_err().kind(), Kind::Unsupported, "{name}");
            }
        }
        // Gone from the kernel: named, not passed over.
        let error = group.apply(&Resources { memory_kernel: Some(1 << 20), ..none() }).unwrap_err();
        assert!(
            error.to_string().contains(if is_v1(layout, "memory") {
                "memory.kmem.limit_in_bytes"
            } else {
                "memory.kernel"
            }),
            "{error}"
        );
        let flat = Resources { memory_use_hierarchy: Some(false), ..none() };
        let error = group.apply(&flat).unwrap_err();
        assert!(
            error.to_string().contains("se_hierarchy") || error.to_string().contains("useHierarchy"),
            "{error}"
        );
    });
}

/// A block device of this host that can be throttled: a whole disk.
fn disk() -> Option<(i64, i64)> {
    let entries = std::fs::read_dir("/sys/block").ok()?;
    let mut all: Vec<_> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().into_string().unwrap_or_default();
            name.starts_with("vd")
                || name.starts_with("sd")
                || name.starts_with("nvme")
                || name.starts_with("loop")
                || name.starts_with("sr")
        })
        .filter_map(|entry| {
            let text = std::fs::read_to_string(entry.path().join("dev")).ok()?;
            let (major, minor) = text.trim().split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        })
        .collect();
    all.sort_unstable();
    all.pop()
}

#[test]
fn block_io() {
    require_root();
    let disk = disk();
    let device = disk.unwrap_or((8, 0));
    let rate = |rate| vec![ThrottleDevice { device, rate }];
    let resources = Resources {
        io_read_bps: rate(1 << 20),
        io_write_bps: rate(2 << 20),
        io_read_iops: rate(300),
        io_write_iops: rate(400),
        ..Resources::default()
    };
    with_group(&Resources::default(), |layout, group| {
        if layout.controller("io").is_none() {
            let error = group.apply(&resources).unwrap_err();
            assert!(error.to_string().contains("needs the io controller"), "{error}");
            return;
        }
        if disk.is_none() {
            // There is nothing that could be throttled; that is what the kernel says.
            assert_eq!(
                std::fs::read_dir("/sys/block").unwrap().count(),
                0,
                "none of the disks is known to this test"
            );
            let error = group.apply(&resources).unwrap_err();
            assert!(error.to_string().contains("8:0 rbps=1048576\"): ENODEV"), "{error}");
            return;
        }
        group.apply(&resources).unwrap();
        let number = format!("{}:{}", device.0, device.1);
        let line = |text: String| text.lines().find(|line| line.starts_with(&number)).map(str::to_owned);
        let throttle =
            |name: &str| line(file(layout, group, "io", &format!("blkio.throttle.{name}_device"), "io.max"));
        if is_v1(layout, "io") {
            assert_eq!(throttle("read_bps").unwrap(), format!("{number} 1048576"));
            assert_eq!(throttle("write_bps").unwrap(), format!("{number} 2097152"));
            assert_eq!(throttle("read_iops").unwrap(), format!("{number} 300"));
            assert_eq!(throttle("write_iops").unwrap(), format!("{number} 400"));
        } else {
            assert_eq!(
                throttle("").unwrap(),
                format!("{number} rbps=1048576 wbps=2097152 riops=300 wiops=400")
            );
        }
        let off = Resources {
            io_read_bps: rate(0),
            io_write_bps: rate(0),
            io_read_iops: rate(0),
            io_write_iops: rate(0),
            ..Resources::default()
        };
        group.apply(&off).unwrap();
        assert_eq!(throttle("read_bps"), None);
        weights(layout, group, device);
    });
}

/// Weights depend on the scheduler that is built in; what is not there is named.
fn weights(layout: &Layout, group: &Cgroup, device: (i64, i64)) {
    let none = Resources::default;
    let entry = |weight, leaf_weight| vec![WeightDevice { device, weight, leaf_weight }];
    let table = [
        (
            Resources { io_weight: Some(500), ..none() },
            ["blkio.weight", "blkio.bfq.weight", "io.bfq.weight", "io.weight"],
        ),
        (
            Resources { io_weight_devices: entry(Some(500), None), ..none() },
            ["blkio.weight_device", "blkio.bfq.weight_device", "io.bfq.weight", "io.weight"],
        ),
        (Resources { io_leaf_weight: Some(500), ..none() }, ["blkio.leaf_weight", "", "", ""]),
        (
            Resources { io_weight_devices: entry(None, Some(500)), ..none() },
            ["blkio.leaf_weight_device", "", "", ""],
        ),
    ];
    let dir = layout.controller("io").unwrap().mount.join(group.path().strip_prefix("/").unwrap());
    let of_version = if is_v1(layout, "io") { 0..2 } else { 2..4 };
    for (resources, names) in table {
        let names: Vec<_> = names[of_version.clone()].iter().filter(|name| !name.is_empty()).collect();
        match group.apply(&resources) {
            Ok(()) => assert!(names.iter().any(|name| dir.join(name).exists()), "{names:?}"),
            // The file is there and the scheduler of this device has no such thing.
            Err(error) if names.iter().any(|name| dir.join(name).exists()) => {
                assert!(names.iter().any(|name| error.to_string().contains(*name)), "{error}");
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unsupported, "{error}");
                let text = error.to_string();
                assert!(names.iter().all(|name| text.contains(*name)) || text.contains("eaf"), "{text}");
            }
        }
    }
}

#[test]
fn huge_pages_where_their_controller_is() {
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").map(|dir| dir.count()).unwrap_or_default();
    let resources = Resources { hugepages: vec![("2MB".into(), 4 << 20)], ..Resources::default() };
    with_group(&Resources::default(), |layout, group| {
        let Some(hierarchy) = layout.controller("hugetlb") else {
            let error = group.apply(&resources).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.to_string().contains("needs the hugetlb controller"), "{error}");
            return;
        };
        assert!(sizes > 0);
        group.apply(&resources).unwrap();
        let names = if hierarchy.version == Version::V1 { "limit_in_bytes" } else { "max" };
        for middle in ["", "rsvd."] {
            let name = format!("hugetlb.2MB.{middle}{names}");
            assert_eq!(file(layout, group, "hugetlb", &name, &name), (4 << 20).to_string(), "{name}");
        }
        assert_eq!(group.details().unwrap().hugepages["2MB"].limit, Some(4 << 20));
        let error = group
            .apply(&Resources { hugepages: vec![("3MB".into(), 1)], ..Resources::default() })
            .unwrap_err();
        assert!(error.to_string().contains("hugetlb.3MB"), "{error}");
    });
}

#[test]
fn network_and_rdma_where_their_controllers_are() {
    with_group(&Resources::default(), |layout, group| {
        let none = Resources::default;
        let class = Resources { net_class_id: Some(0x10_0001), ..none() };
        let priority = Resources { net_priorities: vec![("lo".into(), 3)], ..none() };
        let rdma = Resources {
            rdma: [("mlx5_1".into(), RdmaLimit { handles: Some(3), objects: None })].into(),
            ..none()
        };
        for (resources, controller) in [(class, "net_cls"), (priority, "net_prio"), (rdma, "rdma")] {
            match (layout.controller(controller), group.apply(&resources)) {
                (None, Err(error)) => {
                    assert_eq!(error.kind(), Kind::Unsupported);
                    assert!(
                        error.to_string().contains(&format!("needs the {controller} controller")),
                        "{error}"
                    );
                }
                // There is no such device here.
                (Some(_), Err(error)) => assert!(error.to_string().contains("rdma.max"), "{error}"),
                (None, Ok(())) => panic!("{controller} is not there"),
                (Some(_), Ok(())) => assert_ne!(controller, "rdma"),
            }
        }
    });
}

#[test]
fn files_of_v2_by_name() {
    let unified = |name: &str, value: &str| Resources {
        unified: [(name.to_owned(), value.to_owned())].into(),
        ..Resources::default()
    };
    with_group(&Resources::default(), |layout, group| {
        let done = group.apply(&unified("memory.high", "67108864"));
        if is_v1(layout, "memory") {
            let error = done.unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.to_string().contains("memory.high is of cgroup v2"), "{error}");
        } else {
            done.unwrap();
            assert_eq!(file(layout, group, "memory", "", "memory.high"), "67108864");
            let error = group.apply(&unified("memory.hihg", "1")).unwrap_err();
            assert!(error.to_string().contains("memory.hihg"), "{error}");
        }
        for name in ["../memory.max", "memory/../cgroup.procs", "cgroup.procs", "cgroup.subtree_control"] {
            assert_eq!(group.apply(&unified(name, "1")).unwrap_err().kind(), Kind::Invalid, "{name}");
        }
    });
}

/// With no process allowed there would be no container.
#[test]
fn no_processes_means_one() {
    let resources = Resources { pids_limit: Some(0), ..Resources::default() };
    with_group(&resources, |layout, group| {
        assert_eq!(file(layout, group, "pids", "pids.max", "pids.max"), "1");
        assert_eq!(Member::sleeper(group).finish().code, 0);
    });
}
