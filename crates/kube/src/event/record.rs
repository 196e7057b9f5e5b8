//! What happened to a pod, as Kubernetes events: kubelet's types, reasons and messages.

use super::{EventKind, HookKind, ProbeKind, StopCause};
use crate::api::{Container, Pod};

/// One Kubernetes event, but for the object, source and times that whoever records it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `Normal` or `Warning`.
    pub type_: &'static str,
    /// One word, such as `Pulled`.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// `involvedObject.fieldPath`: `spec.containers{name}` where it is about a container, else empty.
    pub field_path: String,
}

impl EventKind {
    /// The Kubernetes events that tell of it, as kubelet would: none for what has none there. `pod` is the one that it
    /// happened to.
    pub fn records(&self, pod: &Pod) -> Vec<Record> {
        match self {
            Self::SandboxFailed { message, .. } => {
                vec![warning("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {message}"))]
            }
            Self::VolumeFailed { volume, message } if volume.is_empty() => {
                vec![warning("FailedMount", format!("Unable to attach or mount volumes: {message}"))]
            }
            Self::VolumeFailed { volume, message } => {
                let what = format!("MountVolume.SetUp failed for volume {volume:?} : {message}");
                vec![warning("FailedMount", what)]
            }
            Self::SandboxLost { .. } => {
                vec![normal("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")]
            }
            Self::PullSecretsMissing { names } => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    names.join(", ")
                );
                vec![warning("FailedToRetrieveImagePullSecret", message)]
            }
            Self::DeadlineExceeded {} => {
                let message = "Pod was active on the node longer than the specified deadline";
                vec![normal("DeadlineExceeded", message)]
            }
            Self::ResizeStarted {} => vec![normal("ResizeStarted", resize(pod, "started", None))],
            Self::Resized {} => vec![normal("ResizeCompleted", resize(pod, "completed", None))],
            Self::ResizeFailed { message } => {
                vec![warning("ResizeError", resize(pod, "error", Some(message)))]
            }
            Self::PodPhase { reason, message, .. } if reason == "Evicted" || reason == "Preempting" => {
                vec![warning(reason, message.clone())]
            }
            _ => match self.of_container() {
                Some((container, records)) => {
                    let field_path = field_path(pod, container);
                    let about = |record| Record { field_path: field_path.clone(), ..record };
                    self.finish(pod, container, records).into_iter().map(about).collect()
                }
                None => Vec::new(),
            },
        }
    }

    /// What happened to one container.
    fn of_container(&self) -> Option<(&str, Vec<Record>)> {
        Some(match self {
            Self::PullStarted { container, image } => {
                (container, vec![normal("Pulling", format!("Pulling image {image:?}"))])
            }
            Self::Pulled { container, image, cached: true, .. } => {
                let message = format!(
                    "Container image {image:?} already present on machine and can be accessed by the pod"
                );
                (container, vec![normal("Pulled", message)])
            }
            Self::Pulled { container, image, duration, size, .. } => {
                let took = go_duration(*duration);
                let message = format!(
                    "Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {size} bytes."
                );
                (container, vec![normal("Pulled", message)])
            }
            Self::PullFailed { container, image, reason, message, .. } => {
                let first = match reason.as_str() {
                    "ErrImageNeverPull" => warning("ErrImageNeverPull", message.clone()),
                    "InvalidImageName" => warning(
                        "InspectFailed",
                        format!("Failed to apply default image tag {image:?}: {message}"),
                    ),
                    _ => warning("Failed", format!("Failed to pull image {image:?}: {message}")),
                };
                (container, vec![first, warning("Failed", format!("Error: {reason}"))])
            }
            Self::PullBackOff { container, image } => {
                let first = normal("BackOff", format!("Back-off pulling image {image:?}"));
                (container, vec![first, warning("Failed", "Error: ImagePullBackOff")])
            }
            Self::ContainerCreated { container, .. } => {
                (container, vec![normal("Created", "Container created")])
            }
            Self::ContainerStarted { container, .. } | Self::InitStarted { container, .. } => {
                (container, vec![normal("Started", "Container started")])
            }
            Self::ContainerFailed { container, message, .. } => {
                (container, vec![warning("Failed", format!("Error: {message}"))])
            }
            Self::BackOff { container, reason, .. } if reason == "CrashLoopBackOff" => {
                (container, vec![warning("BackOff", "Back-off restarting failed container")])
            }
            Self::ProbeResult { container, probe, ok: false, message, .. } => {
                (container, vec![warning("Unhealthy", format!("{} probe failed: {message}", title(*probe)))])
            }
            Self::Stopping { container, cause, restarted, .. } => {
                (container, vec![normal("Killing", stopping(container, *cause, *restarted))])
            }
            Self::HookFailed { container, hook, .. } => {
                let (reason, message) = match hook {
                    HookKind::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
                    HookKind::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
                };
                (container, vec![warning(reason, message)])
            }
            _ => return None,
        })
    }

    /// Adds what names the pod.
    fn finish(&self, pod: &Pod, container: &str, mut records: Vec<Record>) -> Vec<Record> {
        if matches!(self, Self::BackOff { .. })
            && let Some(record) = records.first_mut()
        {
            record.message = format!("{} {container} in pod {}", record.message, full_name(pod));
        }
        records
    }
}

