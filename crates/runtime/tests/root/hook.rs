//! Hooks: what they see, what they may do, how they fail.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use oci_spec::runtime::Hook;
use rustix::process::Pid;
use serde_json::{Value, json};
use vaquita_runtime::hook::{Container, run, run_as_container, run_inside};
use vaquita_runtime::{Context, Error, Kind, ParentOf, Rendezvous};
use vaquita_sys::ns;

use crate::harness::{Bundle, Running, marked};

/// A shell script; what it says is seen when it fails.
fn shell(script: &str) -> Hook {
    hook(json!({"path": "/bin/sh", "args": ["hook", "-c", script], "env": ["A=b", "PATH=/usr/bin:/bin"]}))
}

fn hook(hook: Value) -> Hook {
    serde_json::from_value(hook).unwrap()
}

/// What a script that ends with `exit 3` said.
#[track_caller]
fn said(result: Result<(), Error>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Hook, "{error}");
    let text = error.to_string();
    let (_, said) = text.split_once(" ended with status 3: ").unwrap_or_else(|| panic!("{text}"));
    // An error is one line.
    said.replace("\\n", "\n")
}

fn create(
    bundle: &mut Bundle,
    meet: impl FnMut(Pid, BorrowedFd<'_>) -> Result<(), Error>,
) -> Result<Running, Error> {
    let root = bundle.dir.path().to_owned();
    bundle.create_with(ParentOf::Caller, Some(Rendezvous { root: &root, meet: Box::new(meet) }))
}

#[test]
fn a_hook_gets_its_own_environment_and_the_state_and_nothing_else() {
    let leak = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    // The shell sets a few variables of its own; /proc/self/environ is what it was given.
    let script = "echo $(tr '\\0' ' ' </proc/$$/environ)/$(cat)/$0/$(umask); ls -C /proc/$$/fd; exit 3";
    let text = said(run(&shell(script), b"the state"));
    assert_eq!(text, "A=b PATH=/usr/bin:/bin /the state/hook/0022\n0  1  2");
    drop(leak);
    run(&hook(json!({"path": "/bin/true"})), b"").unwrap();
    // Neither a state that nobody reads nor much output is in the way.
    let much = "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 3";
    let text = said(run(&shell(much), &vec![b' '; 1 << 20]));
    assert!(text.ends_with("\nthe end") && text.len() <= 1024, "{} bytes", text.len());
}

#[test]
fn what_fails_says_how() {
    for (value, kind, text) in [
        (json!({"path": "bin/true"}), Kind::Invalid, "the path \"bin/true\" is not absolute"),
        (json!({"path": "/bin/true", "timeout": 0}), Kind::Invalid, "the timeout is 0 seconds"),
        (json!({"path": "/bin/true", "timeout": -5}), Kind::Invalid, "the timeout is -5 seconds"),
        (json!({"path": "/nope"}), Kind::Exec(rustix::io::Errno::NOENT), "execve(\"/nope\"): ENOENT"),
        (json!({"path": "/bin/false"}), Kind::Hook, "the hook \"/bin/false\" ended with status 1"),
    ] {
        let error = run(&hook(value), b"").unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    let error = run(&shell("kill -9 $$"), b"").unwrap_err().to_string();
    assert!(error.ends_with("was ended by signal 9"), "{error}");
}

#[test]
fn a_hook_that_hangs_is_killed() {
    let mut slow = shell("echo $$; exec sleep 1000");
    slow.set_timeout(Some(4));
    let error = run(&slow, b"").unwrap_err().to_string();
    let (before, pid) = error.rsplit_once(": ").unwrap();
    assert!(before.ends_with("did not end within its timeout of 4 seconds and was killed"), "{error}");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is still there");
    // One that has much to say is no better.
    let mut loud = shell("exec yes");
    loud.set_timeout(Some(4));
    let error = run(&loud, b"").unwrap_err().to_string();
    assert!(error.contains("did not end within its timeout of 4 seconds and was killed: y"), "{error}");
    // What it leaves running holds the other end of its output; nobody waits for that.
    let pid = said(run(&shell("sleep 1000 & echo $!; exit 3"), b""));
    let pid: i32 = pid.parse().unwrap();
    vaquita_sys::signal::send_to_pid(pid, vaquita_sys::signal::Signal::KILL).unwrap();
}

#[test]
fn hooks_before_the_change_of_root_work_on_the_containers_mounts() {
    let mut bundle = Bundle::new("cat /from-outside\ncat /tmp/from-inside\nmount /tmp\nhostname");
    bundle.with_cgroup = true;
    let dir = bundle.dir.path().to_owned();
    let mut calls = 0;
    let mut running = create(&mut bundle, |pid, pidfd| {
        calls += 1;
        // The caller's side: the tree is not mounted here.
        run(&shell(&format!("test ! -e {0}/dev/null && echo outside >{0}/from-outside", dir.display())), b"")?;
        let text = said(run_inside(
            &shell(&format!(
                "d={}; mount -t tmpfs hook $d/tmp && echo inside >$d/tmp/from-inside && stat -c %t:%T $d/dev/null && hostname && cat &&
                 for n in mnt net ipc uts pid; do readlink /proc/self/ns/$n; done; grep -c . /proc/net/dev; exit 3",
                dir.display()
            )),
            b"state\n",
            pidfd,
        ));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["1:3", "probe", "state"]);
        for (line, kind) in lines[3..].iter().zip(["mnt", "net", "ipc", "uts", "pid"]) {
            let path = format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero());
            assert_eq!(Path::new(line), std::fs::read_link(path).unwrap(), "{kind}");
        }
        // Two lines of heading, and the loopback.
        assert_eq!(lines[8..], ["3"]);
        // What a hook changes in the process's cgroup is the container's.
        let place = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).unwrap();
        assert!(place.contains("/vqrt"), "{place}");
        Ok(())
    })
    .unwrap();
    assert_eq!(calls, 1);
    running.start().unwrap();
    let outcome = running.finish();
    assert_eq!(outcome.of("cat /from-outside"), "outside");
    assert_eq!(outcome.of("cat /tmp/from-inside"), "inside");
    assert!(outcome.of("mount /tmp").starts_with("tmpfs "));
    assert!(!crate::harness::is_mounted_below(&dir));
}

