//! What this host can do: looked up once, when the server starts.

use oci_spec::runtime::{Capabilities, Capability};

/// Facts about the host that decide what a container may be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    /// What "ALL" and "privileged" mean: the capabilities that this process could give away.
    pub(crate) capabilities: Capabilities,
    /// The unified cgroup hierarchy is in use.
    pub(crate) cgroup_v2: bool,
    /// Swap can be limited.
    pub(crate) swap: bool,
    /// Huge pages can be limited.
    pub(crate) hugetlb: bool,
    /// AppArmor is enabled.
    pub(crate) apparmor: bool,
    /// SELinux is enabled.
    pub(crate) selinux: bool,
    /// The lowest `oom_score_adj` that this process may set.
    pub(crate) lowest_oom_score_adj: i32,
    /// A container that asks for a lower one gets that one, and is not refused.
    pub(crate) restrict_oom_score_adj: bool,
}

/// A capability by the name that the CRI or the kernel has for it, with or without `CAP_`.
pub(crate) fn capability(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).parse().ok()
}
