//! The bytes on a connection: frames of two channels, in which there are ttrpc messages. Pure.
//!
//! A frame is a channel (4 bytes, big endian), a length (4) and that many bytes of the channel's stream. A stream is messages: length (4),
//! number of the request (4), type (1), flags (1), and the payload. Where a frame ends has nothing to do with where a message does.

use std::fmt;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// The most bytes that a frame has: the longest message with its header.
const FRAME: u32 = 10 + (4 << 20);
/// The bytes before a frame.
const FRAME_HEADER: usize = 8;
/// The bytes before a message.
const HEADER: usize = 10;
/// What the other side reads at once, and fails when a frame is longer: it begins each message with a buffered read.
const FIRST: usize = 4096;

/// Who serves on a channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Channel {
    /// The plugin: we ask.
    Plugin,
    /// We: the plugin asks.
    Runtime,
}

/// What a message is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Type {
    Request,
    Response,
}

/// A message of ttrpc.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Message {
    pub(crate) channel: Channel,
    /// Which request it is or answers.
    pub(crate) stream: u32,
    pub(crate) kind: Type,
    pub(crate) payload: Bytes,
}

/// How a peer has broken the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Broken {
    /// A frame of a channel that there is not.
    Channel(u32),
    /// Flags that ask for a stream of data, or are none.
    Flags(u8),
    /// A frame of so many bytes.
    Frame(u32),
    /// A message of so many bytes.
    Length(u32),
    /// A message of a type that is not known, or of data.
    Type(u8),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(id) => write!(f, "it sent a frame of channel {id}"),
            Self::Flags(flags) => write!(f, "it sent a message with flags {flags:#x}"),
            Self::Frame(length) => write!(f, "it sent a frame of {length} bytes"),
            Self::Length(length) => write!(f, "it sent a message of {length} bytes"),
            Self::Type(number) => write!(f, "it sent a message of type {number}"),
        }
    }
}

impl Channel {
    const ALL: [Self; 2] = [Self::Plugin, Self::Runtime];

    const fn id(self) -> u32 {
        match self {
            Self::Plugin => 1,
            Self::Runtime => 2,
        }
    }
}

impl Message {
    /// The message in its frames. The first one is as long as the other side's buffer at most, the second has the rest.
    pub(crate) fn encode(&self) -> Bytes {
        let mut message = BytesMut::with_capacity(2 * FRAME_HEADER + HEADER + self.payload.len());
        let total = HEADER + self.payload.len();
        let first = total.min(FIRST);
        let frame = |buffer: &mut BytesMut, length: usize| {
            buffer.put_u32(self.channel.id());
            buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        };
        frame(&mut message, first);
        message.put_u32(u32::try_from(self.payload.len()).unwrap_or(u32::MAX));
        message.put_u32(self.stream);
        message.put_u8(match self.kind {
            Type::Request => 1,
            Type::Response => 2,
        });
        message.put_u8(0);
        message.put_slice(&self.payload[..first - HEADER]);
        if total > first {
            frame(&mut message, total - first);
            message.put_slice(&self.payload[first - HEADER..]);
        }
        message.freeze()
    }
}

/// Takes bytes as they come and gives messages. Holds one message of each channel at most, beside what was put in last.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// What was read and not looked at.
    input: BytesMut,
    /// The frame that is being read, and what is missing of it.
    frame: Option<(Channel, usize)>,
    /// The streams of the channels.
    streams: [BytesMut; Channel::ALL.len()],
    /// The longest payload.
    limit: u32,
}

impl Decoder {
    /// A decoder of messages whose payloads have at most `limit` bytes.
    pub(crate) fn new(limit: u32) -> Self {
        Self { input: BytesMut::new(), frame: None, streams: [BytesMut::new(), BytesMut::new()], limit }
    }

