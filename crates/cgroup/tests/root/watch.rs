//! Statistics in full, and being told when memory runs out.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vaquita_cgroup::{Cgroup, Kind, OomEvent, OomWatch, Resources, Version};

use crate::harness::{Member, with_group};

/// The next thing that the watch tells, within 20 seconds.
fn next(watch: &mut OomWatch) -> Option<OomEvent> {
    let timeout = Timespec::try_from(Duration::from_secs(20)).unwrap();
    loop {
        if let Some(event) = watch.take().unwrap() {
            return Some(event);
        }
        if poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&timeout)).unwrap() == 0 {
            return None;
        }
    }
}

/// Uses 64 MiB and ends, or is killed.
fn eater(group: &Cgroup) -> Member {
    Member::new(group, true, || {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new mapping, not used by anything.
        unsafe {
            libc::mmap(core::ptr::null_mut(), 64 << 20, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        }
        0
    })
}

#[test]
fn want_of_memory_is_told_and_so_is_the_end() {
    let resources =
        Resources { memory_limit: Some(8 << 20), memory_swap: Some(8 << 20), ..Resources::default() };
    with_group(&resources, |layout, group| {
        assert_eq!(eater(group).finish().signal, Some(9));
        group.wait_empty(Duration::from_secs(10)).unwrap();
        let mut watch = group.watch_oom().unwrap();
        assert_eq!(watch.take().unwrap(), None, "what was before does not count");
        assert_eq!(eater(group).finish().signal, Some(9));
        assert_eq!(next(&mut watch), Some(OomEvent::Oom));
        group.wait_empty(Duration::from_secs(10)).unwrap();
        if layout.controller("memory").unwrap().version == Version::V1 {
            // Only its removal is told there.
            assert_eq!(watch.take().unwrap(), None);
            group.remove().unwrap();
        }
        assert_eq!(next(&mut watch), Some(OomEvent::Ended));
    });
}

#[test]
fn the_full_statistics() {
    let resources = Resources {
        memory_limit: Some(64 << 20),
        memory_swap: Some(96 << 20),
        memory_reservation: Some(16 << 20),
        cpuset_cpus: Some("0".into()),
        ..Resources::default()
    };
    with_group(&resources, |layout, group| {
        assert_eq!(eater(group).finish().signal, Some(9));
        let details = group.details().unwrap();
        let memory = details.memory.unwrap();
        assert_eq!(memory.memory.limit, Some(64 << 20));
        assert_eq!(memory.memory_and_swap.limit, Some(96 << 20));
        assert!(memory.memory.max_usage >= 32 << 20, "{memory:?}");
        assert!(memory.memory.failures > 0, "{memory:?}");
        assert!(memory.raw.contains_key("pgfault"), "{memory:?}");
        // The part of it that is metered says the same.
        let metered = group.metered().unwrap();
        let part = metered.memory.unwrap();
        assert_eq!(part.memory.max_usage, memory.memory.max_usage);
        assert_eq!((part.memory.limit, part.memory.failures), (memory.memory.limit, memory.memory.failures));
        assert!(part.raw.keys().eq(memory.raw.keys()), "{part:?}");
        assert_eq!(
            (metered.io.service_bytes, metered.io.serviced),
            (details.io.service_bytes, details.io.serviced)
        );
        assert!(metered.stats.cpu.is_some());
        let cpuset = details.cpuset.unwrap();
        assert_eq!(cpuset.cpus, [0]);
        assert!(!cpuset.mems.is_empty());
        if layout.controller("cpuset").unwrap().version == Version::V1 {
            assert_eq!(cpuset.flags["sched_load_balance"], 1);
            assert!(details.per_cpu.iter().map(|cpu| cpu.total).sum::<u64>() > 0);
            let modes: u64 = details.per_cpu.iter().map(|cpu| cpu.user + cpu.kernel).sum();
            assert!(modes > 0, "{:?}", details.per_cpu);
        }
        assert!(details.stats.cpu.unwrap().usage_ns > 0);
        // What the host has of the others.
        let pages = Resources { hugepages: vec![("2MB".into(), 2 << 20)], ..Resources::default() };
        if layout.controller("hugetlb").is_none() {
            assert!(details.hugepages.is_empty());
        } else {
            group.apply(&pages).unwrap();
            let two = group.details().unwrap().hugepages["2MB"];
            assert_eq!((two.usage, two.limit), (0, Some(2 << 20)));
        }
    });
}

#[test]
fn without_the_memory_controller_there_is_nothing_to_watch() {
    with_group(&Resources::default(), |layout, group| {
        let others = layout.hierarchies().iter().filter(|one| !one.controllers.contains("memory")).cloned();
        let Ok(others) = vaquita_cgroup::Layout::new(others.collect()) else {
            assert!(layout.is_v2(), "the one hierarchy has it");
            return;
        };
        let group = Cgroup::open(&others, group.path()).unwrap();
        assert_eq!(group.watch_oom().unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(group.details().unwrap().memory, None);
        assert_eq!(group.stats().unwrap().memory, None);
        // Who asks for nothing of it gets a group all the same.
        let inner = Cgroup::create(&others, &group.path().join("inner"), &Resources::default()).unwrap();
        let limit = Resources { memory_limit: Some(1 << 20), ..Resources::default() };
        assert_eq!(inner.apply(&limit).unwrap_err().kind(), Kind::Unsupported);
    });
}
