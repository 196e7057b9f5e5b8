//! What the store takes on the disk, to the block, and how much is left.

use std::collections::HashMap;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::Error;

use super::Usage;
use super::layout::{Layout, names};

impl Layout {
    /// What all takes but the content of snapshots. `known` is what whole layers take; all else is looked at.
    pub(crate) fn usage(&self, known: &HashMap<u32, Usage>) -> Result<Usage, Error> {
        let is_known = |name: &[u8]| {
            let number = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
            number.is_some_and(|number: u32| known.contains_key(&number))
        };
        let root = open_dir(rustix::fs::CWD, self.path.as_os_str().as_encoded_bytes())
            .map_err(|e| self.unmeasured(b".", e))?;
        let mut total = self.own(root.as_fd(), b".")?;
        for layer in known.values() {
            total.add(*layer);
        }
        for dir in [self.layers.as_fd(), self.notes.as_fd()] {
            for name in names(dir)?.iter().filter(|name| !is_known(name)) {
                total.add(self.whole(dir, name)?);
            }
        }
        for name in names(root.as_fd())? {
            total.add(match &name[..] {
                b"layers" | b"notes" | b"snapshots" => self.own(root.as_fd(), &name)?,
                _ => self.whole(root.as_fd(), &name)?,
            });
        }
        Ok(total)
    }

    /// What a layer takes, with all that belongs to it.
    pub(crate) fn layer_usage(&self, number: u32) -> Result<Usage, Error> {
        let name = number.to_string();
        let mut usage = self.whole(self.layers.as_fd(), name.as_bytes())?;
        usage.add(self.whole(self.notes.as_fd(), name.as_bytes())?);
        Ok(usage)
    }

    /// How full the filesystem is.
    pub(crate) fn space(&self) -> Result<vaquita_sys::fs::Usage, Error> {
        vaquita_sys::fs::usage(&self.layers)
            .map_err(|e| Error::kernel(format!("statfs({})", self.path.display()), e.errno()))
    }

    /// A file, or a directory with all that is in it; nothing where it has gone meanwhile.
    fn whole(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Usage, Error> {
        let mut usage = self.own(dir, name)?;
        match open_dir(dir, name) {
            Ok(inner) => {
                let (bytes, inodes) =
                    vaquita_sys::fs::disk_usage(inner).map_err(|e| self.unmeasured(name, e.errno()))?;
                // It counts the directory itself as an inode, and not its bytes.
                usage.add(Usage { bytes, inodes: inodes - 1 });
                Ok(usage)
            }
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => Ok(usage),
            Err(e) => Err(self.unmeasured(name, e)),
        }
    }

    fn own(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Usage, Error> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Usage { bytes: allocated(&stat), inodes: 1 }),
            Err(Errno::NOENT) => Ok(Usage::default()),
            Err(e) => Err(self.unmeasured(name, e)),
        }
    }

    fn unmeasured(&self, name: &[u8], errno: Errno) -> Error {
        Error::kernel(format!("disk usage of {} in {}", name.escape_ascii(), self.path.display()), errno)
    }
}

impl Usage {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

#[expect(clippy::disallowed_methods, reason = "the store's own directories, by names that it gave")]
fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// The bytes that a file has on the disk.
pub(crate) fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512
}
