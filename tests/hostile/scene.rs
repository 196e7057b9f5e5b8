//! A bundle, the commands on its containers, and a look at what they leave behind.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use vaquita_testing::trace::{self, Call, End, Program, Trace, Verdict};
use vaquita_testing::{require_root, unique};

/// A bundle and a state directory of their own. Containers in it have different ids and control groups.
pub(crate) struct Scene {
    dir: TempDir,
    tag: String,
    next: AtomicUsize,
    reaper: Reaper,
}

/// A container that may or may not exist; nothing is left of it when this is dropped.
pub(crate) struct Container<'a> {
    scene: &'a Scene,
    pub(crate) id: String,
    /// The program that all commands on it run.
    pub(crate) runtime: String,
    /// Processes that were made for it and were seen by a tracer.
    processes: Vec<OwnedFd>,
}

/// A command of the runtime; where the id belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verb {
    Create,
    Start,
    Exec,
    Kill,
    Delete,
    Run,
}

/// The runtime under test.
pub(crate) fn runtime() -> String {
    std::env::var("VAQUITA_TEST_RUNTIME").unwrap_or_else(|_| env!("CARGO_BIN_EXE_vaquita").to_owned())
}

impl Scene {
    pub(crate) fn new() -> Self {
        require_root();
        let tag = unique("hst");
        let dir = tempfile::Builder::new().prefix(&tag).tempdir().unwrap();
        let scene = Self { dir, tag, next: AtomicUsize::new(0), reaper: Reaper::new() };
        fs::create_dir_all(scene.path("bundle/rootfs/bin")).unwrap();
        fs::create_dir_all(scene.path("state")).unwrap();
        let program = scene.path("bundle/rootfs/bin/busybox");
        copy("/bin/busybox", &program);
        for name in ["sh", "sleep", "true"] {
            std::os::unix::fs::symlink("busybox", program.with_file_name(name)).unwrap();
        }
        fs::create_dir_all(scene.path("bundle/rootfs/masked")).unwrap();
        fs::write(scene.path("bundle/rootfs/hidden"), "hidden").unwrap();
        scene
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The next container, of a bundle like [`config`] with changes.
    pub(crate) fn container_with(&self, change: impl FnOnce(&mut Value)) -> Container<'_> {
        let id = format!("{}-{:05}", self.tag, self.next.fetch_add(1, Ordering::Relaxed));
        let bundle = self.path(&id);
        fs::create_dir(&bundle).unwrap();
        let mut config = config();
        config["root"]["path"] = json!(self.path("bundle/rootfs"));
        config["linux"]["cgroupsPath"] = json!(format!("/{}/{id}", self.tag));
        change(&mut config);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        Container { scene: self, id, runtime: runtime(), processes: Vec::new() }
    }

    pub(crate) fn container(&self) -> Container<'_> {
        self.container_with(|_| {})
    }

    /// `vaquita check`, of a node whose control groups these are.
    fn check(&self) {
        let output = Command::new(env!("CARGO_BIN_EXE_vaquita"))
            .arg("check")
            .env("VAQUITA_ROOT", self.path("root"))
            .env("VAQUITA_STATE", self.path("node"))
            .env("VAQUITA_BRIDGE", "vhostile")
            .env("VAQUITA_SUBNET", "10.203.7.0/24")
            .env("VAQUITA_CGROUP", format!("/{}", self.tag))
            .output()
            .unwrap();
        assert!(output.status.success(), "vaquita check: {}", String::from_utf8_lossy(&output.stdout));
    }

    fn arguments(&self) -> [String; 2] {
        ["--root".to_owned(), self.path("state").display().to_string()]
    }

    /// What is left of all containers, or of the one with this id.
    pub(crate) fn leftovers(&self, id: &str) -> Vec<String> {
        let mut found = Vec::new();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(table.lines().filter(|line| line.contains(id)).map(|line| format!("mount: {line}")));
        for hierarchy in hierarchies() {
            let group = hierarchy.join(&self.tag).join(id);
            if group.exists() {
                let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                found.push(format!("control group: {} with {members:?}", group.display()));
            }
        }
        let state = fs::read_dir(self.path("state")).unwrap();
        let names = state.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        found.extend(names.filter(|name| name.contains(id)).map(|name| format!("state: {name}")));
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        found.extend(sockets.lines().filter(|line| line.contains(id)).map(|line| format!("socket: {line}")));
        found
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // Above those of the containers, and nobody's.
        for hierarchy in hierarchies() {
            match fs::remove_dir(hierarchy.join(&self.tag)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    panic!("{}/{}: {error}", hierarchy.display(), self.tag)
                }
                _ => {}
            }
        }
        let left = self.leftovers(&self.tag);
        assert!(left.is_empty(), "left behind: {left:#?}");
        self.check();
    }
}

