//! The state machine's actions, performed: each answers with an input.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use vaquita_proto::cri;

use super::adopt::identity;
use super::context::Context;
use super::cri::{CALL, Cri};
use super::env::Environment;
use super::references::References;
use super::{Objects, logs, names, pull, requests, shares, volumes};
use crate::api::{Container, TerminationMessagePolicy};
use crate::client::Client;
use crate::worker::{Exit, Identity};
use crate::{Error, Kind, Result, rotation};

/// What actions are performed with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Hands {
    pub(super) cri: Cri,
    pub(super) context: Arc<Context>,
    pub(super) objects: Arc<dyn Objects>,
    pub(super) volumes: Arc<volumes::Keeper>,
}

/// Why there is no sandbox.
pub(super) enum SandboxError {
    /// A volume could not be made before.
    Volumes(Error),
    Sandbox(Error),
}

/// What a container is made for, beside its specification.
pub(super) struct Place {
    pub(super) attempt: u32,
    pub(super) sandbox: String,
    pub(super) sandbox_attempt: u32,
    /// Image id.
    pub(super) image: String,
    /// The container whose processes it shares.
    pub(super) target: Option<String>,
    /// Addresses of the pod.
    pub(super) ips: Vec<String>,
}

/// RunPodSandbox includes the network of the pod: twice the time (the kubelet's).
const SANDBOX: Duration = Duration::from_secs(240);

impl Hands {
    /// The same with what the pod refers to as it is now.
    ///
    /// # Errors
    /// It cannot be looked up.
    pub(super) async fn informed(&self) -> Result<Self> {
        let pod = &self.context.pod;
        let found = References::of(pod).look_up(&*self.objects, &pod.metadata.namespace).await?;
        let context = Context { objects: found, ..Context::clone(&self.context) };
        Ok(Self { context: Arc::new(context), ..self.clone() })
    }

    /// Pull secrets of the pod that are not there.
    pub(super) fn missing_pull_secrets(&self) -> Vec<String> {
        let pod = &self.context.pod;
        let names = pod.spec.image_pull_secrets.iter().map(|secret| &secret.name);
        let missing =
            names.filter(|name| self.context.objects.find_secret(&pod.metadata.namespace, name).is_none());
        missing.cloned().collect()
    }

    /// Makes volumes and sandbox. Returns the sandbox's id and the pod's own address.
    pub(super) async fn run_sandbox(&self, attempt: u32) -> Result<(String, Vec<String>), SandboxError> {
        volumes::prepare(self).await.map_err(SandboxError::Volumes)?;
        self.run_sandbox_in_place(attempt).await.map_err(SandboxError::Sandbox)
    }

