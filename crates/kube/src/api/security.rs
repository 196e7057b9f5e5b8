//! Security attributes of pods and containers.

super::object! {
    /// Security attributes of a pod; a container's own win.
    pub struct PodSecurityContext {
        /// User id of the processes.
        pub run_as_user: Option<i64>,
        /// Group id of the processes.
        pub run_as_group: Option<i64>,
        /// Refuse to run as user 0.
        pub run_as_non_root: Option<bool>,
        /// Further group ids.
        pub supplemental_groups: Vec<i64>,
        /// Whether the groups of the image's /etc/group are added.
        pub supplemental_groups_policy: Option<SupplementalGroupsPolicy>,
        /// Group that owns the volumes, and that every process is in.
        pub fs_group: Option<i64>,
        /// Without effect on the volumes that exist here, which are new with every pod.
        pub fs_group_change_policy: Option<FsGroupChangePolicy>,
        /// Kernel parameters of the pod's namespaces.
        pub sysctls: Vec<Sysctl>,
        /// Seccomp profile.
        pub seccomp_profile: Option<SeccompProfile>,
        /// AppArmor profile.
        pub app_armor_profile: Option<AppArmorProfile>,
        /// SELinux context.
        #[serde(rename = "seLinuxOptions")]
        pub se_linux_options: Option<SELinuxOptions>,
    }
}

super::object! {
    /// Security attributes of a container.
    pub struct SecurityContext {
        /// Capabilities to add and to drop.
        pub capabilities: Option<Capabilities>,
        /// Everything the host's root may.
        pub privileged: Option<bool>,
        /// User id of the process.
        pub run_as_user: Option<i64>,
        /// Group id of the process.
        pub run_as_group: Option<i64>,
        /// Refuse to run as user 0.
        pub run_as_non_root: Option<bool>,
        /// The root filesystem cannot be written.
        pub read_only_root_filesystem: Option<bool>,
        /// False sets no_new_privs.
        pub allow_privilege_escalation: Option<bool>,
        /// `Default` only.
        pub proc_mount: Option<ProcMount>,
        /// Seccomp profile.
        pub seccomp_profile: Option<SeccompProfile>,
        /// AppArmor profile.
        pub app_armor_profile: Option<AppArmorProfile>,
        /// SELinux context.
        #[serde(rename = "seLinuxOptions")]
        pub se_linux_options: Option<SELinuxOptions>,
    }
}

super::choice! {
    /// Whether the groups of the image's /etc/group are added.
    pub enum SupplementalGroupsPolicy {
        /// They are.
        Merge,
        /// Only what the pod names.
        Strict,
    }
}

super::choice! {
    /// When a volume's ownership is changed.
    pub enum FsGroupChangePolicy {
        /// Always.
        Always,
        /// When the root of the volume differs.
        OnRootMismatch,
    }
}

super::choice! {
    /// What of /proc is masked.
    pub enum ProcMount {
        /// The usual paths.
        Default,
        /// Nothing.
        Unmasked,
    }
}

super::object! {
    /// A kernel parameter.
    pub struct Sysctl {
        /// Name with dots or slashes.
        pub name: String,
        /// Value.
        pub value: String,
    }
}

super::object! {
    /// Capabilities to add and to drop, without `CAP_`; `ALL` for all.
    pub struct Capabilities {
        /// To add.
        pub add: Vec<String>,
        /// To drop.
        pub drop: Vec<String>,
    }
}

super::object! {
    /// Which system calls are allowed.
    pub struct SeccompProfile {
        /// Where the profile comes from.
        #[serde(rename = "type")]
        pub type_: SeccompProfileType,
        /// File below the agent's seccomp directory, with `Localhost`.
        pub localhost_profile: Option<String>,
    }
}

super::choice! {
    /// Where a seccomp profile comes from.
    pub enum SeccompProfileType {
        /// No profile.
        Unconfined,
        /// The runtime's.
        RuntimeDefault,
        /// A file of the host.
        Localhost,
    }
}

super::object! {
    /// Which AppArmor profile confines the process.
    pub struct AppArmorProfile {
        /// Where the profile comes from.
        #[serde(rename = "type")]
        pub type_: AppArmorProfileType,
        /// Name of a loaded profile, with `Localhost`.
        pub localhost_profile: Option<String>,
    }
}

impl AppArmorProfile {
    /// What begins the key of the annotation that a container's profile was given by before there was a field for it; the
    /// container's name follows.
    pub const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

    /// The profile that the value of such an annotation names. `None`: it names none.
    #[must_use]
    pub fn from_annotation(value: &str) -> Option<Self> {
        let of = |type_, localhost_profile| Some(Self { type_, localhost_profile });
        match value {
            "runtime/default" => of(AppArmorProfileType::RuntimeDefault, None),
            "unconfined" => of(AppArmorProfileType::Unconfined, None),
            _ => {
                let name = value.strip_prefix("localhost/").filter(|name| !name.trim().is_empty())?;
                of(AppArmorProfileType::Localhost, Some(name.to_owned()))
            }
        }
    }
}

super::choice! {
    /// Where an AppArmor profile comes from.
    pub enum AppArmorProfileType {
        /// No profile.
        Unconfined,
        /// The runtime's.
        RuntimeDefault,
        /// One that is loaded on the host.
        Localhost,
    }
}

super::object! {
    /// SELinux context.
    pub struct SELinuxOptions {
        /// User.
        pub user: String,
        /// Role.
        pub role: String,
        /// Type.
        #[serde(rename = "type")]
        pub type_: String,
        /// Level.
        pub level: String,
    }
}
