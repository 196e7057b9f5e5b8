//! Scopes of the systemd that runs: `hack/vm systemd cgroup/systemd`.

#![allow(clippy::disallowed_methods, reason = "control groups and files of the tests")]
#![allow(unsafe_code, reason = "the tests clone processes into groups")]
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

#[allow(dead_code, reason = "the other test program uses the rest")]
#[path = "root/harness.rs"]
mod harness;

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::Member;
use vaquita_cgroup::systemd::Bus;
use vaquita_cgroup::{
    Access, Cgroup, DeviceKind, DeviceRule, Driver, Kind, Layout, Location, Resources, Version,
};
use vaquita_sys::process::{Idle, wait_pidfd};
use vaquita_testing::{Defer, Leaks, require_root, unique};

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "-p", name, unit])
}

/// Until systemd has forgotten the unit, at most 20 seconds.
fn assert_forgotten(unit: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while property(unit, "LoadState") != "not-found" || property(unit, "ActiveState") != "inactive" {
        assert!(Instant::now() < deadline, "{unit}: {}", systemctl(&["status", unit]));
        std::thread::yield_now();
    }
}

fn value(layout: &Layout, group: &Cgroup, file: &str) -> String {
    harness::file(layout, group, file.split('.').next().unwrap(), file, file)
}

fn limits() -> Resources {
    Resources {
        cpu_shares: Some(512),
        cpu_quota: Some(33_000),
        cpu_period: Some(100_000),
        cpuset_cpus: Some("0".into()),
        memory_limit: Some(64 << 20),
        memory_swap: Some(96 << 20),
        memory_reservation: Some(16 << 20),
        pids_limit: Some(5),
        unified: [("memory.high".to_owned(), "50331648".to_owned())].into(),
        ..Resources::default()
    }
}

