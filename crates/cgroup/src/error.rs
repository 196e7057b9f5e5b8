//! What can go wrong with a control group.

use std::fmt;

use vaquita_sys::Errno;

/// A control group could not be made, changed, read or removed.
pub struct Error(Box<Inner>);

enum Inner {
    /// A call to the kernel, which prints itself.
    Sys { doing: String, source: vaquita_sys::Error },
    /// Something asked for that cannot be.
    Refused { kind: Kind, message: String },
}

/// What sort of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Processes or groups are inside, or a limit is below what is in use.
    Busy,
    /// Not allowed.
    Denied,
    /// It is there already.
    Exists,
    /// A value or path that is not valid.
    Invalid,
    /// Any other error of the kernel.
    Kernel(Errno),
    /// There is no such group.
    NotFound,
    /// systemd refused, or failed, for a reason of its own.
    Systemd,
    /// It did not happen in time.
    Timeout,
    /// Worth a retry.
    Unavailable,
    /// The host lacks the controller or the file for it.
    Unsupported,
}

impl Error {
    pub(crate) fn refused(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner::Refused { kind, message: message.into() }))
    }

    pub(crate) fn sys(doing: impl Into<String>, source: vaquita_sys::Error) -> Self {
        Self(Box::new(Inner::Sys { doing: doing.into(), source }))
    }

    /// What sort of failure it was.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match &*self.0 {
            Inner::Refused { kind, .. } => *kind,
            Inner::Sys { source, .. } => match source.kind() {
                vaquita_sys::Kind::Busy => Kind::Busy,
                vaquita_sys::Kind::Denied => Kind::Denied,
                vaquita_sys::Kind::Exists => Kind::Exists,
                vaquita_sys::Kind::Invalid => Kind::Invalid,
                vaquita_sys::Kind::NotFound => Kind::NotFound,
                vaquita_sys::Kind::Timeout => Kind::Timeout,
                vaquita_sys::Kind::Unavailable => Kind::Unavailable,
                vaquita_sys::Kind::Unsupported => Kind::Unsupported,
                _ => Kind::Kernel(source.errno()),
            },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Inner::Sys { doing, source } => write!(f, "{doing}: {source}"),
            Inner::Refused { message, .. } => f.write_str(message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.kind())
    }
}

impl std::error::Error for Error {}
