//! Running from a file that no container can write.
//!
//! A process that enters a container shows its executable there, as `/proc/PID/exe`. A hostile container that opens that
//! for writing when the program has ended would change this program on the host (CVE-2019-5736). So a process that is to
//! enter one runs from a mount of its own, of which nobody else has the name and which has no writable layer at all: an
//! overlay of two lower directories. Where the kernel refuses that, it runs from a sealed copy in memory.

#![expect(clippy::disallowed_methods, reason = "the program's own file, on the host")]

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, SealFlags};
use rustix::io::Errno;
use vaquita_entry::{OTHERS, OVERLAYFS_SUPER_MAGIC};
use vaquita_sys::mount::{Attributes, Filesystem};
use vaquita_sys::process::{CStrArray, execveat, sealed_self};

use crate::Error;

/// Whether this process runs from a file that cannot be written through it.
///
/// # Errors
/// Without procfs.
pub fn is_sealed() -> Result<bool, Error> {
    let exe = open("/proc/self/exe", OFlags::RDONLY)?;
    let seals = rustix::fs::fcntl_get_seals(&exe);
    if seals.is_ok_and(|seals| seals.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW)) {
        return Ok(true);
    }
    let failed = |errno| Error::kernel("fstatfs(</proc/self/exe>)", errno);
    if rustix::fs::fstatfs(&exe).map_err(failed)?.f_type != OVERLAYFS_SUPER_MAGIC {
        return Ok(false);
    }
    let flags = rustix::fs::fstatvfs(&exe).map_err(failed)?.f_flag;
    Ok(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Starts this program again from a sealed place, with the same arguments and environment, unless it runs from one. Returns
/// then; any work that was done before is done twice otherwise. Mostly `vaquita_entry` has done so before.
///
/// # Errors
/// When neither way works: a process that is not sealed must not enter a container.
pub fn seal() -> Result<(), Error> {
    if is_sealed()? {
        return Ok(());
    }
    let arguments = CStrArray::new(std::env::args_os())?;
    let variables =
        std::env::vars_os().map(|(name, value)| [&name, OsStr::new("="), &value].join(OsStr::new("")));
    let environment = CStrArray::new(variables)?;
    let refused = match in_overlay() {
        Ok(file) => {
            let errno = execveat(file.as_fd(), c"", &arguments, &environment, 0);
            Error::kernel("execveat(<overlay>)", errno)
        }
        Err(error) => error,
    };
    let copy = sealed_self().map_err(|error| Error::from(error).while_doing(&refused))?;
    let errno = execveat(copy.as_fd(), c"", &arguments, &environment, 0);
    Err(Error::kernel("execveat(<sealed copy of this program>)", errno).while_doing(refused))
}

/// This program's file, in a private read-only mount.
fn in_overlay() -> Result<OwnedFd, Error> {
    let path = std::fs::read_link("/proc/self/exe")
        .map_err(|error| Error::io("readlink(\"/proc/self/exe\")", &error))?;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::kernel(format!("open({path:?})"), Errno::NOENT));
    };
    let directory = open(directory, OFlags::PATH | OFlags::DIRECTORY)?;
    // Without a writable layer there must be two.
    let other = OTHERS
        .iter()
        .find_map(|other| open(OsStr::from_bytes(other.to_bytes()), OFlags::PATH | OFlags::DIRECTORY).ok());
    let other = other.ok_or_else(|| Error::kernel(format!("open({OTHERS:?})"), Errno::NOENT))?;
    let layers = [&directory, &other].map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let overlay = Filesystem::open("overlay")?;
    overlay.set_string("lowerdir", layers.join(":"))?;
    let mount = overlay.create_with(Attributes::RDONLY | Attributes::NOSUID | Attributes::NODEV)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&mount, name, flags, Mode::empty())
        .map_err(|errno| Error::kernel(format!("openat(<overlay>, {name:?})"), errno))?;
    Ok(file)
}

fn open(path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, Error> {
    let path = path.as_ref();
    rustix::io::retry_on_intr(|| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()))
        .map_err(|errno| Error::kernel(format!("open({path:?})"), errno))
}
