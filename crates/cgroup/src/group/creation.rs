//! Making a group, in one go or in two.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::make::{Made, make};
use super::{Cgroup, Dir, User, normal, parts};
use crate::settings::{Write, controllers, writes};
use crate::{DeviceRule, Layout, Resources, Result, Version};

/// The second half of making a group.
#[derive(Debug)]
pub(super) struct Rest {
    writes: Vec<Vec<Write>>,
    devices: Option<Vec<DeviceRule>>,
    made: OnceLock<Later>,
    /// Set when the limits hold, too.
    is_done: OnceLock<()>,
}

/// What the second half has made.
#[derive(Debug)]
pub(super) struct Later {
    pub(super) dirs: Vec<Dir>,
    pub(super) made: Made,
}

impl Cgroup {
    /// Makes the group in every hierarchy, with missing parents, and applies the limits. `path` starts at the root of each
    /// hierarchy: `/vaquita/<sandbox>/<container>`. A group that is there already is taken over: see [`Self::existed`].
    /// On failure nothing that was made is left.
    ///
    /// On v1 a new group gets the CPUs and memory nodes of its parent: it could hold no process else.
    ///
    /// # Errors
    /// `Invalid` for a path with `..`; `Unsupported` for a limit that the host cannot set; `Denied`, `Busy`.
    pub fn create(layout: &Layout, path: &Path, resources: &Resources) -> Result<Self> {
        let (group, made) = begin(layout, path, resources)?;
        group.finish().inspect_err(|_| {
            if let Some(later) = group.later() {
                take_back(&later.made);
            }
            take_back(&made);
        })?;
        Ok(group)
    }

    /// As [`Self::create`], but only what a clone into the group needs: the group of v2. [`Self::finish`] makes the others,
    /// which take 0.1 ms each, while the clone is at work already.
    ///
    /// # Errors
    /// As [`Self::create`]: whatever can be said of the limits without trying is said here.
    pub fn begin(layout: &Layout, path: &Path, resources: &Resources) -> Result<Self> {
        begin(layout, path, resources).map(|(group, _)| group)
    }

    /// Whether it is there in all hierarchies, with all limits: [`Self::finish`] has nothing to do.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.rest.as_ref().is_none_or(|rest| rest.is_done.get().is_some())
    }

    /// Makes what [`Self::begin`] has left. Where that has been done already, or was never left, it does nothing.
    ///
    /// # Errors
    /// As [`Self::create`]. The group is the caller's to remove then.
    pub fn finish(&self) -> Result<()> {
        let Some(rest) = self.rest.as_ref().filter(|_| !self.is_whole()) else { return Ok(()) };
        if rest.made.get().is_none() {
            let parts: Vec<&OsStr> = normal(&self.path).collect();
            let (dirs, made) = make_all(&self.layout, Version::V1, &parts, &controllers(&rest.writes))?;
            // One thread makes a group.
            let _ = rest.made.set(Later { dirs, made });
        }
        self.write_all(&rest.writes)?;
        rest.devices.iter().try_for_each(|rules| self.set_devices(rules))?;
        let _ = rest.is_done.set(());
        Ok(())
    }

    /// What [`Self::finish`] has made.
    pub(super) fn later(&self) -> Option<&Later> {
        self.rest.as_ref()?.made.get()
    }
}

fn begin(layout: &Layout, path: &Path, resources: &Resources) -> Result<(Cgroup, Made)> {
    let parts = parts(path)?;
    let all = writes(resources, layout)?;
    let needed = controllers(&all);
    let (dirs, made) = make_all(layout, Version::V2, &parts, &needed)?;
    let is_v2 = |group: &Vec<Write>| {
        let of = |write: &Write| layout.controller(&write.controller).map(|hierarchy| hierarchy.version);
        // Files of v2 itself have no controller.
        group.iter().all(|write| of(write) != Some(Version::V1))
    };
    let (now, later): (Vec<_>, Vec<_>) = all.into_iter().partition(is_v2);
    let has_rest = layout.hierarchies().iter().any(|hierarchy| hierarchy.version == Version::V1);
    let rest = Rest {
        writes: later,
        devices: resources.devices.clone(),
        made: OnceLock::new(),
        is_done: OnceLock::new(),
    };
    let group = Cgroup {
        layout: layout.clone(),
        path: Path::new("/").join(parts.iter().collect::<PathBuf>()),
        dirs,
        created_parents: made.parents.iter().cloned().collect(),
        existed: made.existed,
        user: User::Root,
        rest: has_rest.then(|| Box::new(rest)),
    };
    let limited = group.write_all(&now).and_then(|()| match &resources.devices {
        Some(rules) if !has_rest => group.set_devices(rules),
        _ => Ok(()),
    });
    match limited {
        Ok(()) => Ok((group, made)),
        Err(error) => {
            take_back(&made);
            Err(error)
        }
    }
}

/// Makes the directories in the hierarchies of one version, or none.
fn make_all(
    layout: &Layout,
    version: Version,
    parts: &[&OsStr],
    needed: &BTreeSet<&str>,
) -> Result<(Vec<Dir>, Made)> {
    let mut made = Made::default();
    let hierarchies = layout.hierarchies().iter().enumerate();
    let dirs =
        hierarchies.filter(|(_, hierarchy)| hierarchy.version == version).map(|(number, hierarchy)| {
            Ok(Dir { hierarchy: number, fd: make(hierarchy, parts, needed, &mut made)? })
        });
    match dirs.collect() {
        Ok(dirs) => Ok((dirs, made)),
        Err(error) => {
            take_back(&made);
            Err(error)
        }
    }
}

/// Newest first; what cannot go (somebody else uses it already) stays.
fn take_back(made: &Made) {
    for dir in made.dirs.iter().rev() {
        let _ = rustix::fs::rmdir(dir);
    }
}
