//! podman with conmon, `--runtime` ours.

use std::io::Write;
use std::process::{Command, Stdio};

use super::{BUSYBOX, Place, Said, eventually, in_terminal};

/// The hard limits of the host may be lower than those that podman asks for otherwise; and its locks would be shared with
/// other podmans, in `/dev/shm`.
const CONFIG: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
                      [engine]\nlock_type = \"file\"\n";

/// A podman with storage of the test's own. No service: each command is a process, and conmon stays with a container.
#[derive(Debug)]
struct Podman {
    place: Place,
}

impl Podman {
    fn new() -> Self {
        let place = Place::new();
        std::fs::write(place.path("containers.conf"), CONFIG).unwrap();
        let engine = Self { place };
        engine.podman(&["load", "--quiet", "--input", engine.place.image().to_str().unwrap()]).ok();
        engine
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        for (flag, name) in
            [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp"), ("--runtime", "vaquita-oci")]
        {
            command.arg(flag).arg(self.place.path(name));
        }
        // conmon writes a file "oom" into its working directory.
        command.current_dir(self.place.dir.path());
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command.args(args).env("CONTAINERS_CONF", self.place.path("containers.conf")).stdin(Stdio::null());
        command
    }

    fn podman(&self, args: &[&str]) -> Said {
        Said::new(&self.command(args).output().expect("podman: install the package podman"))
    }

    fn run_command(&self, flags: &[&str], command: &[&str]) -> Command {
        let group = self.place.group();
        let mut all = vec!["run", "--network", "none", "--cgroup-parent", &group];
        all.extend(flags);
        all.push(BUSYBOX);
        all.extend(command);
        self.command(&all)
    }

    fn run(&self, flags: &[&str], command: &[&str]) -> Said {
        Said::new(&self.run_command(flags, command).output().unwrap())
    }

    #[track_caller]
    fn inspect(&self, name: &str, format: &str) -> String {
        self.podman(&["inspect", "--format", format, name]).ok().trim_end().to_owned()
    }

    fn finish(self) {
        assert_eq!(self.podman(&["ps", "--all", "--quiet"]).ok(), "");
        // conmon leaves when it has told podman.
        let tag = &self.place.tag;
        eventually("conmon to leave", || {
            let found = Command::new("pgrep").args(["--full", &format!("conmon .*{tag}")]).output().unwrap();
            found.stdout.is_empty().then_some(())
        });
        self.place.remove_groups();
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.podman(&["rm", "--all", "--force", "--time", "0"]);
            self.place.sweep();
        }
    }
}

#[test]
fn podman_runs_a_container_and_gets_its_output_and_exit_code() {
    let engine = Podman::new();
    assert_eq!(engine.run(&["--rm"], &["echo", "hello"]).ok(), "hello\n");
    let said = engine.run(&["--rm"], &["sh", "-c", "echo no >&2; exit 9"]);
    assert_eq!((said.code, said.err.as_str()), (9, "no\n"), "{said:?}");
    let said = in_terminal(&engine.run_command(&["--rm", "-t"], &["sh", "-c", "test -t 0 && exit 42"]));
    assert_eq!(said.code, 42, "{said:?}");

    let mut child = engine
        .run_command(&["--rm", "-i"], &["cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    assert_eq!(Said::new(&child.wait_with_output().unwrap()).ok(), "through\n");
    engine.finish();
}

/// podman tells by the text of the runtime's error what its own exit code is.
#[test]
fn podman_is_told_why_a_container_cannot_be_made() {
    let engine = Podman::new();
    let said = engine.run(&["--rm"], &["absent"]);
    assert_eq!(said.code, 127, "{said:?}");
    assert!(said.err.contains("absent"), "{said:?}");
    let said = engine.run(&["--rm"], &["/etc/passwd"]);
    assert_eq!(said.code, 126, "{said:?}");
    engine.finish();
}

#[test]
fn podman_s_options_reach_the_container() {
    let engine = Podman::new();
    let flags = ["--rm", "--user", "65534:29", "--hostname", "named", "--read-only", "--env", "WORD=said"];
    let more =
        ["--tmpfs", "/tmp:size=1m", "--cap-drop", "all", "--workdir", "/tmp", "--sysctl", "kernel.shmmni=77"];
    let shows = "id -u; id -g; hostname; echo $WORD; pwd; touch /x 2>/dev/null || echo sealed; touch y && echo wet; \
                 grep CapEff /proc/self/status; cat /proc/sys/kernel/shmmni";
    let said = engine.run(&[&flags[..], &more[..]].concat(), &["sh", "-c", shows]).ok();
    assert_eq!(said, "65534\n29\nnamed\nsaid\n/tmp\nsealed\nwet\nCapEff:\t0000000000000000\n77\n");
    engine.finish();
}

#[test]
fn podman_works_with_a_running_container() {
    let engine = Podman::new();
    engine
        .run(&["--detach", "--name", "long", "--memory", "32m"], &["sh", "-c", "echo up; exec sleep 1000"])
        .ok();
    let said = engine.podman(&["exec", "long", "sh", "-c", "echo inside; exit 7"]);
    assert_eq!((said.code, said.out.as_str()), (7, "inside\n"), "{said:?}");
    let said = in_terminal(&engine.command(&["exec", "-it", "long", "sh", "-c", "test -t 1 && exit 42"]));
    assert_eq!(said.code, 42, "{said:?}");
    engine.podman(&["exec", "--detach", "long", "sleep", "1001"]).ok();
    eventually("the detached program to be listed", || {
        engine.podman(&["top", "long", "args"]).ok().contains("sleep 1001").then_some(())
    });
    assert_eq!(engine.podman(&["logs", "long"]).ok(), "up\n");

    engine.podman(&["pause", "long"]).ok();
    assert_eq!(engine.inspect("long", "{{.State.Status}}"), "paused");
    assert_ne!(engine.podman(&["exec", "long", "true"]).code, 0, "a paused container runs nothing");
    engine.podman(&["unpause", "long"]).ok();
    assert_eq!(engine.inspect("long", "{{.State.Status}}"), "running");

    engine.podman(&["update", "--memory", "64m", "long"]).ok();
    let group = engine.inspect("long", "{{.State.CgroupPath}}");
    let limits =
        ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].iter().zip(["memory.limit_in_bytes", "memory.max"]);
    let limit = limits
        .map(|(root, file)| std::fs::read_to_string(format!("{root}{group}/{file}")))
        .find_map(Result::ok);
    assert_eq!(limit.as_deref(), Some("67108864\n"));
    assert_eq!(engine.podman(&["stats", "--no-stream", "--format", "{{.PIDs}}", "long"]).ok(), "2\n");

    let before = engine.inspect("long", "{{.State.Pid}}");
    engine.podman(&["restart", "--time", "0", "long"]).ok();
    assert_ne!(engine.inspect("long", "{{.State.Pid}}"), before);
    engine.podman(&["stop", "--time", "0", "long"]).ok();
    assert_eq!(engine.inspect("long", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
    engine.podman(&["start", "long"]).ok();
    engine.podman(&["kill", "long"]).ok();
    assert_eq!(engine.podman(&["wait", "long"]).ok(), "137\n");
    engine.podman(&["rm", "long"]).ok();
    engine.finish();
}

#[test]
fn podman_sees_a_container_end_by_its_memory_limit() {
    let engine = Podman::new();
    let eats = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
    let said = engine.run(&["--rm", "--memory", "8m"], &eats);
    assert_eq!(said.code, 137, "{said:?}");
    engine.finish();
}
