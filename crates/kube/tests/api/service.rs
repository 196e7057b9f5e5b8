//! The services of the fake server.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use vaquita_proto::cri::image_service_server::ImageService;
use vaquita_proto::cri::runtime_service_server::RuntimeService;
use vaquita_proto::cri::*;

use crate::fake::{Container, Fake, Run, Sandbox, State, now};

type Answer<T> = Result<Response<T>, Status>;

/// A call that the agent never makes, in the form that `async_trait` gives to others.
macro_rules! refuse {
    ($method:ident $request:ty, $answer:ty) => {
        fn $method<'a, 'b>(
            &'a self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Answer<$answer>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($method))) })
        }
    };
}

macro_rules! unimplemented {
    ($($method:ident $request:ident $response:ident),* $(,)?) => {
        $(refuse!($method $request, $response);)*
    };
}

macro_rules! streams {
    ($($method:ident $stream:ident $request:ident $response:ident),* $(,)?) => {
        $(
            type $stream = ReceiverStream<Result<$response, Status>>;
            refuse!($method $request, Self::$stream);
        )*
    };
}

impl Fake {
    /// Notes a call. Afterwards its answer may be lost.
    fn note(&self, call: String) {
        self.lock().calls.push(call);
    }

    fn answer<T>(&self, call: &str, answer: T) -> Answer<T> {
        let mut state = self.lock();
        if state.lose.as_deref() == Some(call) {
            state.lose = None;
            self.cut();
            return Err(Status::unavailable("the connection broke"));
        }
        Ok(Response::new(answer))
    }

    /// The container lives its life.
    fn live(&self, id: &str) {
        let (run, reason) = {
            let mut state = self.lock();
            let (name, attempt, log, message) = state.identity(id);
            let behaviour = state.behaviours.entry(name).or_default().clone();
            write(&log, &behaviour.logs);
            if let Some(message) = message {
                std::fs::write(message, behaviour.message).unwrap();
            }
            let run: Run = behaviour.runs[attempt.min(behaviour.runs.len() - 1)];
            (run, behaviour.reason)
        };
        let Some(seconds) = run.seconds else { return };
        let (fake, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            if let Some(container) = fake.lock().containers.get_mut(&id) {
                container.end(run.code, reason);
            }
        });
    }
}

impl State {
    fn identity(&self, id: &str) -> (String, usize, std::path::PathBuf, Option<String>) {
        let container = &self.containers[id];
        let attempt = container.config.metadata.as_ref().unwrap().attempt;
        let mount =
            container.config.mounts.iter().find(|mount| mount.container_path == "/dev/termination-log");
        (
            container.name(),
            usize::try_from(attempt).unwrap(),
            container.log.clone(),
            mount.map(|mount| mount.host_path.clone()),
        )
    }
}

fn write(log: &Path, lines: &[&str]) {
    let text: String = lines.iter().map(|line| format!("2026-11-21T02:00:00Z stdout F {line}\n")).collect();
    std::fs::write(log, text).unwrap();
}

