//! What a container gets, as it sees it itself.

use std::io::Read;
use std::os::fd::AsRawFd;

use serde_json::json;
use vaquita_runtime::{Kind, ParentOf};
use vaquita_sys::ns;

use crate::harness::{Bundle, Running, is_mounted_below, marked};

#[test]
fn a_container_has_what_it_asked_for() {
    let outcome = Bundle::new(
        "pid\nids\nhostname\nsession\nfds\ncwd\numask\nenv PATH\nstatus CapEff\nstatus CapInh\nstatus CapBnd\nstatus NoNewPrivs\nstatus Seccomp\nexit 7",
    )
    .run();
    assert_eq!(outcome.of("pid"), "1");
    assert_eq!(outcome.of("ids"), "0 0 []");
    assert_eq!(outcome.of("hostname"), "probe");
    assert_eq!(outcome.of("session"), "true");
    assert_eq!(outcome.of("fds"), "0 1 2");
    assert_eq!(outcome.of("cwd"), "/");
    assert_eq!(outcome.of("umask"), "22");
    assert_eq!(outcome.of("status CapEff"), "0000000000000021");
    assert_eq!(outcome.of("status CapBnd"), "0000000000000021");
    assert_eq!(outcome.of("status CapInh"), "0000000000000000");
    assert_eq!(outcome.of("status NoNewPrivs"), "1");
    assert_eq!(outcome.of("status Seccomp"), "2");
    assert_eq!((outcome.exit.code, outcome.exit.signal), (7, None));
}

#[test]
fn the_usual_mounts_and_devices_are_there() {
    let outcome = Bundle::new(
        "mount /\nmount /proc\nmount /dev\nmount /dev/pts\nmount /dev/mqueue\nmount /dev/shm\nmount /sys\nls /dev\n\
         stat /dev/null\nstat /dev/tty\nlink /dev/ptmx\nlink /dev/fd\nlink /dev/stderr\nstat /dev/pts/ptmx\nstat /dev/shm\ncreate /dev/shm/x",
    )
    .run();
    assert!(
        outcome.of("mount /proc").starts_with("proc rw,nosuid,nodev,noexec"),
        "{}",
        outcome.of("mount /proc")
    );
    assert!(outcome.of("mount /dev").starts_with("tmpfs rw,nosuid"));
    assert!(!outcome.of("mount /dev").contains("relatime"), "strictatime was asked for");
    assert!(outcome.of("mount /dev/pts").starts_with("devpts rw,nosuid,noexec"));
    assert!(outcome.of("mount /dev/mqueue").starts_with("mqueue"));
    assert!(outcome.of("mount /sys").starts_with("sysfs ro,nosuid,nodev,noexec"));
    assert_eq!(
        outcome.of("ls /dev"),
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    assert_eq!(outcome.of("stat /dev/null"), "char 666 0:0 1:3");
    assert_eq!(outcome.of("stat /dev/tty"), "char 666 0:0 5:0");
    assert_eq!(outcome.of("link /dev/ptmx"), "pts/ptmx");
    assert_eq!(outcome.of("link /dev/fd"), "/proc/self/fd");
    assert_eq!(outcome.of("stat /dev/pts/ptmx"), "char 666 0:0 5:2");
    assert_eq!(outcome.of("stat /dev/shm"), "dir 1777 0:0 0:0");
    assert_eq!(outcome.of("create /dev/shm/x"), "ok");
}

#[test]
fn hidden_and_read_only_paths() {
    let outcome = Bundle::new(
        "cat /proc/kcore\ncat /proc/keys\nstat /proc/keys\nls /sys/firmware\ncreate /sys/firmware/x\nls /proc/scsi\nwrite /proc/sysrq-trigger\n\
         write /proc/sys/kernel/hostname\ncat /proc/sys/kernel/ostype\nmount /proc/sys\nmount /proc/keys\nchmod /proc/keys",
    )
    .run();
    // Not every kernel has it.
    assert!(["", "ENOENT"].contains(&outcome.of("cat /proc/kcore")));
    assert_eq!(outcome.of("cat /proc/keys"), "");
    assert_eq!(outcome.of("stat /proc/keys"), "char 666 0:0 1:3");
    // Through the mask the host's /dev/null cannot be changed.
    assert_eq!(outcome.of("chmod /proc/keys"), "EROFS");
    assert_eq!(outcome.of("ls /sys/firmware"), "");
    assert_eq!(outcome.of("create /sys/firmware/x"), "EROFS");
    assert!(["", "ENOENT"].contains(&outcome.of("ls /proc/scsi")));
    assert!(["EROFS", "ENOENT"].contains(&outcome.of("write /proc/sysrq-trigger")));
    assert_eq!(outcome.of("write /proc/sys/kernel/hostname"), "EROFS");
    assert_eq!(outcome.of("cat /proc/sys/kernel/ostype"), "Linux");
    assert!(outcome.of("mount /proc/sys").starts_with("proc ro,nosuid,nodev,noexec"));
}

#[test]
fn user_groups_umask_and_rlimits() {
    let bundle =
        Bundle::new("ids\numask\nstatus CapEff\nstatus CapPrm\nstatus CapBnd\nnofile\nreopen\nstatus CapAmb")
            .set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 9], "umask": 0o077}))
            .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]));
    let outcome = bundle.run();
    assert_eq!(outcome.of("ids"), "1000 1001 [7 9]");
    assert_eq!(outcome.of("umask"), "77");
    // As with any other runtime: only ambient capabilities outlive an execve by another user than root.
    assert_eq!(outcome.of("status CapEff"), "0000000000000000");
    assert_eq!(outcome.of("status CapBnd"), "0000000000000021");
    assert_eq!(outcome.of("nofile"), "Some(100) Some(200)");
    assert_eq!(outcome.of("reopen"), "ok");

    let ambient = Bundle::new("status CapEff\nstatus CapAmb")
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/capabilities/inheritable", json!(["CAP_KILL"]))
        .set("/process/capabilities/ambient", json!(["CAP_KILL"]))
        .run();
    assert_eq!(ambient.of("status CapEff"), "0000000000000020");
    assert_eq!(ambient.of("status CapAmb"), "0000000000000020");
}

