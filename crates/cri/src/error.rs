//! The one error of this crate.

use std::error::Error as StdError;
use std::fmt;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// Somebody else is in the way: another server on the same directories, an operation that excludes this one.
    Busy,
    /// A record or an image is not what was written.
    Corrupt,
    /// The kernel or a policy forbids it.
    Denied,
    /// It is there already.
    Exists,
    /// The request makes no sense, whatever the state of the node.
    Invalid,
    /// The node failed: a system call, a helper.
    Internal,
    /// There is no such object.
    NotFound,
    /// The object is not in the state that the request needs.
    Precondition,
    /// It took too long.
    Timeout,
    /// A registry or another peer does not answer.
    Unavailable,
    /// We cannot do that yet.
    Unsupported,
}

/// Says what was asked, what failed and, where it is known, what to do.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a message of ours.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// The same with what caused it; the cause is printed after a colon.
    pub(crate) fn caused(
        kind: Kind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: Some(source.into()) }))
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }
}

impl fmt::Display for Error {
    /// The whole chain in one line: a client of the socket sees nothing else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            Kind::Busy | Kind::Unavailable => tonic::Code::Unavailable,
            Kind::Corrupt => tonic::Code::DataLoss,
            Kind::Denied => tonic::Code::PermissionDenied,
            Kind::Exists => tonic::Code::AlreadyExists,
            Kind::Invalid => tonic::Code::InvalidArgument,
            Kind::Internal => tonic::Code::Internal,
            Kind::NotFound => tonic::Code::NotFound,
            Kind::Precondition => tonic::Code::FailedPrecondition,
            Kind::Timeout => tonic::Code::DeadlineExceeded,
            Kind::Unsupported => tonic::Code::Unimplemented,
        };
        Self::new(code, error.to_string())
    }
}
