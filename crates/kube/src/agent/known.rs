//! What the CRI server and the agent's directory have of pods, whoever started them.

use std::collections::BTreeMap;
use std::path::Path;

use vaquita_proto::cri;

use super::cri::{CALL, Cri};
use super::{Known, requests, teardown, volumes};
use crate::client::Client;
use crate::{Error, Kind, Result};

/// See [`super::Agent::known`].
pub(super) async fn all(cri: &Cri, root: &Path) -> Result<BTreeMap<String, Known>> {
    let mut all: BTreeMap<String, Known> = BTreeMap::new();
    let list = |mut client: Client| async move {
        client.runtime.list_pod_sandbox(cri::ListPodSandboxRequest { filter: None }).await
    };
    let uid = |labels: &BTreeMap<String, String>| labels.get(requests::POD_UID).cloned();
    for sandbox in cri.call("ListPodSandbox", Some(CALL), list).await?.items {
        let ours = sandbox.annotations.get(requests::AGENT_ROOT).is_some_and(|path| Path::new(path) == root);
        // Those with an owner die with the process that runs them, and are cleaned up as its leftovers.
        let kept = !sandbox.annotations.contains_key(requests::OWNER);
        if let (true, Some(uid)) = (ours && kept, uid(&sandbox.labels)) {
            all.entry(uid).or_default().sandboxes.push(sandbox);
        }
    }
    let list = |mut client: Client| async move {
        client.runtime.list_containers(cri::ListContainersRequest { filter: None }).await
    };
    for container in cri.call("ListContainers", Some(CALL), list).await?.containers {
        if let Some(known) = uid(&container.labels).and_then(|uid| all.get_mut(&uid)) {
            known.containers.push(container);
        }
    }
    Ok(all)
}

/// See [`super::Agent::remove`].
pub(super) async fn remove(cri: &Cri, root: &Path, uid: &str, known: Known) -> Result<()> {
    for sandbox in &known.sandboxes {
        teardown::remove_sandbox(cri, &sandbox.id).await?;
    }
    let (root, uid) = (root.to_owned(), uid.to_owned());
    let removed = tokio::task::spawn_blocking(move || volumes::remove_all(&root, &uid)).await;
    match removed.unwrap_or_else(|error| vec![error.to_string()]).into_iter().next() {
        None => Ok(()),
        Some(error) => Err(Error::new(Kind::Failed, error)),
    }
}

/// See [`super::Agent::directories`].
pub(super) fn directories(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let pods = entries.filter(|entry| entry.path().join("volumes").is_dir());
    pods.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
