//! containerd with its shim for OCI runtimes (`io.containerd.runc.v2`), whose `BinaryName` is ours.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use super::{BUSYBOX, Place, Said, eventually, in_terminal};

const CONFIG: &str = r#"version = 2
root = "@DIR@/root"
state = "@DIR@/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "@DIR@/containerd.sock"
[ttrpc]
  address = "@DIR@/containerd.sock.ttrpc"
"#;

/// A containerd of the test's own.
#[derive(Debug)]
struct Containerd {
    daemon: Child,
    place: Place,
}

impl Containerd {
    fn start() -> Self {
        let place = Place::new();
        let config = place.path("config.toml");
        std::fs::write(&config, CONFIG.replace("@DIR@", place.dir.path().to_str().unwrap())).unwrap();
        let log = std::fs::File::create(place.path("log")).unwrap();
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            // Shims write into it: theirs is the daemon's.
            .current_dir(place.dir.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("containerd: install the package containerd");
        let engine = Self { daemon, place };
        eventually("containerd to answer", || (engine.ctr(&["version"]).code == 0).then_some(()));
        engine.ctr(&["image", "import", engine.place.image().to_str().unwrap()]).ok();
        engine
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.place.path("containerd.sock")).args(args).stdin(Stdio::null());
        command
    }

    fn ctr(&self, args: &[&str]) -> Said {
        Said::new(&self.command(args).output().unwrap())
    }

    /// `ctr run` with our runtime: flags, the container, the command.
    fn run_command(&self, flags: &[&str], id: &str, command: &[&str]) -> Command {
        let (runtime, root) = (self.place.runtime(), self.place.path("oci"));
        let group = format!("{}/{id}", self.place.group());
        let mut all = vec!["run", "--snapshotter", "native", "--cgroup", &group];
        all.extend(["--runc-binary", runtime.to_str().unwrap(), "--runc-root", root.to_str().unwrap()]);
        all.extend(flags);
        all.extend([BUSYBOX, id]);
        all.extend(command);
        self.command(&all)
    }

    fn run(&self, flags: &[&str], id: &str, command: &[&str]) -> Said {
        Said::new(&self.run_command(flags, id, command).output().unwrap())
    }

    /// What `ctr task ls` says of a container.
    fn status(&self, id: &str) -> Option<String> {
        let list = self.ctr(&["task", "ls"]).ok();
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    }

    fn wait_for_status(&self, id: &str, status: &str) {
        eventually(&format!("{id} to be {status}"), || {
            (self.status(id).as_deref() == Some(status)).then_some(())
        });
    }

    /// Removes a container whose process has ended; its exit code.
    fn remove(&self, id: &str) -> i32 {
        let code = self.ctr(&["task", "delete", id]).code;
        self.ctr(&["container", "rm", id]).ok();
        code
    }

    /// The runtime knows of no container, and the shims are gone with their containers.
    fn finish(mut self) {
        let root = self.place.path("oci/default");
        let left: Vec<_> =
            std::fs::read_dir(root).into_iter().flatten().flatten().map(|it| it.file_name()).collect();
        assert!(left.is_empty(), "the runtime still has {left:?}");
        let shims = self.place.path("state/io.containerd.runtime.v2.task/default");
        assert_eq!(std::fs::read_dir(shims).into_iter().flatten().count(), 0);
        self.stop();
        self.place.remove_groups();
    }

    fn stop(&mut self) {
        let pid = self.daemon.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.daemon.wait();
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.place.path("log")).unwrap_or_default());
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
            self.place.sweep();
        }
    }
}

#[test]
fn containerd_runs_a_container_and_gets_its_output_and_exit_code() {
    let engine = Containerd::start();
    assert_eq!(engine.run(&["--rm"], "hello", &["echo", "hello"]).ok(), "hello\n");
    let said = engine.run(&["--rm"], "fails", &["sh", "-c", "echo no >&2; exit 9"]);
    assert_eq!((said.code, said.out.as_str()), (9, ""), "{said:?}");
    assert!(said.err.contains("no\n"), "{said:?}");
    let said =
        in_terminal(&engine.run_command(&["--rm", "--tty"], "tty", &["sh", "-c", "test -t 0 && exit 42"]));
    assert_eq!(said.code, 42, "{said:?}");
    engine.finish();
}

#[test]
fn containerd_is_told_why_a_container_cannot_be_made() {
    let engine = Containerd::start();
    let said = engine.run(&["--rm"], "absent", &["/bin/absent"]);
    assert_ne!(said.code, 0);
    assert!(said.err.contains("/bin/absent") && said.err.contains("o such file"), "{said:?}");
    assert_eq!(engine.status("absent"), None);
    engine.finish();
}

#[test]
fn containerd_works_with_a_running_container() {
    let engine = Containerd::start();
    engine.run(&["--detach", "--memory-limit", "33554432"], "long", &["sleep", "1000"]).ok();
    engine.wait_for_status("long", "RUNNING");

    let said = engine.ctr(&["task", "exec", "--exec-id", "e1", "long", "sh", "-c", "echo inside; exit 7"]);
    assert_eq!((said.code, said.out.as_str()), (7, "inside\n"), "{said:?}");
    let exec = ["task", "exec", "--tty", "--exec-id", "e2", "long", "sh", "-c", "test -t 1 && exit 42"];
    assert_eq!(in_terminal(&engine.command(&exec)).code, 42);
    engine.ctr(&["task", "exec", "--detach", "--exec-id", "e3", "long", "sleep", "1001"]).ok();
    let processes = engine.ctr(&["task", "ps", "long"]).ok();
    assert_eq!(
        processes.lines().count(),
        3,
        "a heading, the container's process and the detached one: {processes}"
    );

    engine.ctr(&["task", "pause", "long"]).ok();
    assert_eq!(engine.status("long").as_deref(), Some("PAUSED"));
    engine.ctr(&["task", "resume", "long"]).ok();
    assert_eq!(engine.status("long").as_deref(), Some("RUNNING"));
    let metrics = engine.ctr(&["task", "metrics", "--format", "json", "long"]).ok();
    assert!(metrics.contains("33554432"), "{metrics}");

    engine.ctr(&["task", "kill", "--signal", "SIGKILL", "long"]).ok();
    engine.wait_for_status("long", "STOPPED");
    assert_eq!(engine.remove("long"), 0);
    engine.finish();
}

#[test]
fn containerd_sees_a_container_end_by_a_signal_and_by_its_memory_limit() {
    let engine = Containerd::start();
    let waits = "trap 'exit 3' USR1; echo up; while :; do sleep 0.01; done";
    let mut client =
        engine.run_command(&["--rm"], "waits", &["sh", "-c", waits]).stdout(Stdio::piped()).spawn().unwrap();
    client.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    engine.ctr(&["task", "kill", "--signal", "SIGUSR1", "waits"]).ok();
    assert_eq!(client.wait().unwrap().code(), Some(3));

    engine.run(&["--detach"], "killed", &["sleep", "1000"]).ok();
    engine.ctr(&["task", "kill", "--signal", "SIGKILL", "--all", "killed"]).ok();
    engine.wait_for_status("killed", "STOPPED");
    engine.remove("killed");

    let eats = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
    let said = engine.run(&["--rm", "--memory-limit", "8388608"], "eats", &eats);
    assert_eq!(said.code, 137, "{said:?}");
    engine.finish();
}
