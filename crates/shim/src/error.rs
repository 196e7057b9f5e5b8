//! The error of this crate.

use core::fmt;

use rustix::io::Errno;

/// What went wrong: says what was asked, what failed and, where there is something, what to do.
///
/// An error that the shim met travels to its client as kind and text, so a client can match on [`Error::kind`]
/// whichever side failed.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: Box<str>,
    source: Option<Box<dyn core::error::Error + Send + Sync>>,
}

/// The kind of an [`Error`], for callers that decide by it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// Another operation on the same object is under way, or processes would not die in time.
    Busy,
    /// Bytes that do not follow the protocol, or a record on disk that cannot be read.
    Corrupt,
    /// The peer may not talk to us.
    Denied,
    /// An object of that name is there already.
    Exists,
    /// The request cannot be right, whatever the state of the pod.
    Invalid,
    /// The program could not be executed; all else was in order.
    Exec(Errno),
    /// A hook of the specification failed or took too long.
    Hook,
    /// A system call failed with this error.
    Kernel(Errno),
    /// No such sandbox, container, exec session or pod directory.
    NotFound,
    /// The object is not in a state that allows this, such as starting a container twice.
    State,
    /// The operation took longer than it may.
    Timeout,
    /// The shim is dead or the connection to it is lost. Its containers may be alive: look at their cgroups.
    Unavailable,
    /// Known, but not done by this version.
    Unsupported,
}

impl Error {
    /// An error of `kind` that reads as `message`.
    pub(crate) fn new(kind: Kind, message: impl Into<Box<str>>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The system call error `errno`, met while doing `what`.
    pub(crate) fn kernel(errno: Errno, what: impl fmt::Display) -> Self {
        Self::new(Kind::Kernel(errno), format!("{what}: {errno}"))
    }

    /// The I/O error `error`, met while doing `what`.
    pub(crate) fn io(error: std::io::Error, what: impl fmt::Display) -> Self {
        let kind = match Errno::from_io_error(&error) {
            Some(errno) => Kind::Kernel(errno),
            None => Kind::Corrupt,
        };
        Self::new(kind, format!("{what}: {error}")).with_source(error)
    }

    /// The same error with the cause attached.
    pub(crate) fn with_source(self, source: impl core::error::Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Box::new(source)), ..self }
    }

    /// What kind of error this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The system call error behind this one, if that is what it was.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self.kind {
            Kind::Exec(errno) | Kind::Kernel(errno) => Some(errno),
            _ => None,
        }
    }

    /// The text, as [`fmt::Display`] prints it.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn core::error::Error + 'static))
    }
}

impl From<vaquita_cgroup::Error> for Error {
    fn from(error: vaquita_cgroup::Error) -> Self {
        let kind = match error.kind() {
            vaquita_cgroup::Kind::Busy => Kind::Busy,
            vaquita_cgroup::Kind::Denied => Kind::Denied,
            vaquita_cgroup::Kind::Exists => Kind::Exists,
            vaquita_cgroup::Kind::Invalid => Kind::Invalid,
            vaquita_cgroup::Kind::Kernel(errno) => Kind::Kernel(errno),
            vaquita_cgroup::Kind::NotFound => Kind::NotFound,
            vaquita_cgroup::Kind::Timeout => Kind::Timeout,
            vaquita_cgroup::Kind::Unsupported => Kind::Unsupported,
            _ => Kind::Unavailable,
        };
        Self::new(kind, error.to_string()).with_source(error)
    }
}

impl From<vaquita_runtime::Error> for Error {
    fn from(error: vaquita_runtime::Error) -> Self {
        let kind = match error.kind() {
            vaquita_runtime::Kind::Exec(errno) => Kind::Exec(errno),
            vaquita_runtime::Kind::Hook => Kind::Hook,
            vaquita_runtime::Kind::Invalid => Kind::Invalid,
            vaquita_runtime::Kind::Kernel(errno) => Kind::Kernel(errno),
            vaquita_runtime::Kind::NotFound => Kind::NotFound,
            vaquita_runtime::Kind::Unsupported => Kind::Unsupported,
            _ => Kind::Unavailable,
        };
        Self::new(kind, error.to_string()).with_source(error)
    }
}

impl From<vaquita_sys::Error> for Error {
    fn from(error: vaquita_sys::Error) -> Self {
        Self::new(Kind::Kernel(error.errno()), error.to_string()).with_source(error)
    }
}
