//! What a tmpfs takes over from the directory that it will cover (`tmpcopyup`): its mode, or all that is in it.
//!
//! Everything is opened by one name below a descriptor, and no symbolic link is followed. A directory on which something
//! else is mounted is made, but not entered.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::{At, Failure, fail};
use crate::plan::mounts::Fill;

/// How deep directories are copied; more is refused rather than cut off.
const DEEPEST: u32 = 48;

/// Safe between clone and exec: no allocation.
pub(super) fn fill(tmpfs: BorrowedFd<'_>, covered: BorrowedFd<'_>, how: Fill) -> Result<(), Failure> {
    if how == Fill::Nothing {
        return Ok(());
    }
    let stat = rustix::fs::fstat(covered).at("fstat")?;
    let root = open(tmpfs, c".", DIRECTORY)?;
    let keep_mode = match how {
        Fill::Nothing => false,
        Fill::Mode => true,
        Fill::Content { mode } => {
            let covered = open(covered, c".", DIRECTORY)?;
            directory(&covered, &root, stat.st_dev, 0)?;
            rustix::fs::fchown(&root, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
                .at("fchown")?;
            mode
        }
    };
    if keep_mode { rustix::fs::fchmod(&root, mode_of(&stat)).at("fchmod") } else { Ok(()) }
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn directory(from: &OwnedFd, to: &OwnedFd, device: u64, depth: u32) -> Result<(), Failure> {
    if depth > DEEPEST {
        return fail("tmpcopyup: directories too deep", Errno::LOOP);
    }
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.at("getdents64")?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from.as_fd(), to.as_fd(), name, device, depth)?;
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "one name, not followed")]
fn one(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    device: u64,
    depth: u32,
) -> Result<(), Failure> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).at("fstatat")?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::RWXU).at("mkdirat")?;
            let made = open(to, name, DIRECTORY)?;
            if stat.st_dev == device {
                directory(&open(from, name, DIRECTORY)?, &made, device, depth + 1)?;
            }
            finish(&made, &stat)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = open(from, name, flags)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made =
                rustix::io::retry_on_intr(|| rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR))
                    .at("openat")?;
            while rustix::fs::sendfile(&made, &source, None, 1 << 20).at("sendfile")? > 0 {}
            finish(&made, &stat)?;
            capabilities(&source, &made)
        }
        FileType::Symlink => {
            // One byte more than a link can be long stays free for the end.
            let mut space = [MaybeUninit::uninit(); 4096];
            let (target, _) = rustix::fs::readlinkat_raw(from, name, &mut space).at("readlinkat")?;
            let mut text = [0_u8; 4097];
            text[..target.len()].copy_from_slice(target);
            let target = CStr::from_bytes_until_nul(&text).map_err(|_| Errno::NAMETOOLONG);
            rustix::fs::symlinkat(target.at("readlinkat")?, to, name).at("symlinkat")?;
            owner(to, name, &stat)
        }
        kind => {
            rustix::fs::mknodat(to, name, kind, mode_of(&stat), stat.st_rdev).at("mknodat")?;
            owner(to, name, &stat)
        }
    }
}

/// Owner, mode and times, in an order in which none undoes another.
fn finish(made: &OwnedFd, stat: &Stat) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(made, Some(uid), Some(gid)).at("fchown")?;
    rustix::fs::fchmod(made, mode_of(stat)).at("fchmod")?;
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::futimens(made, &times).at("utimensat")
}

/// Capabilities of a program.
fn capabilities(from: &OwnedFd, to: &OwnedFd) -> Result<(), Failure> {
    let name = c"security.capability";
    let mut value = [0_u8; 64];
    match rustix::fs::fgetxattr(from, name, &mut value) {
        Ok(length) => rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()).at("fsetxattr"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => fail("fgetxattr", errno),
    }
}

fn owner(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at("fchownat")
}

fn mode_of(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

#[expect(clippy::disallowed_methods, reason = "one name, not followed")]
fn open(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Failure> {
    rustix::io::retry_on_intr(|| rustix::fs::openat(dir, name, flags, Mode::empty())).at("openat")
}
