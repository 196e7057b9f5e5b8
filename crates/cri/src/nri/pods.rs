//! What plugins are told of pods.

use std::net::IpAddr;

use vaquita_proto::cri;

use super::{Right, Stage, convert, limits};
use crate::Result;
use crate::error::Doing;
use crate::model::{Sandbox, SandboxLife};
use crate::node::Node;

/// A pod is set up, and is ready as soon as all have agreed.
///
/// # Errors
/// A plugin has refused.
pub(crate) async fn run_pod(node: &Node, sandbox: &Sandbox, pid: i32, ips: &[IpAddr]) -> Result<()> {
    let right = node.nri.change().await;
    sandbox.told.enter(Stage::Made);
    let Some(plugins) = right.plugins else { return Ok(()) };
    let life = SandboxLife { pid: Some(pid), ips: ips.to_vec(), ..sandbox.life() };
    let pod = convert::pod(&sandbox.record, &life);
    plugins.run_pod_sandbox(&pod).await.doing(|| "run the pod: an NRI plugin is against it")
}

/// The containers of a pod have ended, and its network is about to go. Of one that nobody was told of nothing is said.
/// Returns when all were told, whoever has told them.
pub(crate) async fn stop_pod(node: &Node, sandbox: &Sandbox, pid: Option<i32>) {
    if sandbox.told.stage() == Stage::Unknown {
        return;
    }
    if !node.nri.is_used() {
        sandbox.told.enter(Stage::Stopped);
        return;
    }
    let _turn = sandbox.told.turn().await;
    let right = node.nri.change().await;
    if !sandbox.told.enter(Stage::Stopped) {
        return;
    }
    let Some(plugins) = right.plugins else { return };
    let life = SandboxLife { pid, ..sandbox.life() };
    log(sandbox, plugins.stop_pod_sandbox(&convert::pod(&sandbox.record, &life)).await);
}

/// Nothing of a pod is left but its place in the tables.
pub(crate) async fn remove_pod(node: &Node, sandbox: &Sandbox) {
    stop_pod(node, sandbox, None).await;
    let right = node.nri.change().await;
    if sandbox.told.stage() == Stage::Unknown || !sandbox.told.enter(Stage::Removed) {
        return;
    }
    let Some(plugins) = right.plugins else { return };
    let pod = convert::pod(&sandbox.record, &sandbox.life());
    log(sandbox, plugins.remove_pod_sandbox(&pod).await);
}

/// A pod is about to get other limits.
///
/// # Errors
/// A plugin has refused.
pub(crate) async fn update_pod(
    right: &Right<'_>,
    sandbox: &Sandbox,
    overhead: Option<&cri::LinuxContainerResources>,
    resources: Option<&cri::LinuxContainerResources>,
) -> Result<()> {
    let Some(plugins) = right.plugins else { return Ok(()) };
    let pod = convert::pod(&sandbox.record, &sandbox.life());
    let (overhead, resources) = (overhead.map(limits::from_cri), resources.map(limits::from_cri));
    let told = plugins.update_pod_sandbox(&pod, overhead.as_ref(), resources.as_ref()).await;
    told.doing(|| "change the limits of the pod: an NRI plugin is against it")
}

/// A pod has other limits.
pub(crate) async fn post_update(node: &Node, sandbox: &Sandbox) {
    let Some(plugins) = node.nri.any() else { return };
    let pod = convert::pod(&sandbox.record, &sandbox.life());
    log(sandbox, plugins.post_update_pod_sandbox(&pod).await);
}

fn log(sandbox: &Sandbox, told: vaquita_nri::Result<()>) {
    if let Err(error) = told {
        tracing::warn!(sandbox = sandbox.id(), %error, "an NRI plugin failed");
    }
}
