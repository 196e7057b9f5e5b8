//! Mount calls for a process between clone and exec: no allocation, a bare error number.

use std::ffi::CStr;
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use crate::syscall::check;

/// `MOUNT_ATTR_*` (mount_setattr(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// No attribute.
    pub const NONE: Self = Self(0);
    /// Nobody writes through this mount.
    pub const RDONLY: Self = Self(0x1);
    /// Set-user-id bits and file capabilities have no effect.
    pub const NOSUID: Self = Self(0x2);
    /// Device files cannot be opened.
    pub const NODEV: Self = Self(0x4);
    /// Programs cannot be run.
    pub const NOEXEC: Self = Self(0x8);
    /// All bits of the access time mode: to be cleared when one of [`Self::NOATIME`] or [`Self::STRICTATIME`] is set.
    pub const ATIME: Self = Self(0x70);
    /// Access times are not kept.
    pub const NOATIME: Self = Self(0x10);
    /// Access times are always kept.
    pub const STRICTATIME: Self = Self(0x20);
    /// Access times of directories are not kept.
    pub const NODIRATIME: Self = Self(0x80);
    /// Identities are mapped by the user namespace given.
    pub const IDMAP: Self = Self(0x0010_0000);
    /// Symbolic links are not followed (Linux 5.14).
    pub const NOSYMFOLLOW: Self = Self(0x0020_0000);

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The kernel's bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether every attribute of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no attribute is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Attributes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Attributes {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// How mounts and unmounts spread between copies of a mount (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// Both ways.
    Shared,
    /// From the original to the copy.
    Slave,
    /// Not at all, and it cannot be copied.
    Unbindable,
}

impl Propagation {
    /// The kernel's `MS_*` flag.
    #[must_use]
    pub const fn bits(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Shared => libc::MS_SHARED,
            Self::Slave => libc::MS_SLAVE,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// A change to the attributes of a mount.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attr<'a> {
    /// Set these; [`Attributes::IDMAP`] is added when `userns` is given.
    pub set: Attributes,
    /// Clear these, before the others are set.
    pub clear: Attributes,
    /// Change how it propagates.
    pub propagation: Option<Propagation>,
    /// Map identities as this user namespace does (Linux 5.12, and the filesystem must support it).
    pub userns: Option<BorrowedFd<'a>>,
}

/// [`super::open_tree_clone`]. Safe between clone and exec: no allocation.
///
/// # Errors
/// As there.
pub fn open_tree_clone(dirfd: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
    rustix::mount::open_tree(dirfd, path, flags)
}

/// [`super::move_mount`]. Safe between clone and exec: no allocation.
///
/// # Errors
/// As there.
pub fn move_mount(tree: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    flags.set(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH, path.is_empty());
    rustix::mount::move_mount(tree, c"", dir, path, flags)
}

/// [`super::mount_setattr`]. Safe between clone and exec: no allocation.
///
/// # Errors
/// As there.
pub fn mount_setattr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attr: &Attr<'_>,
) -> Result<(), Errno> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let mut kernel = MountAttr {
        set: attr.set.0,
        clear: attr.clear.0,
        propagation: attr.propagation.map_or(0, Propagation::bits),
        userns_fd: 0,
    };
    if let Some(userns) = attr.userns {
        kernel.set |= Attributes::IDMAP.0;
        kernel.userns_fd = u64::from(userns.as_raw_fd().unsigned_abs());
    }
    let mut flags = if recursive {
        0x8000 /* AT_RECURSIVE */
    } else {
        0
    };
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    // SAFETY: path is NUL-terminated and the structure has the size given, MOUNT_ATTR_SIZE_VER0.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const kernel,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// [`super::pivot_root`]. Safe between clone and exec: no allocation.
///
/// # Errors
/// As there.
pub fn pivot_root(new_root: &CStr, put_old: &CStr) -> Result<(), Errno> {
    rustix::process::pivot_root(new_root, put_old)
}

/// Unmounts what is at `path` now, and for good when its last user is gone (`MNT_DETACH`), without following a symbolic
/// link in the last component. Safe between clone and exec: no allocation.
///
/// # Errors
/// `EINVAL` when nothing is mounted there, `EPERM`.
pub fn umount_detached(path: &CStr) -> Result<(), Errno> {
    use rustix::mount::UnmountFlags;
    rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
}
