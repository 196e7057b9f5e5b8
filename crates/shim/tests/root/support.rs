//! A pod for a test, of which nothing is left at the end.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use vaquita_cgroup::{Cgroup, Layout};
use vaquita_shim::client::{Client, Created, SandboxCreated, Spawner};
use vaquita_shim::{CreateRequest, Error, Event, Exit, Exited, Namespaces, OciRuntime, SandboxRequest};
use vaquita_sys::signal::Signal;
use vaquita_testing::{Leaks, TempDir, require_root, temp_dir, unique};

/// The shim, and what containers run.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_vaquita-shim-test");
/// Longer than anything takes on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A shim with a directory of its own. Everything that bears its tag must be gone when it is dropped.
pub(crate) struct Pod {
    pub(crate) client: Client,
    pub(crate) events: UnboundedReceiver<Event>,
    pub(crate) tag: String,
    shim: i32,
    dir: TempDir,
    _leaks: Leaks,
}

/// A container to be.
pub(crate) struct Container<'a> {
    pod: &'a Pod,
    request: CreateRequest,
    config: Value,
}

impl Pod {
    /// A shim without a sandbox.
    pub(crate) async fn empty() -> Self {
        Self::of(|| File::open(PROGRAM).unwrap().into()).await
    }

    /// The same, that runs from a file.
    pub(crate) async fn of(exe: impl FnOnce() -> OwnedFd) -> Self {
        require_root();
        let tag = unique("shim");
        let leaks = Leaks::of(&tag);
        let dir = tempfile::Builder::new().prefix(&tag).tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("rootfs/bin")).unwrap();
        let program = dir.path().join("rootfs/bin/program");
        std::fs::hard_link(PROGRAM, &program)
            .or_else(|_| std::fs::copy(PROGRAM, &program).map(drop))
            .unwrap();
        std::fs::create_dir(dir.path().join("pod")).unwrap();
        let spawner = Spawner::new(exe());
        let client = spawner.spawn(&dir.path().join("pod")).await.unwrap();
        let events = client.events();
        // An answer means that it is up and has said who it is.
        client.state().await.unwrap();
        let shim = shim_of(&dir.path().join("pod")).unwrap();
        Self { client, events, tag, shim, dir, _leaks: leaks }
    }

    /// A pod with network, IPC and UTS namespaces of its own.
    pub(crate) async fn new() -> Self {
        let pod = Self::empty().await;
        pod.create_sandbox().await.unwrap();
        pod
    }

    pub(crate) async fn create_sandbox(&self) -> Result<SandboxCreated, Error> {
        self.create_sandbox_with(self.namespaces()).await
    }

    pub(crate) async fn create_sandbox_with(&self, new: Namespaces) -> Result<SandboxCreated, Error> {
        let request = SandboxRequest {
            id: "sandbox".to_owned(),
            hostname: if new.uts { self.tag.clone() } else { String::new() },
            new,
            cgroup: self.cgroup("sandbox"),
            uid: 65535,
            gid: 65535,
            ..Default::default()
        };
        self.client.create_sandbox(&request, None).await
    }

    pub(crate) fn namespaces(&self) -> Namespaces {
        Namespaces { ipc: true, net: true, uts: true, ..Default::default() }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().join("pod")
    }

    pub(crate) fn cgroup(&self, id: &str) -> PathBuf {
        Path::new("/").join(&self.tag).join(id)
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.dir.path().join("logs").join(id).join("0.log")
    }

    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.dir.path().join("bundles").join(id)
    }

    /// A detached mount of the root that all containers of the pod share.
    pub(crate) fn rootfs(&self) -> OwnedFd {
        vaquita_sys::mount::open_tree_clone(rustix::fs::CWD, self.dir.path().join("rootfs"), false).unwrap()
    }

    /// A file in the root of the containers.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("rootfs").join(name)
    }

    /// The pid of the shim.
    pub(crate) fn shim(&self) -> i32 {
        self.shim
    }

    /// A container that runs the test program with these arguments.
    pub(crate) fn container(&self, id: &str, args: &[&str]) -> Container<'_> {
        let request = CreateRequest {
            id: id.to_owned(),
            bundle: self.bundle(id),
            cgroup: self.cgroup(id),
            log_path: Some(self.log_path(id)),
            join: self.namespaces(),
            ..Default::default()
        };
        Container { pod: self, request, config: config(args) }
    }

    /// Creates and starts a container.
    pub(crate) async fn run(&self, id: &str, args: &[&str]) -> Created {
        self.container(id, args).run().await
    }

    /// The end of a container. Other events until then are dropped.
    pub(crate) async fn exit_of(&mut self, id: &str) -> Exit {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time");
            match event.expect("a shim") {
                Event::Exited(Exited { id: ended, exec_id: None, exit }) if ended == id => return exit,
                Event::Exited(_) => {}
                other => panic!("the shim is gone: {other:?}"),
            }
        }
    }

    pub(crate) async fn run_to_end(&mut self, id: &str, args: &[&str]) -> Exit {
        self.run(id, args).await;
        self.exit_of(id).await
    }

    pub(crate) fn log(&self, id: &str) -> Vec<Record> {
        records(&std::fs::read(self.log_path(id)).unwrap())
    }
}

