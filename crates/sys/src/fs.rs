//! Files by fd: durable replacement, usage, extended attributes.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Fd, quoted};
use crate::{Error, Result};

/// How full a filesystem is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its size in bytes.
    pub bytes: u64,
    /// Free bytes that a process without privileges can use.
    pub bytes_available: u64,
    /// Bytes in use.
    pub bytes_used: u64,
    /// How many inodes there are; 0 where the filesystem makes them as needed.
    pub inodes: u64,
    /// Inodes in use.
    pub inodes_used: u64,
}

/// How full the filesystem of `fd` is (statfs(2)).
///
/// # Errors
/// `EIO` and the like.
pub fn usage(fd: impl AsFd) -> Result<Usage> {
    let stat =
        rustix::fs::fstatvfs(&fd).map_err(|errno| Error::new(format!("fstatfs({})", Fd::of(&fd)), errno))?;
    let size = stat.f_frsize.max(1);
    Ok(Usage {
        bytes: stat.f_blocks * size,
        bytes_available: stat.f_bavail * size,
        bytes_used: stat.f_blocks.saturating_sub(stat.f_bfree) * size,
        inodes: stat.f_files,
        inodes_used: stat.f_files.saturating_sub(stat.f_ffree),
    })
}

/// What a directory tree takes: bytes allocated on disk, and inodes. A file with several links counts once; other
/// filesystems mounted inside are left out, and what is deeper than a path can be long (4095 bytes). Files that vanish
/// meanwhile are not an error.
///
/// # Errors
/// Those of opening and reading directories, except that they are gone.
pub fn disk_usage(dir: impl AsFd) -> Result<(u64, u64)> {
    let root = reopen_dir(dir.as_fd())?;
    let device = rustix::fs::fstat(&root).map_err(|errno| Error::new("fstat(..)", errno))?.st_dev;
    let (mut bytes, mut inodes) = (0u64, 1u64);
    let mut linked = std::collections::HashSet::new();
    let mut stack = vec![CString::default()];
    // Paths relative to the root, so that the number of open fds does not depend on the depth.
    while let Some(path) = stack.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = if path.is_empty() {
            reopen_dir(root.as_fd()).map_err(|error| error.errno())
        } else {
            beneath(root.as_fd(), &path, flags)
        };
        let dir = match opened {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => continue,
            Err(errno) => return Err(Error::new(format!("openat2({}, {path:?})", Fd::of(&root)), errno)),
        };
        for entry in Dir::read_from(&dir).map_err(|errno| Error::new("getdents64(..)", errno))? {
            let entry = entry.map_err(|errno| Error::new("getdents64(..)", errno))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if stat.st_dev != device || (stat.st_nlink > 1 && !is_dir(&stat) && !linked.insert(stat.st_ino)) {
                continue;
            }
            bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            inodes += 1;
            if is_dir(&stat) {
                stack.push(join(&path, name));
            }
        }
    }
    Ok((bytes, inodes))
}

/// Replaces the file `name` in `dir` in one step: readers see the old bytes or the new ones, never a part. With `durable`
/// the same holds for a power cut, and on return the new bytes are kept.
///
/// A process that is killed in the middle leaves a file `.<name>.<pid>.<number>.tmp`, which whoever owns the directory may
/// remove when it starts.
///
/// # Errors
/// `ENOSPC`, `EDQUOT`, `EROFS`, `EACCES`. The old file is then as it was, and no other is left behind.
pub fn write_atomic(dir: impl AsFd, name: &str, bytes: &[u8], mode: u32, durable: bool) -> Result<()> {
    let dir = dir.as_fd();
    let draft = Draft::write(dir, name, bytes, mode)?;
    if durable {
        rustix::fs::fdatasync(&draft.file).map_err(|errno| draft.error("fdatasync", errno))?;
    }
    draft.publish()?;
    if durable {
        sync_dir(dir)?;
    }
    Ok(())
}

/// A file that is written, but does not have its name yet. Dropped without [`Self::publish`] it is removed.
///
/// A process that is killed before leaves a file as [`write_atomic`] does.
#[derive(Debug)]
pub struct Draft<'a> {
    dir: BorrowedFd<'a>,
    name: &'a str,
    /// None once it is published.
    temporary: Option<String>,
    file: OwnedFd,
}