fn selected(
    selector: &std::collections::BTreeMap<String, String>,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let config = request.into_inner().config.unwrap();
        assert!(Path::new(&config.log_directory).is_dir());
        self.note("RunPodSandbox".to_owned());
        let id = {
            let mut state = self.lock();
            state.next += 1;
            let id = format!("sandbox{}", state.next);
            state.attempts.push(config.metadata.as_ref().unwrap().attempt);
            state.sandboxes.insert(id.clone(), Sandbox { config, ready: true });
            id
        };
        self.answer("RunPodSandbox", RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.note("StopPodSandbox".to_owned());
        let mut state = self.lock();
        if let Some(sandbox) = state.sandboxes.get_mut(&id) {
            sandbox.ready = false;
        }
        for container in state.containers.values_mut().filter(|container| container.sandbox == id) {
            container.end(137, "Error");
        }
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.note("RemovePodSandbox".to_owned());
        let mut state = self.lock();
        state.sandboxes.remove(&id);
        state.containers.retain(|_, container| container.sandbox != id);
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let network = Some(PodSandboxNetworkStatus { ip: "10.0.0.2".to_owned(), additional_ips: Vec::new() });
        let status = Some(PodSandboxStatus { id, network, ..PodSandboxStatus::default() });
        Ok(Response::new(PodSandboxStatusResponse { status, ..PodSandboxStatusResponse::default() }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let state = self.lock();
        let items = state
            .sandboxes
            .iter()
            .filter(|(_, sandbox)| selected(&filter.label_selector, &sandbox.config.labels));
        let items = items.map(|(id, sandbox)| PodSandbox {
            id: id.clone(),
            metadata: sandbox.config.metadata.clone(),
            state: if sandbox.ready {
                PodSandboxState::SandboxReady
            } else {
                PodSandboxState::SandboxNotready
            }
            .into(),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            ..PodSandbox::default()
        });
        Ok(Response::new(ListPodSandboxResponse { items: items.collect() }))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap();
        let name = config.metadata.as_ref().unwrap().name.clone();
        self.note(format!("CreateContainer {name}"));
        let id = {
            let mut state = self.lock();
            state.next += 1;
            let id = format!("{name}{}", state.next);
            let sandbox = &state.sandboxes[&request.pod_sandbox_id];
            let container = Container {
                log: Path::new(&sandbox.config.log_directory).join(&config.log_path),
                sandbox: request.pod_sandbox_id,
                config,
                state: ContainerState::ContainerCreated,
                code: 0,
                created: now(),
                started: 0,
                finished: 0,
                reason: String::new(),
            };
            state.containers.insert(id.clone(), container);
            id
        };
        self.answer("CreateContainer", CreateContainerResponse { container_id: id })
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        {
            let mut state = self.lock();
            let name = state.containers[&id].name();
            state.calls.push(format!("StartContainer {name}"));
            let error = state.behaviours.entry(name).or_default().start_error;
            let container = state.containers.get_mut(&id).unwrap();
            if !error.is_empty() {
                container.end(128, "StartError");
                return Err(Status::unknown(error));
            }
            container.state = ContainerState::ContainerRunning;
            container.started = now();
        }
        self.live(&id);
        self.answer("StartContainer", StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let StopContainerRequest { container_id, timeout } = request.into_inner();
        let mut state = self.lock();
        if state.failing_stops > 0 {
            state.failing_stops -= 1;
            return Err(Status::internal("not now"));
        }
        let Some(container) = state.containers.get_mut(&container_id) else {
            return Err(Status::not_found("gone"));
        };
        container.end(if timeout == 0 { 137 } else { 143 }, "Error");
        let call = format!("StopContainer {} {timeout}", container.name());
        state.calls.push(call);
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        self.lock().containers.remove(&request.into_inner().container_id);
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let state = self.lock();
        let items =
            state.containers.iter().filter(|(_, one)| selected(&filter.label_selector, &one.config.labels));
        let containers = items.map(|(id, one)| vaquita_proto::cri::Container {
            id: id.clone(),
            pod_sandbox_id: one.sandbox.clone(),
            metadata: one.config.metadata.clone(),
            state: one.state.into(),
            labels: one.config.labels.clone(),
            annotations: one.config.annotations.clone(),
            created_at: one.created,
            ..vaquita_proto::cri::Container::default()
        });
        Ok(Response::new(ListContainersResponse { containers: containers.collect() }))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let state = self.lock();
        let Some(one) = state.containers.get(&id) else { return Err(Status::not_found("gone")) };
        let status = ContainerStatus {
            id,
            metadata: one.config.metadata.clone(),
            state: one.state.into(),
            started_at: one.started,
            finished_at: one.finished,
            exit_code: one.code,
            reason: one.reason.clone(),
            image: one.config.image.as_ref().map(|image| ImageSpec {
                image: format!("docker.io/library/{}", image.user_specified_image),
                ..ImageSpec::default()
            }),
            image_ref: format!("{}@sha256:0", one.config.image.as_ref().unwrap().user_specified_image),
            ..ContainerStatus::default()
        };
        Ok(Response::new(ContainerStatusResponse {
            status: Some(status),
            ..ContainerStatusResponse::default()
        }))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        let (name, log) = {
            let state = self.lock();
            (state.containers[&id].name(), state.containers[&id].log.clone())
        };
        self.note(format!("ReopenContainerLog {name}"));
        write(&log, &["anew"]);
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let UpdateContainerResourcesRequest { container_id, linux, .. } = request.into_inner();
        let name = self.lock().containers[&container_id].name();
        let memory = linux.unwrap().memory_limit_in_bytes;
        self.note(format!("UpdateContainerResources {name} {memory}"));
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        let memory = request.into_inner().resources.unwrap().memory_limit_in_bytes;
        self.note(format!("UpdatePodSandboxResources {memory}"));
        Ok(Response::new(UpdatePodSandboxResourcesResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let ExecSyncRequest { cmd, timeout, .. } = request.into_inner();
        self.note(format!("ExecSync {}", cmd.join(" ")));
        match cmd[0].as_str() {
            "hang" => {
                tokio::time::sleep(Duration::from_secs(u64::try_from(timeout).unwrap())).await;
                Err(Status::deadline_exceeded("the command timed out"))
            }
            word => {
                let exit_code = i32::from(word == "fail");
                Ok(Response::new(ExecSyncResponse { exit_code, ..ExecSyncResponse::default() }))
            }
        }
    }

    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "fake".to_owned(),
            runtime_version: "1.2.3".to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let mut answer = StatusResponse::default();
        if request.into_inner().verbose {
            let pulls = &self.lock().pulling;
            let entry = |image: &String| serde_json::json!({"reference": format!("docker.io/library/{image}"), "bytes_done": 50, "bytes_total": 100, "layers_done": 0, "layers_total": 1, "started": 0});
            let pulls: Vec<_> = pulls.iter().map(entry).collect();
            answer.info.insert("pulls".to_owned(), serde_json::to_string(&pulls).unwrap());
        }
        Ok(Response::new(answer))
    }

    unimplemented! {
        exec ExecRequest ExecResponse,
        attach AttachRequest AttachResponse,
        port_forward PortForwardRequest PortForwardResponse,
        container_stats ContainerStatsRequest ContainerStatsResponse,
        list_container_stats ListContainerStatsRequest ListContainerStatsResponse,
        pod_sandbox_stats PodSandboxStatsRequest PodSandboxStatsResponse,
        list_pod_sandbox_stats ListPodSandboxStatsRequest ListPodSandboxStatsResponse,
        update_runtime_config UpdateRuntimeConfigRequest UpdateRuntimeConfigResponse,
        checkpoint_container CheckpointContainerRequest CheckpointContainerResponse,
        checkpoint_pod CheckpointPodRequest CheckpointPodResponse,
        restore_pod RestorePodRequest RestorePodResponse,
        list_metric_descriptors ListMetricDescriptorsRequest ListMetricDescriptorsResponse,
        list_pod_sandbox_metrics ListPodSandboxMetricsRequest ListPodSandboxMetricsResponse,
        runtime_config RuntimeConfigRequest RuntimeConfigResponse,
    }

    streams! {
        stream_pod_sandboxes StreamPodSandboxesStream StreamPodSandboxesRequest StreamPodSandboxesResponse,
        stream_containers StreamContainersStream StreamContainersRequest StreamContainersResponse,
        stream_container_stats StreamContainerStatsStream StreamContainerStatsRequest StreamContainerStatsResponse,
        stream_pod_sandbox_stats StreamPodSandboxStatsStream StreamPodSandboxStatsRequest StreamPodSandboxStatsResponse,
        stream_pod_sandbox_metrics StreamPodSandboxMetricsStream StreamPodSandboxMetricsRequest StreamPodSandboxMetricsResponse,
        get_container_events GetContainerEventsStream GetEventsRequest ContainerEventResponse,
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let name = request.into_inner().image.unwrap().image;
        let known = self.lock().images.contains(&name);
        let image = known.then(|| Image { id: name, size: 1, ..Image::default() });
        Ok(Response::new(ImageStatusResponse { image, ..ImageStatusResponse::default() }))
    }

    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let image = |name: &String| Image {
            id: name.clone(),
            repo_tags: vec![name.clone()],
            size: 1,
            ..Image::default()
        };
        let images = self.lock().images.iter().map(image).collect();
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        let name = request.into_inner().image.unwrap().image;
        self.note(format!("RemoveImage {name}"));
        self.lock().images.retain(|other| *other != name);
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let PullImageRequest { image, auth, .. } = request.into_inner();
        let name = image.unwrap().image;
        self.note(format!("PullImage {name}"));
        let slow = {
            let mut state = self.lock();
            state.credentials.extend(auth.map(|auth| format!("{}:{}", auth.username, auth.password)));
            state.pulling.push(name.clone());
            state.slow_pulls.get(&name).copied()
        };
        if let Some(time) = slow {
            tokio::time::sleep(time).await;
        }
        let mut state = self.lock();
        state.pulling.retain(|other| *other != name);
        if let Some(left) = state.failing_pulls.get_mut(&name).filter(|left| **left > 0) {
            *left -= 1;
            return Err(Status::not_found("no such image"));
        }
        state.images.push(name.clone());
        Ok(Response::new(PullImageResponse { image_ref: name }))
    }

    unimplemented! {
        image_fs_info ImageFsInfoRequest ImageFsInfoResponse,
    }

    streams! {
        stream_images StreamImagesStream StreamImagesRequest StreamImagesResponse,
    }
}