#[test]
fn the_filter_holds_with_and_without_no_new_privs() {
    let orders = "status Seccomp\nstatus NoNewPrivs\nunshare\nmounttmpfs\nsocket 40\nsocket 38\nsocket 1";
    for no_new_privs in [true, false] {
        let bundle = Bundle::new(orders).set("/process/noNewPrivileges", json!(no_new_privs));
        let outcome = bundle.run();
        assert_eq!(outcome.of("status Seccomp"), "2");
        assert_eq!(outcome.of("status NoNewPrivs"), if no_new_privs { "1" } else { "0" });
        for refused in ["unshare", "mounttmpfs", "socket 40", "socket 38"] {
            assert_eq!(outcome.of(refused), "EPERM", "{refused}");
        }
        assert_eq!(outcome.of("socket 1"), "ok");
    }
    // A filter that kills: the mkdir ends the process.
    let deny = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]});
    let outcome = Bundle::new("pid\nmkdirat2 /tmp/x\npid").set("/linux/seccomp", deny).run();
    assert_eq!(outcome.of("pid"), "1");
    assert_eq!(outcome.output.len(), 1);
    assert_eq!(outcome.exit.signal, Some(31), "SIGSYS");
}

/// A filter under which only execve can be called after it: nothing of ours comes in between.
#[test]
fn nothing_but_execve_comes_after_the_filter() {
    let only = json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [{"names": ["execveat"], "action": "SCMP_ACT_ALLOW"}]});
    let mut bundle = Bundle::new("").set("/linux/seccomp", only);
    let mut running = bundle.create().unwrap();
    running.start().unwrap();
    // The program itself is killed by its first call, after an execve that succeeded.
    assert_eq!(running.finish().exit.signal, Some(31));
}

#[test]
fn descriptors_are_passed_in_order_and_keys_are_not() {
    let dir = vaquita_testing::temp_dir();
    let file = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, name).unwrap();
        std::os::fd::OwnedFd::from(std::fs::File::open(path).unwrap())
    };
    let orders = "fds\ncat /proc/self/fd/3\ncat /proc/self/fd/4\ncat /proc/self/fd/5\nkeyring";
    let own = crate::probe::session_keyring();
    for new_keyring in [true, false] {
        let mut bundle = Bundle::new(orders).set("/linux/seccomp", serde_json::Value::Null);
        bundle.with_cgroup = true;
        bundle.new_keyring = new_keyring;
        // The order of their numbers here is another one.
        let (c, b, a) = (file("c"), file("b"), file("a"));
        bundle.extra_fds = vec![a, b, c];
        let outcome = bundle.run();
        assert_eq!(outcome.of("fds"), "0 1 2 3 4 5");
        for (number, name) in [(3, "a"), (4, "b"), (5, "c")] {
            assert_eq!(outcome.of(&format!("cat /proc/self/fd/{number}")), name);
        }
        assert_eq!(outcome.of("keyring") == own, !new_keyring);
    }
}