fn stopping(container: &str, cause: StopCause, restarted: bool) -> String {
    let what = match cause {
        StopCause::Liveness => "failed liveness probe",
        StopCause::Startup => "failed startup probe",
        StopCause::Changed => "definition changed",
        StopCause::Resize => return format!("Container {container} resize requires restart"),
        StopCause::PostStart => return "FailedPostStartHook".to_owned(),
        StopCause::PodEnds | StopCause::Deadline | StopCause::Evicted => {
            return format!("Stopping container {container}");
        }
    };
    let then = if restarted { ", will be restarted" } else { "" };
    format!("Container {container} {what}{then}")
}

/// How far a change of resources is, with all that containers shall have.
fn resize(pod: &Pod, how: &str, error: Option<&str>) -> String {
    let of = |list: &[Container]| -> Vec<serde_json::Value> {
        list.iter().map(|one| serde_json::json!({"name": one.name, "resources": one.resources})).collect()
    };
    let mut summary = serde_json::Map::new();
    if !pod.spec.init_containers.is_empty() {
        summary.insert("initContainers".to_owned(), of(&pod.spec.init_containers).into());
    }
    summary.insert("containers".to_owned(), of(&pod.spec.containers).into());
    summary.insert("generation".to_owned(), pod.metadata.generation.unwrap_or(0).into());
    if let Some(error) = error {
        summary.insert("error".to_owned(), error.into());
    }
    format!("Pod resize {how}: {}", serde_json::Value::Object(summary))
}

fn title(probe: ProbeKind) -> &'static str {
    match probe {
        ProbeKind::Startup => "Startup",
        ProbeKind::Liveness => "Liveness",
        ProbeKind::Readiness => "Readiness",
    }
}

/// A pod as kubelet writes it in sentences.
pub(crate) fn full_name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    format!("{}_{}({})", metadata.name, metadata.namespace, metadata.uid)
}

/// Where in the pod's specification a container is.
fn field_path(pod: &Pod, container: &str) -> String {
    let among = |list: &[Container]| list.iter().any(|one| one.name == container);
    let list = match &pod.spec {
        spec if among(&spec.init_containers) => "initContainers",
        spec if among(&spec.ephemeral_containers) => "ephemeralContainers",
        _ => "containers",
    };
    format!("spec.{list}{{{container}}}")
}

/// Seconds as Go prints a duration that is cut to milliseconds: `45ms`, `1.503s`, `2m5.2s`.
pub(crate) fn go_duration(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating is fine")]
    let millis = (seconds * 1000.0) as u64;
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{point}{fraction}s", rest / 1000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

fn normal(reason: &str, message: impl Into<String>) -> Record {
    Record { type_: "Normal", reason: reason.to_owned(), message: message.into(), field_path: String::new() }
}

fn warning(reason: &str, message: impl Into<String>) -> Record {
    Record { type_: "Warning", ..normal(reason, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_prints_them() {
        let of = [0.0, 0.045, 1.0, 1.5034, 10.0, 60.0, 125.2, 300.0, 3723.5].map(go_duration);
        assert_eq!(of, ["0s", "45ms", "1s", "1.503s", "10s", "1m0s", "2m5.2s", "5m0s", "1h2m3.5s"]);
    }

    #[test]
    fn events_in_kubelets_words() {
        let pod = Pod::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}], "ephemeralContainers": [{"name": "d"}]},
        }))
        .unwrap();
        let (name, image) = (|name: &str| name.to_owned(), "web:1".to_owned());
        let kinds = [
            EventKind::PullStarted { container: name("i"), image: image.clone() },
            EventKind::Pulled {
                container: name("a"),
                image: image.clone(),
                cached: false,
                duration: 1.5,
                size: 9,
            },
            EventKind::Pulled {
                container: name("d"),
                image: image.clone(),
                cached: true,
                duration: 0.0,
                size: 9,
            },
            EventKind::PullFailed {
                container: name("a"),
                image: image.clone(),
                reason: name("ErrImagePull"),
                message: name("no such image"),
                retry_in: 10.0,
            },
            EventKind::PullBackOff { container: name("a"), image },
            EventKind::ContainerCreated { container: name("a"), id: name("x") },
            EventKind::BackOff { container: name("a"), reason: name("CrashLoopBackOff"), seconds: 10.0 },
            EventKind::Stopping {
                container: name("a"),
                reason: String::new(),
                grace: 30,
                cause: StopCause::Liveness,
                restarted: true,
            },
            EventKind::Stopping {
                container: name("a"),
                reason: String::new(),
                grace: 30,
                cause: StopCause::PodEnds,
                restarted: false,
            },
            EventKind::PodReady {},
        ];
        let lines = kinds.iter().flat_map(|kind| kind.records(&pod)).map(|record| {
            format!("{} {} {} {}", record.type_, record.reason, record.field_path, record.message)
        });
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r#"
        Normal Pulling spec.initContainers{i} Pulling image "web:1"
        Normal Pulled spec.containers{a} Successfully pulled image "web:1" in 1.5s (1.5s including waiting). Image size: 9 bytes.
        Normal Pulled spec.ephemeralContainers{d} Container image "web:1" already present on machine and can be accessed by the pod
        Warning Failed spec.containers{a} Failed to pull image "web:1": no such image
        Warning Failed spec.containers{a} Error: ErrImagePull
        Normal BackOff spec.containers{a} Back-off pulling image "web:1"
        Warning Failed spec.containers{a} Error: ImagePullBackOff
        Normal Created spec.containers{a} Container created
        Warning BackOff spec.containers{a} Back-off restarting failed container a in pod web_default(u)
        Normal Killing spec.containers{a} Container a failed liveness probe, will be restarted
        Normal Killing spec.containers{a} Stopping container a
        "#);
    }
}
