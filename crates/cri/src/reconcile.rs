//! What is recorded, compared with what is there, before anybody can ask.

mod plugins;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use vaquita_cgroup::Cgroup;
use vaquita_shim::client::Client;
use vaquita_shim::{Event, PodState, Status};

use crate::container::volumes;
use crate::error::Doing;
use crate::model::{Container, ContainerPhase, Ended, Sandbox, SandboxPhase, now};
use crate::node::{Failures, Node, blocking};
use crate::{Result, cgroups, checkpoint, container, pod};

/// Takes up every pod, all at the same time; finishes what was interrupted; frees what nobody owns.
///
/// A pod that cannot be taken up is logged and left to the next start: the others are worth more than an exact end.
pub(crate) async fn run(node: &Arc<Node>) -> Result<()> {
    let mut tasks = JoinSet::new();
    for id in node.paths.pod_ids()? {
        let node = node.clone();
        tasks.spawn(async move {
            let result = take_up(&node, &id).await;
            (id, result)
        });
    }
    while let Some(joined) = tasks.join_next().await {
        if let Ok((id, Err(error))) = joined {
            tracing::error!(sandbox = id, %error, "a pod could not be taken up");
        }
    }
    let worker = node.clone();
    blocking("free what nobody owns", move || free_orphans(&worker)).await?;
    plugins::run(node);
    checkpoint::sweep(node)
}

async fn take_up(node: &Arc<Node>, id: &str) -> Result<()> {
    let Some(record) = node.paths.read_sandbox(id)? else {
        // The intent was never written, so nothing else was made.
        return crate::paths::remove_dir(&node.paths.pod(id));
    };
    let sandbox = Arc::new(Sandbox::new(record));
    node.tables.insert_sandbox(sandbox.clone());
    let mut half_made = Vec::new();
    for id in node.paths.container_ids(sandbox.id())? {
        match node.paths.read_container(sandbox.id(), &id)? {
            None => crate::paths::remove_dir(&node.paths.container(sandbox.id(), &id))?,
            Some(record) => {
                let container = Arc::new(Container::new(record));
                if container.life().phase == ContainerPhase::Creating || container.life().removing {
                    half_made.push(container.clone());
                }
                node.tables.insert_container(container);
            }
        }
    }
    match sandbox.life().phase {
        SandboxPhase::Stopped => settle_all(node, &sandbox),
        SandboxPhase::Creating | SandboxPhase::Ready | SandboxPhase::Dead | SandboxPhase::Removing => {
            adopt(node, &sandbox).await?;
        }
    }
    match sandbox.life().phase {
        // Nobody was told that it exists, or somebody asked for its end.
        SandboxPhase::Creating | SandboxPhase::Removing => {
            sandbox.close();
            if node.network.has_plugins(sandbox.id()) {
                return plugins::take_down(node, &sandbox);
            }
            pod::take_down(node, &sandbox).await?;
            return pod::remove_now(node, &sandbox).await;
        }
        SandboxPhase::Ready | SandboxPhase::Dead | SandboxPhase::Stopped => {}
    }
    let mut failures = Failures::default();
    for container in half_made {
        // Whatever there is of it is killed and removed; nobody was told that it exists.
        container.ended(Ended::unseen("the server ended while it was being made", now()), 0);
        failures.note(container::remove(node, container.id()).await);
    }
    failures.finish("removing what was half made")
}

/// Connects to the shim and believes it; where there is none, the containers have ended.
async fn adopt(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let dir = node.paths.pod(sandbox.id());
    let (shim, events, state) = match connect(&dir).await {
        Ok(adopted) => adopted,
        Err(error) => {
            if sandbox.life().phase == SandboxPhase::Ready {
                tracing::warn!(sandbox = sandbox.id(), %error, "the shim of a sandbox is gone");
            }
            return bury(node, sandbox).await;
        }
    };
    sandbox.shim.get_or_init(|| shim);
    for container in node.tables.containers_of(sandbox.id()) {
        let seen = state.containers.iter().find(|seen| seen.id == container.id());
        match seen.map(|seen| (seen.status, seen)) {
            Some((Status::Created, seen)) => {
                container.created(seen.pid);
            }
            Some((Status::Running, seen)) => {
                container.created(seen.pid);
                container.started(seen.started_at_ns);
            }
            Some((Status::Stopped, seen)) => {
                let exit = seen.exit.clone().unwrap_or_default();
                container.ended(Ended::seen(&exit), seen.started_at_ns);
            }
            // It ended and was cleared away, or was never made.
            None if container.life().phase == ContainerPhase::Creating => {}
            None => pod::settle(node, &container),
        }
    }
    let pause_runs = state.sandbox.is_some_and(|sandbox| sandbox.running);
    if sandbox.life().phase == SandboxPhase::Ready && !pause_runs {
        let record = sandbox.advance(SandboxPhase::Dead, |_| {})?;
        node.paths.write_sandbox(&record)?;
    }
    tokio::spawn(pod::watch(node.clone(), sandbox.clone(), events));
    Ok(())
}

