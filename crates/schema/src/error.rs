//! What can be wrong with an object or a patch.

use std::fmt;

/// Why an object or a patch was refused. Its text is what Kubernetes says.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: Box<str>,
}

/// What a caller may want to know of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Not JSON, YAML or protobuf, or not what its envelope says.
    Malformed,
    /// A patch that cannot be applied.
    Patch,
    /// Unknown or duplicate fields, where those are refused.
    Strict,
    /// Longer or deeper than allowed.
    TooLarge,
    /// A value that its field cannot have.
    Type,
    /// A patch that is well formed and does not fit the object.
    Unprocessable,
    /// A kind or a form that is not known.
    Unsupported,
}

impl Error {
    /// An error with the words for the user.
    #[must_use]
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string().into_boxed_str() }
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }
}