#[test]
fn binds_of_every_sort() {
    let host = vaquita_testing::temp_dir();
    std::fs::create_dir(host.path().join("deep")).unwrap();
    std::fs::write(host.path().join("file"), "from the host").unwrap();
    let tag = host.path().to_str().unwrap().to_owned();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount(c"tmpfs", host.path().join("deep"), c"tmpfs", flags, None::<&std::ffi::CStr>)
        .unwrap();
    let _unmount = vaquita_testing::Defer::new({
        let deep = host.path().join("deep");
        move || vaquita_sys::mount::umount(&deep, rustix::mount::UnmountFlags::DETACH).unwrap()
    });
    let bind = |destination: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": "bind", "source": format!("{tag}{source}"), "options": options});
    let outcome = Bundle::new(
        "cat /rw/file\ncreate /rw/new\nls /rw/deep\ncreate /ro/x\ncreate /ro/deep/x\ncreate /rro/x\ncreate /rro/deep/x\n\
         cat /a/b/c/file\nwrite /a/b/c/file\nmount /rw\nmount /slave\nmount /shared\nmount /ro\ncreate /flat/deep/x",
    )
    .mount(bind("/rw", "", &["rbind", "rprivate"]))
    .mount(bind("/ro", "", &["rbind", "ro", "nosuid", "rprivate"]))
    .mount(bind("/rro", "", &["rbind", "rro", "rprivate"]))
    .mount(bind("/flat", "", &["bind", "rprivate"]))
    .mount(bind("/slave", "/deep", &["bind", "rslave"]))
    .mount(bind("/shared", "/deep", &["bind", "rshared"]))
    .mount(bind("/a/b/c/file", "/file", &["bind", "ro"]))
    .run();
    assert_eq!(outcome.of("cat /rw/file"), "from the host");
    assert_eq!(outcome.of("create /rw/new"), "ok");
    assert_eq!(outcome.of("create /ro/x"), "EROFS");
    // Not recursive, as in runc: a mount below keeps its own.
    assert_eq!(outcome.of("create /ro/deep/x"), "ok");
    assert_eq!(outcome.of("create /rro/x"), "EROFS");
    assert_eq!(outcome.of("create /rro/deep/x"), "EROFS");
    assert_eq!(outcome.of("cat /a/b/c/file"), "from the host");
    assert_eq!(outcome.of("write /a/b/c/file"), "EROFS");
    assert!(outcome.of("mount /ro").contains("ro,nosuid"));
    assert!(outcome.of("mount /rw").ends_with("[]"), "{}", outcome.of("mount /rw"));
    assert!(outcome.of("mount /shared").ends_with("[shared]"), "{}", outcome.of("mount /shared"));
    assert_eq!(std::fs::read_dir(host.path().join("deep")).unwrap().count(), 1, "/ro/deep/x only");
}

#[test]
fn a_read_only_root_with_writable_mounts() {
    let outcome =
        Bundle::new("create /x\ncreate /dev/shm/x\nmount /").set("/root/readonly", json!(true)).run();
    assert_eq!(outcome.of("create /x"), "EROFS");
    assert_eq!(outcome.of("create /dev/shm/x"), "ok");
}