impl<'a> Draft<'a> {
    /// Writes `bytes` to a file beside the one that is to be replaced. `mode` does not depend on the umask.
    ///
    /// # Errors
    /// As [`write_atomic`].
    pub fn write(dir: BorrowedFd<'a>, name: &'a str, bytes: &[u8], mode: u32) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            let call = format!("renameat({}, .., {name:?})", Fd::of(&dir));
            return Err(Error::refused(call, Errno::INVAL, "not the name of a file in a directory"));
        }
        let error = |what: &str, errno| Error::new(format!("{what}({}, {name:?})", Fd::of(&dir)), errno);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let (temporary, file) = loop {
            let serial = NEXT.fetch_add(1, Ordering::Relaxed);
            let temporary = format!(".{name}.{}.{serial}.tmp", std::process::id());
            match rustix::io::retry_on_intr(|| {
                rustix::fs::openat(dir, &temporary, flags, Mode::from_bits_truncate(mode))
            }) {
                Ok(file) => break (temporary, file),
                // Left by a process that had the same pid and was killed in the middle.
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(error("openat", errno)),
            }
        };
        let draft = Self { dir, name, temporary: Some(temporary), file };
        rustix::fs::fchmod(&draft.file, Mode::from_bits_truncate(mode))
            .map_err(|errno| error("fchmod", errno))?;
        write_all(&draft.file, bytes).map_err(|errno| error("write", errno))?;
        Ok(draft)
    }

    /// Gives it its name, in one step.
    ///
    /// # Errors
    /// As [`write_atomic`].
    pub fn publish(mut self) -> Result<()> {
        let Some(temporary) = self.temporary.as_deref() else { return Ok(()) };
        rustix::fs::renameat(self.dir, temporary, self.dir, self.name)
            .map_err(|errno| self.error("renameat", errno))?;
        self.temporary = None;
        Ok(())
    }

    /// As [`Self::publish`], for a name that is mostly taken: exchanges the two and removes the old one. A rename over a file has ext4
    /// and others write the new one at once, which takes 0.3 ms; so after a power cut this one may be empty.
    ///
    /// # Errors
    /// As [`write_atomic`].
    pub fn replace(mut self) -> Result<()> {
        let Some(temporary) = self.temporary.take() else { return Ok(()) };
        match rustix::fs::renameat_with(self.dir, &temporary, self.dir, self.name, RenameFlags::EXCHANGE) {
            // What has the other name now is the old file, and whether it can be removed changes nothing.
            Ok(()) => {
                let _ = rustix::fs::unlinkat(self.dir, &temporary, AtFlags::empty());
                Ok(())
            }
            // The name is free, or the filesystem cannot exchange (EINVAL, and who knows what else).
            Err(_) => {
                self.temporary = Some(temporary);
                self.publish()
            }
        }
    }

    fn error(&self, what: &str, errno: Errno) -> Error {
        Error::new(format!("{what}({}, {:?})", Fd::of(&self.dir), self.name), errno)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = rustix::fs::unlinkat(self.dir, temporary, AtFlags::empty());
        }
    }
}

/// Makes creations, renames and removals in a directory durable.
///
/// # Errors
/// `EIO`.
pub fn sync_dir(dir: impl AsFd) -> Result<()> {
    rustix::fs::fsync(reopen_dir(dir.as_fd())?)
        .map_err(|errno| Error::new(format!("fsync({})", Fd::of(&dir)), errno))
}

