//! The crate's error.

use std::fmt;

use rustix::io::Errno;

/// What went wrong, in one sentence, with a [`Kind`] to decide on.
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

    /// A refusal of the kernel; `asked` prints as the request did, `note` is what the kernel said beside the number.
    pub(crate) fn kernel(asked: &str, errno: Errno, note: Option<&str>) -> Self {
        let mut error = Self::from(vaquita_sys::Error::new(asked, errno));
        if let Some(note) = note {
            error.message = format!("{}: {note}", error.message);
        }
        error
    }

    /// A failed file operation; `asked` says which.
    pub(crate) fn file(asked: &str, error: std::io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => Self::kernel(asked, errno, None),
            None => Self {
                kind: Kind::Corrupt,
                message: format!("{asked}: {error}"),
                source: Some(Box::new(error)),
            },
        }
    }

    /// The same error with a sentence in front that says what it was for.
    pub(crate) fn context(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The same error with another kind.
    pub(crate) fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
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

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<vaquita_sys::Error> for Error {
    fn from(error: vaquita_sys::Error) -> Self {
        let kind = match error.errno() {
            Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => Kind::Unsupported,
            errno => match error.kind() {
                vaquita_sys::Kind::Busy => Kind::Busy,
                vaquita_sys::Kind::Denied => Kind::Denied,
                vaquita_sys::Kind::Exists => Kind::Exists,
                vaquita_sys::Kind::NotFound => Kind::NotFound,
                vaquita_sys::Kind::Unsupported => Kind::Unsupported,
                _ => Kind::Kernel(errno),
            },
        };
        Self { kind, message: error.to_string(), source: Some(Box::new(error)) }
    }
}
