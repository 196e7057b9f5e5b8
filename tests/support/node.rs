//! The built binary as a daemon, in a place of its own.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use vaquita_proto::cri::runtime_service_client::RuntimeServiceClient;
use vaquita_proto::cri::{ListPodSandboxRequest, RemovePodSandboxRequest};

use super::place::Place;
use super::{PATIENCE, archive, eventually};

/// A daemon and its directories. Dropped without [`Node::finish`], as when a test panics, it cleans up by force and
/// shows the daemon's log.
#[derive(Debug)]
pub(crate) struct Node {
    place: Place,
    runtime: tokio::runtime::Runtime,
    daemon: RefCell<Option<Child>>,
    finished: bool,
}

impl Node {
    /// A place with a daemon that answers.
    #[track_caller]
    pub(crate) fn start() -> Self {
        let node = Self::without_daemon();
        node.start_daemon();
        node
    }

    /// A place where nothing runs yet.
    #[track_caller]
    pub(crate) fn without_daemon() -> Self {
        vaquita_testing::require_root();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { place: Place::new(), runtime, daemon: RefCell::new(None), finished: false }
    }

    /// Starts the daemon as a service manager does: by its notification we know that it answers.
    #[track_caller]
    pub(crate) fn start_daemon(&self) {
        self.start_daemon_as(&mut self.vaquita(&["daemon", "--log-level", "info,vaquita=debug"]));
    }

