//! Namespaces that are made, and ones of others that are joined by path.

use serde_json::{Value, json};
use vaquita_runtime::{Kind, ParentOf};

use crate::harness::{Bundle, Running};

fn with(mut bundle: Bundle, namespace: Value) -> Bundle {
    bundle = bundle.without_namespace(namespace["type"].as_str().unwrap());
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
    bundle
}

fn started(bundle: &mut Bundle) -> Running {
    let mut running = bundle.create().unwrap();
    running.start().unwrap();
    running.read_until("ns mnt");
    running
}

fn uptime(text: &str) -> f64 {
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn clocks_of_a_time_namespace_have_their_offsets() {
    let host = uptime(&std::fs::read_to_string("/proc/uptime").unwrap());
    let orders = "ns time\ncat /proc/uptime\ncat /proc/self/timens_offsets\nns mnt\nwait";
    let mut bundle = with(Bundle::new(orders), json!({"type": "time"})).set(
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": -7}}),
    );
    let mut running = bundle.create().unwrap();
    running.start().unwrap();
    let namespace = running.read_until("ns time");
    assert_ne!(namespace, std::fs::read_link("/proc/self/ns/time").unwrap().display().to_string());
    assert!(uptime(&running.read_until("cat /proc/uptime")) >= host + 1_000_000.0);
    let offsets = running.read_until("cat /proc/self/timens_offsets");
    let offsets: Vec<&str> = offsets.split_whitespace().collect();
    // -7 seconds and no nanoseconds, and so on.
    assert_eq!(offsets, ["monotonic", "-7", "0|boottime", "1000000", "5"]);
    // The process that waited was in it before it executed its program: so is what joins it.
    for outcome in running.exec_probes("ns time\ncat /proc/uptime", |_| {}) {
        assert_eq!(outcome.of("ns time"), namespace);
        assert!(uptime(outcome.of("cat /proc/uptime")) >= host + 1_000_000.0);
    }
    // By path, too.
    let path = format!("/proc/{}/ns/time", running.pid.as_raw_nonzero());
    let joined = with(Bundle::new("ns time\ncat /proc/uptime"), json!({"type": "time", "path": path})).run();
    assert_eq!(joined.of("ns time"), namespace);
    assert!(uptime(joined.of("cat /proc/uptime")) >= host + 1_000_000.0);
}

#[test]
fn a_time_namespace_works_with_a_user_namespace_and_a_creator() {
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
    let host = uptime(&std::fs::read_to_string("/proc/uptime").unwrap());
    let mut bundle = with(Bundle::new("cat /proc/uptime\npid"), json!({"type": "time"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 5000}}));
    bundle = with(bundle, json!({"type": "user"}));
    rustix::fs::chown(bundle.dir.path(), Some(rustix::fs::Uid::from_raw(200_000)), None).unwrap();
    let outcome = bundle.run();
    assert!(uptime(outcome.of("cat /proc/uptime")) >= host + 5000.0);
    assert_eq!(outcome.of("pid"), "1");
    // The maker is where it was.
    let inside = std::fs::read_link("/proc/thread-self/ns/time_for_children").unwrap();
    assert_eq!(inside, std::fs::read_link("/proc/self/ns/time").unwrap());
}

#[test]
fn offsets_that_cannot_be_are_refused() {
    let time = json!({"type": "time"});
    for (namespace, offsets, text) in [
        (Some(&time), json!({"realtime": {"secs": 1}}), "\"realtime\" is no clock of a time namespace"),
        (Some(&time), json!({"boottime": {"nanosecs": 1_000_000_000}}), "1000000000 is a second or more"),
        (None, json!({"boottime": {"secs": 1}}), "there are offsets and no time namespace"),
        (
            Some(&json!({"type": "time", "path": "/proc/self/ns/time"})),
            json!({"boottime": {"secs": 1}}),
            "that is joined",
        ),
    ] {
        let mut bundle = Bundle::new("pid").set("/linux/timeOffsets", offsets);
        if let Some(namespace) = namespace {
            bundle = with(bundle, namespace.clone());
        }
        let error = bundle.plan().unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(
            error.to_string().starts_with("linux.timeOffsets") && error.to_string().contains(text),
            "{error}"
        );
    }
    // More than the kernel's clocks can show.
    let mut bundle =
        with(Bundle::new("pid"), time).set("/linux/timeOffsets", json!({"boottime": {"secs": i64::MAX}}));
    let error = bundle.create().err().unwrap();
    assert_eq!(error.errno(), Some(rustix::io::Errno::RANGE), "{error}");
    assert!(error.to_string().contains("timens_offsets"), "{error}");
}

