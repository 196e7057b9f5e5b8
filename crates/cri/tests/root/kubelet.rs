//! The calls of a kubelet 1.36, in its order and with its deadlines and limits: the start, then a sync loop over 50 pods that
//! come, of which half end by themselves, and go. Its clock runs as fast as we answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tonic::transport::Channel;
use vaquita_proto::cri;
use vaquita_proto::cri::image_service_client::ImageServiceClient;
use vaquita_proto::cri::runtime_service_client::RuntimeServiceClient;
use vaquita_proto::cri::{ContainerState, PodSandboxState};

use crate::support::{IMAGE, Node, container, pod};

const PODS: usize = 50;
/// `runtimeRequestTimeout`; twice that for RunPodSandbox, and on top of the grace period for StopContainer.
const DEADLINE: Duration = Duration::from_secs(120);
/// What its client takes in one message (`cri-client/pkg/remote_runtime.go`).
const MESSAGE: usize = 16 << 20;
const GRACE: i64 = 2;

/// One connection for all calls, and what was called for whom.
#[derive(Clone)]
struct Kubelet {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    calls: Arc<Mutex<Vec<(&'static str, String)>>>,
}

/// One call within its deadline, which is the server's too by the header `grpc-timeout`.
macro_rules! call {
    ($kubelet:expr, $client:ident.$method:ident, $of:expr, $request:expr) => {
        call!($kubelet, $client.$method, $of, $request, DEADLINE)
    };
    ($kubelet:expr, $client:ident.$method:ident, $of:expr, $request:expr, $deadline:expr) => {{
        $kubelet.calls.lock().unwrap().push((stringify!($method), String::from($of)));
        let mut request = tonic::Request::new($request);
        request.set_timeout($deadline);
        $kubelet.$client.clone().$method(request).await.unwrap().into_inner()
    }};
}

impl Kubelet {
    fn new(node: &Node) -> Self {
        Self {
            runtime: node.runtime().max_decoding_message_size(MESSAGE),
            images: node.images().max_decoding_message_size(MESSAGE),
            calls: Arc::default(),
        }
    }

    /// As `Run` does before the first pod: each answer is checked as kubelet does.
    async fn start_up(&self) {
        let version = call!(self, runtime.version, "", cri::VersionRequest::default());
        assert_eq!((version.version.as_str(), version.runtime_api_version.as_str()), ("0.1.0", "v1"));
        assert!(!version.runtime_name.is_empty() && !version.runtime_version.is_empty());
        self.image_fs_info().await;
        for _ in 0..3 {
            let config = call!(self, runtime.runtime_config, "", cri::RuntimeConfigRequest {});
            assert!(config.linux.is_some(), "the cgroup driver");
        }
        call!(self, runtime.version, "", cri::VersionRequest::default());
        self.status().await;
        let config = cri::RuntimeConfig {
            network_config: Some(cri::NetworkConfig { pod_cidr: "10.1.0.0/24".into() }),
        };
        let request = cri::UpdateRuntimeConfigRequest { runtime_config: Some(config) };
        call!(self, runtime.update_runtime_config, "", request);
    }

