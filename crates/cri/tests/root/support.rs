//! A server of a test's own, of which nothing is left at the end.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint, Uri};
use vaquita_cri::check::{Resource, inventory};
use vaquita_cri::{CniConfig, Config, DemoImage, NetworkChoice, NetworkConfig, Server};
use vaquita_proto::cri;
use vaquita_proto::cri::image_service_client::ImageServiceClient;
use vaquita_proto::cri::runtime_service_client::RuntimeServiceClient;
use vaquita_testing::{Leaks, TempDir, require_root, unique};

/// The image that every container runs.
pub(crate) const IMAGE: &str = "vaquita.local/demo:latest";
/// Longer than anything takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server in a place of its own. Everything that bears its tag must be gone when it is dropped.
pub(crate) struct Node {
    pub(crate) config: Config,
    /// The network namespace of the server. None: the host's.
    pub(crate) netns: Option<Arc<OwnedFd>>,
    running: Option<Running>,
    _dir: TempDir,
    _leaks: Leaks,
}

struct Running {
    runtime: tokio::runtime::Runtime,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

impl Node {
    /// A server that answers, and has the image.
    pub(crate) async fn new() -> Self {
        let mut node = Self::without_server();
        node.start().await;
        node.pull().await;
        node
    }

    /// Gets the image.
    pub(crate) async fn pull(&self) {
        let image = cri::ImageSpec { image: IMAGE.into(), ..Default::default() };
        let pull = cri::PullImageRequest { image: Some(image), ..Default::default() };
        self.images().pull_image(pull).await.unwrap();
    }

    /// A place for a server.
    pub(crate) fn without_server() -> Self {
        require_root();
        let tag = unique("ct");
        let leaks = Leaks::of(&tag);
        let dir = tempfile::Builder::new().prefix(&tag).tempdir().unwrap();
        let state = dir.path().join("state");
        let config = Config {
            root: dir.path().join("root"),
            socket: state.join("vaquita.sock"),
            state,
            network: Some(NetworkConfig {
                bridge: tag.clone(),
                subnet: subnet(),
                ..NetworkConfig::default()
            }),
            // Whatever the host has in /etc/cni/net.d.
            cni: CniConfig { choice: NetworkChoice::Builtin, ..CniConfig::default() },
            cgroup_root: PathBuf::from("/").join(&tag),
            executable: Some(env!("CARGO_BIN_EXE_vaquita-cri-test").into()),
            demo_image: Some(DemoImage {
                reference: IMAGE.into(),
                entrypoint: vec!["/bin/vaquita".into()],
                links: Vec::new(),
            }),
            restrict_oom_score_adj: true,
            ..Config::default()
        };
        Self { config, netns: None, running: None, _dir: dir, _leaks: leaks }
    }

    /// Starts a server, in a runtime that can be thrown away.
    pub(crate) async fn start(&mut self) {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if let Some(netns) = self.netns.clone() {
            builder.on_thread_start(move || {
                vaquita_sys::ns::setns(netns.as_fd(), vaquita_sys::ns::Kind::Net).unwrap();
            });
        }
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, started) = oneshot::channel();
        let config = self.config.clone();
        let served = runtime.spawn(async move {
            match Server::start(config).await {
                Ok(server) => {
                    ready.send(Ok(())).unwrap();
                    server.serve(async { drop(stopped.await) }).await.unwrap();
                }
                Err(error) => ready.send(Err(error)).unwrap(),
            }
        });
        started.await.unwrap().unwrap();
        self.running = Some(Running { runtime, stop, served });
    }

    /// Ends the server as a kill would: whatever it does is dropped on the spot.
    pub(crate) fn kill(&mut self) {
        let running = self.running.take().expect("a server runs");
        std::thread::spawn(move || running.runtime.shutdown_timeout(PATIENCE)).join().unwrap();
        drop(running.stop);
        // A program that a test beside this one is about to execute has a copy of the socket until it does.
        while std::os::unix::net::UnixStream::connect(&self.config.socket).is_ok() {
            std::thread::yield_now();
        }
    }

