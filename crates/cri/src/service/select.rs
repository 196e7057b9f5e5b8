//! What a filter of a list selects, as the lists and the streams answer it.

use std::sync::Arc;

use bytes::Bytes;
use vaquita_proto::cri;

use super::{Service, answer};
use crate::model::{Container, Sandbox};
use crate::{Result, encoded, stats};

impl Service {
    /// The sandboxes that pass a filter, as the items of a list.
    pub(super) fn list_sandboxes(&self, filter: cri::PodSandboxFilter) -> Vec<Bytes> {
        self.sandboxes(filter).iter().map(|sandbox| answer::sandbox(sandbox)).collect()
    }

    /// The containers that pass a filter, as the items of a list.
    pub(super) fn list_containers_of(&self, filter: cri::ContainerFilter) -> Vec<Bytes> {
        self.containers(filter).iter().map(|container| answer::container(container)).collect()
    }

    /// What the running containers that pass a filter use.
    pub(super) async fn measure_containers(&self, filter: cri::ContainerStatsFilter) -> Result<Vec<Bytes>> {
        let containers = self.containers(cri::ContainerFilter {
            id: filter.id,
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
            state: Some(cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning as i32 }),
        });
        stats::containers(&self.node, containers).await
    }

    /// What the ready sandboxes that pass a filter use.
    pub(super) async fn measure_sandboxes(&self, filter: cri::PodSandboxStatsFilter) -> Result<Vec<Bytes>> {
        let sandboxes = self.sandboxes(cri::PodSandboxFilter {
            id: filter.id,
            label_selector: filter.label_selector,
            state: Some(cri::PodSandboxStateValue { state: cri::PodSandboxState::SandboxReady as i32 }),
        });
        stats::sandboxes(&self.node, sandboxes).await
    }

    /// The images that pass a filter, as the items of a list.
    pub(super) fn list_images_of(&self, filter: Option<cri::ImageFilter>) -> Vec<Bytes> {
        let wanted = filter.and_then(|filter| filter.image).map(|spec| spec.image);
        let images = match wanted.filter(|name| !name.is_empty()) {
            Some(name) => self.node.images.find(&name).into_iter().collect(),
            None => self.node.images.list(),
        };
        images.iter().map(|image| encoded::item(&answer::image(image))).collect()
    }

    /// The sandboxes that pass a filter. An id may be the beginning of one; if it is that of none or of several, none
    /// passes.
    pub(super) fn sandboxes(&self, mut filter: cri::PodSandboxFilter) -> Vec<Arc<Sandbox>> {
        if !filter.id.is_empty() {
            match self.node.tables.sandbox(&filter.id) {
                Ok(sandbox) => sandbox.id().clone_into(&mut filter.id),
                Err(_) => return Vec::new(),
            }
        }
        let mut all = self.node.tables.sandboxes();
        all.retain(|sandbox| sandbox.is_listed() && answer::sandbox_passes(sandbox, &filter));
        all
    }

    /// The containers that pass a filter, whose ids work as with sandboxes.
    pub(super) fn containers(&self, mut filter: cri::ContainerFilter) -> Vec<Arc<Container>> {
        let tables = &self.node.tables;
        if !filter.id.is_empty() {
            match tables.container(&filter.id) {
                Ok(container) => container.id().clone_into(&mut filter.id),
                Err(_) => return Vec::new(),
            }
        }
        if !filter.pod_sandbox_id.is_empty() {
            match tables.sandbox(&filter.pod_sandbox_id) {
                Ok(sandbox) => sandbox.id().clone_into(&mut filter.pod_sandbox_id),
                Err(_) => return Vec::new(),
            }
        }
        let mut all = tables.containers();
        all.retain(|container| answer::container_passes(container, &filter));
        all
    }
}