    /// Every 5 s.
    async fn status(&self) {
        let answer = call!(self, runtime.status, "", cri::StatusRequest { verbose: false });
        assert!(answer.info.is_empty());
        let ready: BTreeMap<_, _> =
            answer.status.unwrap().conditions.into_iter().map(|one| (one.r#type, one.status)).collect();
        assert_eq!((ready.get("RuntimeReady"), ready.get("NetworkReady")), (Some(&true), Some(&true)));
        assert!(answer.runtime_handlers.iter().any(|handler| handler.name.is_empty()));
        assert!(answer.features.unwrap().supplemental_groups_policy);
    }

    async fn image_fs_info(&self) {
        let info = call!(self, images.image_fs_info, "", cri::ImageFsInfoRequest {});
        for usage in info.image_filesystems.iter().chain(&info.container_filesystems) {
            assert!(usage.timestamp > 0);
            assert!(std::path::Path::new(&usage.fs_id.as_ref().unwrap().mountpoint).is_dir());
        }
    }

    /// A pod worker's way to a running pod.
    async fn sync_pod(&self, name: &str, logs: &str, args: &[&str]) -> (String, String) {
        let mut config = pod(name);
        config.log_directory = format!("{logs}/{name}");
        let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let sandbox = call!(self, runtime.run_pod_sandbox, name, request, 2 * DEADLINE).pod_sandbox_id;
        let status = self.sandbox_status(name, &sandbox).await;
        assert!(status.state() == PodSandboxState::SandboxReady && !status.network.unwrap().ip.is_empty());
        let image = cri::ImageSpec { image: IMAGE.into(), ..Default::default() };
        let request = cri::ImageStatusRequest { image: Some(image), verbose: false };
        let image = call!(self, images.image_status, name, request).image.expect("the image is there");
        let container = cri::ContainerConfig { log_path: "main/0.log".into(), ..container("main", args) };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(container),
            sandbox_config: Some(config),
        };
        let id = call!(self, runtime.create_container, name, request).container_id;
        call!(self, runtime.start_container, name, cri::StartContainerRequest { container_id: id.clone() });
        let status = self.container_status(name, &id).await;
        assert_eq!((status.image_id, status.metadata.unwrap().name.as_str()), (image.id, "main"));
        // What becomes `imageID` in the pod's status.
        assert_eq!(status.image_ref, image.repo_digests[0]);
        (sandbox, id)
    }

    /// A pod worker's way to a pod that is gone from the API.
    async fn kill_pod(&self, name: &str, sandbox: &str, running: Option<&str>) {
        if let Some(id) = running {
            let request = cri::StopContainerRequest { container_id: id.into(), timeout: GRACE };
            let deadline = DEADLINE + Duration::from_secs(GRACE.unsigned_abs());
            call!(self, runtime.stop_container, name, request, deadline);
        }
        self.stop_sandbox(name, sandbox).await;
    }

    /// Container GC, then sandbox GC, which stops once more.
    async fn collect(&self, name: &str, sandbox: &str, id: &str) {
        call!(self, runtime.remove_container, name, cri::RemoveContainerRequest { container_id: id.into() });
        self.stop_sandbox(name, sandbox).await;
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.into() };
        call!(self, runtime.remove_pod_sandbox, name, request);
    }

    async fn stop_sandbox(&self, name: &str, sandbox: &str) {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.into() };
        call!(self, runtime.stop_pod_sandbox, name, request);
    }

    async fn sandbox_status(&self, name: &str, id: &str) -> cri::PodSandboxStatus {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        let status = call!(self, runtime.pod_sandbox_status, name, request).status.unwrap();
        assert!(status.created_at > 0 && status.metadata.is_some());
        status
    }

    async fn container_status(&self, name: &str, id: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        let status = call!(self, runtime.container_status, name, request).status.unwrap();
        assert!(status.created_at > 0 && status.image.is_some() && !status.image_ref.is_empty());
        status
    }

    /// Renames the log and has it opened anew, as the log manager does every 10 s with one that is too long.
    async fn rotate_log(&self, name: &str, id: &str) {
        let path = self.container_status(name, id).await.log_path;
        std::fs::rename(&path, format!("{path}.old")).unwrap();
        let request = cri::ReopenContainerLogRequest { container_id: id.into() };
        call!(self, runtime.reopen_container_log, name, request);
        assert!(std::path::Path::new(&path).exists());
    }

    /// What was called for one object, or for none.
    fn calls_for(&self, name: &str) -> Vec<&'static str> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(_, of)| of == name).map(|(method, _)| *method).collect()
    }

    fn count(&self, method: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(name, _)| *name == method).count()
    }
}