/// Has the kernel begin to write what a file holds to the disk, so that a later sync has less to wait for. It waits for nothing itself,
/// makes nothing durable, and where it does not work nothing is lost (sync_file_range(2)).
pub fn begin_writeback(file: impl AsFd) {
    // SAFETY: the descriptor is open for the time of the call; 0 and 0 are the whole file, and no memory is passed.
    unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Opens a directory of the host that is trusted: its path must not be under anybody else's control.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `EACCES`.
pub fn open_dir(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
        .map_err(|errno| Error::new(format!("open({}, O_RDONLY|O_DIRECTORY)", quoted(path)), errno))
}

/// The value of the extended attribute, at most `limit` bytes; none when the file does not have it.
///
/// # Errors
/// `ERANGE` for a longer value, `EOPNOTSUPP` where the filesystem has no such attributes.
pub fn xattr(fd: impl AsFd, name: &str, limit: usize) -> Result<Option<Vec<u8>>> {
    let mut value = Vec::with_capacity(limit);
    match rustix::fs::fgetxattr(&fd, name, rustix::buffer::spare_capacity(&mut value)) {
        Ok(_) => Ok(Some(value)),
        Err(Errno::NODATA) => Ok(None),
        Err(errno) => Err(Error::new(format!("fgetxattr({}, {name:?})", Fd::of(&fd)), errno)),
    }
}

/// Sets the extended attribute.
///
/// # Errors
/// `EPERM`, `EOPNOTSUPP`, `ENOSPC`, `E2BIG`.
pub fn set_xattr(fd: impl AsFd, name: &str, value: &[u8]) -> Result<()> {
    rustix::fs::fsetxattr(&fd, name, value, rustix::fs::XattrFlags::empty())
        .map_err(|errno| Error::new(format!("fsetxattr({}, {name:?}, ..)", Fd::of(&fd)), errno))
}

/// Sets the permissions of the file that an `O_PATH` descriptor stands for, which fchmod(2) does not take, by way of the
/// host's `/proc/self/fd`. Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM`, `EROFS`; `ENOENT` without `/proc`.
pub fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> core::result::Result<(), Errno> {
    rustix::fs::chmod(crate::mount::FdPath::of(fd).as_c_str(), Mode::from_bits_truncate(mode))
}

pub(crate) fn write_all(file: impl AsFd, mut bytes: &[u8]) -> core::result::Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Another description of the same directory, readable, with an offset of its own.
pub(crate) fn reopen_dir(dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::io::retry_on_intr(|| rustix::fs::openat(dir, c".", flags, Mode::empty()))
        .map_err(|errno| Error::new(format!("openat({}, \".\", O_RDONLY|O_DIRECTORY)", Fd::of(&dir)), errno))
}

fn beneath(dir: BorrowedFd<'_>, path: &CString, flags: OFlags) -> core::result::Result<OwnedFd, Errno> {
    use rustix::fs::ResolveFlags;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    crate::root::openat2(dir, path.as_c_str(), flags, Mode::empty(), resolve)
}

fn join(parent: &CString, name: &std::ffi::CStr) -> CString {
    let mut bytes = parent.as_bytes().to_vec();
    if !bytes.is_empty() {
        bytes.push(b'/');
    }
    bytes.extend_from_slice(name.to_bytes());
    // Neither part has a NUL byte inside.
    CString::new(bytes).unwrap_or_default()
}

fn is_dir(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_in_one_step() {
        let dir = tempfile::tempdir().unwrap();
        let fd = open_dir(dir.path()).unwrap();
        for durable in [false, true] {
            write_atomic(&fd, "a", b"one", 0o640, durable).unwrap();
            write_atomic(&fd, "a", b"two", 0o640, durable).unwrap();
        }
        let path = dir.path().join("a");
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        for name in ["", ".", "..", "a/b"] {
            assert!(write_atomic(&fd, name, b"", 0o600, false).is_err());
        }
    }

    #[test]
    fn what_a_killed_process_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        for serial in 0..100 {
            std::fs::write(dir.path().join(format!(".b.{}.{serial}.tmp", std::process::id())), "old")
                .unwrap();
        }
        write_atomic(open_dir(dir.path()).unwrap(), "b", b"new", 0o600, false).unwrap();
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"new");
    }

    #[test]
    fn a_draft_replaces_what_there_is_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let fd = open_dir(dir.path()).unwrap();
        for text in ["one", "two"] {
            let draft = Draft::write(fd.as_fd(), "file", text.as_bytes(), 0o600).unwrap();
            let before = std::fs::read_to_string(dir.path().join("file"));
            assert_ne!(before.ok().as_deref(), Some(text));
            draft.replace().unwrap();
            assert_eq!(std::fs::read_to_string(dir.path().join("file")).unwrap(), text);
        }
        drop(Draft::write(fd.as_fd(), "file", b"three", 0o600).unwrap());
        let left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["file"]);
        assert_eq!(std::fs::read_to_string(dir.path().join("file")).unwrap(), "two");
    }

    #[test]
    fn a_link_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/a"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(dir.path().join("sub/a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("c")).unwrap();
        let (bytes, inodes) = disk_usage(open_dir(dir.path()).unwrap()).unwrap();
        assert_eq!(inodes, 4); // the directory, sub, the file, the symbolic link
        assert!((100_000..200_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn the_filesystem_has_a_size() {
        let usage = usage(open_dir("/").unwrap()).unwrap();
        assert!(usage.bytes >= usage.bytes_used && usage.bytes > 0, "{usage:?}");
    }
}