impl Container<'_> {
    pub(crate) fn set_args(&mut self, args: &[&str]) {
        self.config["process"]["args"] = json!(args);
    }

    pub(crate) fn tty(mut self) -> Self {
        self.request.tty = true;
        self.config["process"]["terminal"] = json!(true);
        self.config["process"]["consoleSize"] = json!({"height": 24, "width": 80});
        self
    }

    pub(crate) fn stdin(mut self) -> Self {
        self.request.stdin = true;
        self
    }

    pub(crate) fn stdin_once(mut self) -> Self {
        self.request.stdin_once = true;
        self.stdin()
    }

    /// Has another OCI runtime make it, and systemd its cgroup.
    #[allow(dead_code, reason = "the tests of other runtimes use it")]
    pub(crate) fn scope(mut self, program: &Path) -> Self {
        self.request.cgroup = Path::new(&format!("/{}.slice", self.pod.tag)).join("vaquita-c.scope");
        self.request.runtime = Some(OciRuntime { program: program.to_owned(), systemd_cgroup: true });
        self
    }

    pub(crate) fn log_limit(mut self, bytes: u64) -> Self {
        self.request.log_limit = bytes;
        self
    }

    /// Has another OCI runtime make it.
    #[allow(dead_code, reason = "the tests of other runtimes use it")]
    pub(crate) fn runtime(mut self, program: &Path) -> Self {
        self.request.runtime = Some(OciRuntime { program: program.to_owned(), systemd_cgroup: false });
        self
    }

    pub(crate) fn no_log(mut self) -> Self {
        self.request.log_path = None;
        self
    }

    /// Joins the PID namespace of the sandbox too, and so outlives its first process.
    pub(crate) fn shared_pid(mut self) -> Self {
        self.request.join.pid = true;
        self.config["linux"]["namespaces"] = json!([{"type": "mount"}]);
        self
    }

    /// Sees all processes of the host, with every capability that helps against them.
    pub(crate) fn powerful(mut self) -> Self {
        let all = json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"]);
        self.config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
        self.config["linux"]["namespaces"] = json!([{"type": "mount"}]);
        self
    }

    pub(crate) fn memory_limit(mut self, bytes: u64) -> Self {
        self.config["linux"]["resources"]["memory"] = json!({"limit": bytes, "swap": bytes});
        self
    }

    pub(crate) fn id(&self) -> &str {
        &self.request.id
    }

    pub(crate) fn join(mut self, join: Namespaces) -> Self {
        self.request.join = join;
        self
    }

    pub(crate) async fn create(self) -> Result<Created, Error> {
        let root = self.pod.rootfs();
        self.create_in(root).await
    }

    pub(crate) async fn create_in(self, root: OwnedFd) -> Result<Created, Error> {
        std::fs::create_dir_all(&self.request.bundle).unwrap();
        std::fs::write(self.request.bundle.join("config.json"), self.config.to_string()).unwrap();
        self.pod.client.create(&self.request, root).await
    }

    pub(crate) async fn run(self) -> Created {
        let (pod, id) = (self.pod, self.request.id.clone());
        let created = self.create().await.unwrap();
        pod.client.start(&id).await.unwrap();
        created
    }
}

