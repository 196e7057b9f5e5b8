//! The life of a container: created, started, stopped, removed.

mod adjust;
mod cdi;
mod create;
mod probe;
mod relabel;
mod update;
pub(crate) mod volumes;

use std::sync::Arc;
use std::time::Duration;

use vaquita_cgroup::Cgroup;
use vaquita_proto::cri;
use vaquita_shim::SignalScope;
use vaquita_shim::client::Client;

use crate::error::Doing;
use crate::model::{Container, ContainerPhase, Ended, Reason, Sandbox, now};
use crate::node::{Failures, Node, blocking};
use crate::pod::found;
use crate::{Error, Kind, Result, nri};

pub(crate) use probe::{local_profile, sandbox_seccomp};
pub(crate) use update::{update, update_for_plugin};

/// How long a killed container may take to be gone: after that its processes hang in the kernel.
const KILL: Duration = Duration::from_secs(60);

/// Creates a container, joins the call that does, or returns the one that is there.
pub(crate) async fn create(node: &Arc<Node>, request: cri::CreateContainerRequest) -> Result<String> {
    let sandbox = node.tables.sandbox(&request.pod_sandbox_id)?;
    let config = request.config.ok_or_else(|| Error::invalid("config: is missing"))?;
    let metadata = config.metadata.clone().unwrap_or_default();
    if metadata.name.is_empty() {
        return Err(Error::invalid("config.metadata.name: is missing"));
    }
    let key = (sandbox.id().to_owned(), metadata.name, metadata.attempt);
    let worker = node.clone();
    node.running.create.join(key, || async move { create::run(&worker, &sandbox, config).await }).await
}

/// Executes the program of a created container. One that runs is started.
pub(crate) async fn start(node: &Arc<Node>, id: &str) -> Result<()> {
    let container = node.tables.container(id)?;
    let worker = node.clone();
    let key = container.id().to_owned();
    node.running.start.join(key, || async move { start_now(&worker, &container).await }).await
}

async fn start_now(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    let result = start_in_pod(node, container).await;
    if result.is_err() && container.life().is_over() {
        nri::stopped(node, container).await;
    }
    result
}

async fn start_in_pod(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    let sandbox = node.tables.sandbox(&container.record.sandbox)?;
    let _pod = sandbox.lane.read().await;
    if !may_start(container)? {
        return Ok(());
    }
    let shim = sandbox.open()?;
    // Whoever sees it end tells so when it was told that it has been started.
    let _turn = container.told.turn().await;
    let agreed = nri::start(node, container).await;
    if start_alone(node, container, shim, agreed).await? {
        nri::post_start(node, container).await;
    }
    Ok(())
}

/// Starts it if all have agreed. Whether it was started just now, and did not run already.
async fn start_alone(
    node: &Arc<Node>,
    container: &Arc<Container>,
    shim: &Client,
    agreed: Result<()>,
) -> Result<bool> {
    let _lane = container.lane.lock().await;
    if !may_start(container)? {
        return Ok(false);
    }
    if let Err(error) = agreed {
        container.ended(Ended::not_started(error.to_string(), now()), 0);
        node.paths.write_container(&container.record())?;
        shim.delete(container.id())
            .await
            .doing(|| format!("end container {}, as {error}", container.id()))?;
        return Err(error);
    }
    let result = shim.start(container.id()).await;
    match &result {
        Ok(()) => container.started(now()),
        // Whether it runs is not known; the watcher finds out.
        Err(error) if error.kind() == vaquita_shim::Kind::Unavailable => false,
        Err(error) => container.ended(Ended::not_started(error.to_string(), now()), 0),
    };
    node.paths.write_container(&container.record())?;
    result.doing(|| format!("start container {}", container.id())).map(|()| true)
}

/// Whether it waits to be started; false if it runs.
fn may_start(container: &Container) -> Result<bool> {
    let life = container.life();
    match life.phase {
        ContainerPhase::Created if !life.removing => Ok(true),
        ContainerPhase::Running => Ok(false),
        _ => Err(Error::new(
            Kind::Precondition,
            format!(
                "container {} is {}: only a created one can be started",
                container.id(),
                life.state().as_str_name()
            ),
        )),
    }
}

/// Asks a container to end, and kills it when `timeout` seconds were not enough. One that has ended, or is not there,
/// is stopped.
pub(crate) async fn stop(node: &Arc<Node>, id: &str, timeout: i64) -> Result<()> {
    let Some(container) = found(node.tables.container(id))? else { return Ok(()) };
    let grace = Duration::from_secs(u64::try_from(timeout).unwrap_or(0));
    let worker = node.clone();
    // In a task of its own: a client that goes away has still asked.
    let task = tokio::spawn(async move { stop_now(&worker, &container, grace).await });
    task.await.map_err(|error| Error::new(Kind::Internal, format!("stopping {id} failed: {error}")))?
}

async fn stop_now(node: &Arc<Node>, container: &Arc<Container>, grace: Duration) -> Result<()> {
    end(node, container, grace).await?;
    nri::stopped(node, container).await;
    Ok(())
}

async fn end(node: &Arc<Node>, container: &Arc<Container>, grace: Duration) -> Result<()> {
    if container.life().is_over() {
        return Ok(());
    }
    let sandbox = node.tables.sandbox(&container.record.sandbox)?;
    let shim = sandbox.shim.get();
    let running = container.life().phase == ContainerPhase::Running;
    if let Some(shim) = shim
        && running
        && !grace.is_zero()
    {
        if container.first_stop() {
            signal(shim, container, container.record.stop_signal, SignalScope::Init).await?;
        }
        if tokio::time::timeout(grace, container.over()).await.is_ok() {
            return Ok(());
        }
    }
    kill(node, shim, container).await
}

