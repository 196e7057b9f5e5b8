//! From create to delete.

use std::process::Stdio;

use serde_json::json;

use super::bundle::Bundle;
use crate::support::eventually;

#[test]
fn a_container_is_created_started_stopped_and_deleted() {
    let bundle = Bundle::new("echo it runs; exec sleep 1000");
    bundle.change(|spec| spec["annotations"] = json!({"a.b": "c"}));
    let pid_file = bundle.path("pid");
    bundle.good(["create", "c1", "--pid-file", pid_file.to_str().unwrap()]);
    let state = bundle.state("c1");
    let pid = state["pid"].as_i64().unwrap();
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), pid.to_string());
    assert_eq!(state["ociVersion"], "1.3.0");
    assert_eq!(state["id"], "c1");
    assert_eq!(state["status"], "created");
    assert_eq!(state["bundle"], bundle.dir.path().to_str().unwrap());
    assert_eq!(state["rootfs"], bundle.path("rootfs").to_str().unwrap());
    assert_eq!(state["annotations"], json!({"a.b": "c"}));
    assert_eq!(state["owner"], "root");
    assert!(state["created"].as_str().unwrap().ends_with('Z'));

    bundle.good(["start", "c1"]);
    assert_eq!(bundle.status("c1"), "running");
    let comm = || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    eventually("the program", || (comm() == "sleep\n").then_some(()));
    bundle.good(["kill", "c1", "KILL"]);
    bundle.await_status("c1", "stopped");
    assert_eq!(bundle.state("c1")["pid"], 0);
    bundle.good(["delete", "c1"]);
    assert!(bundle.bad(1, ["state", "c1"]).contains("does not exist"));
}

#[test]
fn what_a_status_does_not_allow_is_refused() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.good(["create", "c1"]);
    assert!(bundle.bad(1, ["create", "c1"]).contains("already exists"));
    bundle.good(["start", "c1"]);
    assert!(bundle.bad(1, ["start", "c1"]).contains("cannot start an already running container"));
    assert!(
        bundle.bad(1, ["delete", "c1"]).contains("cannot delete container c1 that is not stopped: running")
    );
    assert!(bundle.bad(1, ["resume", "c1"]).contains("not paused"));
    assert_eq!(bundle.status("c1"), "running");
    bundle.good(["kill", "c1", "9"]);
    bundle.await_status("c1", "stopped");
    assert!(bundle.bad(1, ["start", "c1"]).contains("cannot start a container that has stopped"));
    // What containerd and podman look for.
    assert!(bundle.bad(1, ["kill", "c1"]).ends_with("container not running"));
    assert!(bundle.bad(1, ["kill", "c1", "0"]).ends_with("container not running"));
    assert!(bundle.bad(255, ["exec", "c1", "true"]).contains("container not running"));
    assert!(bundle.bad(1, ["pause", "c1"]).contains("container not running"));
    assert!(bundle.bad(1, ["events", "--stats", "c1"]).contains("is not running"));
    assert!(bundle.bad(1, ["update", "c1", "--pids-limit", "5"]).contains("container not running"));
    bundle.good(["delete", "c1"]);
    for args in
        [&["start"][..], &["kill"], &["delete"], &["pause"], &["resume"], &["ps"], &["update", "--memory=1m"]]
    {
        let all: Vec<&str> = args.iter().copied().chain(["c1"]).collect();
        assert!(bundle.bad(1, &all).contains("does not exist"), "{args:?}");
    }
    bundle.good(["delete", "--force", "c1"]);
}

#[test]
fn force_deletes_a_running_container_and_a_created_one_needs_none() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.good(["run", "-d", "c1"]);
    bundle.good(["delete", "-f", "c1"]);
    bundle.good(["create", "c1"]);
    bundle.good(["delete", "c1"]);
    // Paused processes are ended too.
    bundle.good(["run", "--detach", "c1"]);
    bundle.good(["pause", "c1"]);
    bundle.good(["delete", "--force", "c1"]);
}