impl Drop for Pod {
    /// Whatever state the test left it in.
    fn drop(&mut self) {
        if let Some(pid) = shim_of(&self.dir()) {
            let _ = vaquita_sys::signal::send_to_pid(pid, Signal::KILL);
        }
        // Who would reap it later ends with the test.
        let shim = rustix::process::Pid::from_raw(self.shim);
        let _ = rustix::process::waitpid(shim, rustix::process::WaitOptions::empty());
        let layout = Layout::detect().unwrap();
        let root = Path::new("/").join(&self.tag);
        for path in vaquita_cgroup::list(&layout, &root).unwrap_or_default().into_iter().rev() {
            if let Ok(cgroup) = Cgroup::open(&layout, &path) {
                let _ = cgroup.kill();
                let _ = cgroup.remove();
            }
        }
    }
}

/// The pid in `shim.json`, while the shim is alive.
pub(crate) fn shim_of(pod_dir: &Path) -> Option<i32> {
    let record: Value = serde_json::from_slice(&std::fs::read(pod_dir.join("shim.json")).ok()?).unwrap();
    let pid = i32::try_from(record["pid"].as_i64().unwrap()).unwrap();
    let process = rustix::process::Pid::from_raw(pid).unwrap();
    let started = vaquita_sys::process::start_time(process).ok()?;
    (Some(started) == record["start_time"].as_u64()).then_some(pid)
}

/// Waits until something is so, without saying how long.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} does not come true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A line of a log file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    pub(crate) stream: String,
    pub(crate) tag: String,
    pub(crate) content: Vec<u8>,
}

/// Reads a log as strictly as the format says.
pub(crate) fn records(file: &[u8]) -> Vec<Record> {
    if file.is_empty() {
        return Vec::new();
    }
    let file = file.strip_suffix(b"\n").expect("a log ends with a line feed");
    file.split(|byte| *byte == b'\n').map(record).collect()
}

fn record(line: &[u8]) -> Record {
    let shown = String::from_utf8_lossy(&line[..line.len().min(100)]).into_owned();
    assert!(line.len() >= 40, "a torn record: {shown:?}");
    let (head, content) = line.split_at(40);
    let head = std::str::from_utf8(head).unwrap_or_else(|_| panic!("a torn record: {shown:?}"));
    let [time, stream, tag, ""] = head.split(' ').collect::<Vec<_>>()[..] else {
        panic!("a torn record: {shown:?}")
    };
    assert!(time.len() == 30 && time.starts_with("20") && time.ends_with('Z'), "{shown:?}");
    assert!(matches!(stream, "stdout" | "stderr") && matches!(tag, "P" | "F"), "{shown:?}");
    Record { stream: stream.to_owned(), tag: tag.to_owned(), content: content.to_vec() }
}

/// Stream, tag and content, for comparing.
pub(crate) fn shown(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| String::from_utf8_lossy(&record.content).into_owned();
    records.iter().map(|record| format!("{} {} {}", record.stream, record.tag, text(record))).collect()
}

/// What the streams hold: the contents put together again.
pub(crate) fn output(records: &[Record]) -> Vec<u8> {
    let mut output = Vec::new();
    for record in records {
        output.extend_from_slice(&record.content);
        if record.tag == "F" {
            output.push(b'\n');
        }
    }
    output
}

/// An OCI process that runs the test program.
pub(crate) fn process(args: &[&str]) -> Value {
    let args: Vec<&str> = ["/bin/program"].into_iter().chain(args.iter().copied()).collect();
    json!({
        "args": args,
        "cwd": "/",
        "env": ["PATH=/bin"],
        "noNewPrivileges": true,
        "terminal": false,
        "user": {"uid": 0, "gid": 0},
    })
}

fn config(args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": process(args),
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        ],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "pid"}],
            "resources": {},
        },
    })
}

/// A directory for what is not a pod's.
pub(crate) fn scratch() -> TempDir {
    temp_dir()
}
