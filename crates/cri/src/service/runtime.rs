//! `runtime.v1.RuntimeService`.

use std::collections::BTreeMap;
use std::pin::Pin;

use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use vaquita_proto::cri;
use vaquita_proto::cri::runtime_service_server::RuntimeService;

use super::{Service, answer, missing};
use crate::model::{Container, Happened, now};
use crate::telemetry::{about_container, about_sandbox};
use crate::{CgroupDriver, checkpoint, container, encoded, exec, metrics, pod, stats, streaming};

/// What an RPC answers.
type Answer<T> = Result<Response<T>, Status>;

/// A list in pieces that are encoded already: nothing is left to be done here.
type Encoded<M> = tokio_stream::Empty<Result<M, Status>>;

#[tonic::async_trait]
impl RuntimeService for Service {
    type StreamPodSandboxesStream = Encoded<cri::StreamPodSandboxesResponse>;
    type StreamContainersStream = Encoded<cri::StreamContainersResponse>;
    type StreamContainerStatsStream = Encoded<cri::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Encoded<cri::StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Encoded<cri::StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream =
        Pin<Box<dyn Stream<Item = Result<cri::ContainerEventResponse, Status>> + Send>>;

    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        Ok(Response::new(cri::VersionResponse {
            // The version of kubelet's runtime API, which has stayed this one: kubelet compares.
            version: "0.1.0".into(),
            runtime_name: "vaquita".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("config: is missing"))?;
        let pod_sandbox_id = pod::run(&self.node, config, request.runtime_handler).await?;
        about_sandbox(&pod_sandbox_id);
        Ok(Response::new(cri::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        pod::stop(&self.node, &request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        pod::remove(&self.node, &request.into_inner().pod_sandbox_id).await?;
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let sandbox = self.node.tables.sandbox(&request.pod_sandbox_id)?;
        let containers_statuses = self
            .node
            .tables
            .containers_of(sandbox.id())
            .iter()
            .map(|container| self.container_status_of(container))
            .collect();
        let info = match request.verbose {
            true => answer::sandbox_info(&sandbox, pod::describe_network(&self.node, &sandbox).await),
            false => BTreeMap::new(),
        };
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(answer::sandbox_status(&sandbox)),
            info,
            containers_statuses,
            timestamp: now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        encoded::whole(self.list_sandboxes(filter))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let filter = request.into_inner().filter.unwrap_or_default();
        Ok(encoded::pieces(self.list_sandboxes(filter)))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let request = request.into_inner();
        about_sandbox(&request.pod_sandbox_id);
        let container_id = container::create(&self.node, request).await?;
        about_container(&container_id);
        Ok(Response::new(cri::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        container::start(&self.node, &request.into_inner().container_id).await?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let request = request.into_inner();
        container::stop(&self.node, &request.container_id, request.timeout).await?;
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        container::remove(&self.node, &request.into_inner().container_id).await?;
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        encoded::whole(self.list_containers_of(filter))
    }

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let filter = request.into_inner().filter.unwrap_or_default();
        Ok(encoded::pieces(self.list_containers_of(filter)))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.node.tables.container(&request.container_id)?;
        let info = if request.verbose {
            let record = &container.record;
            // The environment may hold secrets, but whoever asks here may read everything else too.
            let spec = self.node.paths.read_spec(&record.sandbox, &record.id).ok();
            answer::container_info(&container, spec)
        } else {
            BTreeMap::new()
        };
        let status = Some(self.container_status_of(&container));
        Ok(Response::new(cri::ContainerStatusResponse { status, info }))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        if request.windows.is_some() {
            return Err(Status::invalid_argument("windows: this is not Windows"));
        }
        container::update(&self.node, &request.container_id, request.linux.unwrap_or_default()).await?;
        Ok(Response::new(cri::UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        container::reopen_log(&self.node, &request.into_inner().container_id).await?;
        Ok(Response::new(cri::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        Ok(Response::new(exec::sync(&self.node, request.into_inner()).await?))
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let url = streaming::exec_url(&self.node, request.into_inner())?;
        Ok(Response::new(cri::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let url = streaming::attach_url(&self.node, request.into_inner())?;
        Ok(Response::new(cri::AttachResponse { url }))
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        let url = streaming::port_forward_url(&self.node, request.into_inner())?;
        Ok(Response::new(cri::PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let container = self.node.tables.container(&request.into_inner().container_id)?;
        encoded::whole(vec![stats::container(&self.node, container).await?])
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        encoded::whole(self.measure_containers(filter).await?)
    }

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let filter = request.into_inner().filter.unwrap_or_default();
        Ok(encoded::pieces(self.measure_containers(filter).await?))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let sandbox = self.node.tables.sandbox(&request.into_inner().pod_sandbox_id)?;
        encoded::whole(vec![stats::sandbox(&self.node, sandbox).await?])
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        encoded::whole(self.measure_sandboxes(filter).await?)
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let filter = request.into_inner().filter.unwrap_or_default();
        Ok(encoded::pieces(self.measure_sandboxes(filter).await?))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.unwrap_or_default();
        self.node.network.update_pod_cidr(&config.network_config.unwrap_or_default().pod_cidr)?;
        Ok(Response::new(cri::UpdateRuntimeConfigResponse {}))
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let condition = |r#type: &str, status: bool, reason: &str, message: &str| cri::RuntimeCondition {
            r#type: r#type.into(),
            status,
            reason: reason.into(),
            message: message.into(),
        };
        let network = match self.node.network.ready().await {
            Ok(()) => condition("NetworkReady", true, "", ""),
            Err(error) => condition("NetworkReady", false, "NetworkPluginNotReady", &error.to_string()),
        };
        let user_namespaces = self.node.users.is_ok();
        let features = cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces };
        Ok(Response::new(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", true, "", ""), network],
            }),
            info: if request.into_inner().verbose { self.info() } else { BTreeMap::new() },
            runtime_handlers: self.node.runtimes.handlers(features),
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: user_namespaces,
                mount_options: true,
            }),
        }))
    }

    async fn checkpoint_container(
        &self,
        request: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        checkpoint::run(&self.node, request.into_inner()).await?;
        Ok(Response::new(cri::CheckpointContainerResponse {}))
    }

    async fn checkpoint_pod(
        &self,
        _: Request<cri::CheckpointPodRequest>,
    ) -> Answer<cri::CheckpointPodResponse> {
        Err(missing(
            "CheckpointPod: whole pods cannot be checkpointed; CheckpointContainer does one container",
        ))
    }

    async fn restore_pod(&self, _: Request<cri::RestorePodRequest>) -> Answer<cri::RestorePodResponse> {
        Err(missing("RestorePod: whole pods cannot be checkpointed, so there is none to restore"))
    }

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let service = self.clone();
        let events = ReceiverStream::new(self.node.tables.events.listen());
        let end = Status::aborted("more happened than was taken: list, and ask for events again");
        let stream =
            events.map(move |happened| Ok(service.event(happened))).chain(tokio_stream::once(Err(end)));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        let descriptors = metrics::descriptors();
        Ok(Response::new(cri::ListMetricDescriptorsResponse { descriptors }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        encoded::whole(metrics::measure(&self.node).await?)
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        Ok(encoded::pieces(metrics::measure(&self.node).await?))
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        let cgroup_driver = match self.node.config.cgroup_driver {
            CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
            CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
        };
        Ok(Response::new(cri::RuntimeConfigResponse {
            linux: Some(cri::LinuxRuntimeConfiguration { cgroup_driver: cgroup_driver as i32 }),
        }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        pod::update_resources(&self.node, request.into_inner()).await?;
        Ok(Response::new(cri::UpdatePodSandboxResourcesResponse {}))
    }
}

impl Service {
    fn container_status_of(&self, container: &Container) -> cri::ContainerStatus {
        let image = self.node.images.find(&container.record.image);
        answer::container_status(container, image.as_deref())
    }

    /// An event with the pod as it is now, which is not older than the event.
    fn event(&self, happened: Happened) -> cri::ContainerEventResponse {
        let sandbox = happened.last.or_else(|| self.node.tables.sandbox(&happened.sandbox).ok());
        let containers = self.node.tables.containers_of(&happened.sandbox);
        cri::ContainerEventResponse {
            container_id: happened.id,
            container_event_type: happened.kind.into(),
            created_at: happened.at,
            pod_sandbox_status: sandbox.map(|sandbox| answer::sandbox_status(&sandbox)),
            containers_statuses: containers
                .iter()
                .map(|container| self.container_status_of(container))
                .collect(),
        }
    }

    fn info(&self) -> BTreeMap<String, String> {
        let config = &self.node.config;
        let network = config.network.as_ref().map(|network| {
            json!({ "bridge": network.bridge, "subnet": format!("{}/{}", network.subnet.0, network.subnet.1) })
        });
        let shown = json!({
            "root": config.root,
            "state": config.state,
            "socket": config.socket,
            "cgroupRoot": config.cgroup_root,
            "cgroupDriver": config.cgroup_driver,
            "podCgroups": self.node.cgroup_root,
            "cgroupVersion": if self.node.host.cgroup_v2 { 2 } else { 1 },
            "network": network,
            "podNetwork": self.node.network.name(),
            "apparmor": self.node.apparmor.describe(self.node.host.apparmor),
            "nri": config.nri.as_ref().map(|nri| {
                json!({ "socket": nri.socket, "plugins": self.node.nri.names().unwrap_or_default() })
            }),
            "selinux": config.selinux,
            "restrictOomScoreAdj": config.restrict_oom_score_adj,
            "execOutputLimit": exec::OUTPUT_LIMIT,
        });
        let pulls = serde_json::to_string(&self.node.images.pulls()).unwrap_or_else(|_| "[]".into());
        [("config".to_owned(), shown.to_string()), ("pulls".to_owned(), pulls)].into()
    }
}
