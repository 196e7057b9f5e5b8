//! SPDY/3.1, as much of it as the streams of Kubernetes use, without any input or output.
//!
//! Written after the draft of the protocol and after what its clients do: there is no flow control on either side
//! (window updates and settings are ignored), and every stream is opened by the client.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub(crate) use connection::{Connection, Event};
pub(crate) use frame::ResetCode;
pub(crate) use headers::Headers;

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::frame::tests::{frame, syn_stream};
    pub(crate) use super::headers::tests::Writer;
}
