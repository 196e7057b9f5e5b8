//! The protocol between client and shim, as a pure codec: bytes in, messages out, no I/O.
//!
//! A message is one packet of a `SOCK_SEQPACKET` socket: a header of [`HEADER`] bytes, then the body, with file
//! descriptors beside it. A body of more than [`MAX_INLINE`] bytes travels in a sealed memfd instead, which is then
//! the last descriptor. A client numbers its requests as it likes; the response carries the number of its request,
//! and responses come in the order in which the operations end. Events have the number 0.
//!
//! ```text
//! byte  0        1      2                   3                4..8
//!       version  kind   1: body in a memfd  fds (no memfd)   number, little-endian
//! ```

use crate::{
    AttachRequest, CreateRequest, Error, Event, Exited, Kind, PodState, SandboxRequest, SignalScope,
};

mod codec;
mod fields;

use codec::{Reader, Writer};
use fields::{
    create_extension, create_request, exit, failure, pod_state, put_create_extension, put_create_request,
    put_exit, put_failure, put_pod_state, put_sandbox_request, sandbox_request,
};

/// The version of the protocol, the first byte of every packet. Both sides refuse any other.
pub const VERSION: u8 = 1;
/// The length of a header in bytes.
pub const HEADER: usize = 8;
/// Where the number begins in it.
pub(crate) const NUMBER: usize = 4;
/// The longest body, in bytes, that travels in the packet itself.
pub const MAX_INLINE: usize = 32 * 1024;
/// The longest body, in bytes, that travels at all.
pub const MAX_BODY: usize = 4 * 1024 * 1024;
/// The most file descriptors that travel with a message, the memfd not counted.
pub const MAX_FDS: usize = 8;

const MAX_ID: usize = 256;
const MAX_PATH: usize = 4096;
const MAX_TEXT: usize = 16 * 1024;
const MAX_LIST: usize = 4096;

/// Bytes that are not a message of this protocol, and what is wrong with them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub(crate) &'static str);

/// The first bytes of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// Which message the body is.
    pub code: u8,
    /// How many file descriptors belong to the message.
    pub fds: u8,
    /// The number of the request, 0 for an event.
    pub number: u32,
    /// The body is in a memfd, behind the other descriptors.
    pub spilled: bool,
}

/// What a client asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request<'a> {
    /// Make the pod's namespaces and pause process. Answer: [`Response::Process`] with pidfd and, if new, netns.
    CreateSandbox(SandboxRequest),
    /// Set a container up; the descriptor is its root. Answer: [`Response::Process`] with pidfd.
    Create(CreateRequest),
    /// Execute a container's program.
    Start(&'a str),
    /// Send a signal.
    Signal {
        /// The container.
        id: &'a str,
        /// The number of the signal.
        signal: i32,
        /// Who gets it.
        scope: SignalScope,
    },
    /// Run a process in a container. Answer: [`Response::Process`], with the terminal's master side if it asked for one.
    Exec {
        /// The container.
        container: &'a str,
        /// The name of the session.
        exec_id: &'a str,
        /// Which of stdin, stdout and stderr are among the descriptors.
        stdio: [bool; 3],
        /// The OCI `process` object as JSON, which the shim hands on unread.
        process: &'a [u8],
    },
    /// Kill an exec session.
    KillExec {
        /// The container.
        container: &'a str,
        /// The name of the session.
        exec_id: &'a str,
    },
    /// Delete a container.
    Delete(&'a str),
    /// Delete everything, and end.
    DeleteSandbox,
    /// Open the log file anew.
    ReopenLog(&'a str),
    /// Describe the pod. Answer: [`Response::State`].
    State,
    /// Answer [`Response::Done`] with the network namespace as a descriptor.
    Netns,
    /// End, if nothing runs.
    Shutdown,
    /// Look on at a container, and type. Answer: [`Response::Attached`].
    Attach(AttachRequest),
    /// Set the size of a container's terminal.
    Resize {
        /// The container.
        id: &'a str,
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Answer [`Response::Done`] with the user namespace as a descriptor.
    Userns,
}

/// What the shim answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Response {
    /// It is done.
    Done,
    /// It failed.
    Failed(Failure),
    /// A process was made.
    Process {
        /// Its id in the host's PID namespace.
        pid: i32,
    },
    /// The pod.
    State(PodState),
    /// What was asked for and is there of stdin, stdout and stderr, as descriptors in this order.
    Attached {
        /// Which of them are among the descriptors.
        present: [bool; 3],
    },
}

/// An [`Error`] on its way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// What kind of error it is.
    pub kind: Kind,
    /// Its text.
    pub message: String,
}

impl Header {
    /// The header as the first bytes of a packet.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER] {
        let [a, b, c, d] = self.number.to_le_bytes();
        [VERSION, self.code, self.spilled.into(), self.fds, a, b, c, d]
    }

    /// Splits a packet into header and body; the body is empty if it is in a memfd.
    ///
    /// # Errors
    /// When it is no packet of this version of the protocol.
    pub fn decode(packet: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (header, body) =
            packet.split_first_chunk::<HEADER>().ok_or(Malformed("shorter than a header"))?;
        let [version, code, flags, fds, number @ ..] = *header;
        if version != VERSION {
            return Err(Malformed("another version of the protocol"));
        }
        if flags > 1 {
            return Err(Malformed("unknown flags"));
        }
        let spilled = flags == 1;
        if usize::from(fds) > MAX_FDS {
            return Err(Malformed("too many file descriptors"));
        }
        if body.len() > MAX_INLINE || (spilled && !body.is_empty()) {
            return Err(Malformed("a body that should be in a memfd"));
        }
        Ok((Self { code, fds, number: u32::from_le_bytes(number), spilled }, body))
    }
}

