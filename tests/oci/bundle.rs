//! A bundle with busybox, a root directory of its own, and the command.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use vaquita_testing::{Leaks, TempDir, require_root, temp_dir, unique};

/// Containers of a test. When it is dropped nothing of them may be left.
pub(crate) struct Bundle {
    pub(crate) tag: String,
    pub(crate) dir: TempDir,
    leaks: Option<Leaks>,
}

const PROGRAMS: &[&str] =
    &["sh", "true", "cat", "sleep", "echo", "id", "ls", "kill", "pwd", "env", "stty", "tty"];

impl Bundle {
    /// A container that runs `sh -c SCRIPT`, with a cgroup of its own.
    pub(crate) fn new(script: &str) -> Self {
        require_root();
        let tag = unique("oci");
        let leaks = Some(Leaks::of(&tag));
        let dir = temp_dir();
        let bin = dir.path().join("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
        for name in PROGRAMS {
            symlink("busybox", bin.join(name)).unwrap();
        }
        let bundle = Self { tag, dir, leaks };
        bundle.good(["spec", "-b", bundle.path("").to_str().unwrap()]);
        bundle.change(|spec| {
            spec["process"]["terminal"] = json!(false);
            spec["process"]["args"] = json!(["sh", "-c", script]);
            spec["root"]["readonly"] = json!(false);
            spec["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.tag));
        });
        bundle
    }

    /// A path in the bundle.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where containers are recorded.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("state")
    }

    /// Changes the configuration.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("config.json");
        let mut spec: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut spec);
        std::fs::write(path, spec.to_string()).unwrap();
    }

    /// `vaquita-oci` with the root directory, in the bundle.
    pub(crate) fn command<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vaquita"));
        command.arg0("vaquita-oci").arg("--root").arg(self.root()).current_dir(self.dir.path());
        command.args(args.into_iter().map(|arg| arg.as_ref().to_owned())).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn oci<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        to_its_end(self.command(args))
    }

    /// Its output, when it succeeds.
    #[track_caller]
    pub(crate) fn good<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let output = self.oci(args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says, in one line, when it fails with this status.
    #[track_caller]
    pub(crate) fn bad<S: AsRef<str>>(&self, status: i32, args: impl IntoIterator<Item = S>) -> String {
        let output = self.oci(args);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("vaquita-oci: "), "{said}");
        said.trim().to_owned()
    }

    /// The state of a container.
    #[track_caller]
    pub(crate) fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.good(["state", id])).unwrap()
    }

    #[track_caller]
    pub(crate) fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_owned()
    }

    /// Waits until the container has this status.
    #[track_caller]
    pub(crate) fn await_status(&self, id: &str, status: &str) {
        crate::support::eventually(status, || (self.status(id) == status).then_some(()));
    }

    /// A file in a v1 hierarchy or the v2 one of the container's cgroup, without white space at its end.
    pub(crate) fn limit(&self, controller: &str, v1: &str, v2: &str) -> String {
        let path = Path::new("/sys/fs/cgroup");
        let one = path.join(controller).join(&self.tag).join(v1);
        let file = if one.exists() { one } else { path.join(&self.tag).join(v2) };
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}")).trim().to_owned()
    }

    fn delete_all(&self) {
        for id in std::fs::read_dir(self.root()).into_iter().flatten().flatten() {
            let _ = self.oci(["delete", "--force", id.file_name().to_str().unwrap()]);
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.delete_all();
        let leaks = self.leaks.take();
        if !std::thread::panicking() {
            let left: Vec<_> = std::fs::read_dir(self.root()).into_iter().flatten().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
            leaks.unwrap().assert_none();
        }
    }
}

/// Runs a command to its end. What it leaves running has its streams too, so they are files.
pub(crate) fn to_its_end(mut command: Command) -> Output {
    let [mut stdout, mut stderr] = [(); 2].map(|()| tempfile::tempfile().unwrap());
    command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let status = command.status().unwrap();
    let [stdout, stderr] = [&mut stdout, &mut stderr].map(|file| {
        let mut bytes = Vec::new();
        std::io::Seek::rewind(file).unwrap();
        std::io::Read::read_to_end(file, &mut bytes).unwrap();
        bytes
    });
    Output { status, stdout, stderr }
}
