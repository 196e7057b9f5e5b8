//! What a container mounts: its volumes, /etc/hosts, the file of its termination message.

use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use vaquita_proto::cri;
use vaquita_sys::mount;
use vaquita_sys::root::Root;

use super::{set_mode, system};
use crate::agent::context::Context;
use crate::agent::env::Environment;
use crate::api::{Container, MountPropagation, RecursiveReadOnly, Volume, VolumeMount};
use crate::{Error, Kind, Result};

/// What the runtime can do with mounts.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::agent) struct Abilities {
    /// Make them read-only with all below them.
    pub(in crate::agent) recursive_read_only: bool,
    /// Give files the SELinux label of the pod.
    pub(in crate::agent) labels: bool,
}

/// The mounts of a container. What is made for the pod gets its label, what is the host's keeps its own.
///
/// # Errors
/// A subpath that cannot be used, or a mount that the runtime cannot make read-only as asked.
pub(in crate::agent) fn container_mounts(
    context: &Context,
    container: &Container,
    attempt: u32,
    env: &Environment,
    abilities: Abilities,
) -> Result<Vec<cri::Mount>> {
    let mut mounts = Vec::new();
    for (index, volume_mount) in container.volume_mounts.iter().enumerate() {
        let mut volumes = context.pod.spec.volumes.iter();
        let volume = volumes.find(|volume| volume.name == volume_mount.name);
        let volume = volume.ok_or_else(|| Error::not_found(format!("no volume {:?}", volume_mount.name)))?;
        let mount = one(context, container, index, volume, volume_mount, env, abilities);
        mounts.push(mount.map_err(|error| error.context(format!("mount {}", volume_mount.mount_path)))?);
    }
    let has = |path: &str| mounts.iter().any(|mount: &cri::Mount| mount.container_path == path);
    let mut own = Vec::new();
    if !has("/etc/hosts") {
        own.push(("/etc/hosts".to_owned(), context.hosts_file()));
    }
    let message_path = absolute(&container.termination_message_path);
    if !has(&message_path) {
        own.push((message_path, context.message_file(&container.name, attempt)));
    }
    mounts.extend(own.into_iter().map(|(container_path, host_path)| cri::Mount {
        container_path,
        host_path: host_path.to_string_lossy().into_owned(),
        selinux_relabel: abilities.labels,
        ..cri::Mount::default()
    }));
    Ok(mounts)
}

/// Makes the file that a container's termination message is written to: any user may.
///
/// # Errors
/// It could not be made.
pub(in crate::agent) fn message_file(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(|error| Error::io("mkdir", parent, &error))?;
    std::fs::File::create(path).map_err(|error| Error::io("create", path, &error))?;
    set_mode(path, 0o666)
}

