//! What a shim tells without being asked.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use vaquita_shim::{Event, Exited, Status};

use crate::model::{Container, ContainerPhase, Ended, Sandbox, SandboxPhase, now};
use crate::node::{Node, blocking};
use crate::{Result, nri};

/// Follows a pod until its shim is gone.
pub(crate) async fn watch(node: Arc<Node>, sandbox: Arc<Sandbox>, events: UnboundedReceiver<Event>) {
    let handle = |event| happened(node.clone(), sandbox.clone(), event);
    follow(events, handle, || catch_up(node.clone(), sandbox.clone())).await;
    if let Err(error) = shim_lost(&node, &sandbox).await {
        tracing::error!(sandbox = sandbox.id(), %error, "the shim is gone, and cleaning up after it failed");
    }
}

/// Handles each event in a task of its own. One that panics ends neither the watch nor the pod: what it should have done is
/// made good by `catch_up`.
async fn follow<H, C>(
    mut events: UnboundedReceiver<Event>,
    handle: impl Fn(Event) -> H,
    catch_up: impl Fn() -> C,
) where
    H: Future<Output = ()> + Send + 'static,
    C: Future<Output = ()> + Send + 'static,
{
    while let Some(event) = events.recv().await {
        if matches!(event, Event::Lost) {
            return;
        }
        if let Err(error) = tokio::spawn(handle(event)).await {
            tracing::error!(%error, "handling what a shim told failed; the pod is looked at anew");
            if let Err(error) = tokio::spawn(catch_up()).await {
                tracing::error!(%error, "looking at a pod anew failed");
            }
        }
    }
}

async fn happened(node: Arc<Node>, sandbox: Arc<Sandbox>, event: Event) {
    match event {
        Event::Exited(exited) if exited.id == sandbox.id() => pause_ended(&node, &sandbox),
        Event::Exited(exited) if exited.exec_id.is_none() => container_ended(&node, &sandbox, exited),
        _ => {}
    }
}

/// Learns what has ended from the shim's own state instead of from its events.
async fn catch_up(node: Arc<Node>, sandbox: Arc<Sandbox>) {
    let Some(shim) = sandbox.shim.get() else { return };
    let state = match shim.state().await {
        Ok(state) => state,
        Err(error) => {
            // If the shim is gone, its loss is the next event.
            tracing::warn!(sandbox = sandbox.id(), %error, "the state of a pod cannot be had");
            return;
        }
    };
    for container in node.tables.containers_of(sandbox.id()) {
        let seen = state.containers.iter().find(|seen| seen.id == container.id());
        match seen {
            Some(seen) if seen.status == Status::Stopped => {
                let exit = seen.exit.clone().unwrap_or_default();
                container_ended(&node, &sandbox, Exited { id: seen.id.clone(), exec_id: None, exit });
            }
            None if container.life().phase == ContainerPhase::Running => {
                settle(&node, &container);
                nri::stopped(&node, &container).await;
            }
            _ => {}
        }
    }
    if state.sandbox.is_some_and(|pause| !pause.running) {
        pause_ended(&node, &sandbox);
    }
}

/// The namespaces are still held, but nobody reaps and the kernel may have killed it: the pod is to be made anew.
fn pause_ended(node: &Node, sandbox: &Sandbox) {
    if sandbox.life().phase != SandboxPhase::Ready {
        return;
    }
    tracing::warn!(sandbox = sandbox.id(), "the pause process of a sandbox ended");
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
        tokio::spawn(clear(node.clone(), sandbox.clone(), container));
        return;
    }
    // A start may be under way, which knows better what happened: it holds the lane until it has said so.
    let (node, sandbox) = (node.clone(), sandbox.clone());
    tokio::spawn(async move {
        {
            let _lane = container.lane.lock().await;
            container.ended(ended, started_at);
        }
        clear(node, sandbox, container).await;
    });
}

/// Kills what the container left running and frees its cgroup: its end is known, and its exit code recorded. Tells plugins
/// meanwhile.
async fn clear(node: Arc<Node>, sandbox: Arc<Sandbox>, container: Arc<Container>) {
    tokio::join!(nri::stopped(&node, &container), delete(&sandbox, &container));
}

async fn delete(sandbox: &Sandbox, container: &Container) {
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
    let worker = (node.clone(), containers.clone());
    blocking("clean up after a shim", move || {
        for container in worker.1.iter().filter(|container| !container.life().is_over()) {
            crate::cgroups::remove(&worker.0.layout, [container.record.cgroup.as_path()])?;
            settle(&worker.0, container);
        }
        Ok(())
    })
    .await?;
    for container in containers {
        nri::stopped(node, &container).await;
    }
    Ok(())
}

/// Reports a container ended that has no process any more.
pub(crate) fn settle(node: &Node, container: &Container) {
    let record = &container.record;
    let exit = node.paths.read_exit(&record.sandbox, &record.id).ok().flatten();
    let (ended, started_at) =
        exit.unwrap_or_else(|| (Ended::unseen("its shim was gone, so nobody saw how it ended", now()), 0));
    container.ended(ended, started_at);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::mpsc::unbounded_channel;
    use vaquita_shim::Exit;

    use super::*;

    /// One pod's trouble is not the watch's end: what comes after a panic is handled, and what was missed is looked for.
    #[tokio::test]
    async fn a_panic_does_not_end_the_watch() {
        let (sender, events) = unbounded_channel();
        let exited =
            |id: &str| Event::Exited(Exited { id: id.to_owned(), exec_id: None, exit: Exit::default() });
        for id in ["one", "panics", "two", "panics", "three"] {
            sender.send(exited(id)).unwrap();
        }
        sender.send(Event::Lost).unwrap();
        sender.send(exited("after")).unwrap();
        let (seen, looks) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let handle = |event| {
            let seen = seen.clone();
            async move {
                let Event::Exited(exited) = event else { return };
                assert!(exited.id != "panics", "on purpose");
                seen.lock().unwrap().push(exited.id);
            }
        };
        let catch_up = || {
            let looks = looks.clone();
            async move {
                *looks.lock().unwrap() += 1;
                panic!("this one, too");
            }
        };
        follow(events, handle, catch_up).await;
        assert_eq!(*seen.lock().unwrap(), ["one", "two", "three"]);
        assert_eq!(*looks.lock().unwrap(), 2);
    }
}
