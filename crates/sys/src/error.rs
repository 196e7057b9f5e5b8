//! The error of a system call: what was called, with what, and what the kernel said.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::io::Errno;

/// A call that failed. It prints as the call did: `openat2([7]</run/vaquita/x>, "etc/passwd", O_RDONLY): ENOENT`.
#[derive(thiserror::Error)]
#[error("{}: {}", .0.call, Reason(.0))]
pub struct Error(Box<Inner>);

struct Inner {
    call: String,
    errno: Errno,
    /// Why this crate refused, when it was not the kernel that did; or what the kernel logged about it.
    note: Option<String>,
}

/// What sort of failure it was, for callers that act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// In use: `EBUSY`, `ETXTBSY`, `ENOTEMPTY`.
    Busy,
    /// `EACCES`, `EPERM`, `EROFS`.
    Denied,
    /// `EEXIST`.
    Exists,
    /// A value that the kernel or this crate does not take: `EINVAL`, `EXDEV`, `ELOOP`, `ENOTDIR`, `ENAMETOOLONG`…
    Invalid,
    /// Any other error of the kernel.
    Kernel(Errno),
    /// `ENOENT`, `ESRCH`, `ENODEV`, `ENXIO`.
    NotFound,
    /// `ETIMEDOUT`.
    Timeout,
    /// Worth a retry: `EAGAIN`, `EINTR`, `ECONNREFUSED`.
    Unavailable,
    /// The kernel does not have it: `ENOSYS`, `EOPNOTSUPP`.
    Unsupported,
}

impl Error {
    /// The kernel refused `call`.
    #[cold]
    #[must_use]
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        Self(Box::new(Inner { call: call.into(), errno, note: None }))
    }

    /// `call` was not made, or its result was not accepted, because of `why`; `errno` says what kind of failure that is.
    #[cold]
    #[must_use]
    pub fn refused(call: impl Into<String>, errno: Errno, why: impl Into<String>) -> Self {
        Self(Box::new(Inner { call: call.into(), errno, note: Some(why.into()) }))
    }

    /// The kernel's error number, or the closest one where this crate refused.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.0.errno
    }

    /// What sort of failure it was.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.0.errno {
            Errno::BUSY | Errno::TXTBSY | Errno::NOTEMPTY => Kind::Busy,
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Kind::Denied,
            Errno::EXIST => Kind::Exists,
            Errno::INVAL
            | Errno::XDEV
            | Errno::LOOP
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::NAMETOOLONG
            | Errno::FBIG
            | Errno::MSGSIZE => Kind::Invalid,
            Errno::NOENT | Errno::SRCH | Errno::NODEV | Errno::NXIO => Kind::NotFound,
            Errno::TIMEDOUT => Kind::Timeout,
            Errno::AGAIN | Errno::INTR | Errno::CONNREFUSED => Kind::Unavailable,
            Errno::NOSYS | Errno::OPNOTSUPP => Kind::Unsupported,
            other => Kind::Kernel(other),
        }
    }

    /// The call with its arguments, without the reason.
    #[must_use]
    pub fn call(&self) -> &str {
        &self.0.call
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self})")
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::new(Self::from(error.errno()).kind(), error)
    }
}

struct Reason<'a>(&'a Inner);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.note {
            Some(note) => f.write_str(note),
            None => f.write_str(&errno_text(self.0.errno)),
        }
    }
}

/// `ENOENT (No such file or directory)`.
pub(crate) fn errno_text(errno: Errno) -> String {
    let name = format!("{errno:?}");
    // rustix prints `Os { code: 2, kind: NotFound, message: "No such file or directory" }`; the symbol is ours.
    match SYMBOLS.iter().find(|(number, _)| *number == errno.raw_os_error()) {
        Some((_, symbol)) => {
            let text = std::io::Error::from(errno).to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            format!("{symbol} ({text})")
        }
        None => name,
    }
}

/// How an fd prints in an error: its number and what it is.
pub(crate) struct Fd<'a>(BorrowedFd<'a>);

impl<'a> Fd<'a> {
    pub(crate) fn of(fd: &'a impl AsFd) -> Self {
        Self(fd.as_fd())
    }
}

impl fmt::Display for Fd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.as_raw_fd();
        if number == rustix::fs::CWD.as_raw_fd() {
            return f.write_str("AT_FDCWD");
        }
        match std::fs::read_link(format!("/proc/self/fd/{number}")) {
            Ok(target) => write!(f, "[{number}]<{}>", target.display()),
            Err(_) => write!(f, "[{number}]"),
        }
    }
}

