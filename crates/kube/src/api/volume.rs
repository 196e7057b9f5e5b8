//! Volumes and their mounts.

use super::{ObjectFieldSelector, Quantity, ResourceFieldSelector};

super::object! {
    /// A volume of a pod; exactly one source. None at all means `emptyDir`.
    pub struct Volume {
        /// Name, unique in the pod (a DNS label).
        pub name: String,
        /// An empty directory that lives as long as the pod.
        pub empty_dir: Option<EmptyDirVolumeSource>,
        /// A file or directory of the host.
        pub host_path: Option<HostPathVolumeSource>,
        /// The keys of a ConfigMap as files.
        pub config_map: Option<ConfigMapVolumeSource>,
        /// The keys of a Secret as files in memory.
        pub secret: Option<SecretVolumeSource>,
        /// Fields of the pod as files.
        #[serde(rename = "downwardAPI")]
        pub downward_api: Option<DownwardAPIVolumeSource>,
        /// Several sources in one directory.
        pub projected: Option<ProjectedVolumeSource>,
        /// A directory of an NFS server.
        pub nfs: Option<NFSVolumeSource>,
        /// The name of a source that is none of these, such as `persistentVolumeClaim`: the volume cannot be made.
        #[serde(skip)]
        pub foreign: Option<String>,
    }
}

super::object! {
    /// An empty directory.
    pub struct EmptyDirVolumeSource {
        /// Disk, or a tmpfs.
        pub medium: StorageMedium,
        /// Size of the tmpfs. Not supported on disk yet.
        pub size_limit: Option<Quantity>,
    }
}

super::choice! {
    /// What an emptyDir is made of.
    pub enum StorageMedium {
        /// The node's disk.
        #[serde(rename = "")]
        Disk,
        /// Memory: a tmpfs, charged to the containers that write to it.
        Memory,
    }
}

super::object! {
    /// A path of the host.
    pub struct HostPathVolumeSource {
        /// Absolute path.
        pub path: String,
        /// What must be there, or is made.
        #[serde(rename = "type")]
        pub type_: HostPathType,
    }
}

super::choice! {
    /// What a hostPath must be before the container starts.
    pub enum HostPathType {
        /// Not checked.
        #[serde(rename = "")]
        Unset,
        /// A directory; made with mode 0755 where missing.
        DirectoryOrCreate,
        /// A directory.
        Directory,
        /// A file; made with mode 0644 where missing.
        FileOrCreate,
        /// A file.
        File,
        /// A UNIX socket.
        Socket,
        /// A character device.
        CharDevice,
        /// A block device.
        BlockDevice,
    }
}

super::object! {
    /// A directory of an NFS server, mounted by the host's `mount.nfs`.
    pub struct NFSVolumeSource {
        /// Name or address of the server.
        pub server: String,
        /// Absolute path that the server exports.
        pub path: String,
        /// Mount it read-only.
        pub read_only: bool,
    }
}

super::object! {
    /// A key, and the file that it becomes.
    pub struct KeyToPath {
        /// Key.
        pub key: String,
        /// Relative path of the file, without `..`.
        pub path: String,
        /// Mode of the file; the volume's where absent.
        pub mode: Option<i32>,
    }
}

super::object! {
    /// A ConfigMap as files.
    pub struct ConfigMapVolumeSource {
        /// Name of the ConfigMap.
        pub name: String,
        /// Which keys become which files; all under their own names where empty.
        pub items: Vec<KeyToPath>,
        /// Mode of the files; 0644 where absent.
        pub default_mode: Option<i32>,
        /// A missing ConfigMap or key is no error.
        pub optional: Option<bool>,
    }
}

super::object! {
    /// A Secret as files.
    pub struct SecretVolumeSource {
        /// Name of the Secret.
        pub secret_name: String,
        /// Which keys become which files; all under their own names where empty.
        pub items: Vec<KeyToPath>,
        /// Mode of the files; 0644 where absent.
        pub default_mode: Option<i32>,
        /// A missing Secret or key is no error.
        pub optional: Option<bool>,
    }
}

