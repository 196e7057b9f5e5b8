//! What a shim tells without being asked.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use vaquita_shim::{Event, Exited};

use crate::Result;
use crate::model::{Container, ContainerPhase, Ended, Sandbox, SandboxPhase, now};
use crate::node::{Node, blocking};

/// Follows a pod until its shim is gone.
pub(crate) async fn watch(node: Arc<Node>, sandbox: Arc<Sandbox>, mut events: UnboundedReceiver<Event>) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Exited(exited) if exited.id == sandbox.id() => pause_ended(&node, &sandbox, &exited),
            Event::Exited(exited) if exited.exec_id.is_none() => container_ended(&node, &sandbox, exited),
            Event::Lost => break,
            _ => {}
        }
    }
    if let Err(error) = shim_lost(&node, &sandbox).await {
        tracing::error!(sandbox = sandbox.id(), %error, "the shim is gone, and cleaning up after it failed");
    }
}

/// The namespaces are still held, but nobody reaps and the kernel may have killed it: the pod is to be made anew.
fn pause_ended(node: &Node, sandbox: &Sandbox, exited: &Exited) {
    if sandbox.life().phase != SandboxPhase::Ready {
        return;
    }
    tracing::warn!(sandbox = sandbox.id(), code = exited.exit.code, "the pause process of a sandbox ended");
    let written =
        sandbox.advance(SandboxPhase::Dead, |_| {}).and_then(|record| node.paths.write_sandbox(&record));
    if let Err(error) = written {
        tracing::error!(sandbox = sandbox.id(), %error, "could not record that a sandbox is not ready");
    }
}

fn container_ended(node: &Arc<Node>, sandbox: &Arc<Sandbox>, exited: Exited) {
    let Ok(container) = node.tables.container(&exited.id) else { return };
    let ended = Ended::seen(&exited.exit);
    let started_at = exited.exit.started_at_ns;
    if container.life().phase == ContainerPhase::Running {
        container.ended(ended, started_at);
        tokio::spawn(clear(sandbox.clone(), container));
        return;
    }
    // A start may be under way, which knows better what happened: it holds the lane until it has said so.
    let sandbox = sandbox.clone();
    tokio::spawn(async move {
        {
            let _lane = container.lane.lock().await;
            container.ended(ended, started_at);
        }
        clear(sandbox, container).await;
    });
}

/// Kills what the container left running and frees its cgroup: its end is known, and its exit code recorded.
async fn clear(sandbox: Arc<Sandbox>, container: Arc<Container>) {
    let Some(shim) = sandbox.shim.get() else { return };
    match shim.delete(container.id()).await {
        Ok(()) => {}
        Err(error) if error.kind() == vaquita_shim::Kind::Unavailable => {}
        Err(error) => {
            tracing::warn!(container = container.id(), %error, "could not clear up after a container that ended");
        }
    }
}

/// Nobody reaps its processes any more: they are killed, and their ends reported as far as anybody saw them.
async fn shim_lost(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    if sandbox.life().phase == SandboxPhase::Ready {
        tracing::warn!(sandbox = sandbox.id(), "the shim of a sandbox is gone");
        let record = sandbox.advance(SandboxPhase::Dead, |_| {})?;
        node.paths.write_sandbox(&record)?;
    }
    let containers = node.tables.containers_of(sandbox.id());
    let worker = (node.clone(), sandbox.clone());
    blocking("clean up after a shim", move || {
        for container in containers.iter().filter(|container| !container.life().is_over()) {
            super::remove_cgroups(&worker.0.layout, [container.record.cgroup.as_path()])?;
            settle(&worker.0, container);
        }
        Ok(())
    })
    .await
}

/// Reports a container ended that has no process any more.
pub(crate) fn settle(node: &Node, container: &Container) {
    let record = &container.record;
    let exit = node.paths.read_exit(&record.sandbox, &record.id).ok().flatten();
    let (ended, started_at) =
        exit.unwrap_or_else(|| (Ended::unseen("its shim was gone, so nobody saw how it ended", now()), 0));
    container.ended(ended, started_at);
}
