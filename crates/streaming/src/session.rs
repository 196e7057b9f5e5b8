//! Moves bytes between a socket, a protocol and the backend.

mod forward;
mod remote;
mod wire;

use std::time::Duration;

pub(crate) use forward::forward;
pub(crate) use remote::remote;

/// How often a client is nudged whose input is stuck. The end of its connection is behind the input; but the kernel of one
/// that has closed its end resets the connection when it gets anything (RFC 1122, section 4.2.2.13), and so do, one after
/// the other, those of the proxies in between.
const NUDGE: Duration = Duration::from_secs(2);

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Without a byte in either direction.
    pub(crate) idle: Duration,
    /// Until the client has opened all streams.
    pub(crate) creation: Duration,
    /// After the last word, until the client closes; and for a backend to give up.
    pub(crate) farewell: Duration,
}
