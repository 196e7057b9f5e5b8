//! What is: the status of a pod and of its containers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Quantity, RecursiveReadOnly, ResourceRequirements};

super::object! {
    /// Status of a pod, as `kubectl get pod -o yaml` shows it.
    pub struct PodStatus {
        /// Summary.
        pub phase: PodPhase,
        /// PodReadyToStartContainers, Initialized, ContainersReady, Ready, PodScheduled.
        pub conditions: Vec<PodCondition>,
        /// Why the pod failed, in one word.
        pub reason: String,
        /// Why the pod failed.
        pub message: String,
        /// Address of the machine.
        #[serde(rename = "hostIP")]
        pub host_ip: String,
        /// Addresses of the machine.
        #[serde(rename = "hostIPs")]
        pub host_ips: Vec<PodIP>,
        /// Address of the pod.
        #[serde(rename = "podIP")]
        pub pod_ip: String,
        /// Addresses of the pod.
        #[serde(rename = "podIPs")]
        pub pod_ips: Vec<PodIP>,
        /// When the node agent took the pod up.
        pub start_time: Option<Timestamp>,
        /// Init containers, in the order of the specification.
        pub init_container_statuses: Vec<ContainerStatus>,
        /// Containers, in the order of the specification.
        pub container_statuses: Vec<ContainerStatus>,
        /// Ephemeral containers, in the order of the specification.
        pub ephemeral_container_statuses: Vec<ContainerStatus>,
        /// The `metadata.generation` that this status is about.
        pub observed_generation: Option<i64>,
        /// Quality of service.
        pub qos_class: QosClass,
    }
}

super::choice! {
    /// Summary of a pod's life.
    pub enum PodPhase {
        /// Not every init container has ended, or no container has started.
        Pending,
        /// At least one container runs or will be restarted.
        Running,
        /// All containers ended with 0 and none will be restarted.
        Succeeded,
        /// All containers ended, at least one with failure, or the pod was ended.
        Failed,
        /// The pod cannot be observed.
        Unknown,
    }
}

super::choice! {
    /// Quality of service, from requests and limits.
    pub enum QosClass {
        /// No requests and no limits.
        BestEffort,
        /// Something in between.
        Burstable,
        /// Every container has cpu and memory limits that equal its requests.
        Guaranteed,
    }
}

super::object! {
    /// An address.
    pub struct PodIP {
        /// The address.
        pub ip: String,
    }
}

super::object! {
    /// One aspect of the pod's state.
    pub struct PodCondition {
        /// Which.
        #[serde(rename = "type")]
        pub type_: String,
        /// Whether it holds.
        pub status: ConditionStatus,
        /// The `metadata.generation` that it is about.
        pub observed_generation: Option<i64>,
        /// When that last changed.
        pub last_transition_time: Option<Timestamp>,
        /// Why, in one word.
        pub reason: String,
        /// Why.
        pub message: String,
    }
}

super::choice! {
    /// Whether a condition holds.
    pub enum ConditionStatus {
        /// It does not.
        False,
        /// It does.
        True,
        /// It is not known.
        Unknown,
    }
}

/// Status of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Name of the container.
    pub name: String,
    /// What it is doing.
    pub state: ContainerState,
    /// How it ended the last time.
    pub last_state: ContainerState,
    /// It passes its readiness probe, or has none and runs; init containers: it ended with 0.
    pub ready: bool,
    /// How often it was started again.
    pub restart_count: u32,
    /// Image as asked for.
    pub image: String,
    /// Image as resolved.
    #[serde(rename = "imageID")]
    pub image_id: String,
    /// `<runtime>://<id>`.
    #[serde(rename = "containerID", skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    /// It passed its startup probe, or has none and runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<bool>,
    /// Requests that the node has granted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub allocated_resources: BTreeMap<String, Quantity>,
    /// Requests and limits that the running container has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Mounts of volumes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMountStatus>,
    /// Who it runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<ContainerUser>,
}

super::object! {
    /// A mount of a volume, as it is.
    pub struct VolumeMountStatus {
        /// Name of the volume.
        pub name: String,
        /// Path in the container.
        pub mount_path: String,
        /// Read-only.
        pub read_only: bool,
        /// Whether submounts are read-only too: `Disabled` or `Enabled`.
        pub recursive_read_only: Option<RecursiveReadOnly>,
    }
}

super::object! {
    /// Who a container runs as.
    pub struct ContainerUser {
        /// On Linux.
        pub linux: Option<LinuxContainerUser>,
    }
}

super::object! {
    /// Who the first process of a container ran as at first.
    pub struct LinuxContainerUser {
        /// User.
        pub uid: i64,
        /// Group.
        pub gid: i64,
        /// Further groups.
        pub supplemental_groups: Vec<i64>,
    }
}

impl PodStatus {
    /// All containers of every kind.
    pub fn containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        let regular = self.init_container_statuses.iter().chain(&self.container_statuses);
        regular.chain(&self.ephemeral_container_statuses)
    }

    pub(crate) fn containers_mut(&mut self) -> impl Iterator<Item = &mut ContainerStatus> {
        let regular = self.init_container_statuses.iter_mut().chain(&mut self.container_statuses);
        regular.chain(&mut self.ephemeral_container_statuses)
    }
}

/// What a container is doing; at most one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerState {
    /// It has not started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<ContainerStateWaiting>,
    /// It runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<ContainerStateRunning>,
    /// It has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminated: Option<ContainerStateTerminated>,
}

super::object! {
    /// A container that waits.
    pub struct ContainerStateWaiting {
        /// ContainerCreating, PodInitializing, CrashLoopBackOff, ErrImagePull, …
        pub reason: String,
        /// More.
        pub message: String,
    }
}

super::object! {
    /// A container that runs.
    pub struct ContainerStateRunning {
        /// Since when.
        pub started_at: Option<Timestamp>,
    }
}

super::object! {
    /// A container that has ended.
    pub struct ContainerStateTerminated {
        /// Exit code; 128 and the number for a signal.
        pub exit_code: i32,
        /// Completed, Error, OOMKilled, StartError, ContainerStatusUnknown, …
        pub reason: String,
        /// Its termination message.
        pub message: String,
        /// When it started.
        pub started_at: Option<Timestamp>,
        /// When it ended.
        pub finished_at: Option<Timestamp>,
        /// `<runtime>://<id>`.
        #[serde(rename = "containerID")]
        pub container_id: String,
    }
}