#[test]
fn sysctls_are_those_of_the_containers_namespaces() {
    let outcome = Bundle::new(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start\ncat /proc/sys/kernel/shm_rmid_forced\ndomainname",
    )
    .set("/linux/sysctl", json!({"net.ipv4.ip_unprivileged_port_start": "77", "kernel.shm_rmid_forced": "1"}))
    .set("/domainname", json!("example.org"))
    .run();
    assert_eq!(outcome.of("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "77");
    assert_eq!(outcome.of("cat /proc/sys/kernel/shm_rmid_forced"), "1");
    assert_eq!(outcome.of("domainname"), "example.org");
    assert_ne!(
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap().trim(),
        "77"
    );
}

/// T24: a namespace that is joined by descriptor and is the host's own.
#[test]
fn t24_sysctls_of_a_joined_host_namespace_are_refused() {
    let mut bundle = Bundle::new("").set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    let own = ns::open(None, ns::Kind::Net).unwrap();
    bundle.join.push((ns::Kind::Net, own));
    assert_eq!(bundle.create().err().unwrap().kind(), Kind::Invalid);
    let absent = Bundle::new("")
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}))
        .without_namespace("network");
    assert_eq!(absent.plan().unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn namespaces_are_joined_or_left() {
    let netns = ns::new_netns().unwrap();
    let name = std::fs::read_link(format!("/proc/self/fd/{}", netns.as_raw_fd())).unwrap();
    let mut bundle =
        Bundle::new("ns net\nns pid\nns ipc\npid").without_namespace("pid").without_namespace("ipc");
    bundle.join.push((ns::Kind::Net, netns));
    let outcome = bundle.run();
    assert_eq!(outcome.of("ns net"), name.to_str().unwrap());
    let own = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    assert_eq!(outcome.of("ns pid"), own("pid"));
    assert_eq!(outcome.of("ns ipc"), own("ipc"));
    assert_ne!(outcome.of("pid"), "1");
}

#[test]
fn a_user_namespace_with_bound_devices() {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let mut bundle =
        Bundle::new("ids\ncat /proc/self/uid_map\nstat /dev/null\nwrite /dev/null\nhostname\nstatus CapEff")
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    // The set-up makes mount points as the container's root.
    rustix::fs::chown(bundle.dir.path(), Some(rustix::fs::Uid::from_raw(100_000)), None).unwrap();
    let outcome = bundle.run();
    assert_eq!(outcome.of("ids"), "0 0 []");
    assert_eq!(
        outcome.of("cat /proc/self/uid_map").split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    assert!(outcome.of("stat /dev/null").starts_with("char 666"));
    assert_eq!(outcome.of("write /dev/null"), "ok");
    assert_eq!(outcome.of("hostname"), "probe");
    assert_eq!(outcome.of("status CapEff"), "0000000000000021");
}

#[test]
fn a_terminal() {
    let mut bundle =
        Bundle::new("tty\nstat /dev/console\nls /dev/pts\nfds").set("/process/terminal", json!(true));
    let mut running = bundle.create().unwrap();
    let console = running.console.take().unwrap();
    running.start().unwrap();
    let mut text = Vec::new();
    // Ends with EIO when the last slave is closed.
    let _ = std::fs::File::from(console).read_to_end(&mut text);
    let lines = marked(&String::from_utf8(text).unwrap());
    assert!(lines.contains(&"tty = true 40x100 controlling".to_owned()), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("stat /dev/console = char")), "{lines:?}");
    assert!(lines.contains(&"ls /dev/pts = 0 ptmx".to_owned()), "{lines:?}");
    assert!(lines.contains(&"fds = 0 1 2".to_owned()), "{lines:?}");
    running.finish();
}

#[test]
fn errors_of_execve_arrive_at_the_start() {
    for (args, message) in [
        (json!(["/bin/nope"]), "execve(\"/bin/nope\"): ENOENT (No such file or directory)"),
        (json!(["nope"]), "execve(\"nope\", looked for in \"/bin:/\"): ENOENT (No such file or directory)"),
        (json!(["/tmp"]), "execve(\"/tmp\"): EACCES (Permission denied)"),
    ] {
        let mut bundle = Bundle::new("").set("/process/args", args);
        let mut running = bundle.create().unwrap();
        let error = running.start().unwrap_err();
        assert!(matches!(error.kind(), Kind::Exec(_)), "{error:?}");
        assert_eq!(error.to_string(), message);
        assert_eq!(running.finish().exit.code, 1);
    }
    // Found by PATH, without its directory.
    let outcome = Bundle::new("arg0")
        .set("/process/args", json!(["probe", "probe::probe", "--exact", "--nocapture"]))
        .run();
    assert_eq!(outcome.of("arg0"), "probe");
}

#[test]
fn errors_of_the_set_up_name_the_step_and_leave_no_process() {
    let missing =
        json!({"destination": "/x", "type": "bind", "source": "/no/such/thing", "options": ["bind"]});
    let error = Bundle::new("").mount(missing).create().err().unwrap();
    // Without open_tree(2) it is opened only.
    let call = error.to_string();
    let call = call.strip_suffix(": ENOENT (No such file or directory)").unwrap();
    assert!(
        ["open_tree(AT_FDCWD, \"/no/such/thing\", OPEN_TREE_CLONE)", "open(\"/no/such/thing\", O_PATH)"]
            .contains(&call),
        "{call}"
    );
    let bad = json!({"destination": "/x", "type": "tmpfs", "source": "x", "options": ["size=much"]});
    let error = Bundle::new("").mount(bad).create().err().unwrap();
    // By mount(2) where the kernel lacks the new API.
    let call = error.to_string().replace(": mount: ", ": fsconfig: ");
    assert_eq!(call, "mounting tmpfs on \"/x\": fsconfig: EINVAL (Invalid argument)");
    let unknown = json!({"destination": "/x", "type": "nosuchfs", "source": "x"});
    let error = Bundle::new("").mount(unknown).create().err().unwrap();
    assert!(error.to_string().starts_with("mounting nosuchfs on \"/x\": "), "{error}");
    assert!(error.to_string().ends_with(": ENODEV (No such device)"), "{error}");
    assert_eq!(error.errno(), Some(rustix::io::Errno::NODEV));
}

#[test]
fn a_dropped_handle_ends_the_process() {
    let mut running = Bundle::new("pid").create().unwrap();
    drop(running.created.take());
    let outcome = running.finish();
    assert_eq!(outcome.exit.code, 1);
    assert!(outcome.output.is_empty());
}

#[test]
fn starting_a_dead_process_says_so() {
    let mut running = Bundle::new("pid").create().unwrap();
    vaquita_sys::signal::send(&running.pidfd, vaquita_sys::signal::Signal::KILL).unwrap();
    wait_dead(&running);
    assert_eq!(running.start().unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn the_host_sees_no_mount() {
    let mut bundle = Bundle::new("wait").mount(json!({"destination": "/t", "type": "tmpfs", "source": "t"}));
    let mut running = bundle.create().unwrap();
    assert!(!is_mounted_below(bundle.dir.path()));
    running.start().unwrap();
    assert!(!is_mounted_below(bundle.dir.path()));
    let outcome = running.finish();
    assert_eq!(outcome.exit.code, 0);
    assert!(!is_mounted_below(bundle.dir.path()));
}

#[test]
fn the_cgroup_is_entered_at_the_start_and_shown_inside() {
    let cgroup = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "nodev", "noexec"]});
    let mut bundle =
        Bundle::new("cat /proc/self/cgroup\nls /sys/fs/cgroup\nmount /sys/fs/cgroup\nwait").mount(cgroup);
    bundle.with_cgroup = true;
    let mut running = bundle.create().unwrap();
    let group = running.cgroup.take().unwrap();
    running.start().unwrap();
    running.read_until("mount /sys/fs/cgroup");
    let pid = running.pid.as_raw_nonzero().get();
    assert_eq!(group.0.procs().unwrap(), [pid]);
    let place = group.0.path().display().to_string();
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    // Every hierarchy that the layout knows; others are not ours to enter.
    let inside = table.lines().filter(|line| line.ends_with(&place)).count();
    assert_eq!(inside, vaquita_cgroup::Layout::detect().unwrap().hierarchies().len(), "{table}");
    running.finish();
}