    async fn run_sandbox_in_place(&self, attempt: u32) -> Result<(String, Vec<String>)> {
        let config = requests::sandbox(&self.context, attempt)?;
        let runtime_handler = self.context.pod.spec.runtime_class_name.clone();
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler };
        let mut attempts = self.cri.attempts();
        let id = loop {
            let result = self.run_sandbox_once(attempts.again(), request.clone(), attempt).await;
            if let Some(result) = attempts.settle(result).await {
                break result?;
            }
        };
        let ips = self.addresses(&id).await?;
        let text = names::hosts_file(&self.context.pod, &self.context.host, &ips);
        self.blocking(move |context| {
            let path = context.hosts_file();
            // Written in place: containers that are there have this very file mounted.
            std::fs::write(&path, &text).map_err(|error| Error::io("write", &path, &error))
        })
        .await?;
        Ok((id, ips))
    }

    /// Sets the CPU shares of the classes of pods, now that there is one more pod.
    pub(super) async fn balance(&self) -> Result<()> {
        let cgroups = std::path::Path::new("/sys/fs/cgroup");
        self.blocking(move |context| shares::balance(cgroups, &context.config.cgroup_root)).await
    }

    /// Stops a sandbox and everything in it.
    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.runtime.stop_pod_sandbox(request).await }
        };
        absent_is_fine(self.cri.call("StopPodSandbox", Some(CALL), call).await.map(drop))
    }

    /// Creates a container: its configuration first, whose failure is another one.
    pub(super) async fn create(
        &self,
        container: &Container,
        place: Place,
    ) -> Result<String, (&'static str, Error)> {
        let (sandbox, attempt) = (place.sandbox.clone(), place.attempt);
        let sandbox_config = requests::sandbox(&self.context, place.sandbox_attempt)
            .map_err(|error| ("CreateContainerConfigError", error))?;
        let configured = async { self.informed().await?.configure(container, place).await };
        let config = configured.await.map_err(|error| ("CreateContainerConfigError", error))?;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox,
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let mut attempts = self.cri.attempts();
        loop {
            let result = self.create_once(attempts.again(), request.clone(), &container.name, attempt).await;
            if let Some(result) = attempts.settle(result).await {
                return result
                    .map_err(|error| ("CreateContainerError", self.plain(error, "CreateContainer")));
            }
        }
    }

    /// After a lost connection nobody knows whether a call had been heard: what it made is looked for first.
    async fn run_sandbox_once(
        &self,
        again: bool,
        request: cri::RunPodSandboxRequest,
        attempt: u32,
    ) -> Result<String> {
        if again && let Some(id) = self.find_sandbox(attempt).await? {
            return Ok(id);
        }
        let call = |mut client: Client| async move { client.runtime.run_pod_sandbox(request).await };
        Ok(self.cri.once("RunPodSandbox", Some(SANDBOX), call).await?.pod_sandbox_id)
    }

    async fn create_once(
        &self,
        again: bool,
        request: cri::CreateContainerRequest,
        name: &str,
        attempt: u32,
    ) -> Result<String> {
        if again && let Some(id) = self.find_container(&request.pod_sandbox_id, name, attempt).await? {
            return Ok(id);
        }
        let call = |mut client: Client| async move { client.runtime.create_container(request).await };
        Ok(self.cri.once("CreateContainer", Some(CALL), call).await?.container_id)
    }

    async fn start_once(&self, again: bool, id: &str) -> Result<()> {
        if again && self.status(id).await?.state() != cri::ContainerState::ContainerCreated {
            return Ok(());
        }
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        let call = |mut client: Client| async move { client.runtime.start_container(request).await };
        self.cri.once("StartContainer", Some(CALL), call).await.map(drop)
    }

    async fn configure(&self, container: &Container, place: Place) -> Result<cri::ContainerConfig> {
        let Place { attempt, image, target, ips, .. } = place;
        if target.is_none() && !container.target_container_name.is_empty() {
            let message = format!("unable to find target container {:?}", container.target_container_name);
            return Err(Error::not_found(message));
        }
        let status = pull::status(&self.cri, &image).await?;
        let status = status.ok_or_else(|| Error::not_found(format!("image {image} is gone")))?;
        let recursive_read_only =
            if container.volume_mounts.iter().any(|mount| mount.recursive_read_only.is_some()) {
                self.recursive_read_only().await?
            } else {
                false
            };
        let labels = vaquita_sys::selinux::is_enabled() && self.labels().await?;
        let abilities = volumes::Abilities { recursive_read_only, labels };
        let spec = container.clone();
        self.blocking(move |context| {
            let env = Environment::resolve(context, &spec, &ips)?;
            volumes::message_file(&context.message_file(&spec.name, attempt))?;
            let log = context.log_dir().join(&spec.name);
            std::fs::create_dir_all(&log).map_err(|error| Error::io("mkdir", &log, &error))?;
            let mounts = volumes::container_mounts(context, &spec, attempt, &env, abilities)?;
            let parts = requests::Parts { attempt, image, user: (&status).into(), env, mounts, target };
            requests::container(context, &spec, parts)
        })
        .await
    }

    async fn recursive_read_only(&self) -> Result<bool> {
        let request = cri::StatusRequest { verbose: false };
        let call = |mut client: Client| async move { client.runtime.status(request).await };
        let status = self.cri.call("Status", Some(CALL), call).await?;
        let wanted = &self.context.pod.spec.runtime_class_name;
        let handler = status.runtime_handlers.into_iter().find(|handler| handler.name == *wanted);
        Ok(handler
            .and_then(|handler| handler.features)
            .is_some_and(|features| features.recursive_read_only_mounts))
    }

    /// Whether the runtime gives SELinux labels, as vaquita tells; another one is asked for none.
    async fn labels(&self) -> Result<bool> {
        let request = cri::StatusRequest { verbose: true };
        let call = |mut client: Client| async move { client.runtime.status(request).await };
        let status = self.cri.call("Status", Some(CALL), call).await?;
        let config = status.info.get("config").and_then(|text| serde_json::from_str(text).ok());
        Ok(config.is_some_and(|config: serde_json::Value| config["selinux"] == true))
    }

    /// Starts a container.
    ///
    /// # Errors
    /// How its run ended before it began.
    pub(super) async fn start(
        &self,
        container: &Container,
        id: &str,
        now: Timestamp,
    ) -> Result<(Timestamp, Identity), Exit> {
        let mut attempts = self.cri.attempts();
        let started = loop {
            let result = self.start_once(attempts.again(), id).await;
            if let Some(result) = attempts.settle(result).await {
                break result;
            }
        };
        let error = match started {
            Ok(()) => {
                let status = self.status(id).await.unwrap_or_default();
                return Ok((timestamp(status.started_at).unwrap_or(now), identity(container, &status)));
            }
            Err(error) => error,
        };
        // It may have ended as it began, with an exit of its own to tell.
        let told = self
            .status(id)
            .await
            .ok()
            .filter(|status| status.state() == cri::ContainerState::ContainerExited);
        let code = told.as_ref().map(|status| status.exit_code).filter(|code| *code != 0).unwrap_or(128);
        let reason = told.map(|status| status.reason).filter(|reason| !reason.is_empty());
        Err(Exit {
            code,
            reason: reason.unwrap_or_else(|| "StartError".to_owned()),
            message: self.plain(error, "StartContainer").to_string(),
            started_at: None,
            finished_at: now,
        })
    }

    /// An error of a call as it is told: with a cluster the event's own words say what was being done.
    fn plain(&self, error: Error, call: &str) -> Error {
        match error.to_string().strip_prefix(call).and_then(|rest| rest.strip_prefix(": ")) {
            Some(rest) if self.context.kept => Error::new(error.kind(), rest),
            _ => error,
        }
    }

    /// Lets a running container take what its specification says, and the pod's group with it.
    pub(super) async fn resize(&self, container: &Container, sandbox: &str, id: &str) -> Result<()> {
        let request = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: sandbox.to_owned(),
            overhead: None,
            resources: Some(requests::pod_resources(&self.context)),
        };
        let pod = |mut client: Client| {
            let request = request.clone();
            async move { client.runtime.update_pod_sandbox_resources(request).await }
        };
        // A server that leaves the pod's group to its clients says so; ours does not.
        match self.cri.call("UpdatePodSandboxResources", Some(CALL), pod).await {
            Err(error) if error.kind() != Kind::Unsupported => return Err(error),
            _ => {}
        }
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(requests::resources(&self.context, container)),
            ..cri::UpdateContainerResourcesRequest::default()
        };
        let update = |mut client: Client| {
            let request = request.clone();
            async move { client.runtime.update_container_resources(request).await }
        };
        self.cri.call("UpdateContainerResources", Some(CALL), update).await.map(drop)
    }

    /// Stops a container: signal, time, kill.
    pub(super) async fn stop(&self, id: &str, grace: i64) -> Result<()> {
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.runtime.stop_container(request).await }
        };
        let limit = CALL + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        absent_is_fine(self.cri.call("StopContainer", Some(limit), call).await.map(drop))
    }

    /// Removes a dead container, its log and its message.
    pub(super) async fn remove(&self, container: &str, id: &str, attempt: u32) -> Result<()> {
        self.remove_container(id).await?;
        rotation::remove(&self.context.log_dir().join(Context::log_path(container, attempt)));
        let _ = std::fs::remove_file(self.context.message_file(container, attempt));
        Ok(())
    }

    /// Removes a dead container alone.
    pub(super) async fn remove_container(&self, id: &str) -> Result<()> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.runtime.remove_container(request).await }
        };
        absent_is_fine(self.cri.call("RemoveContainer", Some(CALL), call).await.map(drop))
    }

    /// How a container ended.
    pub(super) async fn exit(&self, container: &Container, attempt: u32, id: &str, now: Timestamp) -> Exit {
        let Ok(status) = self.status(id).await else { return Exit::unknown(None, now) };
        let code = status.exit_code;
        let reason = match status.reason.as_str() {
            "" if code == 0 => "Completed",
            "" => "Error",
            given => given,
        };
        let context = Arc::clone(&self.context);
        let (name, policy, told) =
            (container.name.clone(), container.termination_message_policy, status.message.clone());
        let read = tokio::task::spawn_blocking(move || {
            let message = read_message(&context, &name, attempt);
            if !message.is_empty() {
                return message;
            }
            let path = context.log_dir().join(Context::log_path(&name, attempt));
            match policy {
                TerminationMessagePolicy::FallbackToLogsOnError if code != 0 => logs::tail(&path, 80, 2048),
                _ => told,
            }
        });
        Exit {
            code,
            reason: reason.to_owned(),
            message: read.await.unwrap_or_default(),
            started_at: timestamp(status.started_at),
            finished_at: timestamp(status.finished_at).unwrap_or(now),
        }
    }

    /// Rotates the log of a running container where it is time to.
    pub(super) async fn rotate(&self, container: &str, attempt: u32, id: &str) -> Result<()> {
        let log = self.context.log_dir().join(Context::log_path(container, attempt));
        let (path, now) = (log.clone(), Timestamp::now());
        let prepare = move |_: &Context| {
            if !rotation::is_due(&path, rotation::MAX_SIZE) {
                return Ok(None);
            }
            rotation::make_room(&path, rotation::MAX_FILES)?;
            let rotated = rotation::rotated_name(&path, now);
            match std::fs::rename(&path, &rotated) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io("rename", &path, &error))
                }
                _ => Ok(Some(rotated)),
            }
        };
        let Some(rotated) = self.blocking(prepare).await? else { return Ok(()) };
        let request = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
        let call = |mut client: Client| async move { client.runtime.reopen_container_log(request).await };
        self.cri.once("ReopenContainerLog", Some(CALL), call).await.map(drop).inspect_err(|_| {
            // The server writes to it still: it is rotated the next time.
            let _ = std::fs::rename(&rotated, &log);
        })
    }

    /// The status of a container.
    pub(super) async fn status(&self, id: &str) -> Result<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.runtime.container_status(request).await }
        };
        let answer = self.cri.call("ContainerStatus", Some(CALL), call).await?;
        answer.status.ok_or_else(|| Error::not_found(format!("ContainerStatus: no status of {id}")))
    }

    /// All sandboxes of the pod.
    pub(super) async fn sandboxes(&self) -> Result<Vec<cri::PodSandbox>> {
        let label_selector = [(requests::POD_UID.to_owned(), self.context.pod.metadata.uid.clone())].into();
        let filter = cri::PodSandboxFilter { label_selector, ..cri::PodSandboxFilter::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.runtime.list_pod_sandbox(request).await }
        };
        Ok(self.cri.call("ListPodSandbox", Some(CALL), call).await?.items)
    }

    /// All containers of the pod.
    pub(super) async fn containers(&self) -> Result<Vec<cri::Container>> {
        let label_selector = [(requests::POD_UID.to_owned(), self.context.pod.metadata.uid.clone())].into();
        let filter = cri::ContainerFilter { label_selector, ..cri::ContainerFilter::default() };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.runtime.list_containers(request).await }
        };
        Ok(self.cri.call("ListContainers", Some(CALL), call).await?.containers)
    }

    async fn find_sandbox(&self, attempt: u32) -> Result<Option<String>> {
        let ready = cri::PodSandboxState::SandboxReady;
        let found = self.sandboxes().await?.into_iter().find(|sandbox| {
            sandbox.state() == ready
                && sandbox.metadata.as_ref().is_some_and(|metadata| metadata.attempt == attempt)
        });
        Ok(found.map(|sandbox| sandbox.id))
    }

    async fn find_container(&self, sandbox: &str, name: &str, attempt: u32) -> Result<Option<String>> {
        let found = self.containers().await?.into_iter().find(|container| {
            let metadata = container.metadata.as_ref();
            container.pod_sandbox_id == sandbox
                && metadata.is_some_and(|metadata| metadata.name == name && metadata.attempt == attempt)
        });
        Ok(found.map(|container| container.id))
    }

    /// Work on the host's files, which may take its time.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Context) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let context = Arc::clone(&self.context);
        let done = tokio::task::spawn_blocking(move || work(&context)).await;
        done.unwrap_or_else(|error| {
            Err(Error::new(Kind::Failed, format!("work on the host's files: {error}")))
        })
    }
}

/// What is not there is stopped and removed.
fn absent_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        result => result,
    }
}

/// The termination message that a container wrote, at most 4096 bytes.
fn read_message(context: &Context, container: &str, attempt: u32) -> String {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let path = context.message_file(container, attempt);
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(4096).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A time of the CRI: nanoseconds since 1970, 0 for none.
pub(super) fn timestamp(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(nanos.into()).ok()).flatten()
}
