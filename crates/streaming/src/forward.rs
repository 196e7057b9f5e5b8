//! Connections to ports of a pod, many of them over one connection, in the protocols that Kubernetes has for it, without
//! any input or output.

mod spdy;
mod tunnel;
mod websocket;

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::Malformed;

pub(crate) use spdy::SpdyForward;
pub(crate) use tunnel::Tunnel;
pub(crate) use websocket::{PORTS, PORTS_BASE64, WebSocketForward};

/// How many connections to the pod one client may have at a time.
pub(crate) const CONNECTIONS: usize = 256;

/// What a client did. Each connection to a port has a number that is not used again.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// The client will send nothing at all any more.
    Closed,
    /// Bytes for a connection, never none.
    Data(u32, Bytes),
    /// The client will send nothing more on that one.
    End(u32),
    /// A new connection to a port.
    Opened(u32, u16),
    /// The client is not interested in that one any more.
    Reset(u32),
}

/// One protocol.
pub(crate) trait Forward: Send {
    /// The next event, or none before there are more bytes. After an error there is no way on.
    fn poll(&mut self, input: &mut BytesMut, now: Instant) -> Result<Option<Event>, Malformed>;

    /// Sends what came from a port.
    fn write(&mut self, connection: u32, bytes: &[u8]);

    /// Says that nothing more will come from a port.
    fn end(&mut self, connection: u32);

    /// Says why a connection could not be made. Nothing may be sent for it after that.
    fn fail(&mut self, connection: u32, reason: &str);

    /// Gives up what was begun too long ago, and says when to call this again.
    fn expire(&mut self, now: Instant) -> Option<Instant>;

    /// Says that this was all. Nothing may be sent after it.
    fn finish(&mut self);

    /// What is to be sent; whoever sends it takes it out.
    fn output(&mut self) -> &mut BytesMut;
}