    /// Accepts other payloads from the next message on.
    pub(crate) fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Where to read into.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// The next message, or none if bytes are missing. After an error nothing that comes makes sense.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, Broken> {
        loop {
            for channel in Channel::ALL {
                if let Some(message) = self.message(channel)? {
                    return Ok(Some(message));
                }
            }
            if !self.advance()? {
                return Ok(None);
            }
        }
    }

    /// Moves bytes from a frame to a stream, or begins a frame; says whether there were any.
    fn advance(&mut self) -> Result<bool, Broken> {
        let Some((channel, missing)) = self.frame.take() else {
            if self.input.len() < FRAME_HEADER {
                return Ok(false);
            }
            let (id, length) = (self.input.get_u32(), self.input.get_u32());
            let channel =
                Channel::ALL.into_iter().find(|channel| channel.id() == id).ok_or(Broken::Channel(id))?;
            if length > FRAME {
                return Err(Broken::Frame(length));
            }
            self.frame = Some((channel, length as usize));
            return Ok(true);
        };
        let taken = missing.min(self.input.len());
        self.streams[channel as usize].unsplit(self.input.split_to(taken));
        self.frame = (taken < missing).then_some((channel, missing - taken));
        Ok(taken > 0 || missing == 0)
    }

    /// The first message of a stream, if it is complete.
    fn message(&mut self, channel: Channel) -> Result<Option<Message>, Broken> {
        let stream = &mut self.streams[channel as usize];
        if stream.len() < HEADER {
            return Ok(None);
        }
        let mut header = &stream[..HEADER];
        let (length, number, kind, flags) =
            (header.get_u32(), header.get_u32(), header.get_u8(), header.get_u8());
        if length > self.limit {
            return Err(Broken::Length(length));
        }
        let kind = match kind {
            1 => Type::Request,
            2 => Type::Response,
            _ => return Err(Broken::Type(kind)),
        };
        // Bit 0, that nothing follows, is what a request without a stream is anyway.
        if flags > 1 {
            return Err(Broken::Flags(flags));
        }
        let total = HEADER + length as usize;
        if stream.len() < total {
            return Ok(None);
        }
        let mut message = stream.split_to(total);
        message.advance(HEADER);
        // Copied: a part of a buffer would keep all of it.
        let payload = Bytes::copy_from_slice(&message);
        if stream.is_empty() {
            *stream = BytesMut::new();
        }
        Ok(Some(Message { channel, stream: number, kind, payload }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u32 = 1 << 16;

    fn decode(bytes: &[u8], step: usize) -> (Vec<Message>, Option<Broken>) {
        let mut decoder = Decoder::new(LIMIT);
        let mut messages = Vec::new();
        for piece in bytes.chunks(step.max(1)) {
            decoder.buffer().extend_from_slice(piece);
            loop {
                match decoder.next() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(broken) => return (messages, Some(broken)),
                }
            }
            let held: usize = decoder.input.len() + decoder.streams.iter().map(BytesMut::len).sum::<usize>();
            assert!(held <= 2 * (LIMIT as usize + HEADER) + step, "{held} bytes are held");
        }
        (messages, None)
    }

    fn message() -> impl Strategy<Value = Message> {
        (any::<bool>(), any::<u32>(), any::<bool>(), 0_usize..10_000).prop_map(
            |(plugin, stream, request, length)| Message {
                channel: if plugin { Channel::Plugin } else { Channel::Runtime },
                stream,
                kind: if request { Type::Request } else { Type::Response },
                payload: (0..length).map(|at| at as u8).collect(),
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn what_was_encoded_is_decoded_whatever_the_pieces(
            messages in proptest::collection::vec(message(), 0..8), step in 1_usize..9000,
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|message| message.encode()).collect();
            prop_assert_eq!(decode(&bytes, step), (messages, None));
        }

        #[test]
        fn any_bytes_are_messages_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..4000), step in 1_usize..4000,
        ) {
            decode(&bytes, step);
        }

        /// Closer to what is valid: real messages with a few bytes changed.
        #[test]
        fn damaged_messages_are_messages_or_an_error(
            messages in proptest::collection::vec(message(), 1..4),
            damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
            step in 1_usize..9000,
        ) {
            let mut bytes: Vec<u8> = messages.iter().flat_map(|message| message.encode()).collect();
            for (at, with) in damage {
                let at = at % bytes.len().min(64);
                bytes[at] = with;
            }
            decode(&bytes, step);
        }
    }

    #[test]
    fn a_message_may_begin_in_one_frame_and_end_in_another_with_the_other_channel_between() {
        let bytes = [
            &[0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0][..],
            &[0, 0, 0, 2, 0, 0, 0, 11, 0, 0, 0, 1, 0, 0, 0, 5, 1, 0, 9],
            &[0, 0, 0, 1, 0, 0, 0, 0],
            &[0, 0, 0, 1, 0, 0, 0, 5, 3, 2, 1, 7, 8],
        ]
        .concat();
        let first =
            Message { channel: Channel::Runtime, stream: 5, kind: Type::Request, payload: vec![9].into() };
        let second =
            Message { channel: Channel::Plugin, stream: 3, kind: Type::Response, payload: vec![7, 8].into() };
        for step in 1..bytes.len() {
            assert_eq!(decode(&bytes, step), (vec![first.clone(), second.clone()], None), "{step}");
        }
    }

    #[test]
    fn a_long_message_has_two_frames_of_which_the_first_fits_a_buffer() {
        for (length, frames) in
            [(0, vec![10]), (4086, vec![4096]), (4087, vec![4096, 1]), (9000, vec![4096, 4914])]
        {
            let message = Message {
                channel: Channel::Plugin,
                stream: 1,
                kind: Type::Request,
                payload: vec![0; length].into(),
            };
            let mut bytes = message.encode();
            let mut seen = Vec::new();
            while !bytes.is_empty() {
                assert_eq!(bytes.get_u32(), 1);
                let length = bytes.get_u32() as usize;
                bytes.advance(length);
                seen.push(length);
            }
            assert_eq!(seen, frames);
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_named() {
        let frame =
            |id: u32, length: u32, rest: &[u8]| [&id.to_be_bytes()[..], &length.to_be_bytes(), rest].concat();
        let cases = [
            (frame(0, 10, &[]), Broken::Channel(0)),
            (frame(3, 10, &[]), Broken::Channel(3)),
            (frame(1, FRAME + 1, &[]), Broken::Frame(FRAME + 1)),
            (frame(1, u32::MAX, &[]), Broken::Frame(u32::MAX)),
            (frame(1, 10, &[0, 1, 0, 1, 0, 0, 0, 1, 2, 0]), Broken::Length(LIMIT + 1)),
            (frame(2, 10, &[0, 0, 0, 1, 0, 0, 0, 1, 3, 0]), Broken::Type(3)),
            (frame(2, 10, &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0]), Broken::Type(0)),
            (frame(2, 10, &[0, 0, 0, 1, 0, 0, 0, 1, 1, 2]), Broken::Flags(2)),
            (frame(1, 10, &[0, 0, 0, 1, 0, 0, 0, 1, 2, 4]), Broken::Flags(4)),
        ];
        for (bytes, broken) in cases {
            assert_eq!(decode(&bytes, 3), (Vec::new(), Some(broken)));
        }
    }
}
