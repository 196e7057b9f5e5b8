//! Finds out what the CRI server has of a pod that this agent did not start, or does not remember.

use jiff::Timestamp;
use vaquita_proto::cri;

use super::actions::{Hands, timestamp};
use super::cri::CALL;
use super::requests;
use crate::Result;
use crate::api::{Container, LinuxContainerUser};
use crate::client::Client;
use crate::worker::{Identity, Past, PastSandbox, Run, Stage};

impl Hands {
    /// The pod's last sandbox and its containers, as they are now.
    ///
    /// # Errors
    /// The server does not say.
    pub(super) async fn past(&self, now: Timestamp) -> Result<Past> {
        let mut sandboxes = self.sandboxes().await?;
        sandboxes.sort_by_key(|sandbox| (attempt_of(sandbox), sandbox.created_at));
        let mut containers = self.containers().await?;
        containers.sort_by_key(|container| (container_attempt(container), container.created_at));
        let mut runs = Vec::new();
        for container in containers {
            runs.extend(self.past_run(container, now).await?);
        }
        let sandbox = match sandboxes.last() {
            Some(last) => Some(self.past_sandbox(last).await?),
            None => None,
        };
        Ok(Past { sandbox, runs })
    }

    async fn past_sandbox(&self, sandbox: &cri::PodSandbox) -> Result<PastSandbox> {
        let ready = sandbox.state() == cri::PodSandboxState::SandboxReady;
        let ips = if ready { self.addresses(&sandbox.id).await? } else { Vec::new() };
        Ok(PastSandbox { id: sandbox.id.clone(), attempt: attempt_of(sandbox), ready, ips })
    }

    async fn past_run(&self, container: cri::Container, now: Timestamp) -> Result<Option<Run>> {
        let Some(metadata) = &container.metadata else { return Ok(None) };
        let spec = &self.context.pod.spec;
        let mut all = spec.init_containers.iter().chain(&spec.containers).chain(&spec.ephemeral_containers);
        let Some(known) = all.find(|known| known.name == metadata.name) else { return Ok(None) };
        let status = match self.status(&container.id).await {
            Ok(status) => status,
            // It was removed since it was listed.
            Err(error) if error.kind() == crate::Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let attempt = container_attempt(&container);
        let stage = match status.state() {
            cri::ContainerState::ContainerCreated => Stage::Created,
            cri::ContainerState::ContainerRunning => {
                Stage::Running { started_at: timestamp(status.started_at).unwrap_or(now) }
            }
            _ => Stage::Exited(self.exit(known, attempt, &container.id, now).await),
        };
        let hash = container.annotations.get(requests::CONTAINER_HASH).cloned();
        Ok(Some(Run {
            name: metadata.name.clone(),
            id: container.id.clone(),
            sandbox: container.pod_sandbox_id.clone(),
            attempt,
            fingerprint: hash.unwrap_or_default(),
            identity: identity(known, &status),
            stage,
        }))
    }

    /// The pod's own addresses.
    pub(super) async fn addresses(&self, sandbox: &str) -> Result<Vec<String>> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: false };
        let call = |mut client: Client| {
            let request = request.clone();
            async move { client.runtime.pod_sandbox_status(request).await }
        };
        let status = self.cri.call("PodSandboxStatus", Some(CALL), call).await?.status;
        let network = status.and_then(|status| status.network);
        let network = network.filter(|_| !self.context.pod.spec.host_network).unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|more| more.ip);
        Ok(std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect())
    }
}

/// What the server says that a container is made of.
pub(super) fn identity(container: &Container, status: &cri::ContainerStatus) -> Identity {
    let name = status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    let user = status.user.as_ref().and_then(|user| user.linux.as_ref());
    Identity {
        image: if name.is_empty() { container.image.clone() } else { name },
        image_id: status.image_ref.clone(),
        user: user.map(|user| LinuxContainerUser {
            uid: user.uid,
            gid: user.gid,
            supplemental_groups: user.supplemental_groups.clone(),
        }),
    }
}

fn attempt_of(sandbox: &cri::PodSandbox) -> u32 {
    sandbox.metadata.as_ref().map_or(0, |metadata| metadata.attempt)
}

/// How often a container had been started before.
fn container_attempt(container: &cri::Container) -> u32 {
    let noted = container.annotations.get(requests::RESTART_COUNT).and_then(|count| count.parse().ok());
    noted.or(container.metadata.as_ref().map(|metadata| metadata.attempt)).unwrap_or(0)
}
