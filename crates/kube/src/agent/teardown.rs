//! Removing a pod, and what dead runs left behind.

use std::path::Path;
use std::time::Duration;

use vaquita_proto::cri;

use super::actions::Hands;
use super::cri::{CALL, Cri};
use super::host::Owner;
use super::{requests, volumes};
use crate::client::Client;
use crate::{Error, Result};

/// How long a server that cannot be reached is waited for when a pod is removed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Removes a pod's sandboxes with all containers, its mounts and its files. Goes on after errors, and returns them.
pub(super) async fn remove_pod(hands: &Hands) -> Vec<String> {
    hands.cri.give_up_in(PATIENCE);
    let mut errors = Vec::new();
    match hands.sandboxes().await {
        Ok(sandboxes) => {
            for sandbox in sandboxes {
                errors.extend(
                    remove_sandbox(&hands.cri, &sandbox.id).await.err().map(|error| error.to_string()),
                );
            }
        }
        Err(error) => errors.push(error.to_string()),
    }
    // With a sandbox left, containers may still use the volumes.
    if errors.is_empty() {
        let (root, uid) = (hands.context.config.root.clone(), hands.context.pod.metadata.uid.clone());
        let keeper = std::sync::Arc::clone(&hands.volumes);
        let removed = tokio::task::spawn_blocking(move || keeper.remove_all(&root, &uid)).await;
        errors.extend(removed.unwrap_or_else(|error| vec![error.to_string()]));
    }
    errors
}

pub(super) async fn remove_sandbox(cri: &Cri, id: &str) -> Result<()> {
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    let stop = |mut client: Client| {
        let request = request.clone();
        async move { client.runtime.stop_pod_sandbox(request).await }
    };
    absent(cri.call("StopPodSandbox", Some(CALL), stop).await.map(drop))?;
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
    let remove = |mut client: Client| {
        let request = request.clone();
        async move { client.runtime.remove_pod_sandbox(request).await }
    };
    absent(cri.call("RemovePodSandbox", Some(CALL), remove).await.map(drop))
}

fn absent(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == crate::Kind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes sandboxes and directories of runs that are dead. Returns what was removed.
///
/// # Errors
/// The first thing that could not be removed; the rest is removed all the same.
pub(super) async fn clean(cri: &Cri, root: &Path) -> Result<Vec<String>> {
    cri.give_up_in(Duration::ZERO);
    let mut removed = Vec::new();
    let mut failed = None;
    let list = |mut client: Client| async move {
        client.runtime.list_pod_sandbox(cri::ListPodSandboxRequest { filter: None }).await
    };
    let mut kept = Vec::new();
    for sandbox in cri.call("ListPodSandbox", Some(CALL), list).await?.items {
        let uid = sandbox.labels.get(requests::POD_UID).cloned().unwrap_or_default();
        if !is_left(&sandbox, root) {
            continue;
        }
        match remove_sandbox(cri, &sandbox.id).await {
            Ok(()) => removed.push(format!("sandbox {}", sandbox.id)),
            Err(error) => {
                kept.push(uid);
                failed.get_or_insert(error);
            }
        }
    }
    for uid in left_directories(root) {
        if kept.contains(&uid) {
            continue;
        }
        let (root, name) = (root.to_owned(), uid.clone());
        let errors =
            tokio::task::spawn_blocking(move || volumes::remove_all(&root, &name)).await.unwrap_or_default();
        match errors.into_iter().next() {
            None => removed.push(format!("directory {uid}")),
            Some(error) => {
                failed.get_or_insert(Error::new(crate::Kind::Failed, error));
            }
        }
    }
    failed.map_or(Ok(removed), Err)
}

/// Whether a sandbox was made by an agent with this directory in a process that is dead.
fn is_left(sandbox: &cri::PodSandbox, root: &Path) -> bool {
    let ours = sandbox.annotations.get(requests::AGENT_ROOT).is_some_and(|path| Path::new(path) == root);
    let owner =
        sandbox.annotations.get(requests::OWNER).and_then(|text| serde_json::from_str::<Owner>(text).ok());
    ours && owner.is_some_and(|owner| !owner.alive())
}

/// Directories of pods whose process is dead.
fn left_directories(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let dead = |dir: &Path| {
        let text = std::fs::read(dir.join(volumes::OWNER_FILE)).ok();
        let owner = text.and_then(|text| serde_json::from_slice::<Owner>(&text).ok());
        owner.is_some_and(|owner| !owner.alive())
    };
    entries
        .filter(|entry| dead(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
