//! The new mount API: trees are built detached, and attached once, by fd.
//!
//! Functions here take any path and describe a failure with the call. [`raw`] has the same calls for a process between
//! clone and exec.

mod filesystem;
mod info;
pub mod raw;
mod recipe;
mod trees;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::mount::UnmountFlags;

use crate::error::{Fd, quoted};
use crate::{Error, Result};

pub use filesystem::Filesystem;
pub use info::{MountInfo, mountinfo, mountinfo_of, parse_mountinfo};
pub use raw::{Attr, Attributes, Propagation};
pub use recipe::Recipe;
pub(crate) use trees::FdPath;
pub use trees::{Failed, Trees, fall_back, is_old};

/// A detached copy of the mount at `path` below `dirfd`, or of the mount that `dirfd` is on when `path` is empty; with
/// all mounts below it when `recursive` (open_tree(2) with `OPEN_TREE_CLONE`, Linux 5.2). Symbolic links are followed:
/// a path that others can change goes through [`crate::root::Root`] first.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` where the mount cannot be copied (unbindable, or of another namespace).
pub fn open_tree_clone(dirfd: impl AsFd, path: impl AsRef<Path>, recursive: bool) -> Result<OwnedFd> {
    let path = path.as_ref();
    with_path(path, |path| raw::open_tree_clone(dirfd.as_fd(), path, recursive)).map_err(|errno| {
        let flags = if recursive { "OPEN_TREE_CLONE|AT_RECURSIVE" } else { "OPEN_TREE_CLONE" };
        Error::new(format!("open_tree({}, {}, {flags})", Fd::of(&dirfd), quoted(path)), errno)
    })
}

/// Attaches the detached mount `tree` at `path` below `dir`, or on `dir` itself when `path` is empty. The last
/// component is not followed when it is a symbolic link (move_mount(2), Linux 5.2).
///
/// # Errors
/// `EPERM`, `ENOENT`, `ENOTDIR` for a directory on a file or the reverse.
pub fn move_mount(tree: impl AsFd, dir: impl AsFd, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    with_path(path, |path| raw::move_mount(tree.as_fd(), dir.as_fd(), path)).map_err(|errno| {
        Error::new(
            format!(
                "move_mount({}, \"\", {}, {}, MOVE_MOUNT_F_EMPTY_PATH)",
                Fd::of(&tree),
                Fd::of(&dir),
                quoted(path)
            ),
            errno,
        )
    })
}

/// Changes the attributes of the mount at `path` below `dir`, of `dir` itself when `path` is empty, and of all mounts
/// below it when `recursive` (mount_setattr(2), Linux 5.12).
///
/// # Errors
/// `EPERM` for a locked attribute, `EINVAL` for an unknown attribute or for an identity mapping that the filesystem
/// does not support.
pub fn mount_setattr(dir: impl AsFd, path: impl AsRef<Path>, recursive: bool, attr: &Attr<'_>) -> Result<()> {
    let path = path.as_ref();
    with_path(path, |path| raw::mount_setattr(dir.as_fd(), path, recursive, attr)).map_err(|errno| {
        let flags = if recursive { "AT_RECURSIVE" } else { "0" };
        Error::new(format!("mount_setattr({}, {}, {flags}, {attr:?})", Fd::of(&dir), quoted(path)), errno)
    })
}

/// Makes `new_root` the root of the mount namespace and puts the old one at `put_old` (pivot_root(2)). With `.` for both
/// the old root lies over the new one, to be unmounted at `.`.
///
/// # Errors
/// `EINVAL` unless `new_root` is a mount that is not shared, `EBUSY`.
pub fn pivot_root(new_root: impl AsRef<Path>, put_old: impl AsRef<Path>) -> Result<()> {
    let (new_root, put_old) = (new_root.as_ref(), put_old.as_ref());
    rustix::process::pivot_root(new_root, put_old)
        .map_err(|errno| Error::new(format!("pivot_root({}, {})", quoted(new_root), quoted(put_old)), errno))
}

/// Unmounts what is at `path`, without following a symbolic link in its last component (umount2(2)).
///
/// # Errors
/// `EINVAL` when nothing is mounted there, `EBUSY`, `EPERM`.
pub fn umount(path: impl AsRef<Path>, flags: UnmountFlags) -> Result<()> {
    let path = path.as_ref();
    rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW)
        .map_err(|errno| Error::new(format!("umount2({}, {flags:?})", quoted(path)), errno))
}

/// A path as the kernel takes it, without allocating for a short one.
fn with_path<T>(
    path: &Path,
    call: impl FnOnce(&std::ffi::CStr) -> core::result::Result<T, rustix::io::Errno>,
) -> core::result::Result<T, rustix::io::Errno> {
    rustix::path::Arg::into_with_c_str(path, call)
}
