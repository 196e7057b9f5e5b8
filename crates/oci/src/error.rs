//! What can go wrong, for callers (a [`Kind`]) and for people (a sentence).
//!
//! Engines look for words in the sentences: containerd for `does not exist`, `container not running` and `already
//! exists`, podman for `does not exist` and for the text of the error number. They are part of the interface.

use core::fmt;

use rustix::io::Errno;

/// A failure of an operation. Prints what failed, and what to do about it where that is known.
pub struct Error(Box<Inner>);

/// What sort of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// The program of the container could not be executed.
    Exec(Errno),
    /// There is a container of that id already.
    Exists,
    /// A hook failed.
    Hook,
    /// What was asked for cannot be.
    Invalid,
    /// A system call failed.
    Kernel(Errno),
    /// There is no such container.
    NotFound,
    /// The container does not run (any more).
    NotRunning,
    /// The container's status does not allow it.
    Status,
    /// Valid, but not implemented, or not offered by this host.
    Unsupported,
    /// Any other failure.
    Other,
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// An error that says `message`.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into() }))
    }

    /// A system call failed; `call` prints as the call did, without the result.
    #[must_use]
    pub fn kernel(call: impl Into<String>, errno: Errno) -> Self {
        vaquita_sys::Error::new(call, errno).into()
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn not_found(id: &str) -> Self {
        Self::new(Kind::NotFound, format!("container {id:?} does not exist"))
    }

    pub(crate) fn not_running() -> Self {
        Self::new(Kind::NotRunning, "container not running")
    }

    pub(crate) fn io(call: impl Into<String>, error: &std::io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        Self::kernel(call, errno)
    }

    /// The same, with what was being done before it.
    pub(crate) fn while_doing(self, what: impl fmt::Display) -> Self {
        Self::new(self.0.kind, format!("{what}: {}", self.0.message))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}, {:?})", self.0.kind, self.0.message)
    }
}

impl core::error::Error for Error {}

impl From<vaquita_sys::Error> for Error {
    fn from(error: vaquita_sys::Error) -> Self {
        Self::new(Kind::Kernel(error.errno()), error.to_string())
    }
}

impl From<vaquita_cgroup::Error> for Error {
    fn from(error: vaquita_cgroup::Error) -> Self {
        let kind = match error.kind() {
            vaquita_cgroup::Kind::Kernel(errno) => Kind::Kernel(errno),
            vaquita_cgroup::Kind::Invalid => Kind::Invalid,
            vaquita_cgroup::Kind::Unsupported => Kind::Unsupported,
            _ => Kind::Other,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<vaquita_runtime::Error> for Error {
    fn from(error: vaquita_runtime::Error) -> Self {
        let kind = match error.kind() {
            vaquita_runtime::Kind::Exec(errno) => Kind::Exec(errno),
            vaquita_runtime::Kind::Hook => Kind::Hook,
            vaquita_runtime::Kind::Invalid => Kind::Invalid,
            vaquita_runtime::Kind::Kernel(errno) => Kind::Kernel(errno),
            vaquita_runtime::Kind::Unsupported => Kind::Unsupported,
            _ => Kind::Other,
        };
        Self::new(kind, error.to_string())
    }
}

struct Inner {
    kind: Kind,
    message: String,
}