/// The generic PLEG: what the last lists said, and what has happened between two of them.
#[derive(Default)]
struct Pleg {
    seen: BTreeMap<String, State>,
    events: Vec<(String, Event)>,
    seconds: u64,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum State {
    Running,
    Ended,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    Started,
    Died,
    Removed,
}

impl Pleg {
    /// One second of kubelet's clock: the lists, statuses of what has changed, and what is due.
    async fn second(&mut self, kubelet: &Kubelet) {
        self.seconds += 1;
        let pods =
            call!(kubelet, runtime.list_pod_sandbox, "pleg", cri::ListPodSandboxRequest::default()).items;
        let containers =
            call!(kubelet, runtime.list_containers, "pleg", cri::ListContainersRequest::default()).containers;
        let mut now = BTreeMap::new();
        for pod in &pods {
            let ready = pod.state() == PodSandboxState::SandboxReady;
            now.insert(pod.id.clone(), if ready { State::Running } else { State::Ended });
        }
        for container in &containers {
            let state = match container.state() {
                ContainerState::ContainerRunning => State::Running,
                ContainerState::ContainerExited => State::Ended,
                // For kubelet it does not exist yet.
                ContainerState::ContainerCreated | ContainerState::ContainerUnknown => continue,
            };
            now.insert(container.id.clone(), state);
        }
        let before = std::mem::take(&mut self.seen);
        let mut changed = BTreeSet::new();
        for id in before.keys().chain(now.keys()) {
            let event = match (before.get(id), now.get(id)) {
                (None, Some(State::Running)) => Event::Started,
                (None | Some(State::Running), Some(State::Ended)) => Event::Died,
                (Some(_), None) => Event::Removed,
                _ => continue,
            };
            if changed.insert(id.clone()) {
                self.events.push((id.clone(), event));
            }
        }
        // The cache takes the statuses of the pods that changed; an object may be gone by now.
        for pod in pods.iter().filter(|pod| changed.contains(&pod.id)) {
            inspect(kubelet, &pod.id).await;
        }
        self.seen = now;
        if self.seconds.is_multiple_of(5) {
            kubelet.status().await;
        }
        if self.seconds.is_multiple_of(10) {
            call!(kubelet, runtime.list_container_stats, "stats", cri::ListContainerStatsRequest::default());
            kubelet.image_fs_info().await;
        }
        if self.seconds.is_multiple_of(300) {
            call!(kubelet, images.list_images, "gc", cri::ListImagesRequest::default());
        }
    }

    /// Lets the clock run until something was seen.
    async fn until(&mut self, kubelet: &Kubelet, seen: impl Fn(&BTreeMap<String, State>) -> bool) {
        let run = async {
            while !seen(&self.seen) {
                self.second(kubelet).await;
            }
        };
        // After so long without a relist it says that it is not healthy.
        tokio::time::timeout(Duration::from_secs(180), run).await.expect("a healthy PLEG");
    }

    fn events_of(&self, id: &str) -> Vec<Event> {
        self.events.iter().filter(|(of, _)| of == id).map(|(_, event)| *event).collect()
    }
}

/// A status that may find its pod gone: kubelet takes NotFound, and no other error.
async fn inspect(kubelet: &Kubelet, id: &str) {
    kubelet.calls.lock().unwrap().push(("pod_sandbox_status", "pleg".into()));
    let mut request =
        tonic::Request::new(cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false });
    request.set_timeout(DEADLINE);
    if let Err(status) = kubelet.runtime.clone().pod_sandbox_status(request).await {
        assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");
    }
}

