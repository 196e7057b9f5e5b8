//! What plugins ask of the node.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use oci_spec::runtime::Spec;
use vaquita_nri::{Runtime, api};

use super::Stage;
use super::convert::{self, Parts};
use crate::container as containers;
use crate::model::{Container, ContainerPhase, Life, Sandbox};
use crate::node::Node;
use crate::{Error, Kind, Result};

/// A node, for as long as there is one.
pub(super) struct OfNode(Weak<Node>);

impl OfNode {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        Self(Arc::downgrade(node))
    }
}

impl Runtime for OfNode {
    fn state(
        &self,
    ) -> Pin<Box<dyn Future<Output = (Vec<api::PodSandbox>, Vec<api::Container>)> + Send + '_>> {
        Box::pin(async {
            let Some(node) = self.0.upgrade() else { return Default::default() };
            let seen = tokio::task::spawn_blocking(move || state(&node)).await;
            seen.unwrap_or_default()
        })
    }

    fn update(
        &self,
        updates: Vec<api::ContainerUpdate>,
        evictions: Vec<api::ContainerEviction>,
    ) -> Pin<Box<dyn Future<Output = Vec<api::ContainerUpdate>> + Send + '_>> {
        Box::pin(async {
            let Some(node) = self.0.upgrade() else { return updates };
            let mut failed = apply(&node, updates).await;
            failed.extend(evict(&node, evictions));
            failed
        })
    }
}

/// All pods that were not removed, and all containers that have not ended: those whose stage says so.
fn state(node: &Node) -> (Vec<api::PodSandbox>, Vec<api::Container>) {
    let is_there = |stage: Stage| matches!(stage, Stage::Made | Stage::Started | Stage::Stopped);
    let sandboxes: Vec<_> =
        node.tables.sandboxes().into_iter().filter(|sandbox| is_there(sandbox.told.stage())).collect();
    let pods = sandboxes.iter().map(|sandbox| convert::pod(&sandbox.record, &sandbox.life())).collect();
    let is_alive = |container: &Container| {
        matches!(container.told.stage(), Stage::Made | Stage::Started) && !container.life().is_over()
    };
    let seen = node.tables.containers().into_iter().filter(|seen| is_alive(seen)).filter_map(|seen| {
        let sandbox = sandboxes.iter().find(|sandbox| sandbox.id() == seen.record.sandbox)?;
        Some(container(node, sandbox, &seen))
    });
    (pods, seen.collect())
}

/// A container as plugins know it.
pub(super) fn container(node: &Node, sandbox: &Sandbox, container: &Container) -> api::Container {
    let record = &container.record;
    let spec = node.paths.read_spec::<Spec>(&record.sandbox, &record.id).ok();
    let mut life = container.life();
    if container.told.stage() == Stage::Started && life.phase == ContainerPhase::Created {
        // They were told that it starts.
        life = Life { phase: ContainerPhase::Running, ..life };
    }
    convert::container(&Parts {
        record,
        life: &life,
        limits: &container.resources(),
        spec: spec.as_ref(),
        pod: &sandbox.record,
        pause: sandbox.life().pid,
    })
}

/// Sets limits of containers that are there. Returns those updates that have failed, but for those whose failure is to be
/// ignored.
pub(crate) async fn apply(node: &Arc<Node>, updates: Vec<api::ContainerUpdate>) -> Vec<api::ContainerUpdate> {
    let mut failed = Vec::new();
    for update in updates {
        if let Err(error) = apply_one(node, &update).await {
            tracing::warn!(container = update.container_id, %error, "limits that an NRI plugin wants could not be set");
            if !update.ignore_failure {
                failed.push(update);
            }
        }
    }
    failed
}

async fn apply_one(node: &Arc<Node>, update: &api::ContainerUpdate) -> Result<()> {
    let container = exactly(node, &update.container_id)?;
    let asked = update.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let Some(asked) = asked else { return Ok(()) };
    containers::update_for_plugin(node, &container, asked).await
}

/// Stops containers, each in a task of its own: who is synchronized holds what the task may wait for. Returns an empty
/// update for each that is not there.
pub(crate) fn evict(node: &Arc<Node>, evictions: Vec<api::ContainerEviction>) -> Vec<api::ContainerUpdate> {
    let mut failed = Vec::new();
    for api::ContainerEviction { container_id, reason } in evictions {
        if exactly(node, &container_id).is_err() {
            failed.push(api::ContainerUpdate { container_id, ..Default::default() });
            continue;
        }
        tracing::info!(container = container_id, reason, "an NRI plugin has a container stopped");
        let node = node.clone();
        tokio::spawn(async move {
            if let Err(error) = containers::stop(&node, &container_id, 0).await {
                tracing::warn!(container = container_id, %error, "a container could not be stopped for an NRI plugin");
            }
        });
    }
    failed
}

/// The container of that id, not of one that begins so.
fn exactly(node: &Node, id: &str) -> Result<Arc<Container>> {
    node.tables
        .container(id)
        .ok()
        .filter(|container| container.id() == id)
        .ok_or_else(|| Error::new(Kind::NotFound, format!("there is no container {id:?}")))
}
