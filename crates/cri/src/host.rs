//! What this host can do: looked up once, when the server starts.

use std::path::Path;

use oci_spec::runtime::{Capabilities, Capability};
use vaquita_cgroup::Layout;
use vaquita_sys::cap;

use crate::Result;
use crate::error::Doing;

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
    /// What every process of ours inherits.
    pub(crate) oom_score_adj: i32,
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

impl Host {
    /// Looks the facts up.
    pub(crate) fn look(layout: &Layout, restrict_oom_score_adj: bool) -> Result<Self> {
        let sets = cap::current().doing(|| "read our own capabilities")?;
        let ours = sets.permitted.intersection(sets.bounding);
        let capabilities = ours.iter().filter_map(|ours| capability(ours.name())).collect();
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let oom_score_adj = own.trim().parse().unwrap_or(0);
        let privileged = ours.contains(cap::Capability::SYS_RESOURCE);
        let lowest_oom_score_adj = if privileged { -1000 } else { oom_score_adj };
        let says_yes = |path: &str| std::fs::read(path).is_ok_and(|text| text.first() == Some(&b'Y'));
        Ok(Self {
            capabilities,
            cgroup_v2: layout.is_v2(),
            swap: layout.limits_swap(),
            hugetlb: layout.controller("hugetlb").is_some(),
            apparmor: says_yes("/sys/module/apparmor/parameters/enabled"),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            oom_score_adj,
            lowest_oom_score_adj,
            restrict_oom_score_adj,
        })
    }
}
