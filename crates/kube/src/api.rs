//! The Kubernetes v1 objects that vaquita understands, as serde structs.
//!
//! Names, meaning and JSON form are those of the [Kubernetes API reference]. A field that Kubernetes knows and
//! that is missing here is not supported yet; [`crate::manifest`] refuses it by name. Objects of an API server, which has
//! checked them, are read by `from_value`, which passes over what means nothing to a node.
//!
//! [Kubernetes API reference]: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/

mod config;
mod container;
mod lenient;
mod meta;
mod pod;
mod probe;
mod quantity;
mod scalar;
mod security;
mod status;
mod volume;

pub use self::config::{ConfigMap, Secret};
pub use self::container::{
    ConfigMapEnvSource, ConfigMapKeySelector, Container, ContainerPort, ContainerResizePolicy,
    ContainerRestartPolicy, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, Protocol, PullPolicy,
    ResourceFieldSelector, ResourceRequirements, SecretEnvSource, SecretKeySelector,
    TerminationMessagePolicy,
};
pub use self::meta::ObjectMeta;
pub use self::pod::{
    DnsPolicy, HostAlias, LocalObjectReference, Pod, PodDNSConfig, PodDNSConfigOption, PodOS,
    PodReadinessGate, PodSpec, RestartPolicy, Toleration,
};
pub use self::probe::{
    ExecAction, GRPCAction, HTTPGetAction, HTTPHeader, Lifecycle, LifecycleHandler, Probe, SleepAction,
    TCPSocketAction, UriScheme,
};
pub use self::quantity::Quantity;
pub use self::scalar::{Bytes, IntOrString};
pub use self::security::{
    AppArmorProfile, AppArmorProfileType, Capabilities, FsGroupChangePolicy, PodSecurityContext, ProcMount,
    SELinuxOptions, SeccompProfile, SeccompProfileType, SecurityContext, SupplementalGroupsPolicy, Sysctl,
};
pub use self::status::{
    ConditionStatus, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, LinuxContainerUser, PodCondition, PodIP, PodPhase, PodStatus, QosClass,
    VolumeMountStatus,
};
pub use self::volume::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIProjection, DownwardAPIVolumeFile,
    DownwardAPIVolumeSource, EmptyDirVolumeSource, HostPathType, HostPathVolumeSource, KeyToPath,
    MountPropagation, NFSVolumeSource, ProjectedVolumeSource, RecursiveReadOnly, SecretProjection,
    SecretVolumeSource, ServiceAccountTokenProjection, StorageMedium, Volume, VolumeMount, VolumeProjection,
};

/// Whether a field is left out of the JSON form.
trait Absent {
    fn absent(&self) -> bool;
}

impl<T> Absent for Option<T> {
    fn absent(&self) -> bool {
        self.is_none()
    }
}

impl<T> Absent for Vec<T> {
    fn absent(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Absent for std::collections::BTreeMap<K, V> {
    fn absent(&self) -> bool {
        self.is_empty()
    }
}

impl Absent for String {
    fn absent(&self) -> bool {
        self.is_empty()
    }
}

impl Absent for bool {
    fn absent(&self) -> bool {
        !self
    }
}

/// Numbers are always written: those that may be absent are options.
macro_rules! never_absent {
    ($($type:ty),* $(,)?) => {
        $(impl $crate::api::Absent for $type {
            fn absent(&self) -> bool {
                false
            }
        })*
    };
}
never_absent!(i32, i64);

/// Declares an API object: camelCase names, absent fields default and are not written.
macro_rules! object {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[serde(skip_serializing_if = "crate::api::Absent::absent")]
                pub $field: $type,
            )*
        }
        $crate::api::never_absent!($name);
    };
}

/// Declares an API enumeration: the variants' names are the values; the first is the default.
macro_rules! choice {
    ($(#[$meta:meta])* pub enum $name:ident {
        $(#[$first_meta:meta])* $first:ident, $($(#[$variant_meta:meta])* $variant:ident,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            #[default]
            $(#[$first_meta])*
            $first,
            $($(#[$variant_meta])* $variant,)*
        }
        $crate::api::never_absent!($name);
    };
}

use {choice, never_absent, object};