#[test]
fn a_failed_hook_leaves_no_process() {
    let mut bundle = Bundle::new("pid");
    let mut seen = None;
    let error = create(&mut bundle, |pid, _| {
        seen = Some(pid);
        run(&shell("echo no >&2; exit 3"), b"")
    })
    .err()
    .unwrap();
    assert_eq!(error.kind(), Kind::Hook);
    assert_eq!(error.to_string(), "the hook \"/bin/sh\" ended with status 3: no");
    let pid = seen.unwrap().as_raw_nonzero();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn hooks_that_nobody_runs_are_refused() {
    for name in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        let hooks = json!({name: [{"path": "/bin/true"}]});
        let error = Bundle::new("pid").set("/hooks", hooks).create().err().unwrap();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().starts_with("hooks: "), "{error}");
    }
    Bundle::new("pid").set("/hooks", json!({"prestart": [], "poststop": []})).create().unwrap();
}

/// What the container can write runs as the container does.
#[test]
fn a_program_of_the_container_is_confined_like_the_container() {
    let orders = "ids\nhostname\nfds\ncwd\nstatus CapEff\nstatus CapBnd\nstatus NoNewPrivs\nstatus Seccomp\nunshare\nls /\nstdin\nenv A\n\
                  cat /proc/self/cgroup\nns pid\nexit 3";
    let mut bundle = Bundle::new("pid").set("/process/user", json!({"uid": 7, "gid": 8}));
    bundle.with_cgroup = true;
    // Often, because right after the creation the host's root still lies on top of the container's.
    for _ in 0..20 {
        let running = bundle.create().unwrap();
        let context = Context::default();
        let cgroup = running.cgroup.as_ref().map(|group| &group.0);
        let container =
            Container { spec: &running.spec, context: &context, init: running.pidfd.as_fd(), cgroup };
        let hook = hook(json!({"path": "/probe", "env": [format!("VAQUITA_PROBE={orders}"), "A=b"],
            "args": ["/probe", "probe::probe", "--exact", "--nocapture", "--test-threads=1"]}));
        let lines = marked(&said(run_as_container(&hook, b"the state", &container)));
        let of = |order: &str| {
            let prefix = format!("{order} = ");
            lines
                .iter()
                .find_map(|line| line.strip_prefix(&prefix))
                .unwrap_or_else(|| panic!("{order}: {lines:?}"))
        };
        assert_eq!(of("ids"), "7 8 []");
        assert_eq!(of("hostname"), "probe");
        assert_eq!(of("fds"), "0 1 2");
        assert_eq!(of("cwd"), "/");
        assert_eq!(of("status CapEff"), "0000000000000000");
        assert_eq!(of("status CapBnd"), "0000000000000021");
        assert_eq!(of("status NoNewPrivs"), "1");
        assert_eq!(of("status Seccomp"), "2");
        assert_eq!(of("unshare"), "EPERM");
        assert!(of("ls /").contains("probe") && !of("ls /").contains("boot"), "{}", of("ls /"));
        assert_eq!(of("stdin"), "the state");
        assert_eq!(of("env A"), "b");
        assert!(of("cat /proc/self/cgroup").contains("/vqrt"));
    }
}

