//! The crate's error.

use std::fmt;
use std::path::Path;

/// What a caller can tell apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// Another server listens on the socket.
    Busy,
    /// Two plugins want different things of the same property.
    Conflict,
    /// A configuration makes no sense; no retry helps until it is changed.
    Invalid,
    /// A plugin refused, or asked for what cannot be asked for here.
    Plugin,
    /// A file, a socket or a process could not be handled.
    System,
}

/// What went wrong, in one line, with a [`Kind`] to decide on.
#[derive(Clone)]
pub struct Error {
    kind: Kind,
    message: String,
}

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What can be decided on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A failed operation on a file or socket; `what` is a verb.
    pub(crate) fn file(what: &str, path: &Path, error: impl fmt::Display) -> Self {
        Self::new(Kind::System, format!("could not {what} {}: {error}", path.display()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.kind, self.message)
    }
}

impl std::error::Error for Error {}
