//! How a sandbox goes.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use vaquita_shim::SignalScope;

use crate::container;
use crate::error::Doing;
use crate::model::{Container, Sandbox, SandboxPhase};
use crate::node::{Failures, Node, blocking};
use crate::{Error, Kind, Result, cgroups, nri, pod_files};

/// How long killed processes may take to be gone.
const KILL: Duration = Duration::from_secs(30);

/// Gives everything back but records, logs and exit codes. Goes on after a failure, and can be repeated.
pub(crate) async fn take_down(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    // No container is being created or started from here on.
    let _alone = sandbox.lane.write().await;
    let pause = sandbox.life().pid;
    if matches!(sandbox.life().phase, SandboxPhase::Creating | SandboxPhase::Ready) {
        let record = sandbox.advance(SandboxPhase::Dead, |_| {})?;
        node.paths.write_sandbox(&record)?;
    }
    let mut failures = Failures::default();
    let containers = node.tables.containers_of(sandbox.id());
    // Meanwhile, for the kernel takes its time: containers have mounts of their own.
    let shm = {
        let node = node.clone();
        let id = sandbox.id().to_owned();
        tokio::spawn(blocking("unmount the shared memory", move || pod_files::unmount_shm(&node.paths, &id)))
    };
    failures.note(kill(node, sandbox, &containers).await);
    // Whoever has ended them may still be about to tell.
    for container in containers.iter().filter(|container| container.life().is_over()) {
        nri::stopped(node, container).await;
    }
    nri::stop_pod(node, sandbox, pause).await;
    if let Err(error) = delete_network(node, sandbox).await {
        failures.note::<()>(Err(error));
        failures.note(joined(shm.await));
        // pause stays, and the namespace with it: the plugins will need it, and have something in it that goes back.
        super::take_down_later(node, sandbox, false, Duration::from_secs(1));
        return failures
            .finish(format_args!("sandbox {} is not wholly stopped; it is tried again", sandbox.id()));
    }
    if let Some(shim) = sandbox.shim.get()
        && !shim.is_lost()
    {
        let result = shim.delete_sandbox().await;
        let gone = matches!(&result, Err(error) if error.kind() == vaquita_shim::Kind::Unavailable);
        if !gone {
            failures.note(result.doing(|| "end the sandbox"));
        }
    }
    let worker = (node.clone(), sandbox.clone());
    failures.note(
        blocking("give the pod's resources back", move || give_back(&worker.0, &worker.1, &containers)).await,
    );
    failures.note(joined(shm.await));
    failures.finish(format_args!("sandbox {} is not wholly stopped; ask again", sandbox.id()))?;
    // Who waited for another's take-down finds the pod stopped, and perhaps being removed: its directory is not to be written to.
    match sandbox.life().phase {
        SandboxPhase::Dead => node.paths.write_sandbox(&sandbox.advance(SandboxPhase::Stopped, |_| {})?),
        _ => Ok(()),
    }
}

fn joined(result: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    result.unwrap_or_else(|error| Err(Error::new(Kind::Internal, error.to_string())))
}

/// Has CNI plugins take the pod back, while there is a namespace.
async fn delete_network(node: &Node, sandbox: &Sandbox) -> Result<()> {
    if !node.network.has_plugins(sandbox.id()) {
        return Ok(());
    }
    node.network.delete(sandbox.id(), netns(sandbox).await).await
}

/// The network namespace, which the shim holds also when pause has ended. With a dead shim it is gone.
pub(super) async fn netns(sandbox: &Sandbox) -> Option<OwnedFd> {
    let shim = sandbox.shim.get().filter(|shim| !shim.is_lost())?;
    shim.netns().await.ok()
}

/// Kills what runs, all containers at once, and waits until their ends are known.
async fn kill(node: &Arc<Node>, sandbox: &Sandbox, containers: &[Arc<Container>]) -> Result<()> {
    let Some(shim) = sandbox.shim.get() else { return Ok(()) };
    let mut tasks = tokio::task::JoinSet::new();
    for container in containers.iter().filter(|container| !container.life().is_over()) {
        let (node, shim, container) = (node.clone(), shim.clone(), container.clone());
        tasks.spawn(async move {
            // Not found: it was never made. Unavailable: the watcher reports it ended.
            let _ = shim.signal(container.id(), 9, SignalScope::All).await;
            container::killed(&node, &container, KILL).await
        });
    }
    let mut failures = Failures::default();
    while let Some(result) = tasks.join_next().await {
        failures.note(joined(result));
    }
    failures.finish("killing the containers")
}

fn give_back(node: &Node, sandbox: &Sandbox, containers: &[Arc<Container>]) -> Result<()> {
    let record = &sandbox.record;
    let mut failures = Failures::default();
    failures.note(node.network.detach(&record.id));
    let leaves = containers.iter().map(|container| container.record.cgroup.as_path());
    let pause = cgroups::of_container(&record.cgroup, &record.id);
    failures.note(cgroups::remove(&node.layout, leaves.chain([pause.as_path()])));
    if record.cgroup_is_ours {
        failures.note(cgroups::remove(&node.layout, [record.cgroup.as_path()]));
    }
    failures.finish("giving back")
}

/// Removes containers and records; the sandbox's own last.
pub(crate) async fn forget(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let mut failures = Failures::default();
    for container in node.tables.containers_of(sandbox.id()) {
        failures.note(container::remove(node, container.id()).await);
    }
    failures.finish(format_args!("sandbox {} is not wholly removed; ask again", sandbox.id()))?;
    let dir = node.paths.pod(sandbox.id());
    blocking("remove the pod's directory", move || crate::paths::remove_dir(&dir)).await?;
    nri::remove_pod(node, sandbox).await;
    node.tables.forget_sandbox(sandbox.id());
    node.usage.forget(sandbox.id());
    Ok(())
}
