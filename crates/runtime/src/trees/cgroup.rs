//! The container's view of its cgroups.

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use vaquita_cgroup::{Cgroup, Layout, Version};
use vaquita_sys::mount::Attributes;

use super::{Copied, PreparedMount, tmpfs};
use crate::Error;
use crate::plan::mounts::MountPlan;
use crate::plan::path::Inside;

/// With `own` as a cgroup namespace shows it.
pub(super) fn view(mount: &MountPlan, cgroup: &Cgroup, own: bool) -> Result<PreparedMount, Error> {
    let layout = cgroup.layout().clone();
    if layout.is_v2() {
        unified(mount, &layout, own.then_some(cgroup))
    } else {
        hierarchies(mount, &layout, cgroup)
    }
}

/// A copy of the cgroup's directory is what a mount made inside the cgroup namespace would show, and can be made before
/// the process is in the cgroup.
fn unified(mount: &MountPlan, layout: &Layout, cgroup: Option<&Cgroup>) -> Result<PreparedMount, Error> {
    let Some(hierarchy) = layout.hierarchies().first() else {
        return Err(Error::unsupported("no cgroup hierarchy"));
    };
    let path = cgroup.map_or_else(|| hierarchy.mount.clone(), |cgroup| directory(&hierarchy.mount, cgroup));
    Ok(PreparedMount::Tree(Copied::new(&path, false, mount.change, None)?))
}

#[expect(clippy::disallowed_methods, reason = "control groups of the host")]
fn hierarchies(mount: &MountPlan, layout: &Layout, cgroup: &Cgroup) -> Result<PreparedMount, Error> {
    let mut trees = Vec::new();
    let mut links = Vec::new();
    for hierarchy in layout.hierarchies() {
        let path = directory(&hierarchy.mount, cgroup);
        if !path.is_dir() {
            continue; // Not a controller that the cgroup has.
        }
        let Some(name) = hierarchy.mount.file_name() else { continue };
        let destination = Inside::new("mounts", &mount.destination.as_path().join(name))?;
        if hierarchy.version == Version::V1 && name.to_string_lossy().contains(',') {
            // Controllers that are mounted together go by their own names too (systemd's file hierarchy).
            for (controller, target) in JOINT {
                if name == *target && hierarchy.controllers.contains(*controller) {
                    let path = mount.destination.as_path().join(controller);
                    links.push((Inside::new("mounts", &path)?, *target));
                }
            }
        }
        trees.push((destination, Copied::new(&path, false, mount.change, None)?));
    }
    let links = links.into_iter().filter_map(|(path, target)| Some((path, as_c_str(target)?))).collect();
    let read_only = mount.change.set.contains(Attributes::RDONLY);
    Ok(PreparedMount::Hierarchies { base: tmpfs(&[("mode", "755")])?, trees, links, read_only })
}

const JOINT: &[(&str, &str)] = &[
    ("cpu", "cpu,cpuacct"),
    ("cpuacct", "cpu,cpuacct"),
    ("net_cls", "net_cls,net_prio"),
    ("net_prio", "net_cls,net_prio"),
];

fn as_c_str(target: &str) -> Option<&'static CStr> {
    match target {
        "cpu,cpuacct" => Some(c"cpu,cpuacct"),
        "net_cls,net_prio" => Some(c"net_cls,net_prio"),
        _ => None,
    }
}

fn directory(mount: &Path, cgroup: &Cgroup) -> PathBuf {
    mount.join(cgroup.path().strip_prefix("/").unwrap_or(cgroup.path()))
}
