//! Removing a tree by fd, in a loop: with any depth, few fds, and without following what somebody swaps in.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom};
use rustix::io::Errno;

use super::openat2;

/// How many directories of one listing are remembered; there may be more, then it is listed again.
const BATCH: usize = 1024;

/// How often a directory is listed again, or the way back lost, without anything having been removed meanwhile.
const PATIENCE: u32 = 32;

/// So many directories on the way down stay open; the way back to those above is `..`.
const OPEN: usize = 16;

/// The bytes of entries that are read at a time.
const LISTING: usize = 8 << 10;

/// What is removed, and how much room that took, if somebody wants to know.
pub(super) struct Removal {
    /// Bytes on the disk that are free now, of files whose last link went, and of directories.
    freed: Option<u64>,
    listing: Box<[MaybeUninit<u8>]>,
}

/// A directory on the way down.
struct Frame {
    name: CString,
    at: At,
    /// Whether its listing has been read before, and whether all in it was looked at.
    read: bool,
    listed: bool,
    /// Directories inside that are not empty, still to be removed.
    pending: Vec<CString>,
}

enum At {
    Open(OwnedFd),
    /// With its device and inode.
    Closed((u64, u64)),
}

impl Frame {
    /// Opens a directory inside: not through a symbolic link, not into another mount.
    fn enter(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let at = At::Open(openat2(dir, name, flags, Mode::empty(), resolve)?);
        Ok(Self { name: name.to_owned(), at, read: false, listed: false, pending: Vec::new() })
    }

    fn dir(&self) -> Result<&OwnedFd, Errno> {
        match &self.at {
            At::Open(dir) => Ok(dir),
            // Only those far above are closed.
            At::Closed(_) => Err(Errno::BADF),
        }
    }

    fn close(&mut self) -> Result<(), Errno> {
        if let At::Open(dir) = &self.at {
            self.at = At::Closed(identity(dir)?);
        }
        Ok(())
    }

    /// Comes back from a directory inside. False when that is inside another one by now.
    fn reopen(&mut self, from: &Self) -> Result<bool, Errno> {
        let At::Closed(expected) = self.at else { return Ok(true) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let parent = openat2(from.dir()?.as_fd(), c"..", flags, Mode::empty(), ResolveFlags::empty())?;
        let is_it = identity(&parent)? == expected;
        self.at = At::Open(parent);
        Ok(is_it)
    }
}

impl Removal {
    /// Counts what becomes free, or saves itself the trouble.
    pub(super) fn new(counts: bool) -> Self {
        Self { freed: counts.then_some(0), listing: Box::new_uninit_slice(LISTING) }
    }

    /// Removes `name` of `dir`; returns the bytes that are free now, if they were to be counted.
    pub(super) fn tree(mut self, dir: BorrowedFd<'_>, name: &CString) -> Result<u64, Errno> {
        let mut futile = 0;
        let mut kind = FileType::Unknown;
        loop {
            match unlink(dir, name, kind, &mut self.freed) {
                Ok(()) => return Ok(self.freed.unwrap_or_default()),
                Err(Errno::NOTEMPTY) => kind = FileType::Directory,
                Err(Errno::NOTDIR) if kind == FileType::Directory => {
                    kind = FileType::Unknown;
                    continue;
                }
                Err(errno) => return Err(errno),
            }
            match self.contents(dir, name) {
                Ok(true) => {}
                // Something was renamed on the way: from the top again.
                Ok(false) if futile < PATIENCE => futile += 1,
                Ok(false) => return Err(Errno::NOTEMPTY),
                // It became something else, which the next unlink removes or reports.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if futile < PATIENCE => futile += 1,
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Empties the directory. False when the way back up was lost.
    fn contents(&mut self, top: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
        let mut stack = vec![Frame::enter(top, name)?];
        let mut futile = 0;
        loop {
            let depth = stack.len();
            let Some(frame) = stack.last_mut() else { return Ok(true) };
            if let Some(next) = frame.pending.pop() {
                match Frame::enter(frame.dir()?.as_fd(), &next) {
                    Ok(inside) => {
                        if depth >= OPEN {
                            stack[depth - OPEN].close()?;
                        }
                        stack.push(inside);
                    }
                    // It became something else.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => frame.listed = false,
                    Err(errno) => return Err(errno),
                }
                continue;
            }
            if !frame.listed {
                if std::mem::replace(&mut frame.read, true) {
                    rustix::fs::seek(frame.dir()?, SeekFrom::Start(0))?;
                }
                let (removed, pending) = self.sweep(frame.dir()?)?;
                frame.listed = pending.len() < BATCH;
                frame.pending = pending;
                futile = if removed || frame.pending.is_empty() { 0 } else { futile + 1 };
                if futile > PATIENCE + u32::try_from(depth).unwrap_or(u32::MAX) {
                    return Err(Errno::NOTEMPTY);
                }
                continue;
            }
            // Nothing left in here: up, and remove it from there.
            let Some(done) = stack.pop() else { return Ok(true) };
            let Some(above) = stack.last_mut() else { return Ok(true) };
            if !above.reopen(&done)? {
                return Ok(false);
            }
            match unlink(above.dir()?.as_fd(), &done.name, FileType::Directory, &mut self.freed) {
                Ok(()) => futile = 0,
                // Somebody has added something, or put something else there.
                Err(Errno::NOTEMPTY | Errno::NOTDIR) => {
                    above.listed = false;
                    futile += 1;
                }
                Err(errno) => return Err(errno),
            }
            if futile > PATIENCE {
                return Err(Errno::NOTEMPTY);
            }
        }
    }

    /// Removes all that is not a directory with something in it; says whether anything was, and names those directories.
    fn sweep(&mut self, dir: &OwnedFd) -> Result<(bool, Vec<CString>), Errno> {
        let (mut removed, mut full) = (false, Vec::new());
        let mut entries = RawDir::new(dir, &mut self.listing);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match unlink(dir.as_fd(), name, entry.file_type(), &mut self.freed) {
                Ok(()) => removed = true,
                Err(Errno::NOTEMPTY | Errno::NOTDIR) => full.push(name.to_owned()),
                Err(errno) => return Err(errno),
            }
            if full.len() == BATCH {
                break;
            }
        }
        Ok((removed, full))
    }
}

/// Removes a file, or a directory that is empty. Gone already is fine.
fn unlink(dir: BorrowedFd<'_>, name: &CStr, kind: FileType, freed: &mut Option<u64>) -> Result<(), Errno> {
    let room = if freed.is_some() { room(dir, name) } else { 0 };
    let result = match kind {
        FileType::Directory => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
        _ => match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            // Linux says EISDIR; POSIX, and some filesystems, EPERM.
            Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
            other => other,
        },
    };
    match result {
        Ok(()) => {
            *freed = freed.map(|freed| freed + room);
            Ok(())
        }
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::EXIST) => Err(Errno::NOTEMPTY),
        other => other,
    }
}

/// The bytes that become free when this name goes: none where the file has others.
fn room(dir: BorrowedFd<'_>, name: &CStr) -> u64 {
    let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return 0 };
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_dir || stat.st_nlink == 1 { u64::try_from(stat.st_blocks).unwrap_or_default() * 512 } else { 0 }
}

fn identity(dir: &OwnedFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}
