//! Volumes: making them, and what a container mounts of them.

mod host_path;
mod keep;
mod mounts;
mod nfs;
mod payload;
mod tokens;
mod write;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use vaquita_sys::mount::{self, Filesystem};
use vaquita_sys::root::Root;

pub(super) use self::keep::{Keeper, keep, prepare};
pub(super) use self::mounts::{Abilities, container_mounts, message_file};
use super::context::Context;
use crate::api::{EmptyDirVolumeSource, Quantity, StorageMedium, Volume};
use crate::{Error, Kind, Result, qos};

/// Makes the pod's directory and all its volumes. What is there already is left as it is.
///
/// # Errors
/// The volume that could not be made, and why.
fn make_all(context: &Context) -> Result<()> {
    make_dir(&context.config.root, 0o700)?;
    make_dir(&context.dir(), 0o750)?;
    // Who made this directory, so that a later run can tell whether it is still needed.
    if !context.kept {
        let owner = serde_json::to_vec(&context.owner).unwrap_or_default();
        let file = context.dir().join(OWNER_FILE);
        std::fs::write(&file, owner).map_err(|error| Error::io("write", &file, &error))?;
    }
    make_dir(&context.dir().join("volumes"), 0o750)?;
    make_dir(&context.log_dir(), 0o755)?;
    for volume in &context.pod.spec.volumes {
        make(context, volume).map_err(|error| error.of_volume(&volume.name))?;
    }
    Ok(())
}

/// The file that names the owner of a pod's directory.
pub(super) const OWNER_FILE: &str = "owner.json";

fn make(context: &Context, volume: &Volume) -> Result<()> {
    let path = context.volume(&volume.name);
    if let Some(foreign) = &volume.foreign {
        let message = format!("{foreign} volumes are not supported by this node");
        return Err(Error::new(Kind::Unsupported, message));
    }
    let group = group(context);
    if let Some(source) = &volume.host_path {
        return host_path::prepare(source);
    }
    if volume.nfs.is_some() {
        // What is mounted on it is not looked at: its server may be dead.
        return make_dir(&path, 0o750).map(drop);
    }
    if let Some(source) = &volume.empty_dir {
        return whole(&path, 0o777, || {
            if source.medium == StorageMedium::Memory {
                mount_tmpfs(&path, Some(memory_size(context, source)), 0o777)?;
            }
            set_group(&path, group, 0o777)
        });
    }
    let Some(payload) = payload::of(context, volume)? else { return Ok(()) };
    whole(&path, 0o755, || {
        // Secrets, and what may contain them, never reach a disk.
        if volume.config_map.is_none() {
            mount_tmpfs(&path, None, 0o755)?;
        }
        write::write(&path, &payload, group).map(drop)
    })
}

/// The group that volumes are given to.
fn group(context: &Context) -> Option<i64> {
    context.pod.spec.security_context.as_ref().and_then(|security| security.fs_group)
}

/// Makes a directory and fills it, or leaves nothing: a volume that is there is whole.
fn whole(path: &Path, mode: u32, fill: impl FnOnce() -> Result<()>) -> Result<()> {
    if !make_dir(path, mode)? {
        return Ok(());
    }
    fill().inspect_err(|_| {
        // Both of what was just made, and nothing else; what cannot be undone here is found when the pod is removed.
        let _ = mount::umount(path, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_dir_all(path);
    })
}

/// Size of a memory-backed emptyDir: its own limit, the pod's memory limit, the machine's memory; the least of them.
fn memory_size(context: &Context, source: &EmptyDirVolumeSource) -> i64 {
    let own = source.size_limit.as_ref().map(Quantity::value).filter(|size| *size > 0);
    let pod = Some(qos::pod_resources(&context.pod.spec).memory_limit).filter(|limit| *limit > 0);
    own.into_iter().chain(pod).chain([context.host.memory]).min().unwrap_or(context.host.memory)
}

/// Makes a directory with exactly this mode. Returns whether it was not there.
fn make_dir(path: &Path, mode: u32) -> Result<bool> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(|error| Error::io("mkdir", parent, &error))?;
    match std::fs::create_dir(path) {
        Ok(()) => {
            set_mode(path, mode)?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Error::io("mkdir", path, &error)),
    }
}

/// Independent of the umask.
fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|error| Error::io("chmod", path, &error))
}

fn mount_tmpfs(path: &Path, size: Option<i64>, mode: u32) -> Result<()> {
    let attach = || -> vaquita_sys::Result<()> {
        let filesystem = Filesystem::open("tmpfs")?;
        filesystem.set_string("mode", format!("{mode:o}"))?;
        if let Some(size) = size {
            filesystem.set_string("size", size.to_string())?;
        }
        let tree = filesystem.create()?;
        mount::move_mount(&tree, rustix::fs::CWD, path)
    };
    attach().map_err(|error| system(&error))
}

/// Gives a volume to the group: it can read and write, and what is made inside belongs to it
/// (`SetVolumeOwnership`).
fn set_group(path: &Path, group: Option<i64>, mode: u32) -> Result<()> {
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else { return Ok(()) };
    std::os::unix::fs::lchown(path, None, Some(group)).map_err(|error| Error::io("chown", path, &error))?;
    // setgid and rwx for the group on a directory.
    set_mode(path, mode | 0o2770)
}

/// An error of the kernel, as the sys crate prints it.
fn system(error: &vaquita_sys::Error) -> Error {
    Error::new(Kind::Failed, error.to_string())
}

/// Unmounts everything below a pod's directory and removes it. Returns what went wrong.
pub(super) fn remove_all(root: &Path, uid: &str) -> Vec<String> {
    let dir = root.join(uid);
    if !dir.exists() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let below = || -> Result<Vec<mount::MountInfo>> {
        let all = mount::mountinfo().map_err(|error| system(&error))?;
        Ok(all.into_iter().filter(|mount| mount.mount_point.starts_with(&dir)).collect())
    };
    let found = below().unwrap_or_else(|error| {
        errors.push(error.to_string());
        Vec::new()
    });
    // The last mounted first: later ones may be inside.
    for mount in found.iter().rev() {
        let point = &mount.mount_point;
        let unmounted = match nfs::is_remote(&mount.fs_type) {
            true => nfs::unmount(point),
            false => {
                mount::umount(point, rustix::mount::UnmountFlags::DETACH).map_err(|error| system(&error))
            }
        };
        errors.extend(unmounted.err().map(|error| error.to_string()));
    }
    match below() {
        // A mount that is left may be somebody else's files: nothing below it may be deleted.
        Ok(left) if left.is_empty() => {
            let removed = Root::open_host(root).and_then(|root| root.remove_tree(uid));
            errors.extend(removed.err().map(|error| error.to_string()));
        }
        Ok(left) => {
            errors
                .extend(left.iter().map(|mount| format!("{} is still mounted", mount.mount_point.display())));
        }
        Err(error) => errors.push(error.to_string()),
    }
    errors
}

#[cfg(test)]
mod tests;
