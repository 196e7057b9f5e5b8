//! Another process in a container that runs.

use std::io::Read;
use std::os::fd::AsFd;

use serde_json::{Value, json};
use vaquita_runtime::{ExecArgs, Kind, ParentOf, Stdio, exec};
use vaquita_sys::process::wait_pidfd;
use vaquita_sys::signal::{self, Signal};

use crate::harness::{Bundle, Running, marked};

fn running(bundle: &mut Bundle) -> Running {
    let mut running = bundle.create().unwrap();
    running.start().unwrap();
    running.read_until("ns mnt");
    running
}

#[test]
fn it_is_confined_like_the_container() {
    let mut bundle = Bundle::new("ns mnt\nwait");
    bundle.with_cgroup = true;
    let container = running(&mut bundle);
    let outcomes = container.exec_probes(
        "ids\nhostname\nfds\ncwd\nsession\numask\nstatus CapEff\nstatus CapInh\nstatus CapBnd\nstatus NoNewPrivs\nstatus Seccomp\nunshare\n\
         status NSpid\nstat /dev/null\nnofile\nls /\ncat /proc/self/cgroup\ncat /proc/self/oom_score_adj\nexit 5",
        |process| {
            process["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [8], "umask": 0o027});
            process["cwd"] = json!("/tmp");
            process["oomScoreAdj"] = json!(900);
            process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}]);
        },
    );
    for outcome in outcomes {
        assert_eq!(outcome.of("ids"), "5 6 [8]");
        assert_eq!(outcome.of("hostname"), "probe");
        assert_eq!(outcome.of("fds"), "0 1 2");
        assert_eq!(outcome.of("cwd"), "/tmp");
        assert_eq!(outcome.of("session"), "true");
        assert_eq!(outcome.of("umask"), "27");
        assert_eq!(outcome.of("status CapEff"), "0000000000000000");
        // T08: CVE-2022-29162.
        assert_eq!(outcome.of("status CapInh"), "0000000000000000");
        assert_eq!(outcome.of("status CapBnd"), "0000000000000021");
        assert_eq!(outcome.of("status NoNewPrivs"), "1");
        assert_eq!(outcome.of("status Seccomp"), "2");
        assert_eq!(outcome.of("unshare"), "EPERM");
        // Seen from inside: not process 1, and of that PID namespace only.
        assert_eq!(outcome.of("status NSpid").split_whitespace().count(), 1);
        assert_eq!(outcome.of("nofile"), "Some(50) Some(60)");
        assert!(outcome.of("ls /").contains("probe"));
        let place = container.cgroup.as_ref().unwrap().0.path().display().to_string();
        assert!(outcome.of("cat /proc/self/cgroup").matches(&place).count() > 0);
        assert_eq!(outcome.of("cat /proc/self/oom_score_adj"), "900");
        assert_eq!(outcome.exit.code, 5);
    }
}

#[test]
fn errors_of_execve_arrive() {
    let mut bundle = Bundle::new("ns mnt\nwait");
    let container = running(&mut bundle);
    let plan = container.exec_plan(|process| process["args"] = json!(["nope"])).unwrap();
    for (execed, _output) in [container.exec(&plan).unwrap(), container.launch(&plan).unwrap()] {
        let error = execed.started.wait().unwrap_err();
        assert!(matches!(error.kind(), Kind::Exec(_)));
        assert!(
            error.to_string().starts_with("execve(\"nope\", looked for in \"/bin:/\"): ENOENT"),
            "{error}"
        );
        assert_eq!(wait_pidfd(&execed.pidfd).unwrap().code, 1);
    }
}

/// Where nobody waits for the set-up, its failures come with the others, in the same words.
#[test]
fn errors_of_the_set_up_arrive() {
    let mut bundle = Bundle::new("ns mnt\nwait");
    let container = running(&mut bundle);
    let plan = container.exec_plan(|process| process["cwd"] = json!("/probe")).unwrap();
    let told = container.exec(&plan).unwrap_err();
    let (execed, _output) = container.launch(&plan).unwrap();
    let error = execed.started.wait().unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (told.kind(), told.to_string()));
    assert!(error.to_string().starts_with("changing to the working directory"), "{error}");
    assert_eq!(wait_pidfd(&execed.pidfd).unwrap().code, 1);
}

/// A frozen container has its process frozen, and not the maker.
#[test]
fn nobody_waits_for_a_frozen_container() {
    let mut bundle = Bundle::new("ns mnt\nwait");
    bundle.with_cgroup = true;
    let container = running(&mut bundle);
    let cgroup = &container.cgroup.as_ref().unwrap().0;
    let plan = container.exec_plan(|process| process["env"] = json!(["VAQUITA_PROBE=exit 3"])).unwrap();
    cgroup.freeze().unwrap();
    let (execed, _output) = container.launch(&plan).unwrap();
    let freed = std::thread::scope(|scope| {
        let waits = scope.spawn(|| execed.started.wait());
        cgroup.thaw().unwrap();
        waits.join().unwrap()
    });
    freed.unwrap();
    assert_eq!(wait_pidfd(&execed.pidfd).unwrap().code, 3);
}

