//! The container's root filesystem.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{Mode, OFlags};
use vaquita_sys::mount::{self, Attr, Propagation, mount_setattr, mountinfo, open_tree_clone};
use vaquita_sys::ns;

use crate::plan::ids;
use crate::plan::mounts::Change;
use crate::steps::{HostTree, RootTree};
use crate::{Error, Plan};

/// A directory of the host as a root filesystem, with all that is mounted below it, for [`crate::CreateArgs::rootfs`]:
/// a detached copy, in which what is mounted later does not reach the host. On a kernel without such copies (before
/// Linux 5.12) it is the directory itself, and the container's process makes the copy.
///
/// Symbolic links in `path` are followed: it is the host's.
///
/// # Errors
/// `ENOENT`, `ENOTDIR` for what is no directory, `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` for an unbindable mount.
#[expect(clippy::disallowed_methods, reason = "the directory that the caller names")]
pub fn open(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
        .map_err(|errno| Error::kernel(format!("open({path:?}, O_PATH|O_DIRECTORY)"), errno))?;
    // A detached copy is of no use without the calls that attach it.
    mount::fall_back();
    if mount::is_old() { Ok(directory) } else { Ok(open_tree_clone(&directory, "", true)?) }
}

/// The directory itself, for a container without a mount namespace of its own (see [`Plan::has_own_mounts`]).
///
/// # Errors
/// `ENOENT`, `ENOTDIR` for what is no directory.
#[expect(clippy::disallowed_methods, reason = "the directory that the caller names")]
pub fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    mount::fall_back();
    if mount::is_old() {
        return Err(Error::unsupported(
            "linux.namespaces: a container without a mount namespace of its own needs move_mount(2) and Linux 6.15",
        ));
    }
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| Error::kernel(format!("open({path:?}, O_PATH|O_DIRECTORY)"), errno))
}

/// Maps the identities of a detached root filesystem: a file of user `containerID` on the disk belongs to user `hostID`
/// of the host there. With the mappings of a container's user namespace, a root filesystem unpacked with the ids of an
/// image can be used in it as it is. Mounts below it are not mapped.
///
/// # Errors
/// [`crate::Kind::Invalid`] for maps that are none, `EINVAL` where the filesystem cannot (overlay before Linux 5.19 and its layers, network filesystems) or before Linux
/// 5.12; [`crate::Kind::Unsupported`] without mount_setattr(2).
pub fn map_ids(rootfs: &OwnedFd, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<(), Error> {
    if mount::is_old() {
        return Err(Error::unsupported(
            "id mappings of the root filesystem need mount_setattr(2) of Linux 5.12, which is not to be had here",
        ));
    }
    let maps = (ids::text("linux.uidMappings", uids)?, ids::text("linux.gidMappings", gids)?);
    let userns = ns::new_userns(&maps.0, &maps.1)?;
    Ok(mount_setattr(rootfs, "", false, &Attr { userns: Some(userns.as_fd()), ..Attr::default() })?)
}

/// How a container's process gets it.
pub(crate) fn tree(rootfs: &OwnedFd) -> Result<RootTree<'_>, Error> {
    if mount::is_old() { host_tree(rootfs).map(RootTree::Host) } else { Ok(RootTree::Ready(rootfs.as_fd())) }
}

/// What the container's process copies itself.
#[expect(
    clippy::disallowed_methods,
    reason = "what the kernel says of a descriptor of the host, compared with it"
)]
pub(crate) fn host_tree(rootfs: &OwnedFd) -> Result<HostTree<'_>, Error> {
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(rootfs));
    let path = rustix::fs::readlink(&link, Vec::new())
        .map_err(|errno| Error::kernel(format!("readlink({link:?})"), errno))?;
    let there = rustix::fs::stat(path.as_c_str());
    let own = rustix::fs::fstat(rootfs).map_err(|errno| Error::kernel("fstat(<root filesystem>)", errno))?;
    if !there.is_ok_and(|there| (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)) {
        return Err(Error::unsupported(
            "the root filesystem is a detached mount, which this kernel cannot attach (move_mount(2), mount_setattr(2)) or \
             the container not copy: it must be a directory of the host",
        ));
    }
    let same = rootfs.as_fd();
    Ok(HostTree { path, same, recursive: true, change: Change::default(), propagation: None })
}

/// How the root filesystem propagates while it is set up: never to the host. As runc has it (linux.rootfsPropagation is
/// set when it is the root).
pub(crate) const fn propagation(plan: &Plan) -> (Propagation, bool) {
    match plan.root_propagation {
        None | Some((Propagation::Slave, _)) => (Propagation::Slave, true),
        _ => (Propagation::Private, true),
    }
}

/// Where procfs and sysfs are mounted, those that lie deepest first.
pub(crate) fn hidden_mounts() -> Result<Vec<CString>, Error> {
    let is_hidden = |kind: &str| matches!(kind, "proc" | "sysfs");
    let mounts = mountinfo()?.into_iter().filter(|mount| is_hidden(&mount.fs_type));
    let mut places: Vec<PathBuf> = mounts.map(|mount| mount.mount_point).collect();
    places.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    // The kernel shows no NUL character.
    Ok(places.iter().filter_map(|path| CString::new(path.as_os_str().as_bytes()).ok()).collect())
}
