//! Files of the host: our own directories, which no container can write, and the kernel's.

#![expect(clippy::disallowed_methods, reason = "the host's own files")]

use std::io::Result;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The null device of the host.
pub(crate) fn null() -> core::result::Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// The file of a pod that complaints are appended to, 0600.
pub(crate) fn complaints(path: &Path) -> core::result::Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
}

/// A directory of a pod, to name what is in it.
pub(crate) fn directory(path: &Path) -> core::result::Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Writes a file into a directory of a pod, 0600, seen whole or not at all.
pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) -> vaquita_sys::Result<()> {
    vaquita_sys::fs::write_atomic(vaquita_sys::fs::open_dir(dir)?, name, bytes, 0o600, false)
}

/// What a file in a directory of a pod says.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
}

/// Whether a file is there, and empty.
pub(crate) fn is_empty(path: &Path) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| stat.st_size == 0)
}

/// Removes a file from a directory of a pod, if it is there.
pub(crate) fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// Makes a directory below that of a pod, 0700, with those above it that are missing.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a directory of a pod with all that is in it, if it is there.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    std::fs::remove_dir_all(path).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })
}

/// A file that a process has in /proc, "self" being this one, if it can be read.
pub(crate) fn of_process(pid: &str, name: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok()
}
