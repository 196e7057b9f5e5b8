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
        Self { kind, message: cut(message.into()) }
    }

    /// A failed operation on a file or socket; `what` is a verb.
    pub(crate) fn file(what: &str, path: &Path, error: impl fmt::Display) -> Self {
        Self::new(Kind::System, format!("could not {what} {}: {error}", path.display()))
    }
}

/// A text that may have words of a plugin in it, short enough for a log and a client, and in one line.
pub(crate) fn cut(text: String) -> String {
    const MOST: usize = 1000;
    if text.len() <= MOST && !text.contains(char::is_control) {
        return text;
    }
    let short: String =
        text.chars().take(MOST).map(|char| if char.is_control() { ' ' } else { char }).collect();
    if short.len() < text.len() { short + " …" } else { short }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plugin_says_is_one_line_and_no_longer_than_a_log_wants() {
        assert_eq!(cut("no such thing".to_owned()), "no such thing");
        assert_eq!(cut("a\nb\u{1b}[31mc".to_owned()), "a b [31mc");
        let long = cut("ä".repeat(100_000));
        assert!(long.ends_with("ä …") && long.chars().count() == 1002, "{}", long.len());
    }
}
