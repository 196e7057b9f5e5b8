//! The one error of this crate.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// Somebody else is in the way: another server on the same directories, an operation that excludes this one.
    Busy,
    /// A record or an image is not what was written.
    Corrupt,
    /// The kernel or a policy forbids it.
    Denied,
    /// Too many of something that was asked for; later there may be room.
    Exhausted,
    /// It is there already.
    Exists,
    /// The node failed: a system call, a helper.
    Internal,
    /// The request makes no sense, whatever the state of the node.
    Invalid,
    /// There is no such object.
    NotFound,
    /// The object is not in the state that the request needs.
    Precondition,
    /// It took too long.
    Timeout,
    /// A registry or another peer does not answer.
    Unavailable,
    /// We cannot do that yet.
    Unsupported,
}

/// Says what was asked, what failed and, where it is known, what to do: the whole chain of causes in one line.
///
/// Cheap to clone, because everybody who joined an operation gets its error.
#[derive(Clone, Debug)]
pub struct Error(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: String,
}

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a message of ours.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into() }))
    }

    /// A request that makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// A request that needs what we do not have.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The same, said from one level further up.
    pub(crate) fn within(self, what: impl fmt::Display) -> Self {
        Self::new(self.kind(), format!("{what}: {self}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {}

/// Errors of neighbours that have a place among our kinds.
pub(crate) trait Classify: StdError {
    /// What a client of ours can do about it.
    fn classify(&self) -> Kind;
}

/// Says what was being done when a neighbour's call failed.
pub(crate) trait Doing<T> {
    /// `what` reads as the object of "could not": `create the cgroup /a/b`.
    fn doing<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Classify> Doing<T> for std::result::Result<T, E> {
    fn doing<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| Error::new(error.classify(), format!("could not {}: {}", what(), chain(&error))))
    }
}

/// An error with its causes, leaving out a cause that the text above it has quoted.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

impl Classify for std::io::Error {
    fn classify(&self) -> Kind {
        match self.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::AlreadyExists => Kind::Exists,
            std::io::ErrorKind::PermissionDenied => Kind::Denied,
            std::io::ErrorKind::TimedOut => Kind::Timeout,
            _ => Kind::Internal,
        }
    }
}

impl Classify for rustix::io::Errno {
    fn classify(&self) -> Kind {
        std::io::Error::from(*self).classify()
    }
}

impl Classify for serde_json::Error {
    fn classify(&self) -> Kind {
        Kind::Corrupt
    }
}

impl Classify for vaquita_shim::Error {
    fn classify(&self) -> Kind {
        use vaquita_shim::Kind as Shim;
        match self.kind() {
            Shim::Busy => Kind::Busy,
            Shim::Corrupt => Kind::Corrupt,
            Shim::Denied => Kind::Denied,
            Shim::Exists => Kind::Exists,
            Shim::Invalid => Kind::Invalid,
            Shim::NotFound => Kind::NotFound,
            Shim::State => Kind::Precondition,
            Shim::Timeout => Kind::Timeout,
            Shim::Unavailable => Kind::Unavailable,
            Shim::Unsupported => Kind::Unsupported,
            _ => Kind::Internal,
        }
    }
}

impl Classify for vaquita_nri::Error {
    fn classify(&self) -> Kind {
        use vaquita_nri::Kind as Nri;
        match self.kind() {
            Nri::Busy => Kind::Busy,
            Nri::Invalid => Kind::Invalid,
            _ => Kind::Internal,
        }
    }
}

impl Classify for vaquita_net::Error {
    fn classify(&self) -> Kind {
        use vaquita_net::Kind as Net;
        match self.kind() {
            Net::Busy => Kind::Busy,
            Net::Corrupt => Kind::Corrupt,
            Net::Denied => Kind::Denied,
            Net::Exhausted => Kind::Unavailable,
            Net::Exists => Kind::Exists,
            Net::Invalid => Kind::Invalid,
            Net::NotFound => Kind::NotFound,
            Net::Unsupported => Kind::Unsupported,
            _ => Kind::Internal,
        }
    }
}

impl Classify for vaquita_cni::Error {
    fn classify(&self) -> Kind {
        use vaquita_cni::Kind as Cni;
        match self.kind() {
            // Of the node, not of the request: somebody may still put it right.
            Cni::Busy | Cni::NotFound => Kind::Unavailable,
            Cni::Corrupt => Kind::Corrupt,
            Cni::Exists => Kind::Exists,
            Cni::Timeout => Kind::Timeout,
            _ => Kind::Internal,
        }
    }
}

impl Classify for vaquita_sys::Error {
    fn classify(&self) -> Kind {
        self.errno().classify()
    }
}

impl Classify for vaquita_runtime::Error {
    fn classify(&self) -> Kind {
        use vaquita_runtime::Kind as Runtime;
        match self.kind() {
            Runtime::Invalid => Kind::Invalid,
            Runtime::NotFound => Kind::NotFound,
            Runtime::Unsupported => Kind::Unsupported,
            Runtime::Kernel(errno) => errno.classify(),
            _ => Kind::Internal,
        }
    }
}

impl From<vaquita_runtime::Error> for Error {
    fn from(error: vaquita_runtime::Error) -> Self {
        Self::new(error.classify(), error.to_string())
    }
}

impl Classify for vaquita_cgroup::Error {
    fn classify(&self) -> Kind {
        use vaquita_cgroup::Kind as Cgroup;
        match self.kind() {
            Cgroup::Busy => Kind::Busy,
            Cgroup::Denied => Kind::Denied,
            Cgroup::Exists => Kind::Exists,
            Cgroup::Invalid => Kind::Invalid,
            Cgroup::NotFound => Kind::NotFound,
            Cgroup::Timeout => Kind::Timeout,
            Cgroup::Unavailable => Kind::Unavailable,
            Cgroup::Unsupported => Kind::Unsupported,
            _ => Kind::Internal,
        }
    }
}

impl Classify for vaquita_image::Error {
    fn classify(&self) -> Kind {
        use vaquita_image::Kind as Image;
        match self.kind() {
            Image::Busy => Kind::Busy,
            Image::Corrupt => Kind::Corrupt,
            Image::Denied => Kind::Denied,
            Image::Exists => Kind::Exists,
            Image::Invalid => Kind::Invalid,
            Image::NotFound => Kind::NotFound,
            Image::Timeout => Kind::Timeout,
            Image::Cancelled | Image::Unavailable => Kind::Unavailable,
            Image::Unsupported => Kind::Unsupported,
            _ => Kind::Internal,
        }
    }
}

impl From<vaquita_image::Error> for Error {
    /// Word for word: kubelet looks at how the text begins.
    fn from(error: vaquita_image::Error) -> Self {
        Self::new(error.classify(), error.to_string())
    }
}

/// Bytes of an error's text. It travels in a header, where a byte may take three; clients refuse headers of more than 16 KiB, and with
/// them the code. What is longer quotes what the client has sent.
const TEXT: usize = 4 << 10;

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            Kind::Busy | Kind::Unavailable => tonic::Code::Unavailable,
            Kind::Corrupt => tonic::Code::DataLoss,
            Kind::Denied => tonic::Code::PermissionDenied,
            Kind::Exhausted => tonic::Code::ResourceExhausted,
            Kind::Exists => tonic::Code::AlreadyExists,
            Kind::Internal => tonic::Code::Internal,
            Kind::Invalid => tonic::Code::InvalidArgument,
            Kind::NotFound => tonic::Code::NotFound,
            Kind::Precondition => tonic::Code::FailedPrecondition,
            Kind::Timeout => tonic::Code::DeadlineExceeded,
            Kind::Unsupported => tonic::Code::Unimplemented,
        };
        let mut text = error.to_string();
        if text.len() > TEXT {
            let tail = text.ceil_char_boundary(text.len() - TEXT / 4);
            text.replace_range(text.floor_char_boundary(TEXT / 4 * 3)..tail, " … ");
        }
        Self::new(code, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        #[derive(Debug)]
        struct Outer(std::io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "open /x: {}", self.0)
            }
        }
        impl StdError for Outer {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(&self.0)
            }
        }
        assert_eq!(chain(&Outer(std::io::Error::other("gone"))), "open /x: gone");
    }

    #[test]
    fn the_client_gets_code_and_text() {
        let error = std::result::Result::<(), _>::Err(std::io::Error::from(std::io::ErrorKind::NotFound))
            .doing(|| "read the record")
            .unwrap_err();
        let status = tonic::Status::from(error);
        assert_eq!(status.code(), tonic::Code::NotFound);
        assert_eq!(status.message(), "could not read the record: entity not found");
    }

    #[test]
    fn a_text_that_quotes_too_much_loses_its_middle() {
        let status =
            tonic::Status::from(Error::invalid(format!("a name: {} is too long", "ä".repeat(100_000))));
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        let text = status.message();
        assert!(text.starts_with("a name: ä") && text.contains("ä … ä") && text.ends_with("ä is too long"));
        assert!(text.len() < TEXT + 16);
    }
}
