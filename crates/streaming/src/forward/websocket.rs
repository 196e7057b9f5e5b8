//! Each port that was asked for has one connection, and two of WebSocket's channels: an even one for the data, the next
//! for an error.

use std::collections::VecDeque;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;

use super::{Event, Forward};
use crate::Malformed;
use crate::remote::{Encoding, decode};
use crate::websocket::{CloseCode, Codec, Message};

/// How many ports fit: the first byte of a message is the number of a channel, and as text it is a digit.
pub(crate) const PORTS: usize = 128;
/// The same for [`Encoding::Base64`].
pub(crate) const PORTS_BASE64: usize = 5;

/// The server's side of one session.
#[derive(Debug)]
pub(crate) struct WebSocketForward {
    codec: Codec,
    encoding: Encoding,
    /// Of each connection, whether data may still be sent.
    open: Vec<bool>,
    events: VecDeque<Event>,
}

impl WebSocketForward {
    /// A session with a connection to each of these ports.
    pub(crate) fn new(encoding: Encoding, ports: &[u16]) -> Self {
        let events = (0..).zip(ports).map(|(number, port)| Event::Opened(number, *port)).collect();
        let mut session = Self { codec: Codec::default(), encoding, open: vec![true; ports.len()], events };
        for (number, port) in (0..).zip(ports) {
            for is_error in [false, true] {
                session.send(number, is_error, &port.to_le_bytes());
            }
        }
        session
    }

    fn send(&mut self, connection: u32, is_error: bool, bytes: &[u8]) {
        let Ok(number) = u8::try_from(2 * connection + u32::from(is_error)) else { return };
        match self.encoding {
            Encoding::Binary => self.codec.binary(&[&[number], bytes]),
            Encoding::Base64 => self.codec.text(&[&[b'0' + number], STANDARD.encode(bytes).as_bytes()]),
        }
    }

    fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Malformed> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let message = match self.codec.poll(input)? {
                Some(Message::Binary(bytes) | Message::Text(bytes)) => bytes,
                Some(Message::Close) => return Ok(Some(Event::Closed)),
                None => return Ok(None),
            };
            let Some((channel, bytes)) = decode(self.encoding, message)? else { continue };
            let is_data = channel % 2 == 0 && usize::from(channel / 2) < self.open.len();
            if is_data && !bytes.is_empty() {
                return Ok(Some(Event::Data(u32::from(channel / 2), bytes)));
            }
        }
    }

    fn is_open(&mut self, connection: u32) -> Option<&mut bool> {
        self.open.get_mut(usize::try_from(connection).ok()?).filter(|open| **open)
    }
}

impl Forward for WebSocketForward {
    fn poll(&mut self, input: &mut BytesMut, _: Instant) -> Result<Option<Event>, Malformed> {
        self.next(input).inspect_err(|_| self.codec.close(CloseCode::ProtocolError))
    }

    fn write(&mut self, connection: u32, bytes: &[u8]) {
        if self.is_open(connection).is_some() && !bytes.is_empty() {
            self.send(connection, false, bytes);
        }
    }

    /// There is no way to say it of one; the end of all of them is the end of the connection.
    fn end(&mut self, connection: u32) {
        if let Some(open) = self.is_open(connection) {
            *open = false;
        }
        if self.open.iter().all(|open| !open) {
            self.codec.close(CloseCode::Normal);
        }
    }

    fn fail(&mut self, connection: u32, reason: &str) {
        if self.is_open(connection).is_some() {
            self.send(connection, true, reason.as_bytes());
            self.end(connection);
        }
    }

    fn expire(&mut self, _: Instant) -> Option<Instant> {
        None
    }

    fn finish(&mut self) {
        self.codec.close(CloseCode::Normal);
    }

    fn nudge(&mut self) {
        self.codec.nudge();
    }

    fn output(&mut self) -> &mut BytesMut {
        self.codec.output()
    }
}