async fn connect(
    dir: &Path,
) -> std::result::Result<(Client, UnboundedReceiver<Event>, PodState), vaquita_shim::Error> {
    let shim = Client::connect(dir).await?;
    // Before the state, so that nothing happens unseen between the two.
    let events = shim.events();
    let state = shim.state().await?;
    Ok((shim, events, state))
}

/// What a dead shim leaves has no parent: it is killed by its cgroups.
async fn bury(node: &Arc<Node>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let worker = (node.clone(), sandbox.clone());
    blocking("clean up after a shim", move || {
        let (node, sandbox) = worker;
        let containers = node.tables.containers_of(sandbox.id());
        let mut left: Vec<_> = containers.iter().map(|container| container.record.cgroup.clone()).collect();
        left.push(cgroups::of_container(&sandbox.record.cgroup, sandbox.id()));
        cgroups::remove(&node.layout, left.iter().map(std::path::PathBuf::as_path))?;
        settle_all(&node, &sandbox);
        if sandbox.life().phase == SandboxPhase::Ready {
            let record = sandbox.advance(SandboxPhase::Dead, |_| {})?;
            node.paths.write_sandbox(&record)?;
        }
        Ok(())
    })
    .await
}

fn settle_all(node: &Node, sandbox: &Sandbox) {
    for container in node.tables.containers_of(sandbox.id()) {
        if !container.life().is_over() {
            pod::settle(node, &container);
        }
    }
}

/// Leases and snapshots that belong to nothing in the tables: before anything new can come to have some.
fn free_orphans(node: &Node) -> Result<()> {
    let sandboxes = node.tables.sandboxes();
    let containers = node.tables.containers();
    let live = sandboxes
        .iter()
        .filter(|sandbox| sandbox.life().phase != SandboxPhase::Stopped)
        .map(|sandbox| sandbox.id().to_owned())
        .collect();
    node.network.reconcile(&live);
    let live: Vec<String> = containers
        .iter()
        .flat_map(|container| volumes::snapshots(&container.record).chain([container.id().to_owned()]))
        .collect();
    let live: Vec<&str> = live.iter().map(String::as_str).collect();
    if let Err(error) = node.images.sweep(&live) {
        tracing::warn!(%error, "snapshots that nobody owns could not be removed");
    }
    Ok(())
}

/// Removes cgroups of ours that belong to nothing in the tables. Safe while requests are answered: a sandbox is in the
/// tables before it has a cgroup, and its containers' are inside.
pub(crate) fn sweep_cgroups(node: &Node) -> Result<()> {
    let root = node.cgroup_root.as_path();
    let doing = || format!("list the cgroups below {}", root.display());
    let found = vaquita_cgroup::list(&node.layout, root).doing(doing)?;
    let sandboxes = node.tables.sandboxes();
    let containers = node.tables.containers();
    let owned: BTreeSet<&Path> = sandboxes
        .iter()
        .map(|sandbox| sandbox.record.cgroup.as_path())
        .chain(containers.iter().map(|container| container.record.cgroup.as_path()))
        .collect();
    // Only what is named as we name: other groups below may be the client's own. Whatever we have started is in a record,
    // so processes in there are not ours to end: `check` names them.
    let orphans = found.iter().filter(|path| {
        cgroups::id(path).is_some()
            && !path.ancestors().any(|above| owned.contains(above))
            && !owned.iter().any(|owner| owner.starts_with(path))
    });
    for path in orphans {
        let populated = match Cgroup::open(&node.layout, path).and_then(|orphan| orphan.is_populated()) {
            // It went with one around it.
            Err(error) if error.kind() == vaquita_cgroup::Kind::NotFound => continue,
            other => other,
        };
        let removed = populated.doing(|| format!("look into {}", path.display())).and_then(|populated| {
            if !populated {
                cgroups::remove_empty(&node.layout, path)?;
            }
            Ok(!populated)
        });
        match removed {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(cgroup = %path.display(), "a cgroup with processes belongs to no pod")
            }
            Err(error) => tracing::warn!(%error, "a cgroup that nobody owns could not be removed"),
        }
    }
    Ok(())
}
