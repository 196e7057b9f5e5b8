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

    /// A refusal of the kernel; `asked` prints as the request did, `note` is what the kernel said beside the number.
    pub(crate) fn kernel(asked: &str, errno: Errno, note: Option<&str>) -> Self {
        let note = note.map(|note| format!(" ({note})")).unwrap_or_default();
        Self {
            kind: kind_of(errno),
            message: format!("{asked}: {}{note}", name(errno)),
            source: Some(Box::new(errno)),
        }
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

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

fn kind_of(errno: Errno) -> Kind {
    match errno {
        Errno::ACCESS | Errno::PERM => Kind::Denied,
        Errno::EXIST => Kind::Exists,
        Errno::NODEV | Errno::NOENT => Kind::NotFound,
        Errno::AFNOSUPPORT | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT => Kind::Unsupported,
        other => Kind::Kernel(other),
    }
}

/// The C name of an errno that netlink and the file system give; others print with their number.
pub(crate) fn name(errno: Errno) -> String {
    let name = match errno {
        Errno::ACCESS => "EACCES",
        Errno::ADDRINUSE => "EADDRINUSE",
        Errno::AFNOSUPPORT => "EAFNOSUPPORT",
        Errno::AGAIN => "EAGAIN",
        Errno::BUSY => "EBUSY",
        Errno::EXIST => "EEXIST",
        Errno::INVAL => "EINVAL",
        Errno::MFILE => "EMFILE",
        Errno::NETDOWN => "ENETDOWN",
        Errno::NETUNREACH => "ENETUNREACH",
        Errno::NFILE => "ENFILE",
        Errno::NOBUFS => "ENOBUFS",
        Errno::NODEV => "ENODEV",
        Errno::NOENT => "ENOENT",
        Errno::NOMEM => "ENOMEM",
        Errno::NOSPC => "ENOSPC",
        Errno::NOSYS => "ENOSYS",
        Errno::NOTDIR => "ENOTDIR",
        Errno::OPNOTSUPP => "EOPNOTSUPP",
        Errno::PERM => "EPERM",
        Errno::PROTONOSUPPORT => "EPROTONOSUPPORT",
        Errno::RANGE => "ERANGE",
        Errno::ROFS => "EROFS",
        other => return format!("{other}"),
    };
    name.to_owned()
}
