//! The CRI calls of a pod's life.

mod undecoded;

use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint, Uri};
use vaquita_proto::cri::image_service_client::ImageServiceClient;
use vaquita_proto::cri::runtime_service_client::RuntimeServiceClient;
use vaquita_proto::cri::{self, NamespaceMode};

use crate::AnyError;
use crate::archive::BUSYBOX;

/// A connection to one daemon's CRI socket.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
    channel: Channel,
}

/// A list of all there is, in one message or in several.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::enum_variant_names, reason = "they are the names of the calls, and printed")]
pub(crate) enum List {
    ListPodSandbox,
    ListContainers,
    ListImages,
    ListContainerStats,
    ListPodSandboxStats,
    ListPodSandboxMetrics,
    StreamPodSandboxes,
    StreamContainers,
    StreamContainerStats,
    StreamPodSandboxStats,
    StreamPodSandboxMetrics,
}

impl List {
    pub(crate) const ALL: [Self; 11] = [
        Self::ListPodSandbox,
        Self::ListContainers,
        Self::ListImages,
        Self::ListContainerStats,
        Self::ListPodSandboxStats,
        Self::ListPodSandboxMetrics,
        Self::StreamPodSandboxes,
        Self::StreamContainers,
        Self::StreamContainerStats,
        Self::StreamPodSandboxStats,
        Self::StreamPodSandboxMetrics,
    ];
    /// Those for which something has to be measured.
    pub(crate) const MEASURED: [Self; 3] =
        [Self::ListContainerStats, Self::ListPodSandboxStats, Self::ListPodSandboxMetrics];
}

/// One pod with one container, and what it takes to remove it.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) sandbox: String,
    pub(crate) container: String,
}

