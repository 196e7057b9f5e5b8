//! The one error of this crate.

use std::fmt;
use std::sync::Arc;

use rustix::io::Errno;

/// What went wrong with an image, a registry, the store or a snapshot.
///
/// The text says what was asked, what failed and, where that helps, what to do. Errors can be cloned, because
/// several callers may wait for the same pull.
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
    /// The same thing is being changed by somebody else.
    Busy,
    /// The pull or load was given up because nobody waits for it any more.
    Cancelled,
    /// Bytes are not what their digest, size or format says.
    Corrupt,
    /// The registry refused the credentials, or wants some.
    Denied,
    /// It exists already.
    Exists,
    /// What was asked for is malformed or not allowed.
    Invalid,
    /// A system call failed.
    Kernel(Errno),
    /// The image, blob or snapshot does not exist.
    NotFound,
    /// Nothing was heard for too long.
    Timeout,
    /// The registry cannot be reached; the text begins with `RegistryUnavailable`, which kubelet looks for.
    Unavailable,
    /// A valid request that this version cannot fulfil.
    Unsupported,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, message: one_line(message.into()) }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// A failed system call: `what` names the call and its arguments.
    pub(crate) fn kernel(what: impl fmt::Display, errno: Errno) -> Self {
        Self::new(Kind::Kernel(errno), format!("{what}: {errno}"))
    }

    /// A failed operation of the standard library: `what` names it and its arguments.
    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(errno) => Self::kernel(what, errno),
            None => Self::corrupt(format!("{what}: {error}")),
        }
    }

    /// The same kind, with words in front that say what was being done.
    #[must_use]
    pub(crate) fn context(self, what: impl fmt::Display) -> Self {
        Self::new(self.0.kind, format!("{what}: {}", self.0.message))
    }

    /// Whether the disk is full, or a quota used up.
    pub(crate) fn is_no_space(&self) -> bool {
        matches!(self.0.kind, Kind::Kernel(Errno::NOSPC | Errno::DQUOT))
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }
}

/// Most characters of a message.
const LENGTH: usize = 2000;

/// Messages quote what registries and archives say: no terminal or log is to obey it, and it has an end.
fn one_line(text: String) -> String {
    if text.len() <= LENGTH && !text.contains(char::is_control) {
        return text;
    }
    let escaped: String = text
        .chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .take(LENGTH)
        .collect();
    if text.chars().nth(LENGTH).is_some() { escaped + "…" } else { escaped }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_with_an_end() {
        let told = |text: &str| Error::invalid(text).to_string();
        assert_eq!(told("a\x1b[2J\nb"), "a\\u{1b}[2J\\nb");
        assert_eq!(told("größer"), "größer");
        let long = told(&"ö".repeat(5_000_000));
        assert_eq!((long.chars().count(), long.chars().last()), (LENGTH + 1, Some('…')));
    }
}
