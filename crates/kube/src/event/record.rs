//! What happened to a pod, as Kubernetes events: kubelet's types, reasons and messages.

use super::{EventKind, HookKind, ProbeKind};

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
    /// The Kubernetes events that tell of it, as kubelet would: none for what has none there.
    pub fn records(&self) -> Vec<Record> {
        let of = |container: &str| format!("spec.containers{{{container}}}");
        match self {
            Self::SandboxFailed { message, .. } => {
                vec![warning(
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {message}"),
                    String::new(),
                )]
            }
            Self::SandboxLost { .. } => {
                let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
                vec![normal("SandboxChanged", message, String::new())]
            }
            Self::ContainerCreated { container, .. } => {
                vec![normal("Created", "Container created".to_owned(), of(container))]
            }
            Self::HookFailed { container, hook, .. } => {
                let (reason, message) = match hook {
                    HookKind::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
                    HookKind::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
                };
                vec![warning(reason, message.to_owned(), of(container))]
            }
            Self::ProbeResult { container, probe, ok: false, message, .. } => {
                let probe = match probe {
                    ProbeKind::Startup => "Startup",
                    ProbeKind::Liveness => "Liveness",
                    ProbeKind::Readiness => "Readiness",
                };
                vec![warning("Unhealthy", format!("{probe} probe failed: {message}"), of(container))]
            }
            _ => Vec::new(),
        }
    }
}

fn normal(reason: &str, message: String, field_path: String) -> Record {
    Record { type_: "Normal", reason: reason.to_owned(), message, field_path }
}

fn warning(reason: &str, message: String, field_path: String) -> Record {
    Record { type_: "Warning", ..normal(reason, message, field_path) }
}
