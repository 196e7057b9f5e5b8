//! What the bearer of a URL may do.

use crate::{Error, Kind};

/// Something to be done over a connection that is still to come.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Request {
    /// See there.
    Attach(Attach),
    /// See there.
    Exec(Exec),
    /// See there.
    PortForward(PortForward),
}

/// The streams of a process that already runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attach {
    /// The id of the container.
    pub container: String,
    /// Which of its streams.
    pub streams: Wanted,
}

/// A process to be run in a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exec {
    /// The id of the container.
    pub container: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Which streams it gets.
    pub streams: Wanted,
}

/// Connections to ports of a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortForward {
    /// The id of the sandbox.
    pub sandbox: String,
    /// The ports for WebSocket's channels, two for each. Other clients name a port with each connection.
    pub ports: Vec<u16>,
}

/// Which streams a client wants.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent wishes of the interface")]
pub struct Wanted {
    /// To the process.
    pub stdin: bool,
    /// From the process.
    pub stdout: bool,
    /// From the process; never with a terminal, which has one output.
    pub stderr: bool,
    /// A terminal, with a size that the client may change.
    pub tty: bool,
}

impl Wanted {
    /// Whether these streams can be had together.
    ///
    /// # Errors
    /// [`Kind::Invalid`] without any stream, and for stderr of a terminal.
    pub fn validate(self) -> Result<(), Error> {
        if self.tty && self.stderr {
            let message = "tty and stderr cannot both be asked for: a terminal has one output";
            return Err(Error::new(Kind::Invalid, message));
        }
        if !(self.stdin || self.stdout || self.stderr) {
            return Err(Error::new(
                Kind::Invalid,
                "at least one of stdin, stdout and stderr must be asked for",
            ));
        }
        Ok(())
    }
}

impl Request {
    /// The first part of the path of its URL.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Attach(_) => "attach",
            Self::Exec(_) => "exec",
            Self::PortForward(_) => "portforward",
        }
    }
}