impl<'a> Request<'a> {
    /// The code for the header.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::CreateSandbox(_) => 0x01,
            // As much as shims of an older version know, and then more.
            Self::Create(request) if request.has_late_work => 0x11,
            Self::Create(request) if request.runtime.is_none() && request.log_limit == 0 => 0x02,
            Self::Create(_) => 0x0f,
            Self::Start(_) => 0x03,
            Self::Signal { .. } => 0x04,
            Self::Exec { .. } => 0x05,
            Self::KillExec { .. } => 0x06,
            Self::Delete(_) => 0x07,
            Self::DeleteSandbox => 0x08,
            Self::ReopenLog(_) => 0x09,
            Self::State => 0x0a,
            Self::Netns => 0x0b,
            Self::Shutdown => 0x0c,
            Self::Attach(_) => 0x0d,
            Self::Resize { .. } => 0x0e,
            Self::Userns => 0x10,
        }
    }

    /// How many descriptors must come with it. With [`Request::CreateSandbox`] there may be one more.
    #[must_use]
    pub fn fds(&self) -> usize {
        match self {
            Self::Create(_) => 1,
            Self::Exec { stdio, .. } => stdio.iter().filter(|present| **present).count(),
            _ => 0,
        }
    }

    /// The body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let w = &mut writer;
        match self {
            Self::CreateSandbox(request) => put_sandbox_request(w, request),
            Self::Create(request) => {
                put_create_request(w, request);
                // What the last code says beside needs no words.
                if self.code() != 0x02 {
                    put_create_extension(w, request);
                }
            }
            Self::Start(id) | Self::Delete(id) | Self::ReopenLog(id) => {
                w.text(id);
            }
            Self::Signal { id, signal, scope } => {
                w.text(id).i32(*signal).bool(*scope == SignalScope::All);
            }
            Self::Exec { container, exec_id, stdio, process } => {
                w.text(container).text(exec_id);
                stdio.iter().for_each(|present| {
                    w.bool(*present);
                });
                w.bytes(process);
            }
            Self::KillExec { container, exec_id } => {
                w.text(container).text(exec_id);
            }
            Self::Attach(AttachRequest { container, stdin, stdout, stderr }) => {
                w.text(container).bool(*stdin).bool(*stdout).bool(*stderr);
            }
            Self::Resize { id, width, height } => {
                w.text(id).u32((*width).into()).u32((*height).into());
            }
            Self::DeleteSandbox | Self::State | Self::Netns | Self::Shutdown | Self::Userns => {}
        }
        writer.into_bytes()
    }

    /// The request that a header and a body are, with strings that point into the body.
    ///
    /// # Errors
    /// When they are none, or the number of descriptors is not right for it.
    pub fn decode(header: Header, body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let r = &mut reader;
        let request = match header.code {
            0x01 => Self::CreateSandbox(sandbox_request(r)?),
            0x02 => Self::Create(create_request(r)?),
            0x03 => Self::Start(r.text(MAX_ID)?),
            0x04 => Self::Signal {
                id: r.text(MAX_ID)?,
                signal: r.i32()?,
                scope: if r.bool()? { SignalScope::All } else { SignalScope::Init },
            },
            0x05 => Self::Exec {
                container: r.text(MAX_ID)?,
                exec_id: r.text(MAX_ID)?,
                stdio: [r.bool()?, r.bool()?, r.bool()?],
                process: r.bytes(MAX_BODY)?,
            },
            0x06 => Self::KillExec { container: r.text(MAX_ID)?, exec_id: r.text(MAX_ID)? },
            0x07 => Self::Delete(r.text(MAX_ID)?),
            0x08 => Self::DeleteSandbox,
            0x09 => Self::ReopenLog(r.text(MAX_ID)?),
            0x0a => Self::State,
            0x0b => Self::Netns,
            0x0c => Self::Shutdown,
            0x0d => Self::Attach(AttachRequest {
                container: r.text(MAX_ID)?.to_owned(),
                stdin: r.bool()?,
                stdout: r.bool()?,
                stderr: r.bool()?,
            }),
            code @ (0x0f | 0x11) => {
                let request = create_request(r)?;
                let request = create_extension(r, request)?;
                Self::Create(CreateRequest { has_late_work: code == 0x11, ..request })
            }
            0x0e => Self::Resize { id: r.text(MAX_ID)?, width: r.u16()?, height: r.u16()? },
            0x10 => Self::Userns,
            _ => return Err(UNKNOWN_REQUEST),
        };
        r.end()?;
        // The network namespace of a pod, if it has been made already.
        let more = usize::from(matches!(request, Self::CreateSandbox(_)));
        if !(request.fds()..=request.fds() + more).contains(&usize::from(header.fds)) {
            return Err(Malformed("not the file descriptors that the request needs"));
        }
        Ok(request)
    }
}