fn one(
    context: &Context,
    container: &Container,
    index: usize,
    volume: &Volume,
    volume_mount: &VolumeMount,
    env: &Environment,
    abilities: Abilities,
) -> Result<cri::Mount> {
    let source = match &volume.host_path {
        Some(host_path) => PathBuf::from(&host_path.path),
        None => context.volume(&volume.name),
    };
    let expanded = env.expand_strictly(&volume_mount.sub_path_expr)?;
    let sub_path = if volume_mount.sub_path_expr.is_empty() { &volume_mount.sub_path } else { &expanded };
    let host_path = match sub_path.is_empty() {
        true => source,
        false => bind_subpath(&source, sub_path, &context.subpaths(&container.name).join(index.to_string()))?,
    };
    let can_recurse = abilities.recursive_read_only;
    let recursive = match volume_mount.recursive_read_only.unwrap_or_default() {
        RecursiveReadOnly::Disabled => false,
        RecursiveReadOnly::IfPossible => can_recurse,
        RecursiveReadOnly::Enabled if can_recurse => true,
        RecursiveReadOnly::Enabled => {
            let message = "recursiveReadOnly: the runtime does not support recursive read-only mounts";
            return Err(Error::new(Kind::Unsupported, message));
        }
    };
    let propagation = match volume_mount.mount_propagation.unwrap_or_default() {
        MountPropagation::None => cri::MountPropagation::PropagationPrivate,
        MountPropagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        MountPropagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    Ok(cri::Mount {
        container_path: absolute(&volume_mount.mount_path),
        host_path: host_path.to_string_lossy().into_owned(),
        readonly: volume_mount.read_only || is_read_only(volume),
        propagation: propagation.into(),
        recursive_read_only: recursive,
        selinux_relabel: abilities.labels && volume.host_path.is_none() && volume.nfs.is_none(),
        ..cri::Mount::default()
    })
}

/// Volumes that nobody in the pod may write to: what the agent keeps up to date, and what was asked to be so.
fn is_read_only(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
        || volume.nfs.as_ref().is_some_and(|nfs| nfs.read_only)
}

/// Mounts a path inside a volume at a place of the agent's, which nobody in the pod can change: the path is resolved
/// with the volume as its root, so that links in the volume lead nowhere else, and used by fd.
fn bind_subpath(volume: &Path, sub_path: &str, target: &Path) -> Result<PathBuf> {
    if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!("subPath {sub_path:?} must be relative and without '..'")));
    }
    let inside = within(volume, sub_path)?;
    let root = Root::open_host(volume).map_err(|error| system(&error))?;
    let found = match root.open(&inside, OFlags::PATH) {
        Err(error) if error.errno() == rustix::io::Errno::NOENT => root.mkdir_all(&inside, 0o750),
        found => found,
    };
    let found = found.map_err(|error| system(&error))?;
    let stat = rustix::fs::fstat(&found)
        .map_err(|errno| Error::new(Kind::Failed, format!("fstat of subPath {sub_path:?}: {errno}")))?;
    let parent = target.parent().unwrap_or(target);
    std::fs::create_dir_all(parent).map_err(|error| Error::io("mkdir", parent, &error))?;
    // What an earlier run of the container mounted there.
    let _ = mount::umount(target, rustix::mount::UnmountFlags::DETACH);
    remove(target)?;
    let made = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => std::fs::create_dir(target),
        _ => std::fs::File::create(target).map(drop),
    };
    made.map_err(|error| Error::io("create", target, &error))?;
    let tree = mount::open_tree_clone(&found, "", true).map_err(|error| system(&error))?;
    mount::move_mount(&tree, rustix::fs::CWD, target).map_err(|error| system(&error))?;
    Ok(target.to_owned())
}

/// Where a path in a volume leads, relative to the volume, with its links followed as the host has them. That one leads
/// out is said here; that none does, whatever changes after this, is seen to where it is opened.
fn within(volume: &Path, sub_path: &str) -> Result<PathBuf> {
    let real = |path: &Path| path.canonicalize().map_err(|error| Error::io("resolve", path, &error));
    let top = real(volume)?;
    let mut there = volume.join(sub_path);
    let mut missing = Vec::new();
    // What is not there yet will be made; a link that leads nowhere is there.
    while there.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        let Some(name) = there.file_name() else { break };
        missing.push(name.to_owned());
        there.pop();
    }
    let found = real(&there)?;
    let inside = found.strip_prefix(&top).map_err(|_| {
        let message = format!("subPath {sub_path:?} leads out of the volume, to {}", found.display());
        Error::new(Kind::Invalid, message)
    })?;
    Ok(inside.components().map(|part| part.as_os_str().to_owned()).chain(missing.into_iter().rev()).collect())
}

/// Removes an empty mount point.
fn remove(target: &Path) -> Result<()> {
    let result = match std::fs::symlink_metadata(target) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir(target),
        Ok(_) => std::fs::remove_file(target),
        Err(_) => return Ok(()),
    };
    result.map_err(|error| Error::io("remove", target, &error))
}

/// A path in the container; relative ones count from its root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}
