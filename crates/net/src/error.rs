//! The crate's error.

use std::fmt;

use rustix::io::Errno;

/// What went wrong, in one sentence, with a [`Kind`] to decide on.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What a caller can tell apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// A host port, or a link name, is taken by somebody else.
    Busy,
    /// A lease or record on disk cannot be understood.
    Corrupt,
    /// The kernel refused for want of a privilege.
    Denied,
    /// No address is left in the subnet.
    Exhausted,
    /// The owner has an attachment already, or another device holds the bridge's name.
    Exists,
    /// The request makes no sense; no retry helps.
    Invalid,
    /// Any other errno of the kernel.
    Kernel(Errno),
    /// The namespace, link or lease is not there.
    NotFound,
    /// This kernel, or this version of the crate, cannot do what was asked.
    Unsupported,
}

impl Error {
    /// What can be decided on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