impl Response {
    /// The code for the header.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Done => 0x81,
            Self::Failed(_) => 0x82,
            Self::Process { .. } => 0x83,
            Self::State(_) => 0x84,
            Self::Attached { .. } => 0x85,
        }
    }

    /// The body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let w = &mut writer;
        match self {
            Self::Done => {}
            Self::Failed(failure) => put_failure(w, failure),
            Self::Process { pid } => {
                w.i32(*pid);
            }
            Self::State(state) => put_pod_state(w, state),
            Self::Attached { present } => present.iter().for_each(|present| {
                w.bool(*present);
            }),
        }
        writer.into_bytes()
    }

    /// The response that a header and a body are.
    ///
    /// # Errors
    /// When they are none.
    pub fn decode(header: Header, body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let r = &mut reader;
        let response = match header.code {
            0x81 => Self::Done,
            0x82 => Self::Failed(failure(r)?),
            0x83 => Self::Process { pid: r.i32()? },
            0x84 => Self::State(pod_state(r)?),
            0x85 => Self::Attached { present: [r.bool()?, r.bool()?, r.bool()?] },
            _ => return Err(Malformed("an unknown response")),
        };
        r.end()?;
        Ok(response)
    }
}

/// What a shim of an older version has to say to a request that it does not know.
pub(crate) const UNKNOWN_REQUEST: Malformed = Malformed("an unknown request");

/// The code of the only event in a header.
pub(crate) const EXITED: u8 = 0xc1;

/// Whether a header is that of an event.
#[must_use]
pub fn is_event(header: Header) -> bool {
    header.code >= 0xc0
}

/// The body of the event that a process ended.
#[must_use]
pub fn encode_exited(exited: &Exited) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.text(&exited.id).option(exited.exec_id.as_ref(), |w, id| {
        w.text(id);
    });
    put_exit(&mut writer, &exited.exit);
    writer.into_bytes()
}

/// The event that a header and a body are.
///
/// # Errors
/// When they are none.
pub fn decode_event(header: Header, body: &[u8]) -> Result<Event, Malformed> {
    if header.code != EXITED {
        return Err(Malformed("an unknown event"));
    }
    let r = &mut Reader::new(body);
    let exited = Exited {
        id: r.text(MAX_ID)?.to_owned(),
        exec_id: r.option(|r| Ok(r.text(MAX_ID)?.to_owned()))?,
        exit: exit(r)?,
    };
    r.end()?;
    Ok(Event::Exited(exited))
}

impl Failure {
    /// Whether it is how a shim of an older version refuses a request that is newer than it.
    pub(crate) fn is_unknown_request(&self) -> bool {
        self.kind == Kind::Corrupt && self.message == UNKNOWN_REQUEST.to_string()
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let text = error.message();
        Self { kind: error.kind(), message: text[..text.floor_char_boundary(MAX_TEXT)].to_owned() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind, failure.message)
    }
}

#[cfg(test)]
mod tests;
