//! A container of the OCI command line, and its cgroup.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use vaquita_testing::{Leaks, require_root, unique};

/// How long anything may take: the processor is emulated.
const PATIENCE: Duration = Duration::from_secs(240);

/// A bundle with busybox in its root filesystem, and the container made of it. Removed when dropped.
pub(crate) struct Container {
    pub(crate) config: Value,
    pub(crate) id: String,
    /// The path of its cgroup below the root of the hierarchy.
    pub(crate) cgroup: String,
    options: Vec<&'static str>,
    dir: TempDir,
    output: File,
    /// Last, so that it compares when all of the above is gone.
    _leaks: Leaks,
}

impl Container {
    /// One that runs a line of shell, as root with a few capabilities, in `/<its id>`.
    pub(crate) fn new(script: &str) -> Self {
        require_root();
        let id = unique("vqvm");
        let leaks = Leaks::of(&id);
        let dir = tempfile::Builder::new().prefix(&id).tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let bin = dir.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        for name in ["dev", "proc", "sys", "tmp"] {
            fs::create_dir(dir.path().join("rootfs").join(name)).unwrap();
        }
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for name in ["cat", "dd", "echo", "ls", "mknod", "sh", "sleep", "touch", "true"] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        let output =
            File::options().create_new(true).read(true).append(true).open(dir.path().join("output")).unwrap();
        let cgroup = format!("/{id}");
        Self { config: config(script, &cgroup), id, cgroup, options: Vec::new(), dir, output, _leaks: leaks }
    }

    /// Options of the command line before the command.
    pub(crate) fn option(mut self, option: &'static str) -> Self {
        self.options.push(option);
        self
    }

    /// Sets what is at a JSON pointer.
    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        self.config.pointer_mut(parent).unwrap()[name] = value;
        self
    }

    /// One of its resources.
    pub(crate) fn limit(self, name: &str, value: Value) -> Self {
        self.set(&format!("/linux/resources/{name}"), value)
    }

    pub(crate) fn bundle(&self) -> &Path {
        self.dir.path()
    }

    /// A command of the command line on this container.
    pub(crate) fn command(&self, command: &str, arguments: &[&str]) -> Command {
        let mut oci = Command::new(env!("CARGO_BIN_EXE_vaquita"));
        oci.arg0("vaquita-oci").arg("--root").arg(self.dir.path().join("state")).args(&self.options);
        oci.arg(command).args(arguments).arg(&self.id);
        oci
    }

    /// Runs it, and fails the test if it fails.
    #[track_caller]
    pub(crate) fn oci(&self, command: &str, arguments: &[&str]) {
        succeed(&self.command(command, arguments).output().unwrap());
    }

    /// Creates it with its output in a file.
    fn creation(&self) -> Command {
        fs::write(self.dir.path().join("config.json"), self.config.to_string()).unwrap();
        let mut create = self.command("create", &["--bundle", self.dir.path().to_str().unwrap()]);
        create.stdin(std::process::Stdio::null());
        create.stdout(self.output.try_clone().unwrap()).stderr(self.output.try_clone().unwrap());
        create
    }

    #[track_caller]
    pub(crate) fn create(&self) {
        self.create_by(|_| {});
    }

    /// Creates it by a command that was changed.
    #[track_caller]
    pub(crate) fn create_by(&self, change: impl FnOnce(&mut Command)) {
        let mut create = self.creation();
        change(&mut create);
        assert!(create.status().unwrap().success(), "create: {}", self.output());
    }

    /// Creates and starts it.
    #[track_caller]
    pub(crate) fn start(&self) {
        self.create();
        self.oci("start", &[]);
    }

    /// What creating it is refused with; nothing is left then.
    #[track_caller]
    pub(crate) fn refused(&self) -> String {
        assert!(!self.creation().status().unwrap().success(), "it was made");
        assert_eq!(self.command("state", &[]).output().unwrap().status.code(), Some(1), "it is known");
        assert!(!self.group().exists(), "its group was left");
        self.output()
    }

    /// Creates and starts it, waits for its end, and returns what it said.
    #[track_caller]
    pub(crate) fn run(&self) -> String {
        self.start();
        self.wait_stopped();
        self.output()
    }

    /// What it has written so far.
    pub(crate) fn output(&self) -> String {
        let mut text = String::new();
        let mut file = self.output.try_clone().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn state(&self) -> Value {
        let output = self.command("state", &[]).output().unwrap();
        succeed(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn pid(&self) -> String {
        self.state()["pid"].to_string()
    }

    #[track_caller]
    pub(crate) fn wait_stopped(&self) {
        eventually("the container's end", || (self.state()["status"] == "stopped").then_some(()));
    }

    /// Its cgroup's directory.
    pub(crate) fn group(&self) -> PathBuf {
        PathBuf::from(format!("/sys/fs/cgroup{}", self.cgroup))
    }

    /// A file of its cgroup.
    #[track_caller]
    pub(crate) fn file(&self, name: &str) -> String {
        read(&self.group().join(name))
    }

    /// A number in a file of its cgroup, from the line that begins with this word.
    #[track_caller]
    pub(crate) fn count(&self, file: &str, word: &str) -> u64 {
        let text = self.file(file);
        let line = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {word} in {file}: {text}")).trim().parse().unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.command("delete", &["--force"]).output();
    }
}

/// A file's text without its last newline.
#[track_caller]
pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim_end()
        .to_owned()
}

#[track_caller]
pub(crate) fn succeed(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
}

/// What a command of the host prints. It must succeed.
#[track_caller]
pub(crate) fn host(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    succeed(&output);
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Looks again and again until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn config(script: &str, cgroup: &str) -> Value {
    let capabilities = json!(["CAP_DAC_OVERRIDE", "CAP_MKNOD"]);
    json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        },
    })
}
