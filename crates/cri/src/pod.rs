//! The life of a sandbox: set up, watched, taken down, forgotten.

mod later;
mod resources;
mod set_up;
mod take_down;
mod watch;

use std::sync::Arc;

use vaquita_proto::cri;

use crate::model::{Sandbox, SandboxKey, SandboxPhase};
use crate::node::Node;
use crate::{Error, Kind, Result};

pub(crate) use later::take_down_later;
pub(crate) use resources::update as update_resources;
pub(crate) use set_up::is_clean_absolute;
pub(crate) use take_down::take_down;
pub(crate) use watch::{settle, watch};

/// Runs a sandbox, joins the call that does, or returns the one that is there.
pub(crate) async fn run(node: &Arc<Node>, config: cri::PodSandboxConfig, handler: String) -> Result<String> {
    node.runtimes.find(&handler)?;
    let metadata = config.metadata.as_ref().ok_or_else(|| Error::invalid("metadata: is missing"))?;
    if metadata.name.is_empty() || metadata.namespace.is_empty() || metadata.uid.is_empty() {
        return Err(Error::invalid("metadata: name, namespace and uid are needed"));
    }
    let key = SandboxKey::of(&config);
    let worker = node.clone();
    node.running.run_pod.join(key, || async move { set_up::run(&worker, config, handler).await }).await
}

/// Stops a sandbox; one that is not there is stopped.
pub(crate) async fn stop(node: &Arc<Node>, id: &str) -> Result<()> {
    let Some(sandbox) = found(node.tables.sandbox(id))? else { return Ok(()) };
    let worker = node.clone();
    let key = sandbox.id().to_owned();
    node.running.stop_pod.join(key, || async move { stop_now(&worker, &sandbox).await }).await
}

async fn stop_now(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    sandbox.close();
    if matches!(sandbox.life().phase, SandboxPhase::Stopped) {
        return Ok(());
    }
    take_down(node, sandbox).await
}

/// Removes a sandbox with its containers; one that is not there is removed.
pub(crate) async fn remove(node: &Arc<Node>, id: &str) -> Result<()> {
    let Some(sandbox) = found(node.tables.sandbox(id))? else { return Ok(()) };
    let worker = node.clone();
    let key = sandbox.id().to_owned();
    node.running.remove_pod.join(key, || async move { remove_now(&worker, &sandbox).await }).await
}

/// Does what [`remove`] promises, for one that is known.
pub(crate) async fn remove_now(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    stop(node, sandbox.id()).await?;
    node.paths.write_sandbox(&sandbox.advance(SandboxPhase::Removing, |_| {})?)?;
    take_down::forget(node, sandbox).await
}

/// What CNI plugins have made of a pod.
pub(crate) async fn describe_network(node: &Node, sandbox: &Sandbox) -> Option<serde_json::Value> {
    if !node.network.has_plugins(sandbox.id()) {
        return None;
    }
    node.network.describe(sandbox.id(), take_down::netns(sandbox).await).await
}

/// Not found is nothing to be done.
pub(crate) fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