async fn kill(node: &Node, shim: Option<&Client>, container: &Container) -> Result<()> {
    if let Some(shim) = shim {
        signal(shim, container, 9, SignalScope::All).await?;
    }
    killed(node, container, KILL).await
}

/// Waits until a container that was killed has ended.
pub(crate) async fn killed(node: &Node, container: &Container, limit: Duration) -> Result<()> {
    /// Killed processes are mostly gone by then.
    const SOON: Duration = Duration::from_secs(1);
    if tokio::time::timeout(SOON, container.over()).await.is_ok() {
        return Ok(());
    }
    // In a frozen cgroup of v1 nobody dies. Whoever froze it has no more use for that.
    let (layout, cgroup) = (node.layout.clone(), container.record.cgroup.clone());
    let thawed = blocking("thaw a container", move || {
        Cgroup::open(&layout, &cgroup).and_then(|cgroup| cgroup.thaw()).doing(|| "thaw it")
    });
    if let Err(error) = thawed.await {
        tracing::debug!(container = container.id(), %error, "a container that was killed is not thawed");
    }
    tokio::time::timeout(limit, container.over()).await.map_err(|_| {
        let message = format!(
            "container {} does not end although it was killed: its processes hang in the kernel",
            container.id()
        );
        Error::new(Kind::Timeout, message)
    })
}

async fn signal(shim: &Client, container: &Container, signal: i32, scope: SignalScope) -> Result<()> {
    match shim.signal(container.id(), signal, scope).await {
        // It is gone; the watcher says so.
        Err(error)
            if matches!(error.kind(), vaquita_shim::Kind::NotFound | vaquita_shim::Kind::Unavailable) =>
        {
            Ok(())
        }
        other => other.doing(|| format!("send signal {signal} to container {}", container.id())),
    }
}

/// Removes a container, killing it first where it runs. One that is not there is removed.
pub(crate) async fn remove(node: &Arc<Node>, id: &str) -> Result<()> {
    let Some(container) = found(node.tables.container(id))? else { return Ok(()) };
    let worker = node.clone();
    let key = container.id().to_owned();
    node.running.remove.join(key, || async move { remove_now(&worker, &container).await }).await
}

async fn remove_now(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    stop_now(node, container, Duration::ZERO).await?;
    nri::removed(node, container).await;
    let _lane = container.lane.lock().await;
    container.removing();
    let sandbox = found(node.tables.sandbox(&container.record.sandbox))?;
    // A directory that is gone was removed by a try that went wrong later.
    if node.paths.has_container(&container.record.sandbox, container.id()) {
        node.paths.write_container(&container.record())?;
    }
    erase(node, sandbox.as_deref(), container).await?;
    node.usage.forget(container.id());
    node.tables.forget_container(container.id());
    Ok(())
}

/// Takes back whatever a container may have, the record last.
async fn erase(node: &Arc<Node>, sandbox: Option<&Sandbox>, container: &Container) -> Result<()> {
    let mut failures = Failures::default();
    if let Some(shim) = sandbox.and_then(|sandbox| sandbox.shim.get())
        && !shim.is_lost()
    {
        let result = shim.delete(container.id()).await;
        let gone = matches!(&result, Err(error) if error.kind() == vaquita_shim::Kind::Unavailable);
        if !gone {
            failures.note(result.doing(|| format!("delete container {}", container.id())));
        }
    }
    let worker = node.clone();
    let record =
        (container.record.sandbox.clone(), container.record.id.clone(), container.record.cgroup.clone());
    let snapshots: Vec<String> = volumes::snapshots(&container.record).chain([record.1.clone()]).collect();
    let erased = blocking("remove the container", move || {
        let (sandbox, id, cgroup) = record;
        let mut failures = Failures::default();
        failures.note(crate::cgroups::remove(&worker.layout, [cgroup.as_path()]));
        failures.note(volumes::unmount_all(&worker.paths.container(&sandbox, &id)));
        for snapshot in snapshots {
            failures.note(worker.images.remove_snapshot(&snapshot).map_err(Error::from));
        }
        failures.finish(format_args!("container {id} is not wholly removed; ask again"))?;
        crate::paths::remove_dir(&worker.paths.container(&sandbox, &id))
    });
    failures.note(erased.await);
    failures.finish(format_args!("removing container {}", container.id()))
}

/// Opens the log file anew, after it was renamed.
pub(crate) async fn reopen_log(node: &Arc<Node>, id: &str) -> Result<()> {
    let container = node.tables.container(id)?;
    container.expect_running("reopening the log")?;
    let sandbox = node.tables.sandbox(&container.record.sandbox)?;
    sandbox.open()?.reopen_log(container.id()).await.doing(|| format!("reopen the log of {id}"))
}

/// Why a container ended, for those who can see it no more: empty while it runs.
pub(crate) fn reason(phase: &ContainerPhase) -> (i32, &'static str, &str) {
    match phase {
        ContainerPhase::Exited(Ended { code, reason, message, .. }) => {
            (*code, Reason::as_str(*reason), message)
        }
        _ => (0, "", ""),
    }
}
