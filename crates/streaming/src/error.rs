//! What can go wrong.

use std::fmt;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// Too many of something; later there may be room.
    Exhausted,
    /// The node failed: a system call.
    Internal,
    /// The configuration or the request makes no sense.
    Invalid,
}

/// Says what was asked, what failed and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<std::io::Error>,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn io(source: std::io::Error, doing: impl fmt::Display) -> Self {
        Self { kind: Kind::Internal, message: format!("{doing}: {source}"), source: Some(source) }
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// The client sent what it must not send: the connection ends. Says what it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Malformed(pub(crate) &'static str);