/// The root is the process's, not whatever lies on top in its mount namespace: with a pivot that is the host's root for a
/// moment, where the container's program would be looked for, and run, among the host's files.
#[test]
fn the_root_of_a_hook_is_that_of_the_process_whatever_lies_over_it() {
    use std::io::BufRead as _;
    use std::process::{Command, Stdio};
    vaquita_testing::require_root();
    // Its root is where it was; who enters its mount namespace is given the empty tmpfs.
    let script = "mount -t tmpfs over / && echo covered && read end";
    let mut process = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "covered\n");
    let pid = Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    let result =
        run_inside(&shell("stat -f -c %T /; readlink /proc/self/ns/mnt; exit 3"), b"", pidfd.as_fd());
    let expected = std::fs::read_link(format!("/proc/{}/ns/mnt", process.id())).unwrap();
    // The end of its input is the end of it.
    drop(process.stdin.take());
    process.wait().unwrap();
    let text = said(result);
    let lines: Vec<&str> = text.lines().collect();
    assert_ne!(lines[0], "tmpfs");
    assert_eq!(Path::new(lines[1]), expected);
}

#[test]
fn hooks_enter_a_user_namespace() {
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
    let mut bundle = Bundle::new("pid").set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    rustix::fs::chown(bundle.dir.path(), Some(rustix::fs::Uid::from_raw(200_000)), None).unwrap();
    create(&mut bundle, |pid, pidfd| {
        let user = ns::identity(ns::open(Some(pid), ns::Kind::User)?)?.1;
        let text = said(run_inside(
            &shell("id -u; readlink /proc/self/ns/user; grep CapEff /proc/self/status; exit 3"),
            b"",
            pidfd,
        ));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["0", &*format!("user:[{user}]")]);
        assert!(lines[2].ends_with("000001ffffffffff"), "{text}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn nothing_runs_inside_the_dead() {
    let bundle = &mut Bundle::new("pid");
    let running = bundle.create().unwrap();
    vaquita_sys::signal::send(&running.pidfd, vaquita_sys::signal::Signal::KILL).unwrap();
    let mut fds = [rustix::event::PollFd::new(&running.pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
    let error = run_inside(&shell("exit 3"), b"", running.pidfd.as_fd()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}