impl Container<'_> {
    /// The command line, without the program.
    fn arguments(&self, verb: Verb) -> Vec<String> {
        let bundle = self.scene.path(&self.id).display().to_string();
        match verb {
            Verb::Create => self.with_id(&["create", "--bundle", &bundle], &[]),
            Verb::Start => self.with_id(&["start"], &[]),
            Verb::Exec => self.with_id(&["exec"], &["/bin/true"]),
            Verb::Kill => self.with_id(&["kill"], &["WINCH"]),
            Verb::Delete => self.with_id(&["delete", "--force"], &[]),
            Verb::Run => self.with_id(&["run", "--bundle", &bundle], &[]),
        }
    }

    /// A command line: what comes before the id, and what after it.
    pub(crate) fn with_id(&self, before: &[&str], after: &[&str]) -> Vec<String> {
        let mut all = self.scene.arguments().to_vec();
        all.extend(before.iter().map(|text| (*text).to_owned()));
        all.push(self.id.clone());
        all.extend(after.iter().map(|text| (*text).to_owned()));
        all
    }

    /// Runs a command as anybody would.
    pub(crate) fn run(&self, verb: Verb) -> Output {
        self.command(&self.arguments(verb))
    }

    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Output {
        use std::os::unix::process::CommandExt as _;
        let (mut out, mut err) = (memory_file(), memory_file());
        // Not pipes: a container keeps what it inherits open.
        let status = Command::new(&self.runtime)
            .arg0("vaquita-oci")
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(err.try_clone().unwrap())
            .status()
            .unwrap();
        Output { status, stdout: content(&mut out), stderr: content(&mut err) }
    }

    /// Runs a command that has to succeed.
    #[track_caller]
    pub(crate) fn must(&self, verb: Verb) {
        let output = self.run(verb);
        assert!(output.status.success(), "{verb:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a command under the tracer.
    pub(crate) fn traced(&mut self, verb: Verb, decide: impl FnMut(&Call) -> Verdict) -> Trace {
        let program = Program::new(&self.runtime).name("vaquita-oci").args(self.arguments(verb));
        // What the start does, the process does that was created.
        let attached = if verb == Verb::Start { self.init().into_iter().collect() } else { Vec::new() };
        attached.iter().for_each(|pid| until_it_waits(*pid));
        let mut trace = trace::run(&program, &attached, decide).unwrap();
        self.processes.append(&mut trace.processes);
        trace
    }

    /// Its state document, where there is one.
    pub(crate) fn state(&self) -> Option<Value> {
        let output = self.command(&self.with_id(&["state"], &[]));
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    pub(crate) fn status(&self) -> Option<String> {
        Some(self.state()?["status"].as_str().unwrap().to_owned())
    }

    /// Its first process.
    pub(crate) fn init(&self) -> Option<Pid> {
        let pid = self.state()?["pid"].as_i64()?;
        Pid::from_raw(i32::try_from(pid).unwrap())
    }

    /// Takes up a process that a command left running.
    pub(crate) fn adopt(&mut self, pid: &str) {
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        self.processes.push(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap());
    }

    /// Deletes it by force and says what is left all the same.
    pub(crate) fn remove(&mut self) -> Vec<String> {
        // Not before: whoever waits for a process takes its stops from a tracer.
        self.scene.reaper.watch(&self.processes);
        let output = self.run(Verb::Delete);
        let mut found = self.scene.leftovers(&self.id);
        if !output.status.success() {
            found.push(format!("delete --force: {}", String::from_utf8_lossy(&output.stderr)));
        }
        for process in std::mem::take(&mut self.processes) {
            if !ends(&process) {
                found.push(format!("a process: {}", describe(&process)));
                let _ = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL);
            }
        }
        found
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.remove();
        let _ = fs::remove_dir_all(self.scene.path(&self.id));
    }
}

/// Waits until a process waits to be started: `create` does not wait for that.
fn until_it_waits(pid: Pid) {
    let waits = format!("{} ", libc::SYS_accept4);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default().starts_with(&waits) {
        assert!(Instant::now() < deadline, "process {pid} does not wait to be started");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for processes that commands leave behind, as the first process of a system does. Without it a container whose
/// exec was abandoned would not end: its first process waits for all others to be waited for.
struct Reaper {
    processes: Arc<Mutex<Vec<OwnedFd>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Reaper {
    fn new() -> Self {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let (processes, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (all, stopped) = (Arc::clone(&processes), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                all.lock().unwrap().retain(|process: &OwnedFd| {
                    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                    match rustix::process::waitid(WaitId::PidFd(process.as_fd()), options) {
                        Ok(waited) => waited.is_none(),
                        // The child of another, which has waited for it or is to do so.
                        Err(_) => !trace::has_ended(process),
                    }
                });
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { processes, stop, thread: Some(thread) }
    }

    fn watch(&self, processes: &[OwnedFd]) {
        let copies = processes.iter().map(|process| process.try_clone().unwrap());
        self.processes.lock().unwrap().extend(copies);
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Whether the command ended as one should: well, or with one line that says why not.
pub(crate) fn judge(trace: &Trace) -> Result<bool, String> {
    let line = trace.errors.strip_suffix('\n').unwrap_or(&trace.errors);
    let shown = || format!("{:?}, late: {}, errors: {:?}", trace.end, trace.is_late, trace.errors);
    match trace.end {
        _ if trace.is_late => Err(format!("did not end: {}", shown())),
        End::Exited(0) => Ok(true),
        End::Exited(code) if code != 101 => {
            let is_ours = line.starts_with("vaquita-oci: ") || std::env::var("VAQUITA_TEST_RUNTIME").is_ok();
            let is_clean = is_ours && !line.contains('\n') && !line.contains("panicked");
            if is_clean { Ok(false) } else { Err(shown()) }
        }
        _ => Err(shown()),
    }
}

/// Where the program's own code begins and not yet ends: a program of Rust tells the kernel of its signal stack twice
/// before that, and once at the end. Failures of what comes before end it as the language does.
#[derive(Default)]
pub(crate) struct OwnCode {
    stacks: usize,
}

impl OwnCode {
    /// To be told of each call of the first process, in order.
    pub(crate) fn contains(&mut self, call: &Call) -> bool {
        match call.number {
            libc::SYS_execve | libc::SYS_execveat => self.stacks = 0,
            libc::SYS_sigaltstack => self.stacks += 1,
            _ => {}
        }
        self.stacks == 2 && call.number != libc::SYS_sigaltstack
    }
}

/// By another process: a file that this one has open for writing cannot be executed, and a child that another thread makes
/// has it open, too, for a moment.
pub(crate) fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    assert!(Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status().unwrap().success());
}

fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let groups = table.lines().filter(|line| line.contains(" - cgroup"));
    groups.map(|line| PathBuf::from(line.split(' ').nth(4).unwrap())).collect()
}

/// Whether it has ended or is about to: a killed process takes a moment.
fn ends(process: &OwnedFd) -> bool {
    let patience = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
    let mut fds = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&patience)).unwrap() == 1
}

fn describe(process: &OwnedFd) -> String {
    use std::os::fd::AsRawFd as _;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).unwrap_or_default();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap_or_default().trim().to_owned();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{pid} {}", name.trim_end())
}

fn memory_file() -> fs::File {
    rustix::fs::memfd_create("output", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into()
}

fn content(file: &mut fs::File) -> Vec<u8> {
    use std::io::{Read as _, Seek as _};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Has a container see its cgroups, which are all made before its first process then.
pub(crate) fn show_cgroups(config: &mut Value) {
    let options = ["nosuid", "noexec", "nodev", "ro"];
    let view =
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options});
    config["mounts"].as_array_mut().unwrap().push(view);
}

/// A container that has something of everything that a runtime sets up, but for what [`show_cgroups`] adds.
fn config() -> Value {
    let capabilities = json!(["CAP_CHOWN", "CAP_KILL"]);
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": ""},
        "hostname": "hostile",
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [5]},
            "args": ["/bin/sleep", "1000"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
            "oomScoreAdj": 500,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/etc/hostname", "type": "bind", "source": "/etc/hostname", "options": ["rbind", "ro", "rprivate"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
                {"type": "network"},
            ],
            "sysctl": {"kernel.msgmax": "8192"},
            "resources": {
                "memory": {"limit": 67_108_864},
                "cpu": {"shares": 512, "quota": 50000, "period": 100_000},
                "pids": {"limit": 100},
                "devices": [{"allow": false, "access": "rwm"}],
            },
            "maskedPaths": ["/hidden", "/masked", "/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}],
            },
        },
    })
}

/// Runs `job` for each number below `count`, three at a time.
pub(crate) fn in_parallel(count: usize, job: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    job(number);
                }
            });
        }
    });
}

/// The name of a call, of the list that the kernel's headers have.
pub(crate) fn name(number: i64) -> String {
    let table = Path::new("/usr/include/x86_64-linux-gnu/asm/unistd_64.h");
    let text = fs::read_to_string(table).unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let (name, value) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        (value.trim().parse() == Ok(number)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| number.to_string())
}
