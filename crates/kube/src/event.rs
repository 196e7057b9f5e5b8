//! What the agent tells while it works.

mod record;

use jiff::Timestamp;
use serde::Serialize;

pub use self::record::Record;
pub(crate) use self::record::{full_name, go_duration};
use crate::api::PodPhase;

/// Something that happened to a pod. As JSON: one object with `time`, `pod`, `type` and the type's own fields.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// When it happened.
    pub time: Timestamp,
    /// Name of the pod, with the namespace in front where it is not `default`.
    pub pod: String,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened. Durations are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum EventKind {
    /// The sandbox is there and has its address (none on the host's network).
    SandboxReady {
        /// Sandbox id.
        id: String,
        /// Address of the pod.
        ip: Option<String>,
    },
    /// The sandbox could not be made; it is tried again.
    SandboxFailed {
        /// Why.
        message: String,
        /// When it is tried again.
        retry_in: f64,
    },
    /// The sandbox died: the whole pod starts again from its init containers.
    SandboxLost {
        /// Sandbox id.
        id: String,
    },
    /// Secrets with credentials for registries are not there; pulls are tried without them.
    PullSecretsMissing {
        /// Their names.
        names: Vec<String>,
    },
    /// An image is being pulled.
    PullStarted {
        /// Container that needs it.
        container: String,
        /// Reference.
        image: String,
    },
    /// How far a pull is. Totals are 0 where they are not known yet.
    PullProgress {
        /// Reference.
        image: String,
        /// Bytes that have arrived.
        bytes_done: u64,
        /// Bytes that will have arrived.
        bytes_total: u64,
        /// Layers that are unpacked.
        layers_done: u64,
        /// Layers of the image.
        layers_total: u64,
    },
    /// The image is there.
    Pulled {
        /// Container that needs it.
        container: String,
        /// Reference.
        image: String,
        /// It had been there before.
        cached: bool,
        /// How long it took.
        duration: f64,
        /// Size of the image in bytes, as the server tells it; 0 where it does not.
        size: u64,
    },
    /// The image could not be had; it is tried again.
    PullFailed {
        /// Container that needs it.
        container: String,
        /// Reference.
        image: String,
        /// ErrImagePull, ErrImageNeverPull, InvalidImageName.
        reason: String,
        /// Why.
        message: String,
        /// When it is tried again.
        retry_in: f64,
    },
    /// A pull that failed is waited with before it is tried again.
    PullBackOff {
        /// Container that needs it.
        container: String,
        /// Reference.
        image: String,
    },
    /// An init container runs.
    InitStarted {
        /// Name.
        container: String,
        /// Its place among the init containers, from 1.
        index: usize,
        /// How many there are.
        of: usize,
    },
    /// An init container ended.
    InitExited {
        /// Name.
        container: String,
        /// Exit code.
        code: i32,
        /// Completed, Error, OOMKilled, …
        reason: String,
        /// Termination message.
        message: String,
        /// How long it ran.
        duration: f64,
    },
    /// A container was created.
    ContainerCreated {
        /// Name.
        container: String,
        /// Container id.
        id: String,
    },
    /// A container (or a sidecar) runs.
    ContainerStarted {
        /// Name.
        container: String,
        /// Container id.
        id: String,
        /// How often it was started before.
        restart_count: u32,
        /// It is a sidecar.
        sidecar: bool,
    },
    /// A container could not be created or started; it is tried again.
    ContainerFailed {
        /// Name.
        container: String,
        /// CreateContainerConfigError, CreateContainerError, RunContainerError.
        reason: String,
        /// Why.
        message: String,
        /// When it is tried again, if it is.
        retry_in: Option<f64>,
    },
    /// A container ended.
    ContainerExited {
        /// Name.
        container: String,
        /// Exit code; 128 and the number for a signal.
        code: i32,
        /// Completed, Error, OOMKilled, …
        reason: String,
        /// Termination message.
        message: String,
        /// How long it ran.
        duration: f64,
        /// How often it has been restarted so far.
        restart_count: u32,
    },
    /// A container waits before it is started again.
    BackOff {
        /// Name.
        container: String,
        /// CrashLoopBackOff or ImagePullBackOff.
        reason: String,
        /// How long.
        seconds: f64,
    },
    /// The first result of a probe, or one that differs from the last.
    ProbeResult {
        /// Name of the container.
        container: String,
        /// Which probe.
        probe: ProbeKind,
        /// Success.
        ok: bool,
        /// What the probe saw.
        message: String,
        /// It is the first one since the container started.
        first: bool,
    },
    /// A container is being killed because of what a probe or a hook said, or because the pod ends.
    Stopping {
        /// Name.
        container: String,
        /// Why.
        reason: String,
        /// Seconds that it is given.
        grace: i64,
        /// Why, for machines.
        #[serde(skip)]
        cause: StopCause,
        /// It will be started again.
        #[serde(skip)]
        restarted: bool,
    },
    /// The pod has run longer than `activeDeadlineSeconds`.
    DeadlineExceeded {},
    /// What running containers may take is being changed.
    ResizeStarted {},
    /// Running containers may take what their changed specifications say.
    Resized {},
    /// What a running container may take could not be changed.
    ResizeFailed {
        /// Why.
        message: String,
    },
    /// A volume could not be made, or not be brought up to date; it is tried again.
    VolumeFailed {
        /// Name of the volume; empty where it is about all of them.
        volume: String,
        /// Why.
        message: String,
    },
    /// A hook failed.
    HookFailed {
        /// Name of the container.
        container: String,
        /// Which hook.
        hook: HookKind,
        /// Why.
        message: String,
    },
    /// Every container is ready, and the pod with them.
    PodReady {},
    /// The pod is no longer ready.
    PodNotReady {
        /// Containers that are not ready.
        containers: Vec<String>,
    },
    /// The pod's phase changed.
    PodPhase {
        /// The new phase.
        phase: PodPhase,
        /// Why, in one word.
        reason: String,
        /// Why.
        message: String,
    },
    /// The pod is being ended.
    Terminating {
        /// Why.
        reason: String,
        /// Seconds that its containers are given.
        grace: i64,
    },
    /// The connection to the CRI server is lost; it is tried again.
    Disconnected {
        /// Why.
        message: String,
    },
    /// The connection to the CRI server is there again.
    Reconnected {},
    /// Something the user should know.
    Warning {
        /// What.
        message: String,
    },
    /// A line of a container's output. Bytes that are not UTF-8 are replaced.
    Log {
        /// Name of the container.
        container: String,
        /// Which stream.
        stream: Stream,
        /// The line, without its end.
        line: String,
        /// When the line was written.
        written: Timestamp,
    },
    /// Everything of the pod is removed.
    Removed {
        /// What could not be removed.
        errors: Vec<String>,
    },
}

/// Why a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// The pod ends.
    PodEnds,
    /// The pod has run too long.
    Deadline,
    /// The pod is evicted.
    Evicted,
    /// A liveness probe failed.
    Liveness,
    /// A startup probe failed.
    Startup,
    /// A postStart hook failed.
    PostStart,
    /// The container's definition changed.
    Changed,
    /// Its requests or limits changed, which it is restarted for.
    Resize,
}

impl StopCause {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::PodEnds => "the pod ends",
            Self::Deadline => "the pod's deadline has passed",
            Self::Evicted => "the pod is evicted",
            Self::Liveness => "failed its liveness probe",
            Self::Startup => "failed its startup probe",
            Self::PostStart => "its postStart hook failed",
            Self::Changed => "its definition changed",
            Self::Resize => "its requests or limits changed",
        }
    }
}

/// Kind of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeKind {
    /// Startup.
    Startup,
    /// Liveness.
    Liveness,
    /// Readiness.
    Readiness,
}

/// Kind of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HookKind {
    /// After the start.
    PostStart,
    /// Before the stop signal.
    PreStop,
}

/// Which of a container's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output; everything with a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}