super::object! {
    /// Fields of the pod as files.
    pub struct DownwardAPIVolumeSource {
        /// The files.
        pub items: Vec<DownwardAPIVolumeFile>,
        /// Mode of the files; 0644 where absent.
        pub default_mode: Option<i32>,
    }
}

super::object! {
    /// One field as a file.
    pub struct DownwardAPIVolumeFile {
        /// Relative path of the file, without `..`.
        pub path: String,
        /// A field of the pod.
        pub field_ref: Option<ObjectFieldSelector>,
        /// A request or limit of a container.
        pub resource_field_ref: Option<ResourceFieldSelector>,
        /// Mode of the file; the volume's where absent.
        pub mode: Option<i32>,
    }
}

super::object! {
    /// Several sources in one directory.
    pub struct ProjectedVolumeSource {
        /// The sources.
        pub sources: Vec<VolumeProjection>,
        /// Mode of the files; 0644 where absent.
        pub default_mode: Option<i32>,
    }
}

super::object! {
    /// One source of a projected volume; exactly one.
    pub struct VolumeProjection {
        /// A Secret.
        pub secret: Option<SecretProjection>,
        /// A ConfigMap.
        pub config_map: Option<ConfigMapProjection>,
        /// Fields of the pod.
        #[serde(rename = "downwardAPI")]
        pub downward_api: Option<DownwardAPIProjection>,
        /// A token of the pod's service account.
        pub service_account_token: Option<ServiceAccountTokenProjection>,
    }
}

super::object! {
    /// A token of the pod's service account as a file, bound to the pod and replaced before it ends.
    pub struct ServiceAccountTokenProjection {
        /// Whom the token is for; the API server where empty.
        pub audience: String,
        /// Seconds that a token is valid, at least 600; an hour where absent.
        pub expiration_seconds: Option<i64>,
        /// Relative path of the file, without `..`.
        pub path: String,
    }
}

super::object! {
    /// A ConfigMap in a projected volume.
    pub struct ConfigMapProjection {
        /// Name of the ConfigMap.
        pub name: String,
        /// Which keys become which files; all under their own names where empty.
        pub items: Vec<KeyToPath>,
        /// A missing ConfigMap or key is no error.
        pub optional: Option<bool>,
    }
}

super::object! {
    /// A Secret in a projected volume.
    pub struct SecretProjection {
        /// Name of the Secret.
        pub name: String,
        /// Which keys become which files; all under their own names where empty.
        pub items: Vec<KeyToPath>,
        /// A missing Secret or key is no error.
        pub optional: Option<bool>,
    }
}

super::object! {
    /// Fields of the pod in a projected volume.
    pub struct DownwardAPIProjection {
        /// The files.
        pub items: Vec<DownwardAPIVolumeFile>,
    }
}

super::object! {
    /// Where a container sees a volume.
    pub struct VolumeMount {
        /// Name of the volume.
        pub name: String,
        /// Path in the container.
        pub mount_path: String,
        /// A path inside the volume instead of its root.
        pub sub_path: String,
        /// The same with `$(VAR)` expanded from the container's environment.
        pub sub_path_expr: String,
        /// Read-only.
        pub read_only: bool,
        /// Whether what is mounted below the volume is read-only as well.
        pub recursive_read_only: Option<RecursiveReadOnly>,
        /// How mounts made later travel between host and container.
        pub mount_propagation: Option<MountPropagation>,
    }
}

super::choice! {
    /// Whether submounts of a read-only mount are read-only.
    pub enum RecursiveReadOnly {
        /// No.
        Disabled,
        /// Yes where the runtime can.
        IfPossible,
        /// Yes, or the container does not start.
        Enabled,
    }
}

super::choice! {
    /// How mounts made later travel.
    pub enum MountPropagation {
        /// Not at all.
        None,
        /// From the host to the container.
        HostToContainer,
        /// Both ways; only for privileged containers.
        Bidirectional,
    }
}
