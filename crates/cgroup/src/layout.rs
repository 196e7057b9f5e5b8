//! Which hierarchies the host has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vaquita_sys::mount::{MountInfo, mountinfo};

use crate::{Error, Kind, Result};

/// Of which version a hierarchy is (cgroups(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One of several, each with some controllers.
    V1,
    /// The unified one.
    V2,
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its version.
    pub version: Version,
    /// Its mount point.
    pub mount: PathBuf,
    /// Its controllers as v1 calls them (`cpu`, `blkio`…) or v2 does (`cpu`, `io`…); a named v1 hierarchy has
    /// `name=systemd` and the like.
    pub controllers: BTreeSet<String>,
}

/// The hierarchies of the host. Cheap to clone: every group holds one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    hierarchies: Arc<[Hierarchy]>,
}

impl Layout {
    /// Looks at the mounts of the calling process. Where a hierarchy is mounted more than once, the first one counts
    /// that no other mount hides.
    ///
    /// # Errors
    /// `NotFound` when no control group filesystem is mounted; else those of reading `/proc` and `cgroup.controllers`.
    #[expect(clippy::disallowed_methods, reason = "what the host's kernel has mounted and offers")]
    pub fn detect() -> Result<Self> {
        let mounts = mountinfo().map_err(|error| Error::sys("looking for control groups", error))?;
        let mut hierarchies = hierarchies(&mounts);
        for hierarchy in hierarchies.iter_mut().filter(|hierarchy| hierarchy.version == Version::V2) {
            let dir = vaquita_sys::fs::open_dir(&hierarchy.mount)
                .map_err(|error| Error::sys("looking for control groups", error))?;
            let names = crate::files::read(&dir, "cgroup.controllers")?;
            hierarchy.controllers = names.split_whitespace().map(str::to_owned).collect();
        }
        Self::new(hierarchies)
    }

    /// A layout of these hierarchies, the v2 one first. For tests and for a host prepared by the caller.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn new(mut hierarchies: Vec<Hierarchy>) -> Result<Self> {
        if hierarchies.is_empty() {
            return Err(Error::refused(
                Kind::NotFound,
                "no control group filesystem is mounted: mount cgroup2 at /sys/fs/cgroup",
            ));
        }
        hierarchies.sort_by_key(|hierarchy| hierarchy.version == Version::V1);
        Ok(Self { hierarchies: hierarchies.into() })
    }

    /// The hierarchies, the v2 one first.
    #[must_use]
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// Whether the v2 hierarchy is the only one with controllers, as it is on hosts with a current systemd.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.hierarchies.iter().all(|hierarchy| hierarchy.version == Version::V2)
    }

    /// The hierarchy that has the controller, by its v2 name: `io` finds the v1 `blkio` too.
    #[must_use]
    pub fn controller(&self, name: &str) -> Option<&Hierarchy> {
        let v1 = if name == "io" { "blkio" } else { name };
        self.hierarchies.iter().find(|hierarchy| match hierarchy.version {
            Version::V1 => hierarchy.controllers.contains(v1),
            Version::V2 => hierarchy.controllers.contains(name),
        })
    }

    /// Whether swap can be limited: kernels can be built without, or have it switched off.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "what the host's kernel has mounted and offers")]
    pub fn limits_swap(&self) -> bool {
        self.controller("memory").is_some_and(|hierarchy| match hierarchy.version {
            Version::V1 => hierarchy.mount.join("memory.memsw.limit_in_bytes").exists(),
            // Not in the root group of v2; the kernel has it whenever it has swap at all (CONFIG_SWAP).
            Version::V2 => Path::new("/proc/swaps").exists(),
        })
    }
}

/// The hierarchies among these mounts, without the controllers of v2, which only a file in it tells.
fn hierarchies(mounts: &[MountInfo]) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    let mut devices = BTreeSet::new();
    for mount in mounts {
        let (version, controllers) = match mount.fs_type.as_str() {
            "cgroup2" => (Version::V2, BTreeSet::new()),
            "cgroup" => (Version::V1, v1_controllers(&mount.super_options)),
            _ => continue,
        };
        if !is_hidden(mount, mounts) && devices.insert(mount.device) {
            found.push(Hierarchy { version, mount: mount.mount_point.clone(), controllers });
        }
    }
    found
}

/// Whether its path leads to another mount: one on it, or one that leaves the way to it at a directory above.
fn is_hidden(mount: &MountInfo, mounts: &[MountInfo]) -> bool {
    let on =
        |parent: &MountInfo| mounts.iter().filter(move |other| other.parent == parent.id).collect::<Vec<_>>();
    if on(mount).iter().any(|other| other.mount_point == mount.mount_point) {
        return true;
    }
    let mut step = mount;
    while let Some(parent) = mounts.iter().find(|other| other.id == step.parent && other.id != step.id) {
        let leaves = |other: &&MountInfo| {
            other.id != step.id
                && other.mount_point != step.mount_point
                && step.mount_point.starts_with(&other.mount_point)
        };
        if on(parent).into_iter().any(|other| leaves(&other)) {
            return true;
        }
        step = parent;
    }
    false
}

/// The options of the mount that are controllers, or the hierarchy's name.
fn v1_controllers(options: &str) -> BTreeSet<String> {
    const KNOWN: [&str; 15] = [
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "debug",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "misc",
        "net_cls",
        "net_prio",
        "perf_event",
        "pids",
        "rdma",
    ];
    let is_one = |option: &&str| KNOWN.contains(option) || option.starts_with("name=");
    options.split(',').filter(is_one).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_sys::mount::parse_mountinfo;

    fn layout(table: &str, v2: &[&str]) -> Layout {
        let mut found = hierarchies(&parse_mountinfo(table.as_bytes()).unwrap());
        for hierarchy in found.iter_mut().filter(|hierarchy| hierarchy.version == Version::V2) {
            hierarchy.controllers = v2.iter().map(|name| (*name).to_owned()).collect();
        }
        Layout::new(found).unwrap()
    }

    #[test]
    fn a_v2_host() {
        let layout = layout(
            "24 23 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
            &["cpu", "io", "memory"],
        );
        assert!(layout.is_v2());
        assert_eq!(layout.controller("io").unwrap().mount, Path::new("/sys/fs/cgroup"));
        assert!(layout.controller("pids").is_none());
    }

    #[test]
    fn a_hybrid_host() {
        let layout = layout(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             38 31 0:35 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
             99 31 0:35 / /mnt/again rw - cgroup cgroup rw,blkio\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            &["hugetlb"],
        );
        assert!(!layout.is_v2());
        assert_eq!(layout.hierarchies()[0].version, Version::V2);
        assert_eq!(layout.controller("io").unwrap().mount, Path::new("/sys/fs/cgroup/blkio"));
        assert_eq!(layout.controller("cpuacct").unwrap().mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(layout.controller("hugetlb").unwrap().version, Version::V2);
        assert_eq!(layout.hierarchies().len(), 4);
        assert!(layout.controller("name=systemd").is_some());
    }

    #[test]
    fn hidden_mounts_do_not_count() {
        let layout = layout(
            "23 1 0:1 / / rw - ext4 /dev/vda rw\n\
             31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             38 31 0:35 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
             39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             50 31 0:50 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             51 50 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
            &["hugetlb"],
        );
        assert_eq!(layout.hierarchies().len(), 1);
        assert_eq!(layout.controller("pids").unwrap().mount, Path::new("/sys/fs/cgroup/pids"));
    }

    #[test]
    fn nothing_mounted() {
        assert_eq!(Layout::new(hierarchies(&[])).unwrap_err().kind(), Kind::NotFound);
    }
}