#[test]
fn of_creates_at_once_one_wins() {
    let bundle = Bundle::new("exec sleep 1000");
    for _ in 0..5 {
        let creators: Vec<_> = (0..6)
            .map(|_| {
                let mut command = bundle.command(["create", "c1"]);
                command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        let won =
            creators.into_iter().filter_map(|mut one| one.wait().unwrap().success().then_some(())).count();
        assert_eq!(won, 1);
        assert_eq!(bundle.status("c1"), "created");
        // So with deletes.
        let deleters: Vec<_> = (0..4)
            .map(|_| {
                let mut command = bundle.command(["delete", "c1"]);
                command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        let won =
            deleters.into_iter().filter_map(|mut one| one.wait().unwrap().success().then_some(())).count();
        assert_eq!(won, 1);
    }
}

#[test]
fn who_connects_and_says_nothing_starts_nothing() {
    let bundle = Bundle::new("exit 3");
    bundle.good(["create", "c1"]);
    let socket = bundle.root().join("c1/start.sock");
    for _ in 0..3 {
        drop(vaquita_sys::socket::connect(&socket).unwrap());
    }
    assert_eq!(bundle.status("c1"), "created");
    bundle.good(["start", "c1"]);
    bundle.await_status("c1", "stopped");
    assert!(!socket.exists());
    bundle.good(["delete", "c1"]);
}

#[test]
fn another_process_with_the_same_pid_is_not_the_container() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.good(["run", "-d", "c1"]);
    let path = bundle.root().join("c1/state.json");
    let before = std::fs::read_to_string(&path).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&before).unwrap();
    // This test's own process, as if it had got the pid of a container that ended.
    record["init"]["pid"] = std::process::id().into();
    std::fs::write(&path, record.to_string()).unwrap();
    assert_eq!(bundle.status("c1"), "stopped");
    assert!(bundle.bad(1, ["kill", "c1", "KILL"]).ends_with("container not running"));
    std::fs::write(&path, before).unwrap();
    assert_eq!(bundle.status("c1"), "running");
    bundle.good(["delete", "-f", "c1"]);
}

#[test]
fn list_and_ps_show_what_is_there() {
    let bundle = Bundle::new("sleep 1000 & wait");
    assert_eq!(bundle.good(["list"]).lines().count(), 1);
    assert_eq!(bundle.good(["list", "--format", "json"]), "[]\n");
    bundle.good(["run", "-d", "c1"]);
    let pids = || -> Vec<i64> { serde_json::from_str(&bundle.good(["ps", "c1", "-f", "json"])).unwrap() };
    eventually("both processes", || (pids().len() == 2).then_some(()));
    let pid = bundle.state("c1")["pid"].as_i64().unwrap();
    assert!(pids().contains(&pid));
    let table = bundle.good(["list"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..3], ["c1", &pid.to_string(), "running"]);
    assert_eq!(bundle.good(["list", "-q"]), "c1\n");
    let listed: serde_json::Value = serde_json::from_str(&bundle.good(["list", "-f", "json"])).unwrap();
    assert_eq!(listed[0]["status"], "running");
    let table = bundle.good(["ps", "c1"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("sleep 1000"), "{table}");
    let table = bundle.good(["ps", "c1", "-o", "pid,comm"]);
    assert_eq!(table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(), ["PID", "COMMAND"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    bundle.good(["delete", "-f", "c1"]);
}

#[test]
fn the_entering_binary_is_sealed() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.good(["create", "c1"]);
    // It waits, and is still this program.
    let pid = bundle.state("c1")["pid"].as_i64().unwrap();
    let exe = std::fs::File::open(format!("/proc/{pid}/exe")).unwrap();
    let stat = rustix::fs::fstatvfs(&exe).unwrap();
    assert!(stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    assert_eq!(rustix::fs::fstatfs(&exe).unwrap().f_type, 0x794c_7630, "not an overlay");
    // Nobody can name that mount.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let id =
        rustix::fs::statx(&exe, "", rustix::fs::AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::MNT_ID).unwrap();
    assert!(!mounts.lines().any(|line| line.starts_with(&format!("{} ", id.stx_mnt_id))));
    bundle.good(["delete", "c1"]);
}

/// runtime.md: `process` is needed by start, and by start alone.
#[test]
fn a_container_without_a_process_is_created_and_not_started() {
    let bundle = Bundle::new("true");
    bundle.change(|spec| drop(spec.as_object_mut().unwrap().remove("process")));
    let missing = "process is not set in config.json";
    assert!(bundle.bad(1, ["run", "c"]).contains(missing));
    bundle.good(["create", "c"]);
    assert_eq!(bundle.status("c"), "created");
    assert!(bundle.state("c")["pid"].as_i64().unwrap() > 0);
    for _ in 0..2 {
        assert!(bundle.bad(1, ["start", "c"]).contains(missing));
        assert_eq!(bundle.status("c"), "created");
    }
    // Others can run in it, as in any that was created.
    let process = serde_json::json!({"args": ["/bin/echo", "x"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    std::fs::write(bundle.path("process.json"), process.to_string()).unwrap();
    assert_eq!(bundle.good(["exec", "-p", bundle.path("process.json").to_str().unwrap(), "c"]), "x\n");
    assert_eq!(bundle.good(["exec", "c", "/bin/echo", "y"]), "y\n");
    bundle.good(["update", "--pids-limit", "50", "c"]);
    bundle.good(["kill", "c", "KILL"]);
    bundle.await_status("c", "stopped");
    bundle.good(["delete", "c"]);
    bundle.good(["create", "c"]);
    bundle.good(["delete", "c"]);
}
