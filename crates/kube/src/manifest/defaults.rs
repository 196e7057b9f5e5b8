//! The values that the API server fills in.

use crate::api::{
    Bytes, ConfigMap, Container, ContainerPort, DownwardAPIVolumeFile, EmptyDirVolumeSource, EnvVar,
    ObjectMeta, Pod, Probe, PullPolicy, Secret, Volume, VolumeProjection,
};

/// Grace period of a pod that does not say.
const GRACE_SECONDS: i64 = 30;
/// Mode of a volume's files that does not say.
const FILE_MODE: i32 = 0o644;

pub(super) fn pod(pod: &mut Pod) {
    metadata(&mut pod.metadata);
    let spec = &mut pod.spec;
    spec.termination_grace_period_seconds.get_or_insert(GRACE_SECONDS);
    if spec.service_account_name.is_empty() {
        spec.service_account_name =
            if spec.service_account.is_empty() { "default" } else { &spec.service_account }.to_owned();
    }
    if spec.scheduler_name.is_empty() {
        "default-scheduler".clone_into(&mut spec.scheduler_name);
    }
    for container in spec.init_containers.iter_mut().chain(&mut spec.containers) {
        self::container(container);
        if spec.host_network {
            container.ports.iter_mut().for_each(host_port);
        }
    }
    spec.volumes.iter_mut().for_each(volume);
}

pub(super) fn config_map(config_map: &mut ConfigMap) {
    metadata(&mut config_map.metadata);
}

pub(super) fn secret(secret: &mut Secret) {
    metadata(&mut secret.metadata);
    if secret.type_.is_empty() {
        "Opaque".clone_into(&mut secret.type_);
    }
    for (key, text) in std::mem::take(&mut secret.string_data) {
        secret.data.insert(key, Bytes(text.into_bytes()));
    }
}

/// When an image is pulled if the manifest does not say: always where the tag may move.
pub(super) fn pull_policy(image: &str) -> PullPolicy {
    if image.contains('@') {
        return PullPolicy::IfNotPresent;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.split_once(':') {
        None | Some((_, "latest")) => PullPolicy::Always,
        Some(_) => PullPolicy::IfNotPresent,
    }
}

fn metadata(metadata: &mut ObjectMeta) {
    if metadata.namespace.is_empty() {
        "default".clone_into(&mut metadata.namespace);
    }
}

fn container(container: &mut Container) {
    let policy = pull_policy(&container.image);
    container.image_pull_policy.get_or_insert(policy);
    if container.termination_message_path.is_empty() {
        "/dev/termination-log".clone_into(&mut container.termination_message_path);
    }
    let resources = &mut container.resources;
    for (name, limit) in &resources.limits {
        resources.requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    let probes =
        [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    probes.into_iter().flatten().for_each(probe);
    for hook in container
        .lifecycle
        .iter_mut()
        .flat_map(|hooks| [&mut hooks.post_start, &mut hooks.pre_stop])
        .flatten()
    {
        if let Some(get) = &mut hook.http_get {
            path(&mut get.path);
        }
    }
    for EnvVar { value_from, .. } in &mut container.env {
        if let Some(field) = value_from.as_mut().and_then(|source| source.field_ref.as_mut()) {
            api_version(&mut field.api_version);
        }
    }
}

fn probe(probe: &mut Probe) {
    let default = |field: &mut i32, value: i32| {
        if *field == 0 {
            *field = value;
        }
    };
    default(&mut probe.timeout_seconds, 1);
    default(&mut probe.period_seconds, 10);
    default(&mut probe.success_threshold, 1);
    default(&mut probe.failure_threshold, 3);
    if let Some(get) = &mut probe.http_get {
        path(&mut get.path);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn path(path: &mut String) {
    if path.is_empty() {
        "/".clone_into(path);
    }
}

/// On the host's network a port of the container is a port of the host.
fn host_port(port: &mut ContainerPort) {
    if port.published().is_none() {
        port.host_port = Some(port.container_port);
    }
}

fn volume(volume: &mut Volume) {
    let sources = [
        volume.empty_dir.is_some(),
        volume.host_path.is_some(),
        volume.config_map.is_some(),
        volume.secret.is_some(),
        volume.downward_api.is_some(),
        volume.projected.is_some(),
        volume.nfs.is_some(),
    ];
    if !sources.contains(&true) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        source.items.iter_mut().for_each(downward_file);
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(FILE_MODE);
        for VolumeProjection { downward_api, .. } in &mut source.sources {
            downward_api.iter_mut().flat_map(|api| &mut api.items).for_each(downward_file);
        }
    }
}

fn downward_file(file: &mut DownwardAPIVolumeFile) {
    if let Some(field) = &mut file.field_ref {
        api_version(&mut field.api_version);
    }
}

fn api_version(version: &mut String) {
    if version.is_empty() {
        "v1".clone_into(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_by_tag() {
        for (image, policy) in [
            ("busybox", PullPolicy::Always),
            ("busybox:latest", PullPolicy::Always),
            ("busybox:1.36", PullPolicy::IfNotPresent),
            ("localhost:5000/busybox", PullPolicy::Always),
            ("localhost:5000/a/busybox:1", PullPolicy::IfNotPresent),
            ("busybox@sha256:abc", PullPolicy::IfNotPresent),
            ("busybox:latest@sha256:abc", PullPolicy::IfNotPresent),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