#[test]
#[ignore = "needs systemd as init"]
fn systemd_makes_changes_and_removes_a_scope() {
    require_root();
    for bus in [Bus::System, Bus::Broker("/run/dbus/system_bus_socket".into())] {
        let layout = Layout::detect().unwrap();
        assert!(layout.is_v2());
        let tag = unique("vqsd");
        let _leaks = Leaks::of(&tag);
        let slice = format!("{tag}-inner.slice");
        let _clean = Defer::new(|| {
            systemctl(&["stop", &slice, &format!("{tag}.slice")]);
        });
        let unit = "vaquita-c1.scope".replace("c1", &tag);
        let path = PathBuf::from(format!("{slice}:vaquita:{tag}"));
        let mut location = Location::in_systemd(bus, Some(&path), &tag).unwrap();
        let annotations: HashMap<String, String> =
            [("org.systemd.property.KillSignal".to_owned(), "37".to_owned())].into();
        let mut placed = location.create(&layout, &limits(), &annotations).unwrap();
        let first = Member::sleeper(placed.cgroup().unwrap());
        placed.settle(first.pid).unwrap();

        let group = location.open(&layout).unwrap().unwrap();
        assert_eq!(group.procs().unwrap(), [first.pid]);
        let place = std::fs::read_to_string(format!("/proc/{}/cgroup", first.pid)).unwrap();
        assert_eq!(place.trim(), format!("0::/{tag}.slice/{slice}/{unit}"));
        assert_eq!(property(&unit, "ControlGroup"), place.trim()[3..]);
        assert_eq!(property(&unit, "Delegate"), "yes");
        assert_eq!(property(&unit, "KillSignal"), "37");
        let expected = [
            ("cpu.max", "33000 100000"),
            ("cpu.weight", "59"),
            ("cpuset.cpus", "0"),
            ("memory.high", "50331648"),
            ("memory.low", "16777216"),
            ("memory.max", "67108864"),
            ("memory.swap.max", "33554432"),
            ("pids.max", "5"),
        ];
        let check = |expected: &[(&str, &str)]| {
            for (file, wanted) in expected {
                assert_eq!(value(&layout, &group, file), *wanted, "{file}");
            }
        };
        check(&expected);
        for (name, wanted) in
            [("MemoryMax", "67108864"), ("TasksMax", "5"), ("CPUWeight", "59"), ("AllowedCPUs", "0")]
        {
            assert_eq!(property(&unit, name), wanted, "{name}");
        }

        // systemd writes what it knows once more, and takes neither a limit nor the filter away.
        let null = DeviceRule {
            allow: true,
            kind: DeviceKind::Char,
            major: Some(1),
            minor: Some(3),
            access: Access::ALL,
        };
        group.set_devices(&[null]).unwrap();
        systemctl(&["daemon-reload"]);
        systemctl(&["set-property", "--runtime", &unit, "IOWeight=50"]);
        check(&expected);
        for (path, code) in [(c"/dev/null", 0), (c"/dev/zero", libc::EPERM)] {
            let other = Member::new(&group, true, || {
                rustix::fs::open(path, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
                    .map_or_else(|errno| errno.raw_os_error(), |_| 0)
            });
            assert_eq!(other.finish().code, code, "{path:?}");
        }

        let change = Resources {
            memory_limit: Some(128 << 20),
            memory_swap: Some(-1),
            pids_limit: Some(-1),
            cpu_quota: Some(-1),
            ..Resources::default()
        };
        location.update(&layout, &change).unwrap();
        systemctl(&["daemon-reload"]);
        check(&[
            ("memory.max", "134217728"),
            ("memory.swap.max", "max"),
            ("pids.max", "max"),
            ("memory.low", "16777216"),
        ]);
        assert!(value(&layout, &group, "cpu.max").starts_with("max "));
        assert_eq!(property(&unit, "MemoryMax"), "134217728");

        let error = location.clone().create(&layout, &limits(), &HashMap::new()).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy, "{error}");
        group.kill().unwrap();
        assert_eq!(wait_pidfd(&first.pidfd).unwrap().signal, Some(9));
        location.remove(&layout).unwrap();
        location.remove(&layout).unwrap();
        assert_forgotten(&unit);
        assert_eq!(location.open(&layout).unwrap_err().kind(), Kind::NotFound);
    }
}

/// With one process allowed, the child that holds the scope open must not be the one.
#[test]
#[ignore = "needs systemd as init"]
fn systemd_holds_a_scope_open_and_lets_it_go() {
    require_root();
    let layout = Layout::detect().unwrap();
    let tag = unique("vqsd");
    let _leaks = Leaks::of(&tag);
    let unit = format!("vaquita-{tag}.scope");
    let mut location = Location::new(Driver::Systemd, None, &tag).unwrap();
    let one = Resources { pids_limit: Some(1), ..Resources::default() };
    let mut placed = location.create(&layout, &one, &HashMap::new()).unwrap();
    let first = Member::sleeper(placed.cgroup().unwrap());
    placed.settle(first.pid).unwrap();
    assert_eq!(value(&layout, placed.cgroup().unwrap(), "pids.max"), "1");
    // When the container ends by itself, systemd removes the scope; that it is gone then is no error.
    assert_eq!(first.finish().code, 0);
    assert_forgotten(&unit);
    location.remove(&layout).unwrap();
    // A container that is never made.
    drop(location.create(&layout, &one, &HashMap::new()).unwrap());
    assert_forgotten(&unit);
    location.remove(&layout).unwrap();
    // What systemd refuses.
    let wrong = Resources { cpuset_cpus: Some("9999".into()), ..Resources::default() };
    let error = location.create(&layout, &wrong, &HashMap::new()).unwrap_err();
    assert!(error.to_string().contains("9999") || error.kind() == Kind::Systemd, "{error}");
    assert_forgotten(&unit);
}

