//! The bytes of another protocol in messages of a WebSocket.

use std::time::Instant;

use bytes::BytesMut;

use super::{Event, Forward};
use crate::Malformed;
use crate::websocket::{CloseCode, Codec, Message};

/// A protocol, tunnelled.
#[derive(Debug)]
pub(crate) struct Tunnel<P> {
    codec: Codec,
    inside: P,
    /// Bytes that came through the tunnel and were not looked at yet.
    input: BytesMut,
}

impl<P: Forward> Tunnel<P> {
    /// The tunnel around a protocol.
    pub(crate) fn new(inside: P) -> Self {
        Self { codec: Codec::default(), inside, input: BytesMut::new() }
    }

    fn next(&mut self, input: &mut BytesMut, now: Instant) -> Result<Option<Event>, Malformed> {
        loop {
            if let Some(event) = self.inside.poll(&mut self.input, now)? {
                return Ok(Some(event));
            }
            match self.codec.poll(input)? {
                Some(Message::Binary(bytes) | Message::Text(bytes)) => self.input.extend_from_slice(&bytes),
                Some(Message::Close) => return Ok(Some(Event::Closed)),
                None => return Ok(None),
            }
        }
    }

    /// What the protocol has to send goes into the tunnel.
    fn wrap(&mut self) {
        let plain = self.inside.output().split();
        if !plain.is_empty() {
            self.codec.binary(&[&plain]);
        }
    }
}

impl<P: Forward> Forward for Tunnel<P> {
    fn poll(&mut self, input: &mut BytesMut, now: Instant) -> Result<Option<Event>, Malformed> {
        self.next(input, now).inspect_err(|_| self.codec.close(CloseCode::ProtocolError))
    }

    fn write(&mut self, connection: u32, bytes: &[u8]) {
        self.inside.write(connection, bytes);
    }

    fn end(&mut self, connection: u32) {
        self.inside.end(connection);
    }

    fn fail(&mut self, connection: u32, reason: &str) {
        self.inside.fail(connection, reason);
    }

    fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.inside.expire(now)
    }

    fn finish(&mut self) {
        self.inside.finish();
        self.wrap();
        self.codec.close(CloseCode::Normal);
    }

    fn nudge(&mut self) {
        self.codec.nudge();
    }

    fn output(&mut self) -> &mut BytesMut {
        self.wrap();
        self.codec.output()
    }
}