impl Client {
    /// Connects at the first call.
    pub(crate) fn new(socket: &Path) -> Result<Self, AnyError> {
        let socket = socket.to_owned();
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(
            tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move {
                    let stream = tokio::net::UnixStream::connect(socket).await?;
                    Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
                }
            }),
        );
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            image: ImageServiceClient::new(channel.clone()),
            channel,
        })
    }

    /// The runtime's name and version; fails while the daemon does not answer.
    pub(crate) async fn version(&self) -> Result<String, AnyError> {
        let request = cri::VersionRequest { version: "v1".into() };
        let answer = self.runtime.clone().version(request).await?.into_inner();
        Ok(format!("{} {}", answer.runtime_name, answer.runtime_version))
    }

    /// Waits until the image is known.
    pub(crate) async fn has_image(&self, reference: &str) -> Result<bool, AnyError> {
        let image = Some(cri::ImageSpec { image: reference.into(), ..Default::default() });
        let request = cri::ImageStatusRequest { image, verbose: false };
        Ok(self.image.clone().image_status(request).await?.into_inner().image.is_some())
    }

    /// PullImage.
    pub(crate) async fn pull(&self, reference: &str) -> Result<(), AnyError> {
        let image = Some(cri::ImageSpec { image: reference.into(), ..Default::default() });
        self.image.clone().pull_image(cri::PullImageRequest { image, ..Default::default() }).await?;
        Ok(())
    }

    /// RunPodSandbox, CreateContainer, StartContainer.
    pub(crate) async fn run_pod(&self, name: &str, host_network: bool) -> Result<Pod, AnyError> {
        self.run(sandbox_config(name, host_network), container_config()).await
    }

    async fn run(
        &self,
        config: cri::PodSandboxConfig,
        container: cri::ContainerConfig,
    ) -> Result<Pod, AnyError> {
        let mut runtime = self.runtime.clone();
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let sandbox = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(container),
            sandbox_config: Some(config),
        };
        let container = runtime.create_container(request).await?.into_inner().container_id;
        runtime.start_container(cri::StartContainerRequest { container_id: container.clone() }).await?;
        Ok(Pod { sandbox, container })
    }

    /// The same on the host's network, with a program of the host that logs below `logs`.
    pub(crate) async fn run_program(
        &self,
        name: &str,
        program: &Path,
        args: &[String],
        logs: &Path,
    ) -> Result<Pod, AnyError> {
        let mut sandbox = sandbox_config(name, true);
        sandbox.log_directory = logs.display().to_string();
        let config = cri::ContainerConfig {
            command: vec!["/program".into()],
            args: args.to_vec(),
            log_path: "0.log".into(),
            mounts: vec![cri::Mount {
                container_path: "/program".into(),
                host_path: program.display().to_string(),
                readonly: true,
                ..Default::default()
            }],
            ..container_config()
        };
        self.run(sandbox, config).await
    }

    /// Whether a container has ended.
    pub(crate) async fn has_ended(&self, pod: &Pod) -> Result<bool, AnyError> {
        let container_id = pod.container.clone();
        let request = cri::ContainerStatusRequest { container_id, verbose: false };
        let status = self.runtime.clone().container_status(request).await?.into_inner().status;
        let status = status.ok_or("no status")?;
        if status.state() == cri::ContainerState::ContainerExited && status.exit_code != 0 {
            return Err(format!("the container ended with {}: {}", status.exit_code, status.message).into());
        }
        Ok(status.state() == cri::ContainerState::ContainerExited)
    }

    /// StopContainer(0), RemoveContainer, StopPodSandbox, RemovePodSandbox.
    pub(crate) async fn remove_pod(&self, pod: &Pod) -> Result<(), AnyError> {
        let mut runtime = self.runtime.clone();
        let container_id = pod.container.clone();
        runtime.stop_container(cri::StopContainerRequest { container_id, timeout: 0 }).await?;
        runtime.remove_container(cri::RemoveContainerRequest { container_id: pod.container.clone() }).await?;
        let pod_sandbox_id = pod.sandbox.clone();
        runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id }).await?;
        let pod_sandbox_id = pod.sandbox.clone();
        runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id }).await?;
        Ok(())
    }

    /// Removes every pod, as far as that is possible.
    pub(crate) async fn remove_all(&self) -> Result<(), AnyError> {
        let mut runtime = self.runtime.clone();
        let pods = runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.into_inner().items;
        let mut tasks = JoinSet::new();
        for pod_sandbox_id in pods.into_iter().map(|pod| pod.id) {
            let mut runtime = runtime.clone();
            tasks.spawn(async move {
                let request = cri::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
                let _ = runtime.stop_pod_sandbox(request).await;
                let _ = runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id }).await;
            });
        }
        tasks.join_all().await;
        Ok(())
    }

    /// Runs `true` in the container.
    pub(crate) async fn exec_true(&self, pod: &Pod) -> Result<(), AnyError> {
        let request = cri::ExecSyncRequest {
            container_id: pod.container.clone(),
            cmd: vec!["true".into()],
            timeout: 30,
        };
        let answer = self.runtime.clone().exec_sync(request).await?.into_inner();
        if answer.exit_code == 0 {
            Ok(())
        } else {
            Err(format!("true ended with {}", answer.exit_code).into())
        }
    }

    /// How long a list is; none where there is no such call.
    pub(crate) async fn list(&self, list: List) -> Result<Option<usize>, AnyError> {
        match self.asked(list).await {
            Ok(length) => Ok(Some(length)),
            Err(status) if status.code() == tonic::Code::Unimplemented => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    async fn asked(&self, list: List) -> Result<usize, tonic::Status> {
        let mut runtime = self.runtime.clone().max_decoding_message_size(16 << 20);
        /// Asks, and counts the items of the answer, or of the messages of the answer.
        macro_rules! length {
            (one $client:ident.$call:ident($request:ident).$items:ident) => {
                $client.$call(cri::$request::default()).await?.into_inner().$items.len()
            };
            (all $client:ident.$call:ident($request:ident).$items:ident) => {{
                let mut stream = $client.$call(cri::$request::default()).await?.into_inner();
                let mut length = 0;
                while let Some(message) = stream.message().await? {
                    length += message.$items.len();
                }
                length
            }};
        }
        Ok(match list {
            List::ListPodSandbox => length!(one runtime.list_pod_sandbox(ListPodSandboxRequest).items),
            List::ListContainers => length!(one runtime.list_containers(ListContainersRequest).containers),
            List::ListImages => {
                let mut image = self.image.clone();
                length!(one image.list_images(ListImagesRequest).images)
            }
            List::ListContainerStats => {
                length!(one runtime.list_container_stats(ListContainerStatsRequest).stats)
            }
            List::ListPodSandboxStats => {
                length!(one runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest).stats)
            }
            List::ListPodSandboxMetrics => {
                length!(one runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest).pod_metrics)
            }
            List::StreamPodSandboxes => {
                length!(all runtime.stream_pod_sandboxes(StreamPodSandboxesRequest).pod_sandboxes)
            }
            List::StreamContainers => {
                length!(all runtime.stream_containers(StreamContainersRequest).containers)
            }
            List::StreamContainerStats => {
                length!(all runtime.stream_container_stats(StreamContainerStatsRequest).container_stats)
            }
            List::StreamPodSandboxStats => {
                length!(all runtime.stream_pod_sandbox_stats(StreamPodSandboxStatsRequest).pod_sandbox_stats)
            }
            List::StreamPodSandboxMetrics => length!(
                all runtime.stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest).pod_sandbox_metrics
            ),
        })
    }

    /// How many bytes a list is, which are taken and thrown away: what a client makes of them is its own affair.
    pub(crate) async fn take(&self, list: List) -> Result<usize, AnyError> {
        let service = if list == List::ListImages { "ImageService" } else { "RuntimeService" };
        let path = format!("/runtime.v1.{service}/{list:?}").parse()?;
        Ok(undecoded::take(self.channel.clone(), path).await?)
    }

    /// The number of running containers.
    pub(crate) async fn running(&self) -> Result<usize, AnyError> {
        let state = Some(cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() });
        let filter = Some(cri::ContainerFilter { state, ..Default::default() });
        let answer = self.runtime.clone().list_containers(cri::ListContainersRequest { filter }).await?;
        Ok(answer.into_inner().containers.len())
    }
}

fn sandbox_config(name: &str, host_network: bool) -> cri::PodSandboxConfig {
    let network = if host_network { NamespaceMode::Node } else { NamespaceMode::Pod };
    let options = cri::NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "bench".into(),
            attempt: 0,
        }),
        hostname: if host_network { String::new() } else { name.into() },
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: format!("/vaquita-bench/{name}"),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container_config() -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(cri::ImageSpec {
            image: BUSYBOX.into(),
            // CRI-O looks for it in its signature policy.
            user_specified_image: BUSYBOX.into(),
            ..Default::default()
        }),
        command: vec!["sleep".into(), "1000000".into()],
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources { cpu_shares: 100, ..Default::default() }),
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(cri::NamespaceOption {
                    pid: NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// Asks until `ready` says yes, every 2 ms, for at most `limit`.
pub(crate) async fn until<F, Fut>(limit: Duration, what: &str, mut ready: F) -> Result<Duration, AnyError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let start = std::time::Instant::now();
    while !ready().await {
        if start.elapsed() > limit {
            return Err(format!("{what}: not within {limit:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(start.elapsed())
}
