//! WebSocket (RFC 6455), the server's side, without any input or output.

mod frame;
mod handshake;

pub(crate) use frame::{CloseCode, Codec, Message};
pub(crate) use handshake::{Refusal, accept};

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::frame::tests::masked;
}
