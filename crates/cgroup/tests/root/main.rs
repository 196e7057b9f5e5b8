//! Control groups of the host's own kernel. Every group made here is called after its test, and gone at its end.

#![allow(clippy::disallowed_methods, reason = "control groups and files of the tests")]
#![allow(unsafe_code, reason = "the tests clone processes into groups")]
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod harness;
mod limits;
mod location;
mod watch;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Member, file, with_group};
use vaquita_cgroup::{Access, Cgroup, DeviceKind, DeviceRule, Kind, Layout, Resources, Version, list};
use vaquita_sys::process::{Clone, clone3, try_wait_pidfd, wait_pidfd};
use vaquita_sys::signal::{Signal, send};
use vaquita_testing::{Leaks, require_root, unique};

#[test]
fn groups_come_and_go() {
    with_group(&Resources::default(), |layout, group| {
        let parents: Vec<PathBuf> = group.path().ancestors().skip(1).take(2).map(Path::to_owned).collect();
        assert_eq!(group.created_parents(), [parents[1].clone(), parents[0].clone()]);
        assert!(!group.existed());
        assert!(!group.is_populated().unwrap());
        let all = list(layout, &parents[1]).unwrap();
        assert_eq!(all, [parents[1].clone(), parents[0].clone(), group.path().to_owned()]);
        let again = Cgroup::create(layout, group.path(), &Resources::default()).unwrap();
        assert!(again.existed() && again.created_parents().is_empty());
        // Groups that the container makes inside go with it.
        Cgroup::create(layout, &group.path().join("a/b/c"), &Resources::default()).unwrap();
        Cgroup::create(layout, &group.path().join("a/d"), &Resources::default()).unwrap();
        group.remove().unwrap();
        group.remove().unwrap();
        assert_eq!(Cgroup::open(layout, group.path()).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(list(layout, group.path()).unwrap(), [] as [PathBuf; 0]);
    });
}

#[test]
fn nothing_is_left_of_a_group_that_cannot_be() {
    require_root();
    let layout = Layout::detect().unwrap();
    let tag = unique("vqcg");
    let _leaks = Leaks::of(&tag);
    let wrong = Resources { cpuset_cpus: Some("9999".into()), ..Resources::default() };
    let error = Cgroup::create(&layout, &Path::new("/").join(&tag).join("leaf"), &wrong).unwrap_err();
    assert!(error.to_string().contains("\"cpuset.cpus\", \"9999\""), "{error}");
    let too_small = Resources { cpu_quota: Some(1), ..Resources::default() };
    let error = Cgroup::create(&layout, &Path::new("/").join(&tag), &too_small).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
}

#[test]
fn a_group_is_made_in_two_goes() {
    require_root();
    let layout = Layout::detect().unwrap();
    let tag = unique("vqcg");
    let _leaks = Leaks::of(&tag);
    let (top, path) = (Path::new("/").join(&tag), Path::new("/").join(&tag).join("leaf"));
    let limits = Resources { pids_limit: Some(7), ..Resources::default() };
    let group = Cgroup::begin(&layout, &path, &limits).unwrap();
    let has = |hierarchy: &vaquita_cgroup::Hierarchy| hierarchy.mount.join(&tag).join("leaf").is_dir();
    for hierarchy in layout.hierarchies() {
        assert_eq!(has(hierarchy), hierarchy.version == Version::V2, "{hierarchy:?}");
    }
    assert_eq!(group.is_whole(), layout.is_v2());
    // Each time it is the same.
    for _ in 0..2 {
        group.finish().unwrap();
        assert!(group.is_whole() && layout.hierarchies().iter().all(has));
        assert_eq!(group.stats().unwrap().pids.unwrap().limit, Some(7));
        assert_eq!((group.existed(), group.created_parents()), (false, vec![top.clone()]));
    }
    group.remove().unwrap();
    group.remove_empty_parents(Path::new("/")).unwrap();

    // A limit that the kernel refuses: what there is can be removed, and another try fails as well.
    let wrong = Resources { cpuset_cpus: Some("9999".into()), ..Resources::default() };
    if layout.controller("cpuset").is_some_and(|hierarchy| hierarchy.version == Version::V1) {
        let group = Cgroup::begin(&layout, &path, &wrong).unwrap();
        for _ in 0..2 {
            let error = group.finish().unwrap_err();
            assert!(error.to_string().contains("\"cpuset.cpus\", \"9999\""), "{error}");
            assert!(!group.is_whole());
        }
        group.remove().unwrap();
        group.remove_empty_parents(Path::new("/")).unwrap();
    }
}

#[test]
fn limits_are_what_was_asked() {
    let resources = Resources {
        cpu_shares: Some(512),
        cpu_quota: Some(20_000),
        cpu_period: Some(50_000),
        cpuset_cpus: Some("0".into()),
        memory_limit: Some(64 << 20),
        memory_swap: Some(64 << 20),
        pids_limit: Some(17),
        ..Resources::default()
    };
    with_group(&resources, |layout, group| {
        let mut resources = resources.clone();
        let limit = |name, v1, v2| file(layout, group, name, v1, v2);
        let check = |shares: [&str; 2], memory: &str| {
            let is_v2 = layout.controller("cpu").unwrap().version == Version::V2;
            assert_eq!(limit("cpu", "cpu.shares", "cpu.weight"), shares[usize::from(is_v2)]);
            assert_eq!(limit("memory", "memory.limit_in_bytes", "memory.max"), memory);
        };
        check(["512", "59"], &(64 << 20).to_string());
        assert_eq!(limit("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
        assert_eq!(limit("pids", "pids.max", "pids.max"), "17");
        if layout.controller("cpu").unwrap().version == Version::V1 {
            assert_eq!(limit("cpu", "cpu.cfs_quota_us", ""), "20000");
            assert_eq!(limit("cpu", "cpu.cfs_period_us", ""), "50000");
        }
        // Up, where the limit of memory and swap is in the way on v1, and down again.
        for megabytes in [256, 32] {
            resources.memory_limit = Some(megabytes << 20);
            resources.memory_swap = Some(megabytes << 20);
            group.apply(&resources).unwrap();
            check(["512", "59"], &(megabytes << 20).to_string());
        }
        group
            .apply(&Resources { memory_limit: Some(-1), pids_limit: Some(-1), ..Resources::default() })
            .unwrap();
        assert_eq!(limit("pids", "pids.max", "pids.max"), "max");
        assert_eq!(group.stats().unwrap().memory.unwrap().limit, None);
    });
}

#[test]
fn processes_enter_by_clone_and_by_themselves() {
    with_group(&Resources::default(), |layout, group| {
        for by_clone in [true, false] {
            let member = Member::new(group, by_clone, || 0);
            assert_eq!(group.procs().unwrap(), [member.pid]);
            assert!(group.is_populated().unwrap());
            let places = std::fs::read_to_string(format!("/proc/{}/cgroup", member.pid)).unwrap();
            let end = format!(":{}", group.path().display());
            let inside = places.lines().filter(|line| line.ends_with(&end)).count();
            assert_eq!(inside, layout.hierarchies().len(), "{places}");
            assert_eq!(group.stats().unwrap().pids.unwrap().current, 1);
            assert_eq!(member.finish().code, 0);
            group.wait_empty(Duration::from_secs(10)).unwrap();
        }
    });
}

/// In v2 only the leaves hold processes. What is refused must not have changed the group that it was asked of.
#[test]
fn a_group_with_processes_limits_none_below() {
    with_group(&Resources::default(), |layout, group| {
        let limits = match layout.controller("memory").unwrap().version {
            Version::V2 => {
                Resources { memory_limit: Some(64 << 20), cpu_shares: Some(512), ..Resources::default() }
            }
            Version::V1 => Resources { hugepages: vec![("2MB".into(), 0)], ..Resources::default() },
        };
        if layout.controller("hugetlb").is_none_or(|hierarchy| hierarchy.version == Version::V1) {
            assert!(!layout.is_v2());
            return;
        }
        let member = Member::sleeper(group);
        let inner = group.path().join("inner");
        let error = Cgroup::create(layout, &inner, &limits).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.to_string().contains("leaf has processes of its own"), "{error}");
        let file = |name: &str| {
            let path = layout.hierarchies()[0].mount.join(group.path().strip_prefix("/").unwrap()).join(name);
            std::fs::read_to_string(path).unwrap().trim().to_owned()
        };
        assert_eq!((file("cgroup.type"), file("cgroup.subtree_control")), ("domain".into(), String::new()));
        if layout.is_v2() {
            assert_eq!(
                group.delegate().unwrap_err().to_string(),
                error.to_string().replace("cpu, memory", "cpu, memory, pids")
            );
        }
        // Without limits it can be, and hold processes.
        let inner = Cgroup::create(layout, &inner, &Resources::default()).unwrap();
        assert_eq!(Member::sleeper(&inner).finish().code, 0);
        assert_eq!(member.finish().code, 0);
        inner.remove().unwrap();
        group.delegate().unwrap();
        Cgroup::create(layout, inner.path(), &limits).unwrap().remove().unwrap();
    });
}

#[test]
fn a_frozen_process_does_not_run() {
    with_group(&Resources::default(), |_, group| {
        let member = Member::sleeper(group);
        group.freeze().unwrap();
        member.go();
        // It would end at once; frozen it cannot, however long one looks. A look is enough to see a broken freezer mostly.
        for _ in 0..100 {
            assert_eq!(try_wait_pidfd(&member.pidfd).unwrap(), None);
            rustix::thread::sched_yield();
        }
        group.thaw().unwrap();
        assert_eq!(wait_pidfd(&member.pidfd).unwrap().code, 0);
    });
}

#[test]
fn a_frozen_group_can_be_killed() {
    with_group(&Resources::default(), |_, group| {
        let member = Member::sleeper(group);
        group.freeze().unwrap();
        group.kill().unwrap();
        assert_eq!(wait_pidfd(&member.pidfd).unwrap().signal, Some(9));
        group.thaw().unwrap();
    });
}

#[test]
fn a_fork_bomb_is_killed_whole() {
    let resources = Resources { pids_limit: Some(200), ..Resources::default() };
    with_group(&resources, |_, group| {
        let bomb = Member::new(group, true, || {
            loop {
                // SAFETY: both sides go on with the same loop.
                let _ = unsafe { clone3(&Clone::default()) };
            }
        });
        bomb.go();
        while group.procs().unwrap().len() < 50 {
            rustix::thread::sched_yield();
        }
        group.kill().unwrap();
        wait_pidfd(&bomb.pidfd).unwrap();
        group.wait_empty(Duration::from_secs(20)).unwrap();
        group.remove().unwrap();
    });
}

#[test]
fn a_process_that_left_one_hierarchy_is_killed_too() {
    with_group(&Resources::default(), |layout, group| {
        let member = Member::sleeper(group);
        let hybrid = layout.hierarchies().len() > 1 && group.dir_fd().is_some();
        if hybrid {
            // As a container with the v2 hierarchy mounted writable could do.
            let v2 = layout.hierarchies()[0].mount.join("cgroup.procs");
            std::fs::write(v2, member.pid.to_string()).unwrap();
        }
        group.kill().unwrap();
        assert_eq!(wait_pidfd(&member.pidfd).unwrap().signal, Some(9));
    });
}

#[test]
fn a_signal_reaches_everybody() {
    with_group(&Resources::default(), |layout, group| {
        let inner = Cgroup::create(layout, &group.path().join("inner"), &Resources::default()).unwrap();
        // On v2 a group with groups below may hold processes as long as no controller is on for those.
        let members = [Member::sleeper(&inner), Member::sleeper(&inner)];
        group.signal_all(Signal::TERM).unwrap();
        for member in &members {
            assert_eq!(wait_pidfd(&member.pidfd).unwrap().signal, Some(15));
        }
    });
}

#[test]
fn removal_waits_for_the_dying_and_names_the_living() {
    with_group(&Resources::default(), |_, group| {
        let member = Member::sleeper(group);
        let error = group.remove_within(Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.to_string().ends_with(&format!(": {}", member.pid)), "{error}");
        std::thread::scope(|scope| {
            scope.spawn(|| group.remove_within(Duration::from_secs(20)).unwrap());
            member.finish();
        });
    });
}

#[test]
fn out_of_memory_is_counted_at_the_end() {
    let resources =
        Resources { memory_limit: Some(8 << 20), memory_swap: Some(8 << 20), ..Resources::default() };
    with_group(&resources, |layout, group| {
        assert_eq!(group.oom_kills().unwrap(), 0);
        let inner = Cgroup::create(layout, &group.path().join("inner"), &Resources::default()).unwrap();
        let eater = Member::new(&inner, true, || {
            let bytes = 64 << 20;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
            // SAFETY: a new mapping, not used by anything.
            unsafe {
                libc::mmap(core::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            }
            0
        });
        assert_eq!(eater.finish().signal, Some(9));
        assert_eq!(group.oom_kills().unwrap(), 1);
    });
}

#[test]
fn too_many_processes_are_refused() {
    let resources = Resources { pids_limit: Some(2), ..Resources::default() };
    with_group(&resources, |_, group| {
        let member = Member::new(group, true, || {
            let mut made = 0;
            // SAFETY: the children exit at once.
            while let Ok(forked) = unsafe { libc_fork() } {
                if forked == 0 {
                    loop {
                        rustix::thread::sched_yield();
                    }
                }
                made += 1;
            }
            made
        });
        member.go();
        assert_eq!(wait_pidfd(&member.pidfd).unwrap().code, 1);
        group.kill().unwrap();
    });
}

/// # Safety
/// As clone3.
unsafe fn libc_fork() -> Result<i32, i32> {
    // SAFETY: as promised by the caller.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if pid < 0 { Err(-1) } else { Ok(i32::try_from(pid).unwrap_or(1)) }
}

#[test]
fn statistics_move() {
    let resources = Resources { memory_limit: Some(64 << 20), ..Resources::default() };
    with_group(&resources, |_, group| {
        let member = Member::new(group, true, || {
            let bytes = 8 << 20;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
            // SAFETY: a new mapping, not used by anything; reading a socket into an array.
            unsafe {
                libc::mmap(core::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
                libc::raise(libc::SIGSTOP);
            }
            0
        });
        member.go();
        wait_stopped(&member.pidfd);
        let stats = group.stats().unwrap();
        let memory = stats.memory.unwrap();
        assert!(memory.usage >= 8 << 20 && memory.rss >= 8 << 20, "{memory:?}");
        assert_eq!(memory.limit, Some(64 << 20));
        assert_eq!(memory.available, Some((64 << 20) - memory.working_set));
        assert!(memory.page_faults > 0);
        assert!(stats.cpu.unwrap().usage_ns > 0);
        send(&member.pidfd, Signal::CONT).unwrap();
        wait_pidfd(&member.pidfd).unwrap();
    });
}

pub(crate) fn wait_stopped(pidfd: impl AsFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::STOPPED).unwrap().unwrap();
    assert!(status.stopped());
}

/// 0, or the error number of opening the device for these accesses.
fn open_device(path: &core::ffi::CStr, flags: rustix::fs::OFlags) -> i32 {
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_or_else(|errno| errno.raw_os_error(), |_| 0)
}

#[test]
fn only_devices_of_the_list_open() {
    use rustix::fs::OFlags;
    let allow = |major, minor, access| DeviceRule {
        allow: true,
        kind: DeviceKind::Char,
        major: Some(major),
        minor,
        access: Access::from_letters(access),
    };
    // null for reading, zero in two halves; not full.
    let rules = vec![allow(1, Some(3), "r"), allow(1, Some(5), "r"), allow(1, Some(5), "w")];
    with_group(&Resources { devices: Some(rules), ..Resources::default() }, |_, group| {
        let table = [
            (c"/dev/null", OFlags::RDONLY, 0),
            (c"/dev/null", OFlags::RDWR, 1),
            (c"/dev/zero", OFlags::RDWR, 0),
            (c"/dev/full", OFlags::RDONLY, 1),
        ];
        for (path, flags, expected) in table {
            let member = Member::new(group, true, || open_device(path, flags));
            assert_eq!(member.finish().code, expected, "{path:?} {flags:?}");
        }
        group.apply(&Resources { devices: Some(Vec::new()), ..Resources::default() }).unwrap();
        let member = Member::new(group, true, || open_device(c"/dev/zero", OFlags::RDONLY));
        assert_eq!(member.finish().code, libc::EPERM, "an empty list denies everything");
    });
}

/// The same on the eBPF filter, which a hybrid host has too although it would not be used there.
#[test]
fn the_kernel_runs_the_compiled_filter() {
    use rustix::fs::OFlags;
    use vaquita_cgroup::device::compile;
    use vaquita_sys::bpf;
    with_group(&Resources::default(), |layout, group| {
        let Some(dir) = group.dir_fd() else {
            assert!(layout.hierarchies().iter().all(|hierarchy| hierarchy.version == Version::V1));
            return;
        };
        let rule = |allow, major, minor, access| DeviceRule {
            allow,
            kind: DeviceKind::Char,
            major,
            minor,
            access: Access::from_letters(access),
        };
        let rules = [
            rule(true, None, None, "rw"),
            rule(false, Some(1), Some(5), "w"),
            rule(false, Some(1), Some(7), "rwm"),
        ];
        let program = bpf::load_device_program(&compile(&rules)).unwrap();
        bpf::attach_device(dir, &program).unwrap();
        assert_eq!(bpf::device_programs(dir).unwrap().len(), 1);
        let table = [
            (c"/dev/null", OFlags::RDWR, 0),
            (c"/dev/zero", OFlags::RDONLY, 0),
            (c"/dev/zero", OFlags::RDWR, libc::EPERM),
            (c"/dev/full", OFlags::RDONLY, libc::EPERM),
        ];
        for (path, flags, expected) in table {
            let member = Member::new(group, true, || open_device(path, flags));
            assert_eq!(member.finish().code, expected, "{path:?} {flags:?}");
        }
        bpf::detach_device(dir, &program).unwrap();
        assert_eq!(bpf::device_programs(dir).unwrap().len(), 0);
        // Every shape of program passes the verifier.
        let shapes = [
            vec![],
            vec![rule(true, None, None, "m")],
            vec![rule(false, Some(1), None, "r"); 100],
            rules.to_vec(),
        ];
        for rules in shapes {
            bpf::load_device_program(&compile(&rules)).unwrap();
        }
    });
}

#[test]
fn a_program_that_is_none_is_refused_with_the_verifiers_words() {
    require_root();
    let error = vaquita_sys::bpf::load_device_program(&[vaquita_sys::bpf::Insn {
        code: 0x95,
        registers: 0,
        offset: 0,
        immediate: 0,
    }])
    .unwrap_err();
    assert!(error.to_string().contains("R0 !read_ok"), "{error}");
}

#[test]
fn many_at_once_share_their_parents() {
    require_root();
    let layout = Layout::detect().unwrap();
    let tag = unique("vqcg");
    let _leaks = Leaks::of(&tag);
    let top = PathBuf::from("/").join(&tag);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (layout, top) = (&layout, &top);
            scope.spawn(move || {
                for round in 0..20 {
                    // Parents come and go under each other's hands.
                    let path = top.join(format!("pod/{thread}-{round}"));
                    let group = Cgroup::create(layout, &path, &Resources::default()).unwrap();
                    group.remove().unwrap();
                    group.remove_empty_parents(Path::new("/")).unwrap();
                }
            });
        }
    });
}

