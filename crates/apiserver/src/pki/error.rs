use std::fmt;
use std::io;
use std::path::Path;

/// What went wrong with a certificate or key.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<io::Error>,
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// A file or directory could not be read or written.
    Io,
    /// A file is not what its name says.
    Malformed,
    /// Others may read or change what must be ours alone.
    Open,
    /// Signing failed, or a name cannot stand in a certificate.
    Sign,
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn io(what: &str, path: &Path, source: io::Error) -> Self {
        Self { kind: Kind::Io, message: format!("cannot {what} {}", path.display()), source: Some(source) }
    }

    pub(super) fn malformed(path: &Path, why: &dyn fmt::Display) -> Self {
        let message = format!(
            "{} is not what it should be ({why}): put back what it was, or remove it to have a new one made",
            path.display()
        );
        Self { kind: Kind::Malformed, message, source: None }
    }

    pub(super) fn open(path: &Path, mode: u32) -> Self {
        let message = format!(
            "{} can be used by others (mode {mode:o}): it holds keys, see who had them, then `chmod go-rwx` it",
            path.display()
        );
        Self { kind: Kind::Open, message, source: None }
    }

    pub(super) fn sign(what: &str, why: &dyn fmt::Display) -> Self {
        Self { kind: Kind::Sign, message: format!("cannot make {what}: {why}"), source: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
