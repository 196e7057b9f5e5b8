//! The crate's error.

use std::fmt;
use std::path::Path;

/// What a caller can tell apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// A plugin asks to try again later (code 11), or says that it is not ready (50, 51).
    Busy,
    /// What a plugin printed, or a record of ours, cannot be understood.
    Corrupt,
    /// The owner has an attachment already.
    Exists,
    /// A configuration, or what was asked for, makes no sense; no retry helps until it is changed.
    Invalid,
    /// There is no configuration, or no program of a plugin's name.
    NotFound,
    /// A plugin refused.
    Plugin,
    /// A file or a process could not be handled.
    System,
    /// A plugin took too long and was killed.
    Timeout,
    /// The configuration asks for a version that this crate does not speak, or for what its version does not have.
    Unsupported,
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

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// A failed operation on a file; `what` is a verb.
    pub(crate) fn file(what: &str, path: &Path, error: impl fmt::Display) -> Self {
        Self::new(Kind::System, format!("could not {what} {}: {error}", path.display()))
    }

    /// The same, said from one level further up.
    pub(crate) fn within(self, what: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: format!("{what}: {}", self.message) }
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