#[test]
fn nobody_can_join_the_dead() {
    let mut bundle = Bundle::new("ns mnt\nwait");
    let container = running(&mut bundle);
    let plan = container.exec_plan(|_| {}).unwrap();
    signal::send(&container.pidfd, Signal::KILL).unwrap();
    let mut fds = [rustix::event::PollFd::new(&container.pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
    assert_eq!(container.exec(&plan).err().unwrap().kind(), Kind::NotFound);
    assert_eq!(container.launch(&plan).err().unwrap().kind(), Kind::NotFound);
}

#[test]
fn it_gets_a_terminal_of_the_container() {
    let mut bundle = Bundle::new("ns mnt\nwait");
    let container = running(&mut bundle);
    let plan = container
        .exec_plan(|process| {
            process["terminal"] = json!(true);
            process["env"] = json!(["VAQUITA_PROBE=tty\nls /dev/pts"]);
        })
        .unwrap();
    let stdio = Stdio::Terminal { rows: 10, columns: 20 };
    let init = container.pidfd.as_fd();
    let args = ExecArgs {
        init,
        stdio,
        created: false,
        cgroup: None,
        extra_fds: Vec::new(),
        new_keyring: true,
        parent: ParentOf::Caller,
    };
    let execed = exec(&plan, args).unwrap();
    execed.started.wait().unwrap();
    let mut text = Vec::new();
    let _ = std::fs::File::from(execed.console.unwrap()).read_to_end(&mut text);
    let lines = marked(&String::from_utf8(text).unwrap());
    assert!(lines.contains(&"tty = true 10x20 controlling".to_owned()), "{lines:?}");
    wait_pidfd(&execed.pidfd).unwrap();
}

/// Right after the creation the host's root still lies on top of the container's.
#[test]
fn it_joins_a_container_that_is_not_started() {
    for _ in 0..20 {
        let mut bundle = Bundle::new("ns mnt\nwait");
        let container = bundle.create().unwrap();
        for outcome in container.exec_probes("ls /\ncwd\nhostname\nids", |_| {}) {
            assert_eq!(outcome.of("ls /"), "dev probe proc sys tmp");
            assert_eq!(outcome.of("cwd"), "/");
            assert_eq!(outcome.of("hostname"), "probe");
        }
    }
}

#[test]
fn it_gets_descriptors_and_keys_as_asked() {
    let mut bundle = Bundle::new("ns mnt\nwait");
    bundle.spec["linux"].as_object_mut().unwrap().remove("seccomp");
    let container = running(&mut bundle);
    let file = std::fs::File::open("Cargo.toml").unwrap();
    let (input, output) = std::io::pipe().unwrap();
    let plan = container
        .exec_plan(|process| process["env"] = json!(["VAQUITA_PROBE=fds\nstatus CapEff\nkeyring"]))
        .unwrap();
    let (mut read, write) = std::io::pipe().unwrap();
    let args = ExecArgs {
        init: container.pidfd.as_fd(),
        stdio: Stdio::Fds([input.into(), write.try_clone().unwrap().into(), write.into()]),
        created: false,
        cgroup: None,
        extra_fds: vec![file.into(), output.into()],
        new_keyring: false,
        parent: ParentOf::Caller,
    };
    let execed = exec(&plan, args).unwrap();
    execed.started.wait().unwrap();
    wait_pidfd(&execed.pidfd).unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    let own = crate::probe::session_keyring();
    assert_eq!(
        marked(&text),
        ["fds = 0 1 2 3 4", "status CapEff = 0000000000000021", &format!("keyring = {own}")]
    );
}

/// In a PID namespace that is shared, and in a container that has the host's.
#[test]
fn it_works_without_a_pid_namespace() {
    let mut bundle = Bundle::new("ns mnt\nwait").without_namespace("pid");
    let container = running(&mut bundle);
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
    for outcome in container.exec_probes("ns pid", |_| {}) {
        assert_eq!(outcome.of("ns pid"), own.to_str().unwrap());
    }
}

#[test]
fn it_enters_a_user_namespace() {
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
    let mut bundle =
        Bundle::new("ns mnt\nwait").set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    rustix::fs::chown(bundle.dir.path(), Some(rustix::fs::Uid::from_raw(200_000)), None).unwrap();
    let container = running(&mut bundle);
    let raise = |process: &mut Value| process["oomScoreAdj"] = json!(800);
    for outcome in container
        .exec_probes("ids\ncat /proc/self/uid_map\nstatus CapEff\ncat /proc/self/oom_score_adj", raise)
    {
        assert_eq!(outcome.of("ids"), "0 0 []");
        assert!(outcome.of("cat /proc/self/uid_map").contains("200000"));
        assert_eq!(outcome.of("status CapEff"), "0000000000000021");
        assert_eq!(outcome.of("cat /proc/self/oom_score_adj"), "800");
    }
    // Its limits are for somebody outside to set, who may still raise them.
    let limit = |process: &mut Value| {
        process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}]);
    };
    assert!(!container.exec_plan(limit).unwrap().goes_alone());
}