/// Every kind but mount and user, each of another container, at once.
#[test]
fn namespaces_are_joined_by_path() {
    let kinds = [
        ("pid", "pid"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("network", "net"),
        ("cgroup", "cgroup"),
        ("time", "time"),
    ];
    let orders =
        "ns pid\nns ipc\nns uts\nns net\nns cgroup\nns time\nns mnt\ncat /proc/self/cgroup\nhostname\nwait";
    let mut first = Bundle::new("ns mnt\nwait");
    first.with_cgroup = true;
    first = with(with(first, json!({"type": "cgroup"})), json!({"type": "time"}));
    let first = started(&mut first);
    let pid = first.pid.as_raw_nonzero();
    let mut second = Bundle::new(orders).set("/hostname", Value::Null);
    for (kind, file) in kinds {
        second = with(second, json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
    }
    let outcome = second.run();
    for (_, file) in kinds {
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{file}")).unwrap();
        assert_eq!(outcome.of(&format!("ns {file}")), theirs.to_str().unwrap());
    }
    assert_ne!(
        outcome.of("ns mnt"),
        std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap().to_str().unwrap()
    );
    assert_eq!(outcome.of("hostname"), "probe");
}

/// A user namespace of another container, with everything else of one's own: a PID namespace belongs to whom its maker was.
#[test]
fn a_user_namespace_is_joined_by_path() {
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
    let mut first = with(Bundle::new("ns mnt\nwait"), json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map);
    let owner = Some(rustix::fs::Uid::from_raw(200_000));
    rustix::fs::chown(first.dir.path(), owner, None).unwrap();
    let first = started(&mut first);
    let path = format!("/proc/{}/ns/user", first.pid.as_raw_nonzero());
    let orders = "pid\nids\nns user\nns pid\ncat /proc/self/uid_map\nmount /proc\nhostname\nstatus CapEff\nstatus NSpid\nfds";
    for pid in [json!({"type": "pid"}), Value::Null] {
        for cgroup in [true, false] {
            let mut second = with(Bundle::new(orders), json!({"type": "user", "path": path}));
            second.with_cgroup = cgroup;
            rustix::fs::chown(second.dir.path(), owner, None).unwrap();
            if pid.is_null() {
                let path = format!("/proc/{}/ns/pid", first.pid.as_raw_nonzero());
                second = with(second, json!({"type": "pid", "path": path}));
            }
            let outcome = second.run();
            assert_eq!(outcome.of("ns user"), std::fs::read_link(&path).unwrap().to_str().unwrap());
            let theirs = std::fs::read_link(format!("/proc/{}/ns/pid", first.pid.as_raw_nonzero())).unwrap();
            assert_eq!(outcome.of("ns pid") == theirs.to_str().unwrap(), pid.is_null());
            assert_eq!(outcome.of("pid") == "1", !pid.is_null());
            assert_eq!(outcome.of("ids"), "0 0 []");
            assert!(outcome.of("cat /proc/self/uid_map").contains("200000"));
            assert!(outcome.of("mount /proc").starts_with("proc "));
            assert_eq!(outcome.of("hostname"), "probe");
            assert_eq!(outcome.of("status CapEff"), "0000000000000021");
            assert_eq!(outcome.of("fds"), "0 1 2");
        }
    }
    // Nor does what is no namespace at all make anybody wait.
    let dir = vaquita_testing::temp_dir();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    let wrong = with(Bundle::new("pid"), json!({"type": "network", "path": fifo})).create().err().unwrap();
    assert!(wrong.to_string().starts_with("joining the net namespace: setns: EINVAL"), "{wrong}");
    // What is no user namespace is told before anything is made.
    let wrong = with(Bundle::new("pid"), json!({"type": "user", "path": "/proc/self/ns/net"}))
        .create()
        .err()
        .unwrap();
    assert!(wrong.to_string().starts_with("joining the user namespace: setns: EINVAL"), "{wrong}");
}

/// A user namespace is joined, and a new PID namespace belongs to it: as the containers of a pod with ids of its own.
#[test]
fn a_pid_namespace_of_a_joined_user_namespace() {
    let map = json!([{"containerID": 0, "hostID": 300_000, "size": 65536}]);
    let mut pod = with(Bundle::new("ns user\nns mnt\nwait"), json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map);
    let owned = |bundle: &Bundle| {
        rustix::fs::chown(bundle.dir.path(), Some(rustix::fs::Uid::from_raw(300_000)), None).unwrap();
    };
    owned(&pod);
    let mut first = pod.create().unwrap();
    first.start().unwrap();
    let user = first.read_until("ns user");
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", first.pid.as_raw_nonzero());
    let orders = "pid\nns user\nns net\nids\nmount /proc\nstat /dev/null\nwrite /dev/null\nhostname\nstatus CapEff\nwait";
    for parent in [ParentOf::Caller, ParentOf::CallersParent] {
        let mut bundle = with(Bundle::new(orders), json!({"type": "user", "path": path("user")}));
        bundle = with(bundle, json!({"type": "network", "path": path("net")}));
        owned(&bundle);
        bundle.with_cgroup = true;
        let mut running = bundle.create_as(parent).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid)).unwrap();
        let field = |status: &str, name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
        };
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let expected = match parent {
            ParentOf::Caller => std::process::id().to_string(),
            ParentOf::CallersParent => field(&own, "PPid:"),
        };
        assert_eq!(field(&status, "PPid:"), expected);
        assert!(field(&status, "Uid:").starts_with("300000"));
        running.start().unwrap();
        running.read_until("status CapEff");
        let seen = running.exec_probe("pid\nns user\nids", |_| {});
        // Threads of the first process have numbers, too.
        assert!(seen.of("pid").parse::<i32>().unwrap() < 10, "{}", seen.of("pid"));
        assert_eq!(seen.of("ids"), "0 0 []");
        assert_eq!(seen.of("ns user"), user);
        if parent == ParentOf::Caller {
            let again = with(Bundle::new(orders), json!({"type": "user", "path": path("user")}));
            owned(&again);
            let outcome = again.run();
            assert_eq!((outcome.of("pid"), outcome.of("ids")), ("1", "0 0 []"));
            assert_eq!(outcome.of("ns user"), user);
            assert!(outcome.of("mount /proc").starts_with("proc rw"));
            assert_eq!(outcome.of("write /dev/null"), "ok");
            assert_eq!(outcome.of("hostname"), "probe");
            assert_eq!(outcome.of("status CapEff"), "0000000000000021");
        }
    }
}