    /// Pods and containers.
    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(channel(&self.config))
    }

    /// Images.
    pub(crate) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(channel(&self.config))
    }

    /// Everything there is, none of it without an owner.
    pub(crate) fn check(&self) -> Vec<Resource> {
        let all = inventory(&self.config).unwrap();
        let orphans: Vec<_> = all.iter().filter(|resource| resource.owner.is_none()).collect();
        assert!(orphans.is_empty(), "{orphans:#?}");
        all
    }

    /// Runs a pod.
    pub(crate) async fn run(&self, name: &str) -> String {
        let request = cri::RunPodSandboxRequest { config: Some(pod(name)), ..Default::default() };
        self.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    /// Creates a container.
    pub(crate) async fn create(&self, sandbox: &str, name: &str, args: &[&str]) -> String {
        self.create_as(sandbox, container(name, args)).await.unwrap()
    }

    /// Asks for a container with this configuration.
    pub(crate) async fn create_as(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: None,
        };
        Ok(self.runtime().create_container(request).await?.into_inner().container_id)
    }

    /// Starts a container.
    pub(crate) async fn start_container(&self, id: &str) {
        let request = cri::StartContainerRequest { container_id: id.into() };
        self.runtime().start_container(request).await.unwrap();
    }

    /// Creates and starts a container.
    pub(crate) async fn launch(&self, sandbox: &str, name: &str, args: &[&str]) -> String {
        let id = self.create(sandbox, name, args).await;
        self.start_container(&id).await;
        id
    }

    /// The status of a container.
    pub(crate) async fn status(&self, id: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.runtime().container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    /// The status of a container that has ended, or will.
    pub(crate) async fn exited(&self, id: &str) -> cri::ContainerStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(id).await;
            if status.state() == cri::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < deadline, "{status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs the test's program in a container.
    pub(crate) async fn inside(&self, container: &str, args: &[&str]) -> (i32, String) {
        let cmd = ["/bin/vaquita"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        let request = cri::ExecSyncRequest { container_id: container.into(), cmd, timeout: 0 };
        let answer = self.runtime().exec_sync(request).await.unwrap().into_inner();
        (answer.exit_code, String::from_utf8(answer.stdout.to_vec()).unwrap())
    }

    /// The first process of a container.
    pub(crate) async fn pid(&self, container: &str) -> i64 {
        let request = cri::ContainerStatusRequest { container_id: container.into(), verbose: true };
        let status = self.runtime().container_status(request).await.unwrap().into_inner();
        let info: serde_json::Value = serde_json::from_str(&status.info["info"]).unwrap();
        info["pid"].as_i64().unwrap()
    }

    /// Stops a sandbox.
    pub(crate) async fn stop_pod(&self, id: &str) {
        self.runtime()
            .stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: id.into() })
            .await
            .unwrap();
    }

    /// Removes a sandbox.
    pub(crate) async fn remove_pod(&self, id: &str) {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime().remove_pod_sandbox(request).await.unwrap();
    }

    /// The ids of the sandboxes in a state.
    pub(crate) async fn pods(&self) -> Vec<cri::PodSandbox> {
        let request = cri::ListPodSandboxRequest::default();
        self.runtime().list_pod_sandbox(request).await.unwrap().into_inner().items
    }

    /// Removes all pods and ends the server in peace: nothing may be left.
    pub(crate) async fn finish(mut self) {
        self.check();
        for pod in self.pods().await {
            self.remove_pod(&pod.id).await;
        }
        self.check();
        let running = self.running.take().unwrap();
        running.stop.send(()).unwrap();
        running.served.await.unwrap();
        std::thread::spawn(move || running.runtime.shutdown_timeout(PATIENCE)).join().unwrap();
        assert_eq!(inventory(&self.config).unwrap(), []);
    }
}

impl Drop for Node {
    /// A test that failed leaves nothing either.
    fn drop(&mut self) {
        if self.running.is_none() && inventory(&self.config).is_ok_and(|all| all.is_empty()) {
            return;
        }
        let config = self.config.clone();
        let running = self.running.take();
        let cleaned = std::thread::spawn(move || {
            if let Some(running) = running {
                running.runtime.shutdown_timeout(Duration::from_secs(10));
            }
            clean(&config);
        });
        let _ = cleaned.join();
    }
}

/// Ends every pod through a server that is started for it.
fn clean(config: &Config) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let Ok(server) = Server::start(config.clone()).await else { return };
        let all_gone = async {
            let mut client = RuntimeServiceClient::new(channel(config));
            let pods = client.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await;
            for pod in pods.map(|pods| pods.into_inner().items).unwrap_or_default() {
                let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod.id };
                let _ = client.remove_pod_sandbox(request).await;
            }
        };
        let _ = server.serve(all_gone).await;
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
}

fn channel(config: &Config) -> Channel {
    let socket = config.socket.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

/// A range that no other test of this process has.
fn subnet() -> (Ipv4Addr, u8) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    // Other processes begin elsewhere, as far as a byte goes.
    let start = u8::try_from(std::process::id() % 128).unwrap();
    let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    (Ipv4Addr::new(10, 202, number, 0), 24)
}

/// The configuration of a pod.
pub(crate) fn pod(name: &str) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        ..Default::default()
    }
}

/// The configuration of a container.
pub(crate) fn container(name: &str, args: &[&str]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..Default::default()
    }
}