struct Pod {
    name: String,
    sandbox: String,
    container: String,
    stays: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelet_works_with_it() {
    let node = Node::new().await;
    let logs = node.config.root.join("logs").display().to_string();
    let kubelet = Kubelet::new(&node);
    kubelet.start_up().await;
    let started =
        ["version", "image_fs_info", "runtime_config", "runtime_config", "runtime_config", "version"];
    assert_eq!(kubelet.calls_for("")[..], [&started[..], &["status", "update_runtime_config"]].concat());

    let mut pleg = Pleg::default();
    let mut workers = JoinSet::new();
    for number in 0..PODS {
        let (kubelet, logs) = (kubelet.clone(), logs.clone());
        workers.spawn(async move {
            let (name, stays) = (format!("pod-{number}"), number % 2 == 0);
            let args: &[&str] = if stays { &["sleep"] } else { &["exit", "0"] };
            let (sandbox, container) = kubelet.sync_pod(&name, &logs, args).await;
            Pod { name, sandbox, container, stays }
        });
    }
    // The relist goes on while 50 workers make pods.
    let made = tokio::spawn(workers.join_all());
    while !made.is_finished() {
        pleg.second(&kubelet).await;
    }
    let mut pods = made.await.unwrap();
    pods.sort_by(|one, other| one.name.cmp(&other.name));
    let settled = |seen: &BTreeMap<String, State>| {
        seen.len() == 2 * PODS && seen.values().filter(|state| **state == State::Ended).count() == PODS / 2
    };
    pleg.until(&kubelet, settled).await;
    let pod = pods.iter().find(|pod| pod.stays).unwrap();
    kubelet.rotate_log(&pod.name, &pod.container).await;

    all(&pods, |pod| {
        let (kubelet, running) = (kubelet.clone(), pod.stays.then(|| pod.container.clone()));
        let (name, sandbox) = (pod.name.clone(), pod.sandbox.clone());
        async move { kubelet.kill_pod(&name, &sandbox, running.as_deref()).await }
    })
    .await;
    pleg.until(&kubelet, |seen| seen.values().all(|state| *state == State::Ended)).await;
    all(&pods, |pod| {
        let kubelet = kubelet.clone();
        let (name, sandbox, container) = (pod.name.clone(), pod.sandbox.clone(), pod.container.clone());
        async move { kubelet.collect(&name, &sandbox, &container).await }
    })
    .await;
    pleg.until(&kubelet, BTreeMap::is_empty).await;
    audit(&kubelet, &pleg, &pods);
    node.finish().await;
}

/// Does something with all pods at once.
async fn all<F: Future<Output = ()> + Send + 'static>(pods: &[Pod], what: impl Fn(&Pod) -> F) {
    pods.iter().map(what).collect::<JoinSet<_>>().join_all().await;
}

/// Every pod had the same calls in the same order, none was told twice or not at all, and nothing had to be repeated.
fn audit(kubelet: &Kubelet, pleg: &Pleg, pods: &[Pod]) {
    assert_eq!(pods.len(), PODS);
    let rotated = &pods.iter().find(|pod| pod.stays).unwrap().name;
    for pod in pods {
        let mut calls = vec![
            "run_pod_sandbox",
            "pod_sandbox_status",
            "image_status",
            "create_container",
            "start_container",
            "container_status",
        ];
        if pod.name == *rotated {
            calls.extend(["container_status", "reopen_container_log"]);
        }
        if pod.stays {
            calls.push("stop_container");
        }
        calls.extend(["stop_pod_sandbox", "remove_container", "stop_pod_sandbox", "remove_pod_sandbox"]);
        assert_eq!(kubelet.calls_for(&pod.name), calls);
        assert_eq!(pleg.events_of(&pod.sandbox), [Event::Started, Event::Died, Event::Removed]);
        let events = pleg.events_of(&pod.container);
        // One that ends between two relists is first seen dead.
        let expected: &[Event] = match events.len() {
            2 if !pod.stays => &[Event::Died, Event::Removed],
            _ => &[Event::Started, Event::Died, Event::Removed],
        };
        assert_eq!(events, expected);
    }
    let lists = kubelet.count("list_containers");
    assert_eq!((lists, kubelet.count("list_pod_sandbox")), (lists, usize::try_from(pleg.seconds).unwrap()));
    assert!(lists >= 4, "one for each change");
    assert_eq!(kubelet.count("status"), 1 + lists / 5);
    assert_eq!(kubelet.count("list_container_stats"), lists / 10);
}