/// In the host's mount namespace nothing is mounted that others could see, not even for a moment: what would need that
/// is refused.
#[test]
fn nothing_is_made_in_the_hosts_mount_namespace() {
    let long = format!("lowerdir=/{}", "x/".repeat(200));
    let mut bundle = Bundle::new("")
        .without_namespace("mount")
        .mount(json!({"destination": "/o", "type": "overlay", "source": "overlay", "options": [long]}));
    let error = bundle.create().err().unwrap();
    if vaquita_testing::lacks(libc::SYS_move_mount) {
        assert!(error.to_string().ends_with("needs move_mount(2) and Linux 6.15"), "{error}");
        return;
    }
    if vaquita_testing::kernel() < [6, 15] {
        assert_eq!(
            error.to_string(),
            "mounting proc on \"/proc\": move_mount: EINVAL (Invalid argument); without a mount namespace of its own a \
             container needs Linux 6.15, and no read-only view of cgroup v1"
        );
        return;
    }
    assert_eq!(
        error.to_string(),
        "mounting overlay on \"/o\": mount (in a mount namespace of others): EOPNOTSUPP (Operation not supported)"
    );
    let table = vaquita_sys::mount::mountinfo().unwrap();
    assert_eq!(table.iter().filter(|mount| mount.mount_point == std::path::Path::new("/")).count(), 1);
}
