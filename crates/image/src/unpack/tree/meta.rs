//! Owner, mode, time and attributes of an entry.

use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::Error;

use super::{Place, failed};

/// What an entry says about its file besides the content.
#[derive(Clone, Debug)]
pub(in crate::unpack) struct Meta {
    /// Permission bits, with set-uid, set-gid and sticky.
    pub(in crate::unpack) mode: u32,
    pub(in crate::unpack) uid: u32,
    pub(in crate::unpack) gid: u32,
    pub(in crate::unpack) mtime: Timespec,
    /// Names and values; see [`is_allowed`].
    pub(in crate::unpack) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Meta {
    pub(super) fn mode(&self) -> Mode {
        Mode::from_raw_mode(self.mode & 0o7777)
    }

    /// Sets everything on an open file or directory. The order matters: a change of owner takes away set-uid bits and
    /// file capabilities.
    pub(in crate::unpack) fn apply(&self, file: BorrowedFd<'_>, path: &[u8]) -> Result<(), Error> {
        let (owner, group) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::fs::fchown(file, Some(owner), Some(group)).map_err(|e| failed("fchown", path, e))?;
        rustix::fs::fchmod(file, self.mode()).map_err(|e| failed("fchmod", path, e))?;
        for (name, value) in &self.xattrs {
            match rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
                // `user.` attributes are a matter of the filesystem; a file capability is not.
                Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") => {}
                other => other.map_err(|e| failed("fsetxattr", path, e))?,
            }
        }
        set_time(file, self.mtime).map_err(|e| failed("futimens", path, e))
    }

    /// Owner and time of what cannot be opened: a link, a device, a fifo.
    pub(super) fn apply_at(&self, place: &Place) -> Result<(), Error> {
        let (owner, group) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::fs::chownat(
            &*place.dir,
            &place.name[..],
            Some(owner),
            Some(group),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|e| place.failed("fchownat", e))?;
        let times = Timestamps { last_access: self.mtime, last_modification: self.mtime };
        rustix::fs::utimensat(&*place.dir, &place.name[..], &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| place.failed("utimensat", e))
    }
}

/// The attributes that an image may set. What steers overlayfs itself is an attack and refused by the caller; labels of
/// security modules belong to the machine that the image was built on.
pub(in crate::unpack) fn is_allowed(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.")
}

pub(super) fn set_time(file: BorrowedFd<'_>, time: Timespec) -> Result<(), Errno> {
    rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })
}

pub(super) fn mtime(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}
