//! The limits of a pod as a whole.

use std::sync::Arc;

use vaquita_proto::cri;

use crate::model::{PodResources, SandboxPhase};
use crate::node::{Node, blocking};
use crate::{Error, Kind, Result, cgroups, nri, spec};

/// Takes note of a pod's limits. A cgroup that the client made it sets itself, as kubelet does; one of ours gets them here.
pub(crate) async fn update(node: &Arc<Node>, request: cri::UpdatePodSandboxResourcesRequest) -> Result<()> {
    let sandbox = node.tables.sandbox(&request.pod_sandbox_id)?;
    // Not while it is taken down.
    let _lane = sandbox.lane.read().await;
    let phase = sandbox.life().phase;
    if phase != SandboxPhase::Ready {
        let message = format!("sandbox {} is not ready: it is {phase:?}", sandbox.id());
        return Err(Error::new(Kind::Precondition, message));
    }
    let (overhead, resources) = (request.overhead, request.resources);
    let right = node.nri.change().await;
    nri::update_pod(&right, &sandbox, overhead.as_ref(), resources.as_ref()).await?;
    if let Some(asked) = resources.as_ref().filter(|_| sandbox.record.cgroup_is_ours) {
        let limits = spec::limits(asked, &node.host)?;
        let (worker, path) = (node.clone(), sandbox.record.cgroup.clone());
        blocking("set the limits of a pod", move || {
            cgroups::limit(&worker.layout, &path, &spec::cgroup_limits(&limits))
        })
        .await?;
    }
    node.paths.write_sandbox(&sandbox.resources_changed(PodResources { overhead, resources }))?;
    drop(right);
    nri::post_update_pod(node, &sandbox).await;
    Ok(())
}
