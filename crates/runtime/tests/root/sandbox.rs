//! The process that holds a pod's namespaces.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use vaquita_runtime::sandbox::{Sandbox, SandboxArgs, create};
use vaquita_runtime::{Kind, ParentOf};
use vaquita_sys::ns;
use vaquita_sys::process::wait_pidfd;
use vaquita_sys::signal::{self, Signal};

use crate::harness::{Bundle, Group};

fn args<'a>() -> SandboxArgs<'a> {
    SandboxArgs {
        hostname: Some("pod".to_owned()),
        netns: None,
        namespaces: vec![ns::Kind::Net, ns::Kind::Ipc, ns::Kind::Uts, ns::Kind::Pid],
        sysctls: BTreeMap::new(),
        cgroup: None,
        uid: 65535,
        gid: 65535,
        seccomp: Some(vaquita_runtime::seccomp::runtime_default(&[])),
        apparmor: None,
        selinux: None,
        mount_label: None,
        oom_score_adj: None,
        restrict_oom_score_adj: false,
        uid_mappings: Vec::new(),
        gid_mappings: Vec::new(),
        parent: ParentOf::Caller,
    }
}

/// Killed when dropped.
struct Held(Sandbox);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = signal::send(&self.0.pidfd, Signal::KILL);
        let _ = wait_pidfd(&self.0.pidfd);
    }
}

fn make(args: SandboxArgs<'_>) -> Held {
    vaquita_testing::require_root();
    Held(create(args).unwrap_or_else(|error| panic!("sandbox: {error}")))
}

#[test]
fn a_network_that_is_there_already_is_joined() {
    vaquita_testing::require_root();
    let netns = ns::new_netns().unwrap();
    let sysctls = BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "1".to_owned())]);
    let held = make(SandboxArgs { netns: Some(netns.as_fd()), sysctls, ..args() });
    let wanted = ns::identity(&netns).unwrap();
    assert_eq!(ns::identity(held.0.netns().unwrap()).unwrap(), wanted);
    assert_eq!(ns::identity(ns::open(Some(held.0.pid), ns::Kind::Net).unwrap()).unwrap(), wanted);
    let read = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert_eq!(ns::in_netns(&netns, read).unwrap(), "1\n");
    for namespaces in [vec![ns::Kind::Uts], vec![ns::Kind::Uts, ns::Kind::Net, ns::Kind::User]] {
        let error = create(SandboxArgs { netns: Some(netns.as_fd()), namespaces, ..args() }).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    }
}

#[test]
fn pause_holds_namespaces_and_nothing_else() {
    vaquita_testing::require_root();
    let group = Group::new();
    let sysctls = BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())]);
    let held = make(SandboxArgs { cgroup: Some(&group.0), sysctls, ..args() });
    let pid = held.0.pid;
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let status = read("status");
    for line in [
        "Uid:\t65535",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert_eq!(read("cmdline"), "pause\0");
    let mounts = read("mountinfo");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / / ro,nosuid,nodev,noexec"), "{mounts}");
    assert_eq!(std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), 3);
    assert_eq!(group.0.procs().unwrap(), [pid.as_raw_nonzero().get()]);
    let kinds: Vec<_> = held.0.namespaces.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [ns::Kind::Net, ns::Kind::Ipc, ns::Kind::Uts, ns::Kind::Pid]);
    for (kind, fd) in &held.0.namespaces {
        assert_ne!(ns::identity(fd).unwrap(), ns::identity(ns::open(None, *kind).unwrap()).unwrap());
    }
    let port = ns::in_netns(held.0.netns().unwrap(), || {
        std::fs::read_to_string("/proc/thread-self/net/../../sys/net/ipv4/ip_unprivileged_port_start")
            .or_else(|_| std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start"))
            .unwrap()
    })
    .unwrap();
    assert_eq!(port.trim(), "0");
}

#[test]
fn containers_join_it_and_see_each_other() {
    let held = make(args());
    let mut bundle =
        Bundle::new("hostname\npid\nns net\ncat /proc/1/comm").set("/hostname", serde_json::Value::Null);
    for kind in [ns::Kind::Net, ns::Kind::Ipc, ns::Kind::Uts, ns::Kind::Pid] {
        bundle.join.push((kind, ns::open(Some(held.0.pid), kind).unwrap()));
    }
    let outcome = bundle.run();
    assert_eq!(outcome.of("hostname"), "pod");
    assert_ne!(outcome.of("pid"), "1");
    let net = std::fs::read_link(format!("/proc/{}/ns/net", held.0.pid)).unwrap();
    assert_eq!(outcome.of("ns net"), net.to_str().unwrap());
    assert!(!outcome.of("cat /proc/1/comm").is_empty());
    // The thread that made it is in its own PID namespace again.
    assert_eq!(
        std::fs::read_link("/proc/thread-self/ns/pid_for_children").unwrap(),
        std::fs::read_link("/proc/thread-self/ns/pid").unwrap()
    );
}

#[test]
fn pause_ends_on_the_stop_signal() {
    let held = make(args());
    signal::send(&held.0.pidfd, Signal::TERM).unwrap();
    assert_eq!(wait_pidfd(&held.0.pidfd).unwrap().code, 0);
}

/// T24.
#[test]
fn t24_sysctls_of_the_host_are_refused() {
    for (name, namespaces) in [
        ("net.ipv4.ip_forward", vec![ns::Kind::Ipc]),
        ("kernel.shmmax", vec![ns::Kind::Net]),
        ("kernel.core_pattern", vec![ns::Kind::Net, ns::Kind::Ipc, ns::Kind::Uts]),
    ] {
        let sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        let error = create(SandboxArgs { sysctls, namespaces, hostname: None, ..args() }).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{name}: {error}");
    }
    let error = create(SandboxArgs { namespaces: vec![ns::Kind::Net], ..args() }).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "a host name without a UTS namespace");
}

/// A kernel that runs the security module is asked for a label that it does not know.
#[test]
fn labels_are_refused_by_name() {
    vaquita_testing::require_root();
    let label = || Some("nobody-knows-this".to_owned());
    let apparmor = std::fs::read("/sys/module/apparmor/parameters/enabled");
    let apparmor = apparmor.is_ok_and(|answer| answer.starts_with(b"Y"));
    let selinux = vaquita_sys::selinux::is_enabled();
    for (args, field, runs, told) in [
        (
            SandboxArgs { apparmor: label(), ..args() },
            "process.apparmorProfile",
            apparmor,
            " to /proc/self/attr/",
        ),
        (
            SandboxArgs { selinux: label(), ..args() },
            "process.selinuxLabel",
            selinux,
            "is no label of the SELinux policy",
        ),
    ] {
        let error = create(args).unwrap_err();
        if runs {
            assert!(error.to_string().contains(told), "{error}");
        } else {
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.to_string().starts_with(&format!("{field}: \"nobody-knows-this\"")), "{error}");
        }
    }
}