    /// The same with a command of the test's own.
    #[track_caller]
    pub(crate) fn start_daemon_as(&self, command: &mut Command) {
        let socket = self.path("notify");
        let _ = std::fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).unwrap();
        notify.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let log = File::options().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let mut child =
            command.env("NOTIFY_SOCKET", &socket).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        eventually("the daemon to be ready", || {
            let mut buffer = [0; 256];
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the daemon ended at once: {status}\n{}", self.log());
            }
            let length = notify.recv(&mut buffer).ok()?;
            buffer[..length].starts_with(b"READY=1").then_some(())
        });
        *self.daemon.borrow_mut() = Some(child);
    }

    /// SIGTERM, and waits: pods are left running.
    #[track_caller]
    pub(crate) fn stop_daemon(&self) {
        let mut child = self.daemon.borrow_mut().take().expect("a daemon runs");
        signal(child.id(), rustix::process::Signal::TERM);
        let status = wait(&mut child, "the daemon to end");
        assert!(status.success(), "the daemon ended with {status}\n{}", self.log());
    }

    /// SIGKILL, and waits for the kernel to have done it.
    #[track_caller]
    pub(crate) fn kill_daemon(&self) {
        let mut child = self.daemon.borrow_mut().take().expect("a daemon runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The binary, pointed at this node.
    pub(crate) fn vaquita(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vaquita"));
        command.args(args).envs(self.place.environment()).env_remove("NOTIFY_SOCKET").env_remove("NO_COLOR");
        command
    }

    /// Runs the binary to its end.
    #[track_caller]
    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.vaquita(args).stdin(Stdio::null()).output().unwrap()
    }

    /// The processes of the daemon and of the pods' supervisors.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mark = self.place.path().to_str().unwrap();
        let daemon = self.daemon.borrow().as_ref().map(Child::id);
        let is_shim = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"vaquita-shim") && String::from_utf8_lossy(&line).contains(mark)
        };
        let names = Path::new("/proc").read_dir().unwrap().flatten().map(|entry| entry.file_name());
        let shims = names.filter_map(|name| name.to_str()?.parse().ok()).filter(is_shim);
        daemon.into_iter().chain(shims).collect()
    }

    /// A path in the node's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Writes a file there.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Where it answers.
    pub(crate) fn socket(&self) -> PathBuf {
        self.place.socket()
    }

    /// The name of the bridge.
    pub(crate) fn bridge(&self) -> String {
        self.place.bridge()
    }

    /// Where pods get their cgroups.
    pub(crate) fn cgroup(&self) -> String {
        self.place.cgroup()
    }

    /// Loads the busybox image: a real rootfs with a shell.
    #[track_caller]
    pub(crate) fn load_busybox(&self) {
        let path = self.path("busybox.tar");
        archive::busybox(&path);
        succeed(&self.output(&["image", "load", path.to_str().unwrap()]));
    }

    /// Loads an image with busybox in it; containers get it by setting this reference.
    #[track_caller]
    pub(crate) fn load(
        &self,
        reference: &str,
        config: serde_json::Value,
        files: impl FnOnce(&mut archive::Tar),
    ) {
        let path = self.path("image.tar");
        archive::image(&path, reference, config, files);
        succeed(&self.output(&["image", "load", path.to_str().unwrap()]));
    }

    /// The pods and containers of the CRI.
    pub(crate) fn cri(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel())
    }

    fn channel(&self) -> Channel {
        let socket = self.place.socket();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let _inside = self.runtime.enter();
        Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
    }

    /// Waits for an answer.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("an answer in time") })
    }

    /// What `vaquita check --output json` lists, and that it finds no orphan.
    #[track_caller]
    pub(crate) fn check(&self) -> Vec<serde_json::Value> {
        let output = self.output(&["check", "--output", "json"]);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(output.status.success(), "orphans:\n{text}{}", String::from_utf8_lossy(&output.stderr));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The names of all that is there, of some kind.
    #[track_caller]
    pub(crate) fn resources(&self, kind: &str) -> Vec<String> {
        let named = |resource: &serde_json::Value| Some(resource["name"].as_str()?.to_owned());
        self.check().iter().filter(|resource| resource["kind"] == kind).filter_map(named).collect()
    }

    /// Removes all pods.
    fn remove_pods(&self) {
        let mut cri = self.cri();
        let pods =
            self.wait(cri.list_pod_sandbox(ListPodSandboxRequest::default())).unwrap().into_inner().items;
        for pod in pods {
            let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id };
            self.wait(cri.remove_pod_sandbox(request)).unwrap();
        }
    }

    /// Ends the test well: removes the pods, stops the daemon, and sees that nothing of the node is left.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        if self.daemon.borrow().is_some() {
            self.remove_pods();
            self.stop_daemon();
        }
        let left = self.check();
        let of_kernel = |resource: &&serde_json::Value| !is_storage(resource);
        let running: Vec<_> = left.iter().filter(of_kernel).collect();
        assert!(running.is_empty(), "left behind: {running:#?}\n{}", self.log());
        assert_eq!(self.place.leftovers(), Vec::<String>::new(), "{}", self.log());
        self.finished = true;
    }

    /// The end of the daemon's log, for messages of failed tests.
    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        for path in ["daemon.log", "state/daemon.log"] {
            let Ok(log) = std::fs::read_to_string(self.path(path)) else { continue };
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(60);
            text += &format!("--- the end of {path}\n{}\n", lines[from..].join("\n"));
        }
        text
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        eprintln!("{}", self.log());
        if let Some(mut child) = self.daemon.borrow_mut().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.kill_others();
        self.place.clear();
    }
}

impl Node {
    /// Kills what of ours is not in our cgroups: a daemon in the background, the supervisors of pods. Each has a path of
    /// this node's own directory among its arguments.
    fn kill_others(&self) {
        let mark = self.place.path().to_str().unwrap();
        for entry in Path::new("/proc").read_dir().unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let ours = line.starts_with(b"vaquita") && String::from_utf8_lossy(&line).contains(mark);
            if ours && pid != std::process::id() {
                signal(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Images stay when everything ends: that is what a store is for.
fn is_storage(resource: &serde_json::Value) -> bool {
    ["image", "layer", "blob", "store"].iter().any(|kind| resource["kind"] == *kind)
}

/// That a command succeeded; what it wrote to standard output.
#[track_caller]
pub(crate) fn succeed(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

pub(super) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may have ended by itself.
    let _ = rustix::process::kill_process(pid, signal);
}

#[track_caller]
pub(super) fn wait(child: &mut Child, what: &str) -> std::process::ExitStatus {
    eventually(what, || child.try_wait().unwrap())
}
