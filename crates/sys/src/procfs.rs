//! Files of procfs through a handle that nobody can put something over.
//!
//! A write to `/proc/...` by path can be led elsewhere by whoever can mount or link there (CVE-2019-16884,
//! CVE-2025-52881). A [`Procfs`] is a detached mount of its own where the kernel allows it, is checked to be procfs, and
//! paths in it cross neither a mount nor a magic link.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Fd, quoted};
use crate::fs::write_all;
use crate::mount::{Attributes, Filesystem, open_tree_clone};
use crate::{Error, Result};

/// A procfs of the PID namespace that the caller was in when it opened it.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// Opens a private instance: a new mount (fsopen), else a detached copy of the mount at `/proc` (open_tree), else
    /// `/proc` itself, each only where the one before is refused for want of privileges or of the call (`EPERM`,
    /// `ENOSYS`). The last is safe against the container only as long as the caller is in the host's mount namespace.
    ///
    /// # Errors
    /// Those of the calls; `EXDEV` when what is at `/proc` is not procfs.
    pub fn open() -> Result<Self> {
        let attributes = Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
        let new = Filesystem::open("proc").and_then(|proc| proc.create_with(attributes));
        let fd = match new {
            Err(error) if may_fall_back(&error) => match open_tree_clone(rustix::fs::CWD, "/proc", false) {
                Err(error) if may_fall_back(&error) => return Self::host(),
                other => other,
            },
            other => other,
        };
        Self::from_fd(fd?)
    }

    /// Opens what is mounted at `/proc`, for a caller in the host's mount namespace, where no container can put anything.
    /// Closing a private instance waits for the kernel (RCU), some milliseconds on a busy machine; closing this does not.
    ///
    /// # Errors
    /// Those of open(2); `EXDEV` when what is at `/proc` is not procfs.
    pub fn host() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::io::retry_on_intr(|| rustix::fs::open("/proc", flags, Mode::empty()))
            .map_err(|errno| Error::new("open(\"/proc\", O_PATH|O_DIRECTORY)", errno))?;
        Self::from_fd(fd)
    }

    /// The same, with a descriptor of a number of at least `first`: for a process in which lower ones are given to its
    /// program.
    ///
    /// # Errors
    /// `EMFILE`, `EINVAL` above the limit of open files.
    pub fn above(self, first: i32) -> Result<Self> {
        if self.0.as_raw_fd() >= first {
            return Ok(self);
        }
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.0, first)
            .map_err(|errno| Error::new(format!("fcntl(<proc>, F_DUPFD_CLOEXEC, {first})"), errno))?;
        Ok(Self(fd))
    }

    /// Takes the root directory of a procfs.
    ///
    /// # Errors
    /// `EXDEV` when it is something else.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let call = || format!("fstatfs({})", Fd::of(&fd));
        let stat = rustix::fs::fstatfs(&fd).map_err(|errno| Error::new(call(), errno))?;
        if stat.f_type != rustix::fs::PROC_SUPER_MAGIC {
            return Err(Error::refused(call(), Errno::XDEV, "not procfs"));
        }
        let inode = rustix::fs::fstat(&fd).map_err(|errno| Error::new(call(), errno))?.st_ino;
        // PROC_ROOT_INO: a directory inside would pass the check above.
        if inode != 1 {
            return Err(Error::refused(call(), Errno::XDEV, "not the root directory of procfs"));
        }
        Ok(Self(fd))
    }

    /// Opens `path`, which is relative: `sys/net/ipv4/ip_forward`, `self/attr/exec`, `1234/uid_map`.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`; `EXDEV` when something is mounted in the way, `ELOOP` for a magic link.
    pub fn open_file(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
        let path = path.as_ref();
        let call = || format!("openat2({}, {}, {flags:?}, RESOLVE_NO_XDEV)", Fd::of(&self.0), quoted(path));
        let fd = self.open_raw(path, flags).map_err(|errno| Error::new(call(), errno))?;
        let stat = rustix::fs::fstatfs(&fd).map_err(|errno| Error::new(call(), errno))?;
        if stat.f_type != rustix::fs::PROC_SUPER_MAGIC {
            return Err(Error::refused(call(), Errno::XDEV, "not in procfs"));
        }
        Ok(fd)
    }

    /// As [`Self::open_file`]. Safe between clone and exec for a path of at most 255 bytes: no allocation.
    ///
    /// # Errors
    /// As there.
    pub fn open_raw(
        &self,
        path: impl rustix::path::Arg,
        flags: OFlags,
    ) -> core::result::Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        path.into_with_c_str(|path| crate::root::openat2(self.0.as_fd(), path, flags, Mode::empty(), resolve))
    }

    /// Writes `value` to the file in one call, as these files want it.
    ///
    /// # Errors
    /// Those of [`Self::open_file`] and what the file says to the value, mostly `EINVAL` or `EPERM`.
    pub fn write(&self, path: impl AsRef<Path>, value: impl AsRef<[u8]>) -> Result<()> {
        let (path, value) = (path.as_ref(), value.as_ref());
        let file = self.open_file(path, OFlags::WRONLY)?;
        write_all(&file, value).map_err(|errno| {
            let value = String::from_utf8_lossy(value);
            Error::new(format!("write(<proc>/{}, {value:?})", path.display()), errno)
        })
    }

    /// As [`Self::write`]. Safe between clone and exec for a path of at most 255 bytes: no allocation.
    ///
    /// # Errors
    /// As there.
    pub fn write_raw(&self, path: impl rustix::path::Arg, value: &[u8]) -> core::result::Result<(), Errno> {
        write_all(self.open_raw(path, OFlags::WRONLY)?, value)
    }

    /// The content of the file.
    ///
    /// # Errors
    /// Those of [`Self::open_file`] and of read(2); `EFBIG` above `limit` bytes.
    pub fn read(&self, path: impl AsRef<Path>, limit: usize) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let file = self.open_file(path, OFlags::RDONLY)?;
        crate::root::read_to_limit(&file, limit)
            .map_err(|errno| Error::new(format!("read(<proc>/{}, limit {limit})", path.display()), errno))
    }
}

impl AsFd for Procfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn may_fall_back(error: &Error) -> bool {
    matches!(error.errno(), Errno::PERM | Errno::NOSYS)
}
