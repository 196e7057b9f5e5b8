//! What can go wrong, for callers (a [`Kind`]) and for people (a sentence that names the call and its arguments).

use core::fmt;

use rustix::io::Errno;

/// A failure of the runtime. Prints what was asked, what failed, and what to do about it where that is known.
pub struct Error(Box<Inner>);

/// What sort of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// The process to work on is gone.
    NotFound,
    /// The specification asks for something that cannot be, or for something unsafe.
    Invalid,
    /// Asked for, valid, and not implemented by this runtime or not offered by this kernel.
    Unsupported,
    /// The program could not be executed; the container was otherwise in order.
    Exec(Errno),
    /// A system call failed.
    Kernel(Errno),
    /// A hook failed, or took too long.
    Hook,
    /// The new process died before it had finished its set-up.
    Died,
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The error number, where a system call failed.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self.0.kind {
            Kind::Exec(errno) | Kind::Kernel(errno) => Some(errno),
            _ => None,
        }
    }

    /// A failure of what is done at a [`crate::Rendezvous`], for callers whose work there is not all of this crate.
    #[must_use]
    pub fn hook(message: impl Into<String>) -> Self {
        Self::new(Kind::Hook, message.into())
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message.into())
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message.into())
    }

    pub(crate) fn died(message: impl Into<String>) -> Self {
        Self::new(Kind::Died, message.into())
    }

    /// `call` prints as the call did, without the result.
    pub(crate) fn kernel(call: impl fmt::Display, errno: Errno) -> Self {
        Self::new(Kind::Kernel(errno), vaquita_sys::Error::new(call.to_string(), errno).to_string())
    }

    pub(crate) fn exec(call: impl fmt::Display, errno: Errno) -> Self {
        Self::new(Kind::Exec(errno), vaquita_sys::Error::new(call.to_string(), errno).to_string())
    }

    pub(crate) fn new(kind: Kind, message: String) -> Self {
        Self(Box::new(Inner { kind, message: one_line(message) }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}, {:?})", self.0.kind, self.0.message)
    }
}

impl core::error::Error for Error {}

impl From<vaquita_sys::Error> for Error {
    fn from(error: vaquita_sys::Error) -> Self {
        Self::new(Kind::Kernel(error.errno()), error.to_string())
    }
}

impl From<vaquita_cgroup::Error> for Error {
    fn from(error: vaquita_cgroup::Error) -> Self {
        let kind = match error.kind() {
            vaquita_cgroup::Kind::Kernel(errno) => Kind::Kernel(errno),
            vaquita_cgroup::Kind::NotFound => Kind::NotFound,
            vaquita_cgroup::Kind::Invalid => Kind::Invalid,
            vaquita_cgroup::Kind::Unsupported => Kind::Unsupported,
            vaquita_cgroup::Kind::Denied => Kind::Kernel(Errno::PERM),
            vaquita_cgroup::Kind::Busy => Kind::Kernel(Errno::BUSY),
            _ => Kind::Kernel(Errno::IO),
        };
        Self::new(kind, error.to_string())
    }
}

struct Inner {
    kind: Kind,
    message: String,
}

/// The longest message, in bytes: it may quote what a hostile document contains.
const LONGEST: usize = 2048;

/// A message as one line of bounded length, without characters that a terminal obeys.
fn one_line(message: String) -> String {
    // The two that end a line and are not control characters: line and paragraph separator.
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let mut line = message;
    if line.contains(breaks) {
        let escape = |c: char| {
            let (plain, escaped) = if breaks(c) { (None, Some(c.escape_debug())) } else { (Some(c), None) };
            plain.into_iter().chain(escaped.into_iter().flatten())
        };
        line = line.chars().flat_map(escape).collect();
    }
    // Escapes make it longer, so it is cut last.
    if line.len() > LONGEST {
        // What is wrong is often said last.
        let (head, tail) =
            (line.floor_char_boundary(LONGEST / 2), line.ceil_char_boundary(line.len() - LONGEST / 4));
        line.replace_range(head..tail, " [...] ");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_bounded_length() {
        assert_eq!(Error::invalid("plain: \"é\"").to_string(), "plain: \"é\"");
        assert_eq!(Error::invalid("a\nb\u{1b}[2Jc\u{2028}").to_string(), "a\\nb\\u{1b}[2Jc\\u{2028}");
        let nuls = Error::invalid("\0".repeat(LONGEST)).to_string();
        assert!(nuls.len() < LONGEST && nuls.starts_with("\\0\\0"), "{nuls}");
        let long = Error::invalid(format!("{}: too long", "é".repeat(1 << 20))).to_string();
        assert!(long.len() < LONGEST && long.starts_with('é') && long.ends_with("é: too long"), "{long}");
    }
}
