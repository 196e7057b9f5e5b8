//! The one error of this crate.

use std::fmt;
use std::sync::Arc;

use rustix::io::Errno;

/// What went wrong with the store.
///
/// The text says what was asked, what failed and, where that helps, what to do. It can be cloned, because many writers wait for the
/// same transaction.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: Kind,
    message: String,
}

/// The kind of an [`Error`], for callers that decide by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// There is no such entry.
    Absent,
    /// Another process, or this one, has the store open.
    Busy,
    /// The store has been closed.
    Closed,
    /// History no longer reaches back to that revision.
    Compacted,
    /// The entry has another revision than was expected.
    Conflict,
    /// The file is damaged, or is no store.
    Corrupt,
    /// There is such an entry, or such a file, already.
    Exists,
    /// The disk is full, or a quota is used up.
    Full,
    /// That revision has not been reached yet.
    Future,
    /// What was asked for is malformed or too large.
    Invalid,
    /// A system call failed.
    Io,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into() }))
    }

    /// A failed operation of the standard library: `what` names it and its arguments.
    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        let kind = match Errno::from_io_error(error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Kind::Full,
            _ => Kind::Io,
        };
        Self::new(kind, format!("{what}: {error}"))
    }

    /// The same kind, with words in front that say what was being done.
    #[must_use]
    pub(crate) fn context(self, what: impl fmt::Display) -> Self {
        Self::new(self.0.kind, format!("{what}: {}", self.0.message))
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("kind", &self.0.kind).field("message", &self.0.message).finish()
    }
}

impl std::error::Error for Error {}
