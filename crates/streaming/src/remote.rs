//! The streams of one process over one connection, in the protocols that Kubernetes has for it, without any input or
//! output.

mod resize;
mod spdy;
mod status;
mod websocket;

use bytes::{Bytes, BytesMut};

use crate::Malformed;

pub(crate) use resize::Resizes;
pub use resize::Size;
pub(crate) use spdy::SpdyRemote;
pub(crate) use status::Outcome;
pub(crate) use websocket::{Encoding, WebSocketRemote, decode};

/// The streams. The numbers are those of WebSocket's channels.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Channel {
    /// To the process.
    Stdin = 0,
    /// From the process.
    Stdout = 1,
    /// From the process.
    Stderr = 2,
    /// How it ended.
    Error = 3,
    /// The sizes of the client's terminal.
    Resize = 4,
}

/// The versions of what is said on these streams.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Version {
    /// `channel.k8s.io`. Served as the second, which is the same with its mistakes put right.
    V1,
    /// `v2.channel.k8s.io`.
    V2,
    /// `v3.channel.k8s.io`: the size of the terminal can change.
    V3,
    /// `v4.channel.k8s.io`: the end is told as JSON, with the exit code.
    V4,
    /// `v5.channel.k8s.io`: streams can be closed over WebSocket.
    V5,
}

/// What a client did.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// The client will send nothing at all any more.
    Closed,
    /// Bytes for a stream, never none.
    Data(Channel, Bytes),
    /// Nothing follows on that stream.
    End(Channel),
    /// All streams are there. Once; data may have come before.
    Ready,
}

/// One protocol.
pub(crate) trait Remote: Send {
    /// The next event, or none before there are more bytes. After an error there is no way on.
    fn poll(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Malformed>;

    /// Sends output of the process.
    fn write(&mut self, channel: Channel, bytes: &[u8]);

    /// Ends a stream.
    fn end(&mut self, channel: Channel);

    /// Says how it ended, and that this was all. Nothing may be sent after it.
    fn finish(&mut self, outcome: &Outcome);

    /// What is to be sent; whoever sends it takes it out.
    fn output(&mut self) -> &mut BytesMut;
}
