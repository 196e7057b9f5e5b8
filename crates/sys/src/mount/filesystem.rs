//! A filesystem under construction: fsopen, fsconfig, fsmount.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::Attributes;
use crate::error::{Fd, errno_text, quoted};
use crate::{Error, Result};

/// A filesystem being configured (fsopen(2), Linux 5.2). What the kernel logs about a failure becomes part of the error.
#[derive(Debug)]
pub struct Filesystem {
    fd: OwnedFd,
    kind: String,
}

impl Filesystem {
    /// Starts a filesystem of the kind `tmpfs`, `overlay`, `proc`…
    ///
    /// # Errors
    /// `ENODEV` when the kernel has no such filesystem, `EPERM`, `ENOSYS` before Linux 5.2.
    pub fn open(kind: &str) -> Result<Self> {
        let fd = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|errno| Error::new(format!("fsopen({kind:?}, FSOPEN_CLOEXEC)"), errno))?;
        Ok(Self { fd, kind: kind.to_owned() })
    }

    /// Sets an option with a value: `size=64m` is `("size", "64m")`.
    ///
    /// # Errors
    /// `EINVAL` for an option that the filesystem does not have or a value that it does not take; a value is at most
    /// 255 bytes long.
    pub fn set_string(&self, key: &str, value: impl AsRef<Path>) -> Result<&Self> {
        let value = value.as_ref();
        self.done(rustix::mount::fsconfig_set_string(&self.fd, key, value), || {
            format!("FSCONFIG_SET_STRING, {key:?}, {}", quoted(value))
        })
    }

    /// Sets an option without a value, such as `ro` or `volatile`.
    ///
    /// # Errors
    /// `EINVAL` for an option that the filesystem does not have.
    pub fn set_flag(&self, key: &str) -> Result<&Self> {
        self.done(rustix::mount::fsconfig_set_flag(&self.fd, key), || format!("FSCONFIG_SET_FLAG, {key:?}"))
    }

    /// Sets an option to an open file, such as overlay's `lowerdir+` (Linux 6.13).
    ///
    /// # Errors
    /// `EINVAL` for an option that does not exist or takes no fd.
    pub fn set_fd(&self, key: &str, value: impl AsFd) -> Result<&Self> {
        self.done(rustix::mount::fsconfig_set_fd(&self.fd, key, &value), || {
            format!("FSCONFIG_SET_FD, {key:?}, {}", Fd::of(&value))
        })
    }

    /// Creates the filesystem and a detached mount of it.
    ///
    /// # Errors
    /// What the filesystem says about its options; `EBUSY` where it exists with others.
    pub fn create(&self) -> Result<OwnedFd> {
        self.create_with(Attributes::NONE)
    }

    /// As [`Self::create`], with attributes of the mount.
    ///
    /// # Errors
    /// As there.
    pub fn create_with(&self, attributes: Attributes) -> Result<OwnedFd> {
        self.done(rustix::mount::fsconfig_create(&self.fd), || "FSCONFIG_CMD_CREATE".to_owned())?;
        let bits = u32::try_from(attributes.bits()).unwrap_or(u32::MAX);
        let flags = MountAttrFlags::from_bits_retain(bits);
        rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(|errno| {
            Error::new(format!("fsmount(<{}>, FSMOUNT_CLOEXEC, {flags:?})", self.kind), errno)
        })
    }

    fn done(
        &self,
        result: core::result::Result<(), Errno>,
        arguments: impl FnOnce() -> String,
    ) -> Result<&Self> {
        match result {
            Ok(()) => Ok(self),
            Err(errno) => Err(self.error(errno, &arguments())),
        }
    }

    #[cold]
    fn error(&self, errno: Errno, arguments: &str) -> Error {
        let call = format!("fsconfig(<{}>, {arguments})", self.kind);
        let log = self.log();
        if log.is_empty() {
            return Error::new(call, errno);
        }
        Error::refused(call, errno, format!("{}: {log}", errno_text(errno)))
    }

    /// What the kernel has to say: one message per read, each with a letter and a space in front.
    fn log(&self) -> String {
        let mut text = String::new();
        let mut buffer = [0u8; 1024];
        while let Ok(n @ 1..) = rustix::io::read(&self.fd, &mut buffer) {
            let line = String::from_utf8_lossy(&buffer[..n]);
            let line = line.trim_end();
            let separator = if text.is_empty() { "" } else { "; " };
            let _ = write!(text, "{separator}{}", line.get(2..).unwrap_or(line));
        }
        text
    }
}

impl AsFd for Filesystem {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