#[test]
#[ignore = "needs systemd as init"]
fn systemd_does_not_take_what_still_runs() {
    require_root();
    let layout = Layout::detect().unwrap();
    let tag = unique("vqsd");
    let _leaks = Leaks::of(&tag);
    let mut location = Location::new(Driver::Systemd, None, &tag).unwrap();
    let mut placed = location.create(&layout, &Resources::default(), &HashMap::new()).unwrap();
    let first = Member::sleeper(placed.cgroup().unwrap());
    placed.settle(first.pid).unwrap();
    let error = location.remove(&layout).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().ends_with(&first.pid.to_string()), "{error}");
    assert_eq!(property(&format!("vaquita-{tag}.scope"), "ActiveState"), "active");
    // Groups made inside go with it.
    let group = location.open(&layout).unwrap().unwrap();
    Cgroup::create(&layout, &group.path().join("inner/most"), &Resources::default()).unwrap();
    group.kill().unwrap();
    wait_pidfd(&first.pidfd).unwrap();
    location.remove(&layout).unwrap();
    assert_forgotten(&format!("vaquita-{tag}.scope"));
}

/// As an ordinary user, whose own systemd makes the scope. Its processes cannot be cloned there from root's group.
#[test]
#[ignore = "needs systemd as init"]
fn systemd_of_an_ordinary_user() {
    require_root();
    let tag = unique("vqsd");
    let _leaks = Leaks::of(&tag);
    systemctl(&["start", "user@1000.service"]);
    let _clean = Defer::new(|| {
        systemctl(&["stop", "user@1000.service"]);
    });
    assert!(
        Path::new("/run/user/1000/systemd/private").exists(),
        "{}",
        systemctl(&["status", "user@1000.service"])
    );
    // Where the user may read it.
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let program = dir.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for path in [dir.path(), &program] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let status = Command::new(&program)
        .args(["--ignored", "--exact", "as_an_ordinary_user", "--nocapture"])
        .env("XDG_RUNTIME_DIR", "/run/user/1000")
        .env("VAQUITA_TAG", &tag)
        .env_remove("DBUS_SESSION_BUS_ADDRESS")
        .current_dir("/")
        .uid(1000)
        .gid(1000)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "is run by systemd_of_an_ordinary_user"]