/// GHSA-g54h-m393-cpwq: a list of devices that is absent or empty was taken for "all of them".
#[test]
fn devices_that_are_not_listed_do_not_open() {
    let nodes = json!([
        {"path": "/dev/loop", "type": "b", "major": 7, "minor": 4000},
        {"path": "/dev/mem", "type": "c", "major": 1, "minor": 1},
    ]);
    let orders = "write /dev/loop\nwrite /dev/mem\nstat /dev/loop\nwrite /dev/null\nwrite /dev/zero\nstat /dev/pts/ptmx";
    let outcome = |resources| {
        let mut bundle = Bundle::new(orders).set("/linux/devices", nodes.clone());
        bundle.spec["linux"]["resources"] = resources;
        bundle.with_cgroup = true;
        bundle.run()
    };
    for resources in [json!(null), json!({}), json!({"devices": null}), json!({"devices": []})] {
        let outcome = outcome(resources.clone());
        assert_eq!(outcome.of("write /dev/loop"), "EPERM", "{resources}");
        assert_eq!(outcome.of("write /dev/mem"), "EPERM", "{resources}");
        // The set-up has made the nodes all the same, and what every container has it can use.
        assert_eq!(outcome.of("stat /dev/loop"), "block 666 0:0 7:4000");
        assert_eq!((outcome.of("write /dev/null"), outcome.of("write /dev/zero")), ("ok", "ok"));
    }
    let allowed = outcome(json!({"devices": [{"allow": true, "type": "b", "major": 7, "access": "rw"}]}));
    assert_ne!(allowed.of("write /dev/loop"), "EPERM");
    assert_eq!(allowed.of("write /dev/mem"), "EPERM");
}