/// How an fd prints in an error: `[7]</run/vaquita>`. For other crates that make an [`Error`] of their own calls.
#[must_use]
pub fn describe(fd: impl AsFd) -> String {
    Fd::of(&fd).to_string()
}

/// How a path prints in an error.
pub(crate) fn quoted(path: impl AsRef<Path>) -> String {
    format!("{:?}", path.as_ref())
}

const SYMBOLS: &[(i32, &str)] = &[
    (libc::EPERM, "EPERM"),
    (libc::ENOENT, "ENOENT"),
    (libc::ESRCH, "ESRCH"),
    (libc::EINTR, "EINTR"),
    (libc::EIO, "EIO"),
    (libc::ENXIO, "ENXIO"),
    (libc::E2BIG, "E2BIG"),
    (libc::ENOEXEC, "ENOEXEC"),
    (libc::EBADF, "EBADF"),
    (libc::ECHILD, "ECHILD"),
    (libc::EAGAIN, "EAGAIN"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::EACCES, "EACCES"),
    (libc::EFAULT, "EFAULT"),
    (libc::ENOTBLK, "ENOTBLK"),
    (libc::EBUSY, "EBUSY"),
    (libc::EEXIST, "EEXIST"),
    (libc::EXDEV, "EXDEV"),
    (libc::ENODEV, "ENODEV"),
    (libc::ENOTDIR, "ENOTDIR"),
    (libc::EISDIR, "EISDIR"),
    (libc::EINVAL, "EINVAL"),
    (libc::ENFILE, "ENFILE"),
    (libc::EMFILE, "EMFILE"),
    (libc::ENOTTY, "ENOTTY"),
    (libc::ETXTBSY, "ETXTBSY"),
    (libc::EFBIG, "EFBIG"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::ESPIPE, "ESPIPE"),
    (libc::EROFS, "EROFS"),
    (libc::EMLINK, "EMLINK"),
    (libc::EPIPE, "EPIPE"),
    (libc::EDOM, "EDOM"),
    (libc::ERANGE, "ERANGE"),
    (libc::EDEADLK, "EDEADLK"),
    (libc::ENAMETOOLONG, "ENAMETOOLONG"),
    (libc::ENOLCK, "ENOLCK"),
    (libc::ENOSYS, "ENOSYS"),
    (libc::ENOTEMPTY, "ENOTEMPTY"),
    (libc::ELOOP, "ELOOP"),
    (libc::ENODATA, "ENODATA"),
    (libc::EOVERFLOW, "EOVERFLOW"),
    (libc::EUSERS, "EUSERS"),
    (libc::EMSGSIZE, "EMSGSIZE"),
    (libc::EPROTO, "EPROTO"),
    (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    (libc::EADDRINUSE, "EADDRINUSE"),
    (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
    (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
    (libc::ENETDOWN, "ENETDOWN"),
    (libc::ENETUNREACH, "ENETUNREACH"),
    (libc::ENOBUFS, "ENOBUFS"),
    (libc::ECONNRESET, "ECONNRESET"),
    (libc::ECONNREFUSED, "ECONNREFUSED"),
    (libc::ENOTCONN, "ENOTCONN"),
    (libc::ETIMEDOUT, "ETIMEDOUT"),
    (libc::EALREADY, "EALREADY"),
    (libc::EINPROGRESS, "EINPROGRESS"),
    (libc::ESTALE, "ESTALE"),
    (libc::EDQUOT, "EDQUOT"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_the_call_did() {
        let error = Error::new(r#"mount_setattr([7]</rootfs>, "proc", AT_RECURSIVE, ..)"#, Errno::INVAL);
        assert_eq!(
            error.to_string(),
            r#"mount_setattr([7]</rootfs>, "proc", AT_RECURSIVE, ..): EINVAL (Invalid argument)"#
        );
        assert_eq!(error.kind(), Kind::Invalid);
    }

    #[test]
    fn a_refusal_says_why() {
        let error = Error::refused("openat2(..)", Errno::INVAL, "not a regular file");
        assert_eq!(error.to_string(), "openat2(..): not a regular file");
        assert_eq!(error.errno(), Errno::INVAL);
    }

    #[test]
    fn an_unknown_number_still_prints() {
        assert!(!errno_text(Errno::from_raw_os_error(3000)).is_empty());
    }
}