fn as_an_ordinary_user() {
    let tag = std::env::var("VAQUITA_TAG").unwrap();
    let layout = Layout::detect().unwrap();
    let mut location = Location::rootless(&layout, Driver::Systemd, None, &tag).unwrap();
    assert_eq!(
        location.path().unwrap(),
        Path::new("/user.slice/user-1000.slice/user@1000.service/user.slice")
            .join(format!("vaquita-{tag}.scope"))
    );
    let limits = Resources {
        pids_limit: Some(7),
        memory_limit: Some(64 << 20),
        devices: Some(Vec::new()),
        ..Resources::default()
    };
    let mut placed = location.create(&layout, &limits, &HashMap::new()).unwrap();
    let group = placed.cgroup().unwrap();
    assert!(!group.takes_clones(), "root's group is the nearest above both");
    assert!(group.dir_fd().is_none());
    group.set_devices(&[]).unwrap();
    let first = Idle::new().unwrap();
    placed.settle(first.pid()).unwrap();
    let group = location.open(&layout).unwrap().unwrap();
    assert_eq!(group.procs().unwrap(), [first.pid()]);
    let second = Idle::new().unwrap();
    location.admit(&group, second.pid()).unwrap();
    assert_eq!(group.procs().unwrap().len(), 2);
    assert_eq!(value(&layout, &group, "pids.max"), "7");
    location.update(&layout, &Resources { pids_limit: Some(9), ..Resources::default() }).unwrap();
    assert_eq!(value(&layout, &group, "pids.max"), "9");
    group.freeze().unwrap();
    group.thaw().unwrap();
    group.kill().unwrap();
    drop((first, second));
    location.remove(&layout).unwrap();
    assert_eq!(location.open(&layout).unwrap_err().kind(), Kind::NotFound);
    // Nothing is delegated to where the test itself runs: limits are refused, none is fine.
    let mut location = Location::rootless(&layout, Driver::Cgroupfs, None, &tag).unwrap();
    assert_eq!(location.path(), None);
    assert_eq!(location.create(&layout, &limits, &HashMap::new()).unwrap_err().kind(), Kind::Denied);
    location.create(&layout, &Resources::default(), &HashMap::new()).unwrap();
    // A path that was asked for is one that is used, or an error.
    let path = Path::new("/vqnot/there");
    let mut location = Location::rootless(&layout, Driver::Cgroupfs, Some(path), &tag).unwrap();
    let error = location.create(&layout, &Resources::default(), &HashMap::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
}

/// On a host whose controllers are of v1. There the first process enters its group only when it is started; what systemd
/// looks at must know it before.
#[test]
#[ignore = "needs a systemd with cgroup v1 as init: kernel command line systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]
fn v1_has_scopes_too() {
    require_root();
    let layout = Layout::detect().unwrap();
    assert!(!layout.is_v2());
    let tag = unique("vqsd");
    let _leaks = Leaks::of(&tag);
    let unit = format!("vaquita-{tag}.scope");
    let mut location = Location::new(Driver::Systemd, None, &tag).unwrap();
    let rule = |allow, kind, major, minor| DeviceRule { allow, kind, major, minor, access: Access::ALL };
    let rules = [
        rule(false, DeviceKind::All, None, None),
        rule(true, DeviceKind::Char, Some(1), Some(3)),
        rule(true, DeviceKind::Char, Some(136), None),
    ];
    // Some kernels have no memory controller in v1.
    let bytes = |bytes| layout.controller("memory").map(|_| bytes);
    let limits = Resources {
        cpu_shares: Some(512),
        memory_limit: bytes(64 << 20),
        pids_limit: Some(5),
        devices: Some(rules.to_vec()),
        ..Resources::default()
    };
    let mut placed = location.create(&layout, &limits, &HashMap::new()).unwrap();
    let first = Idle::new().unwrap();
    if let Some(v2) = layout.hierarchies().iter().find(|one| one.version == Version::V2) {
        // Where the runtime clones it to.
        let path = location.path().unwrap().strip_prefix("/").unwrap();
        std::fs::write(v2.mount.join(path).join("cgroup.procs"), first.pid().to_string()).unwrap();
    }
    placed.settle(first.pid()).unwrap();
    let group = location.open(&layout).unwrap().unwrap();
    group.set_devices(&rules).unwrap();
    let file = |controller, name| harness::file(&layout, &group, controller, name, "memory.max");
    let check = |memory: &str| {
        if layout.controller("memory").is_some() {
            assert_eq!(file("memory", "memory.limit_in_bytes"), memory);
        }
        assert_eq!(file("cpu", "cpu.shares"), "512");
        assert_eq!(file("pids", "pids.max"), "5");
        let devices = file("devices", "devices.list");
        assert!(devices.contains("c 1:3 rwm") && devices.contains("c 136:* rwm"), "{devices}");
        assert!(!devices.contains("a *:*") && !devices.contains("c 1:5"), "{devices}");
    };
    check("67108864");
    systemctl(&["daemon-reload"]);
    systemctl(&["set-property", "--runtime", &unit, "CPUShares=512", "TasksMax=5"]);
    assert_eq!(property(&unit, "ActiveState"), "active");
    assert_eq!(property(&unit, "TasksMax"), "5");
    check("67108864");
    group.add(first.pid()).unwrap();
    location.update(&layout, &Resources { memory_limit: bytes(128 << 20), ..Resources::default() }).unwrap();
    systemctl(&["daemon-reload"]);
    check("134217728");
    group.kill().unwrap();
    drop(first);
    location.remove(&layout).unwrap();
    assert_forgotten(&unit);
    assert_eq!(location.open(&layout).unwrap_err().kind(), Kind::NotFound);
}
