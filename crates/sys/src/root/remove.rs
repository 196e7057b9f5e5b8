//! Removing a tree by fd, in a loop: with any depth, few fds, and without following what somebody swaps in.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::openat2;

/// How many directories of one listing are remembered; there may be more, then it is listed again.
const BATCH: usize = 1024;

/// How often a directory is listed again, or the way back lost, without anything having been removed meanwhile.
const PATIENCE: u32 = 32;

/// A directory on the way down.
struct Frame {
    name: CString,
    identity: (u64, u64),
    /// Directories inside that are not empty, still to be removed.
    pending: Vec<CString>,
}

/// Removes `name` of `dir`.
pub(super) fn tree(dir: BorrowedFd<'_>, name: &CString) -> Result<(), Errno> {
    let mut futile = 0;
    loop {
        match unlink(dir, name) {
            Ok(()) => return Ok(()),
            Err(Errno::NOTEMPTY) => {}
            Err(errno) => return Err(errno),
        }
        match contents(dir, name) {
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
fn contents(top: BorrowedFd<'_>, name: &CString) -> Result<bool, Errno> {
    let mut here = enter(top, name)?;
    let mut stack = vec![Frame { name: name.clone(), identity: identity(&here)?, pending: Vec::new() }];
    let mut futile = 0;
    loop {
        let Some(frame) = stack.last_mut() else { return Ok(true) };
        if let Some(next) = frame.pending.pop() {
            match enter(here.as_fd(), &next) {
                Ok(dir) => {
                    stack.push(Frame { name: next, identity: identity(&dir)?, pending: Vec::new() });
                    here = dir;
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno),
            }
            continue;
        }
        let (removed, pending) = sweep(&here)?;
        let empty = pending.is_empty();
        frame.pending = pending;
        if !empty {
            futile = if removed { 0 } else { futile + 1 };
            if futile > PATIENCE + u32::try_from(stack.len()).unwrap_or(u32::MAX) {
                return Err(Errno::NOTEMPTY);
            }
            continue;
        }
        // Nothing left in here: up, and remove it from there.
        let Some(done) = stack.pop() else { return Ok(true) };
        let Some(above) = stack.last() else { return Ok(true) };
        let parent = openat2(
            here.as_fd(),
            c"..",
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
            ResolveFlags::empty(),
        )?;
        if identity(&parent)? != above.identity {
            return Ok(false);
        }
        here = parent;
        match unlink(here.as_fd(), &done.name) {
            Ok(()) => futile = 0,
            Err(Errno::NOTEMPTY) => futile += 1,
            Err(errno) => return Err(errno),
        }
        if futile > PATIENCE {
            return Err(Errno::NOTEMPTY);
        }
    }
}

/// Removes all that is not a directory with something in it; says whether anything was, and names those directories.
fn sweep(dir: &OwnedFd) -> Result<(bool, Vec<CString>), Errno> {
    let mut removed = false;
    let mut full = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let result = if entry.file_type() == FileType::Directory {
            rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
        } else {
            unlink(dir.as_fd(), name)
        };
        match result {
            Ok(()) | Err(Errno::NOENT) => removed = true,
            Err(Errno::NOTEMPTY | Errno::NOTDIR) => {
                full.push(name.to_owned());
                if full.len() == BATCH {
                    break;
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok((removed, full))
}

/// Removes a file, or a directory that is empty. Gone already is fine.
fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let result = match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        // Linux says EISDIR; POSIX, and some filesystems, EPERM.
        Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
        other => other,
    };
    match result {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::EXIST) => Err(Errno::NOTEMPTY),
        other => other,
    }
}

/// Opens a directory inside: not through a symbolic link, not into another mount.
fn enter(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(dir, name, flags, Mode::empty(), resolve)
}

fn identity(dir: &OwnedFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}
