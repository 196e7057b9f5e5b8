//! The crate's error.

use std::fmt;
use std::path::Path;

/// What the crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is, for callers that act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The CRI server said what no other kind covers, or the host's files did.
    Failed,
    /// What was asked for is not there.
    NotFound,
    /// The request is wrong: a manifest value that only shows when it is used.
    Invalid,
    /// Not permitted.
    Denied,
    /// Known, but not supported.
    Unsupported,
    /// It took too long.
    Timeout,
    /// The CRI server cannot be reached (now).
    Unavailable,
}

/// Why something failed: what was asked, and what stood against it.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    message: String,
    /// The volume that could not be made.
    volume: Option<Box<str>>,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), volume: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// A failed operation on a file of the host.
    pub(crate) fn io(what: &str, path: &Path, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::PermissionDenied => Kind::Denied,
            _ => Kind::Failed,
        };
        Self::new(kind, format!("{what} {}: {error}", path.display()))
    }

    /// A CRI call that was answered with an error.
    pub(crate) fn status(call: &str, status: &tonic::Status) -> Self {
        let kind = match status.code() {
            tonic::Code::NotFound => Kind::NotFound,
            tonic::Code::InvalidArgument => Kind::Invalid,
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Kind::Denied,
            tonic::Code::Unimplemented => Kind::Unsupported,
            tonic::Code::DeadlineExceeded => Kind::Timeout,
            // Only what the transport says is about the connection: its errors have a source. A server that answers
            // "unavailable" speaks of something behind it, such as a registry.
            _ if std::error::Error::source(status).is_some() => Kind::Unavailable,
            _ => Kind::Failed,
        };
        Self::new(kind, format!("{call}: {}", status.message()))
    }

    /// A failure outside of this crate, such as that of a look-up in [`crate::agent::Objects`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// Puts what was being done in front of the message.
    pub(crate) fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Says which volume could not be made.
    pub(crate) fn of_volume(mut self, name: &str) -> Self {
        self.volume = Some(name.into());
        self
    }

    /// The volume that could not be made, if that is what failed.
    pub(crate) fn volume(&self) -> Option<&str> {
        self.volume.as_deref()
    }

    /// The message, without the name of the volume.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(volume) = &self.volume {
            write!(f, "volume {volume}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