/// Lowering takes CAP_SYS_RESOURCE, which not every root has: then it is an error, unless the caller opted out.
#[test]
fn oom_score_adj() {
    let outcome = Bundle::new("cat /proc/self/oom_score_adj").set("/process/oomScoreAdj", json!(321)).run();
    assert_eq!(outcome.of("cat /proc/self/oom_score_adj"), "321");
    let mut low = Bundle::new("cat /proc/self/oom_score_adj").set("/process/oomScoreAdj", json!(-999));
    let may =
        vaquita_sys::cap::current().unwrap().effective.contains(vaquita_sys::cap::Capability::SYS_RESOURCE);
    match low.create() {
        Err(error) => {
            assert!(!may, "{error}");
            assert_eq!(error.errno(), Some(rustix::io::Errno::ACCESS), "{error}");
        }
        Ok(_) => assert!(may),
    }
    // With the opt-out it is as low as may be.
    low.restrict_oom_score_adj = true;
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let expected = if may { "-999" } else { own.trim() };
    assert_eq!(low.run().of("cat /proc/self/oom_score_adj"), expected);
}

#[test]
fn a_limit_that_cannot_be_raised_is_an_error() {
    let (_, hard) = vaquita_sys::rlimit::current(vaquita_sys::rlimit::Resource::NOFILE).unwrap();
    let wanted = hard.saturating_add(1);
    let mut bundle = Bundle::new("")
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 10, "hard": wanted}]));
    let may =
        vaquita_sys::cap::current().unwrap().effective.contains(vaquita_sys::cap::Capability::SYS_RESOURCE);
    match bundle.create() {
        Err(error) => {
            assert!(!may, "{error}");
            assert_eq!(error.errno(), Some(rustix::io::Errno::PERM));
            assert!(error.to_string().contains(&format!("Nofile, {{soft 10, hard {wanted}}}")), "{error}");
        }
        Ok(_) => assert!(may),
    }
}

#[test]
fn a_capability_that_we_lack_is_an_error() {
    let own = vaquita_sys::cap::current().unwrap().permitted;
    let all: Vec<String> =
        vaquita_sys::cap::CapSet::full().iter().map(|capability| capability.name().to_owned()).collect();
    let mut bundle = Bundle::new("status CapEff")
        .set("/process/capabilities", json!({"bounding": all, "effective": all, "permitted": all}));
    if vaquita_sys::cap::CapSet::full().difference(own).is_empty() {
        let outcome = bundle.run();
        assert_eq!(outcome.of("status CapEff"), format!("{:016x}", own.0));
    } else {
        let error = bundle.create().err().unwrap();
        assert_eq!(error.errno(), Some(rustix::io::Errno::PERM));
        assert!(error.to_string().starts_with("process.capabilities: {CAP_"), "{error}");
    }
}

/// T18.
#[test]
fn t18_the_id_that_means_no_change_is_refused() {
    for user in [
        json!({"uid": 4_294_967_295_u32, "gid": 0}),
        json!({"uid": 0, "gid": 4_294_967_295_u32}),
        json!({"uid": 0, "gid": 0, "additionalGids": [4_294_967_295_u32]}),
    ] {
        let error = Bundle::new("").set("/process/user", user).plan().unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("4294967295"), "{error}");
    }
}

#[test]
fn a_creator_makes_a_child_of_its_parent() {
    // The test process is its own subreaper's child here: what counts is whose child the container is.
    let mut bundle = Bundle::new("pid");
    let running = bundle.create_as(ParentOf::CallersParent).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid)).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let ours = own.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    assert_eq!(parent, ours);
}

fn wait_dead(running: &Running) {
    let mut fds = [rustix::event::PollFd::new(&running.pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
}