/// Of a parent that another is still making: without processors nothing could enter.
#[test]
fn a_group_has_processors_whoever_makes_its_parent() {
    require_root();
    let layout = Layout::detect().unwrap();
    let tag = unique("vqcg");
    let _leaks = Leaks::of(&tag);
    let top = PathBuf::from("/").join(&tag);
    let (barrier, without) = (std::sync::Barrier::new(4), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (layout, top, barrier, without) = (&layout, &top, &barrier, &without);
            scope.spawn(move || {
                for round in 0..100 {
                    barrier.wait();
                    let path = top.join(format!("{round}/{thread}"));
                    let group = Cgroup::create(layout, &path, &Resources::default()).unwrap();
                    let relative = path.strip_prefix("/").unwrap();
                    let cpusets = layout.hierarchies().iter().filter(|hierarchy| {
                        hierarchy.version == Version::V1 && hierarchy.controllers.contains("cpuset")
                    });
                    for hierarchy in cpusets {
                        let file = hierarchy.mount.join(relative).join("cpuset.cpus");
                        if std::fs::read_to_string(file).unwrap().trim().is_empty() {
                            // Not a panic: the others would wait for ever.
                            without.lock().unwrap().push(path.clone());
                        }
                    }
                    group.remove().unwrap();
                    group.remove_empty_parents(Path::new("/")).unwrap();
                }
            });
        }
    });
    assert_eq!(without.into_inner().unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_group_that_somebody_else_removed_is_empty_and_gone() {
    require_root();
    let layout = Layout::detect().unwrap();
    let tag = unique("vqcg");
    let _leaks = Leaks::of(&tag);
    let path = PathBuf::from("/").join(&tag);
    let group = Cgroup::create(&layout, &path, &Resources::default()).unwrap();
    Cgroup::open(&layout, &path).unwrap().remove().unwrap();
    assert!(!group.is_populated().unwrap());
    assert_eq!(group.procs().unwrap(), Vec::<i32>::new());
    group.kill().unwrap();
    group.wait_empty(Duration::from_secs(1)).unwrap();
    group.remove().unwrap();
}

#[test]
fn a_claim_stays_with_the_group() {
    require_root();
    let layout = Layout::detect().unwrap();
    let tag = unique("vqcg");
    let _leaks = Leaks::of(&tag);
    let path = PathBuf::from("/").join(&tag);
    let group = Cgroup::create(&layout, &path, &Resources::default()).unwrap();
    assert_eq!(group.claimant().unwrap(), None);
    group.claim(Path::new("/run/somebody")).unwrap();
    let again = Cgroup::open(&layout, &path).unwrap();
    assert_eq!(again.claimant().unwrap(), Some(PathBuf::from("/run/somebody")));
    group.remove().unwrap();
}
