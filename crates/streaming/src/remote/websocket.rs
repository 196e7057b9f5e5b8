//! Each message of the WebSocket belongs to a stream, whose number is its first byte.

use std::collections::VecDeque;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};

use super::{Channel, Event, Outcome, Remote, Version};
use crate::websocket::{CloseCode, Codec, Message};
use crate::{Malformed, Wanted};

/// The first byte of a message that ends the stream of the second byte.
const END_OF_STREAM: u8 = 255;

/// How the bytes of streams become messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Encoding {
    /// Text messages: the number of the stream as a digit, the bytes as base64.
    Base64,
    /// Binary messages: the number of the stream as a byte, the bytes as they are.
    Binary,
}

/// The server's side of one session.
#[derive(Debug)]
pub(crate) struct WebSocketRemote {
    codec: Codec,
    version: Version,
    encoding: Encoding,
    wanted: Wanted,
    events: VecDeque<Event>,
}

impl WebSocketRemote {
    /// A session with these streams.
    pub(crate) fn new(version: Version, encoding: Encoding, wanted: Wanted) -> Self {
        let events = VecDeque::from([Event::Ready]);
        let mut session = Self { codec: Codec::default(), version, encoding, wanted, events };
        // Some clients take the connection for made when they get a first message.
        let first = match wanted {
            Wanted { stdout: true, .. } => Channel::Stdout,
            Wanted { stderr: true, .. } => Channel::Stderr,
            _ => Channel::Error,
        };
        session.send(first, &[]);
        session
    }

    fn send(&mut self, channel: Channel, bytes: &[u8]) {
        let number = channel as u8;
        match self.encoding {
            Encoding::Binary => self.codec.binary(&[&[number], bytes]),
            Encoding::Base64 => self.codec.text(&[&[b'0' + number], STANDARD.encode(bytes).as_bytes()]),
        }
    }

    fn take(&mut self, message: Message) -> Result<Option<Event>, Malformed> {
        let (number, bytes) = match message {
            Message::Close => return Ok(Some(Event::Closed)),
            Message::Binary(bytes) | Message::Text(bytes) => match decode(self.encoding, bytes)? {
                Some(decoded) => decoded,
                None => return Ok(None),
            },
        };
        if number == END_OF_STREAM && self.version >= Version::V5 {
            return Ok(bytes.first().and_then(|number| self.incoming(*number)).map(Event::End));
        }
        // Go's server leaves out messages without content, too.
        Ok(self.incoming(number).filter(|_| !bytes.is_empty()).map(|channel| Event::Data(channel, bytes)))
    }

    /// The stream of a number, if it is one that carries something to us. What else a client sends is left out.
    fn incoming(&self, number: u8) -> Option<Channel> {
        match number {
            0 if self.wanted.stdin => Some(Channel::Stdin),
            4 if self.wanted.tty => Some(Channel::Resize),
            _ => None,
        }
    }
}

impl Remote for WebSocketRemote {
    fn poll(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Malformed> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let message = match self.codec.poll(input) {
                Ok(Some(message)) => self.take(message),
                Ok(None) => return Ok(None),
                Err(error) => Err(error),
            };
            let event = message.inspect_err(|_| self.codec.close(CloseCode::ProtocolError))?;
            self.events.extend(event);
        }
    }

    fn write(&mut self, channel: Channel, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.send(channel, bytes);
        }
    }

    /// There is no way to say it; the end of the connection does.
    fn end(&mut self, _: Channel) {}

    fn finish(&mut self, outcome: &Outcome) {
        self.write(Channel::Error, &outcome.message(self.version));
        self.codec.close(CloseCode::Normal);
    }

    fn nudge(&mut self) {
        self.codec.nudge();
    }

    fn output(&mut self) -> &mut BytesMut {
        self.codec.output()
    }
}

/// The number of the stream and the bytes; nothing for an empty message.
pub(crate) fn decode(encoding: Encoding, mut message: Bytes) -> Result<Option<(u8, Bytes)>, Malformed> {
    if message.is_empty() {
        return Ok(None);
    }
    let first = message.get_u8();
    match encoding {
        Encoding::Binary => Ok(Some((first, message))),
        Encoding::Base64 => {
            let bytes = STANDARD.decode(&message).map_err(|_| Malformed("a message is not base64"))?;
            Ok(Some((first.wrapping_sub(b'0'), bytes.into())))
        }
    }
}
