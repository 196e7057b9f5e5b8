//! Moves bytes between a socket, a protocol and the backend.

mod forward;
mod remote;
mod wire;

use std::time::Duration;

pub(crate) use forward::forward;
pub(crate) use remote::remote;

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
