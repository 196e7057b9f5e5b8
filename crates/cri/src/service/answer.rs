//! What the tables hold, as the CRI says it. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;
use prost::Message as _;
use serde_json::json;
use vaquita_image::Image;
use vaquita_proto::cri;

use crate::container::reason;
use crate::encoded;
use crate::model::{Container, ContainerPhase, Sandbox, labels_match, signal_to_cri};

/// The fields of the states in [`cri::PodSandbox`] and [`cri::Container`].
const SANDBOX_STATE: u32 = 3;
const CONTAINER_STATE: u32 = 6;

/// Whether a sandbox passes a filter, whose id was made whole before.
pub(super) fn sandbox_passes(sandbox: &Sandbox, filter: &cri::PodSandboxFilter) -> bool {
    (filter.id.is_empty() || filter.id == sandbox.id())
        && filter.state.is_none_or(|state| state.state == sandbox.state() as i32)
        && labels_match(&sandbox.record.config.labels, &filter.label_selector)
}

/// Whether a container passes a filter, whose ids were made whole before.
pub(super) fn container_passes(container: &Container, filter: &cri::ContainerFilter) -> bool {
    (filter.id.is_empty() || filter.id == container.id())
        && (filter.pod_sandbox_id.is_empty() || filter.pod_sandbox_id == container.record.sandbox)
        && filter.state.is_none_or(|state| state.state == container.state() as i32)
        && labels_match(&container.record.config.labels, &filter.label_selector)
}

/// A [`cri::PodSandbox`], as an item of a list.
pub(super) fn sandbox(sandbox: &Sandbox) -> Bytes {
    let record = &sandbox.record;
    let listed = sandbox.listed.get_or_init(|| {
        let message = cri::PodSandbox {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            state: 0,
            created_at: record.created_at,
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            runtime_handler: record.runtime_handler.clone(),
        };
        message.encode_to_vec().into()
    });
    encoded::item_with(listed, SANDBOX_STATE, sandbox.state() as i32)
}

pub(super) fn sandbox_status(sandbox: &Sandbox) -> cri::PodSandboxStatus {
    let record = &sandbox.record;
    let life = sandbox.life();
    cri::PodSandboxStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: life.state() as i32,
        created_at: record.created_at,
        network: Some(network(&life.ips)),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(sandbox.namespaces()) }),
        }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

fn network(ips: &[IpAddr]) -> cri::PodSandboxNetworkStatus {
    let mut ips = ips.iter().map(ToString::to_string);
    cri::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    }
}

/// What `crictl inspectp` shows beside the status.
pub(super) fn sandbox_info(sandbox: &Sandbox, cni: Option<serde_json::Value>) -> BTreeMap<String, String> {
    let life = sandbox.life();
    let info = json!({
        "sandboxID": sandbox.id(),
        "pid": life.pid.unwrap_or_default(),
        "phase": life.phase,
        "resources": life.resources,
        "cgroup": sandbox.record.cgroup,
        "config": sandbox.record.config,
        "cni": cni,
    });
    [("info".to_owned(), info.to_string())].into()
}

/// A [`cri::Container`], as an item of a list.
pub(super) fn container(container: &Container) -> Bytes {
    let record = &container.record;
    let listed = container.listed.get_or_init(|| {
        let message = cri::Container {
            id: record.id.clone(),
            pod_sandbox_id: record.sandbox.clone(),
            metadata: record.config.metadata.clone(),
            image: record.config.image.clone(),
            image_ref: record.image.clone(),
            state: 0,
            created_at: record.created_at,
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            image_id: record.image.clone(),
        };
        message.encode_to_vec().into()
    });
    encoded::item_with(listed, CONTAINER_STATE, container.state() as i32)
}

pub(super) fn container_status(container: &Container, image: Option<&Image>) -> cri::ContainerStatus {
    let record = &container.record;
    let life = container.life();
    let (exit_code, reason, message) = reason(&life.phase);
    let finished_at = match &life.phase {
        ContainerPhase::Exited(ended) => ended.finished_at,
        _ => 0,
    };
    let mut spec = record.config.image.clone().unwrap_or_default();
    // What people call it says more than the id that kubelet passes.
    if let Some(name) = image.and_then(|image| image.repo_tags.first()) {
        spec.image.clone_from(name);
    }
    // kubelet shows this one as the image's id in a pod's status: the same on every node, as containerd has it.
    let digest = image.and_then(|image| image.repo_digests.first());
    cri::ContainerStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: life.state() as i32,
        created_at: record.created_at,
        started_at: life.started_at,
        finished_at,
        exit_code,
        image: Some(spec),
        image_ref: digest.unwrap_or(&record.image).clone(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: record.config.mounts.clone(),
        log_path: record
            .log_path
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default(),
        resources: Some(cri::ContainerResources { linux: Some(container.resources()), windows: None }),
        image_id: record.image.clone(),
        user: Some(cri::ContainerUser { linux: Some(record.user.clone()) }),
        stop_signal: signal_to_cri(record.stop_signal) as i32,
    }
}

/// What `crictl inspect` shows beside the status.
pub(super) fn container_info(
    container: &Container,
    spec: Option<serde_json::Value>,
) -> BTreeMap<String, String> {
    let life = container.life();
    let info = json!({
        "sandboxID": container.record.sandbox,
        "pid": life.pid.unwrap_or_default(),
        "removing": life.removing,
        "cgroup": container.record.cgroup,
        "config": container.record.config,
        "runtimeSpec": spec,
    });
    [("info".to_owned(), info.to_string())].into()
}

pub(super) fn image(image: &Image) -> cri::Image {
    let (uid, username) = image_user(&image.config.user);
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        // A client takes 0 for a mistake.
        size: image.size.max(1),
        uid: uid.map(|value| cri::Int64Value { value }),
        username,
        spec: None,
        pinned: image.pinned,
    }
}

/// A number or a name, never both; without a word it is root.
fn image_user(text: &str) -> (Option<i64>, String) {
    let user = text.split(':').next().unwrap_or_default();
    match user {
        "" => (Some(0), String::new()),
        _ => match user.parse::<i64>() {
            Ok(uid) => (Some(uid), String::new()),
            Err(_) => (None, user.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state is where the messages have it.
    #[test]
    fn items_of_lists_have_a_state() {
        let state = 1;
        let pod = cri::PodSandbox { id: "a".into(), state, created_at: 5, ..Default::default() };
        let fields = cri::PodSandbox { state: 0, ..pod.clone() }.encode_to_vec();
        let list = cri::ListPodSandboxResponse::decode(encoded::item_with(&fields, SANDBOX_STATE, state));
        assert_eq!(list.unwrap().items, [pod]);
        let container = cri::Container { id: "b".into(), state, image_id: "c".into(), ..Default::default() };
        let fields = cri::Container { state: 0, ..container.clone() }.encode_to_vec();
        let list = cri::ListContainersResponse::decode(encoded::item_with(&fields, CONTAINER_STATE, state));
        assert_eq!(list.unwrap().containers, [container]);
    }

    #[test]
    fn whom_an_image_runs_as() {
        assert_eq!(image_user(""), (Some(0), String::new()));
        assert_eq!(image_user("1000:50"), (Some(1000), String::new()));
        assert_eq!(image_user("nginx:nginx"), (None, "nginx".to_owned()));
        assert_eq!(image_user(":5"), (Some(0), String::new()));
    }
}
