//! What this host can do: looked up once, when the server starts.

use oci_spec::runtime::{Capabilities, Capability};
use vaquita_cgroup::Layout;
use vaquita_sys::{cap, selinux};

use crate::error::Doing;
use crate::spec::selinux::{Labels, Policy};
use crate::{Config, Error, Result, kernel};

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
    /// The sizes of huge pages that the kernel has, as cgroups name them: `2MB`.
    pub(crate) huge_pages: Vec<String>,
    /// The CPUs that are there.
    pub(crate) cpus: List,
    /// The memory nodes that are there.
    pub(crate) memory_nodes: List,
    /// AppArmor is enabled.
    pub(crate) apparmor: bool,
    /// SELinux is enabled.
    pub(crate) selinux: bool,
    /// What SELinux's policy has for containers, if pods get labels.
    pub(crate) selinux_policy: Option<Policy>,
    /// What every process of ours inherits.
    pub(crate) oom_score_adj: i32,
    /// The lowest `oom_score_adj` that this process may set.
    pub(crate) lowest_oom_score_adj: i32,
    /// A container that asks for a lower one gets that one, and is not refused.
    pub(crate) restrict_oom_score_adj: bool,
}

/// A list of numbers in a file of the kernel, which may change at any time.
#[derive(Clone, Debug, Default)]
pub(crate) struct List(String);

impl List {
    /// What it is now; empty where the kernel has no such file.
    pub(crate) fn read(&self) -> String {
        kernel::text(&self.0)
    }
}

/// A capability by the name that the CRI or the kernel has for it, with or without `CAP_`.
pub(crate) fn capability(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).parse().ok()
}

impl Host {
    /// Looks the facts up.
    ///
    /// # Errors
    /// `Unsupported` if pods are to get SELinux labels that there are none of.
    pub(crate) fn look(layout: &Layout, config: &Config) -> Result<Self> {
        let sets = cap::current().doing(|| "read our own capabilities")?;
        let ours = sets.permitted.intersection(sets.bounding);
        let capabilities = ours.iter().filter_map(|ours| capability(ours.name())).collect();
        let oom_score_adj = kernel::own("oom_score_adj").trim().parse().unwrap_or(0);
        let privileged = ours.contains(cap::Capability::SYS_RESOURCE);
        let lowest_oom_score_adj = if privileged { -1000 } else { oom_score_adj };
        Ok(Self {
            capabilities,
            cgroup_v2: layout.is_v2(),
            swap: layout.limits_swap(),
            hugetlb: layout.controller("hugetlb").is_some(),
            huge_pages: huge_pages(),
            cpus: List("/sys/devices/system/cpu/online".into()),
            memory_nodes: List("/sys/devices/system/node/has_memory".into()),
            apparmor: kernel::has_apparmor(),
            selinux: selinux::is_enabled(),
            selinux_policy: config.selinux.then(selinux_policy).transpose()?,
            oom_score_adj,
            lowest_oom_score_adj,
            restrict_oom_score_adj: config.restrict_oom_score_adj,
        })
    }
}

/// Refuses labels that the host's policy does not have: the kernel would, later and with less to say.
///
/// # Errors
/// `Invalid`, with the label.
pub(crate) fn check_labels(labels: Option<&Labels>) -> Result<()> {
    let Some(Labels { process, mount }) = labels else { return Ok(()) };
    let unknown = |label: &&String| !label.is_empty() && !selinux::has_label(label);
    match [process, mount].into_iter().find(unknown) {
        None => Ok(()),
        Some(label) => Err(Error::invalid(format!(
            "selinux_options: {label:?} is no label of the SELinux policy that this host has loaded"
        ))),
    }
}

/// What the policy that the host uses has for containers (selinux_config(5)). Our own domain may be one that sees nothing of
/// selinuxfs but that it is there.
#[expect(clippy::disallowed_methods, reason = "files of the host's administrator")]
fn selinux_policy() -> Result<Policy> {
    let unsupported = |why: String| Error::unsupported(format!("SELinux labels for pods: {why}"));
    let read = |path: &str| {
        std::fs::read_to_string(path).map_err(|error| unsupported(format!("read {path}: {error}")))
    };
    if !selinux::is_enabled() {
        return Err(unsupported("this kernel does not run SELinux (no /sys/fs/selinux)".into()));
    }
    let config = read("/etc/selinux/config")?;
    let kind = config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    let kind = kind.ok_or_else(|| unsupported("/etc/selinux/config has no SELINUXTYPE".into()))?.trim();
    let path = format!("/etc/selinux/{kind}/contexts/lxc_contexts");
    Policy::parse(&read(&path)?, kernel::has_levels())
        .ok_or_else(|| unsupported(format!("{path} does not say what processes and files of containers get")))
}

/// From `/sys/kernel/mm/hugepages/hugepages-2048kB` and the like.
fn huge_pages() -> Vec<String> {
    let mut sizes: Vec<u64> = kernel::names("/sys/kernel/mm/hugepages")
        .iter()
        .filter_map(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok())
        .collect();
    sizes.sort_unstable();
    sizes.into_iter().map(page_size).collect()
}

/// As `hugetlb_cgroup` names a size (Linux, `mem_fmt`).
fn page_size(kib: u64) -> String {
    match kib {
        0..1024 => format!("{kib}KB"),
        1024..1_048_576 => format!("{}MB", kib >> 10),
        _ => format!("{}GB", kib >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_huge_pages_as_cgroups_name_them() {
        for (kib, name) in
            [(64, "64KB"), (2048, "2MB"), (32768, "32MB"), (1 << 20, "1GB"), (16 << 20, "16GB")]
        {
            assert_eq!(page_size(kib), name);
        }
    }
}
