//! What plugins are told of containers.

use std::sync::Arc;

use oci_spec::runtime::Spec;
use vaquita_nri::{Creation, api};
use vaquita_proto::cri;

use super::convert::{self, Parts};
use super::{Right, Stage, limits, runtime};
use crate::Result;
use crate::error::Doing;
use crate::model::{Container, ContainerRecord, Sandbox};
use crate::node::Node;
use crate::spec::merge;

/// A container that is about to be made. To be kept until it is in the tables, or was taken back: no plugin joins before.
pub(crate) struct Candidate<'a> {
    right: Right<'a>,
    /// As plugins know them. None without plugins.
    known: Option<(api::PodSandbox, api::Container)>,
}

impl<'a> Candidate<'a> {
    /// A container with a specification that is complete but for what plugins want.
    pub(crate) async fn new(
        node: &'a Node,
        sandbox: &Sandbox,
        record: &ContainerRecord,
        spec: Option<&Spec>,
    ) -> Self {
        let right = node.nri.change().await;
        let known = right.plugins.map(|_| {
            let life = sandbox.life();
            let parts = Parts {
                record,
                life: &record.life,
                limits: &record.resources,
                spec,
                pod: &sandbox.record,
                pause: life.pid,
            };
            (convert::pod(&sandbox.record, &life), convert::container(&parts))
        });
        Self { right, known }
    }

    /// What plugins want it to be.
    ///
    /// # Errors
    /// A plugin has refused, or two of them do not agree.
    pub(crate) async fn wishes(&self) -> Result<Option<Creation>> {
        let (Some(plugins), Some((pod, container))) = (self.right.plugins, &self.known) else {
            return Ok(None);
        };
        let told = plugins.create_container(pod, container).await;
        told.map(Some).doing(|| "create the container: an NRI plugin is against it")
    }

    /// It was not made after all: plugins that have put something aside for it have it back.
    pub(crate) async fn undo(self, node: &Arc<Node>) {
        let (Some(plugins), Some((pod, container))) = (self.right.plugins, &self.known) else { return };
        match plugins.stop_container(pod, container).await {
            Ok(updates) => drop(runtime::apply(node, updates).await),
            Err(error) => tracing::warn!(container = container.id, %error, "an NRI plugin failed"),
        }
        log(&container.id, plugins.remove_container(pod, container).await);
    }
}

/// A container is there.
pub(crate) async fn post_create(node: &Node, container: &Container) {
    let Some(plugins) = node.nri.any() else { return };
    let (pod, seen) = known(node, container);
    log(container.id(), plugins.post_create_container(&pod, &seen).await);
}

/// A container is about to be started.
///
/// # Errors
/// A plugin has refused.
pub(crate) async fn start(node: &Node, container: &Container) -> Result<()> {
    let right = node.nri.change().await;
    container.told.enter(Stage::Started);
    let Some(plugins) = right.plugins else { return Ok(()) };
    let (pod, seen) = known(node, container);
    let told = plugins.start_container(&pod, &seen).await;
    told.doing(|| format!("start container {}: an NRI plugin is against it", container.id()))
}

/// A container was started.
pub(crate) async fn post_start(node: &Node, container: &Container) {
    let Some(plugins) = node.nri.any() else { return };
    let (pod, seen) = known(node, container);
    log(container.id(), plugins.post_start_container(&pod, &seen).await);
}

/// A container has ended, by itself or not. Returns when all were told, whoever has told them.
pub(crate) async fn stopped(node: &Arc<Node>, container: &Container) {
    if !node.nri.is_used() {
        container.told.enter(Stage::Stopped);
        return;
    }
    let _turn = container.told.turn().await;
    if container.told.stage() == Stage::Unknown {
        return;
    }
    let right = node.nri.change().await;
    if !container.told.enter(Stage::Stopped) {
        return;
    }
    let Some(plugins) = right.plugins else { return };
    let (pod, seen) = known(node, container);
    match plugins.stop_container(&pod, &seen).await {
        Ok(updates) => drop(runtime::apply(node, updates).await),
        Err(error) => tracing::warn!(container = container.id(), %error, "an NRI plugin failed"),
    }
}

/// A container that has ended is being removed.
pub(crate) async fn removed(node: &Arc<Node>, container: &Container) {
    if container.told.stage() == Stage::Unknown {
        return;
    }
    stopped(node, container).await;
    let right = node.nri.change().await;
    if !container.told.enter(Stage::Removed) {
        return;
    }
    let Some(plugins) = right.plugins else { return };
    let (pod, seen) = known(node, container);
    log(container.id(), plugins.remove_container(&pod, &seen).await);
}

/// What becomes of an update when plugins have seen it.
pub(crate) struct Revised {
    /// The limits that the container is to have.
    pub(crate) limits: cri::LinuxContainerResources,
    /// Limits that the CRI has no words for.
    pub(crate) rest: Option<api::LinuxResources>,
    /// What plugins want of other containers because of it.
    pub(crate) updates: Vec<api::ContainerUpdate>,
    /// Whom they want to be stopped.
    pub(crate) evictions: Vec<api::ContainerEviction>,
}

/// A container is about to get other limits: `change` of those that it has, which gives `limits`.
///
/// # Errors
/// A plugin has refused, or two of them do not agree.
pub(crate) async fn update(
    node: &Node,
    right: &Right<'_>,
    container: &Container,
    change: &cri::LinuxContainerResources,
    limits: cri::LinuxContainerResources,
) -> Result<Revised> {
    let unchanged = |limits| Revised { limits, rest: None, updates: Vec::new(), evictions: Vec::new() };
    let Some(plugins) = right.plugins else { return Ok(unchanged(limits)) };
    let (pod, seen) = known(node, container);
    let asked = limits::from_cri(change);
    let told = plugins.update_container(&pod, &seen, asked.clone()).await;
    let told =
        told.doing(|| format!("change the limits of {}: an NRI plugin is against it", container.id()))?;
    let revised = Revised { updates: told.updates, evictions: told.evictions, ..unchanged(limits) };
    if told.resources == asked {
        return Ok(revised);
    }
    let limits = merge(&revised.limits, &told.resources, &node.host);
    Ok(Revised { limits, rest: Some(told.resources), ..revised })
}

/// A container has other limits.
pub(crate) async fn post_update(node: &Node, container: &Container) {
    let Some(plugins) = node.nri.any() else { return };
    let (pod, seen) = known(node, container);
    log(container.id(), plugins.post_update_container(&pod, &seen).await);
}

/// A pod that may be gone, and a container, as plugins know them.
fn known(node: &Node, container: &Container) -> (api::PodSandbox, api::Container) {
    match node.tables.sandbox(&container.record.sandbox) {
        Ok(sandbox) => {
            let pod = convert::pod(&sandbox.record, &sandbox.life());
            (pod, runtime::container(node, &sandbox, container))
        }
        Err(_) => {
            let id = container.record.sandbox.clone();
            let seen = api::Container {
                id: container.id().to_owned(),
                pod_sandbox_id: id.clone(),
                name: container.metadata().name,
                ..Default::default()
            };
            (api::PodSandbox { id, ..Default::default() }, seen)
        }
    }
}

fn log(container: &str, told: vaquita_nri::Result<()>) {
    if let Err(error) = told {
        tracing::warn!(container, %error, "an NRI plugin failed");
    }
}
