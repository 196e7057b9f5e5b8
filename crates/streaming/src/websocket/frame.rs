//! Frames and the messages that they make.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::Malformed;

/// The most bytes of one message. Clients send at most what they read at once, 32 KiB; somebody may paste more.
const MESSAGE: usize = 1 << 20;
/// The most bytes in the payload of a control frame: section 5.5.
const CONTROL: usize = 125;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Why a connection ends: section 7.4.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CloseCode {
    /// All is said.
    Normal = 1000,
    /// The client did what it must not do.
    ProtocolError = 1002,
}

/// What a client sends.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Message {
    /// A message of bytes.
    Binary(Bytes),
    /// The client is done, and was told that it may go.
    Close,
    /// A message that says of itself that it is text. That it is UTF-8 was not looked at.
    Text(Bytes),
}

/// The server's side of a connection: takes messages out of bytes, and answers pings.
#[derive(Debug, Default)]
pub(crate) struct Codec {
    /// The message of which frames are still to come.
    begun: Option<(u8, BytesMut)>,
    closed: bool,
    out: BytesMut,
}

/// One frame.
struct Frame {
    fin: bool,
    opcode: u8,
    payload: BytesMut,
}

impl Codec {
    /// The next message, or none before there are more bytes. After an error or a [`Message::Close`] nothing follows.
    pub(crate) fn poll(&mut self, input: &mut BytesMut) -> Result<Option<Message>, Malformed> {
        while let Some(Frame { fin, opcode, payload }) = take_frame(input)? {
            match (opcode, self.begun.take()) {
                (PING, begun) => {
                    self.begun = begun;
                    self.frame(PONG, &[&payload]);
                }
                (PONG, begun) => self.begun = begun,
                (CLOSE, _) => {
                    self.close(CloseCode::Normal);
                    return Ok(Some(Message::Close));
                }
                (TEXT | BINARY, None) if fin => return Ok(Some(message(opcode, payload))),
                (TEXT | BINARY, None) => self.begun = Some((opcode, payload)),
                (CONTINUATION, Some((opcode, mut all))) => {
                    if all.len() + payload.len() > MESSAGE {
                        return Err(Malformed("a message is too long"));
                    }
                    all.unsplit(payload);
                    match fin {
                        true => return Ok(Some(message(opcode, all))),
                        false => self.begun = Some((opcode, all)),
                    }
                }
                _ => return Err(Malformed("a frame is not one that can be here")),
            }
        }
        Ok(None)
    }

    /// Sends a message of bytes, which may be in parts.
    pub(crate) fn binary(&mut self, parts: &[&[u8]]) {
        self.frame(BINARY, parts);
    }

    /// Sends a message of text, which may be in parts.
    pub(crate) fn text(&mut self, parts: &[&[u8]]) {
        self.frame(TEXT, parts);
    }

    /// Says that this was all. Only the first time counts.
    pub(crate) fn close(&mut self, code: CloseCode) {
        self.frame(CLOSE, &[&(code as u16).to_be_bytes()]);
        self.closed = true;
    }

    /// Sends an answer to no ping, to which nothing is answered (RFC 6455, section 5.5.3).
    pub(crate) fn nudge(&mut self) {
        self.frame(PONG, &[]);
    }

    /// What is to be sent; whoever sends it takes it out.
    pub(crate) fn output(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    fn frame(&mut self, opcode: u8, parts: &[&[u8]]) {
        if self.closed {
            return;
        }
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.out.reserve(10 + length);
        self.out.put_u8(0x80 | opcode);
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ ..126), _) => self.out.put_u8(short),
            (_, Ok(middle)) => {
                self.out.put_u8(126);
                self.out.put_u16(middle);
            }
            _ => {
                self.out.put_u8(127);
                self.out.put_u64(length as u64);
            }
        }
        for part in parts {
            self.out.put_slice(part);
        }
    }
}

fn message(opcode: u8, payload: BytesMut) -> Message {
    match opcode {
        TEXT => Message::Text(payload.freeze()),
        _ => Message::Binary(payload.freeze()),
    }
}

/// A whole frame with its mask taken off, or none before there are more bytes.
fn take_frame(input: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
    let Some(&[first, second]) = input.first_chunk() else { return Ok(None) };
    let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
    if first & 0x70 != 0 {
        return Err(Malformed("a frame uses an extension that was not agreed on"));
    }
    if second & 0x80 == 0 {
        return Err(Malformed("a frame of a client is not masked"));
    }
    let (header, length) = match second & 0x7f {
        126 => match input.first_chunk() {
            Some(&[_, _, a, b]) => (4, u64::from(u16::from_be_bytes([a, b]))),
            None => return Ok(None),
        },
        127 => match input.first_chunk() {
            Some(&[_, _, a, b, c, d, e, f, g, h]) => (10, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            None => return Ok(None),
        },
        short => (2, u64::from(short)),
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MESSAGE {
        return Err(Malformed("a message is too long"));
    }
    if opcode >= CLOSE && (!fin || length > CONTROL) {
        return Err(Malformed("a control frame is in parts or too long"));
    }
    if input.len() < header + 4 + length {
        return Ok(None);
    }
    input.advance(header);
    let mask = input.get_u32().to_be_bytes();
    let mut payload = input.split_to(length);
    unmask(&mut payload, mask);
    Ok(Some(Frame { fin, opcode, payload }))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client sends it.
    pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            short @ 0..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
            middle @ 126..0x1_0000 => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(middle).unwrap().to_be_bytes());
            }
            long => {
                bytes.push(0x80 | 127);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn all(codec: &mut Codec, bytes: &[u8]) -> Vec<Message> {
        let mut input = BytesMut::from(bytes);
        std::iter::from_fn(|| codec.poll(&mut input).unwrap()).collect()
    }

    #[test]
    fn the_examples_of_the_rfc() {
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(all(&mut Codec::default(), &hello), [Message::Text("Hello".into())]);
        let mut codec = Codec::default();
        codec.text(&[b"Hel", b"lo"]);
        assert_eq!(&codec.output()[..], [0x81, 5, b'H', b'e', b'l', b'l', b'o']);
        codec.output().clear();
        codec.binary(&[&[0; 256]]);
        assert_eq!(codec.output()[..4], [0x82, 0x7e, 1, 0]);
        codec.output().clear();
        codec.binary(&[&[0; 65536]]);
        assert_eq!(codec.output()[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn control_frames_may_come_between_the_parts_of_a_message() {
        let bytes =
            [masked(2, b"ab"), masked(0x89, b"?"), masked(0, b"c"), masked(0x8a, b""), masked(0x80, b"d")];
        let mut codec = Codec::default();
        assert_eq!(all(&mut codec, &bytes.concat()), [Message::Binary("abcd".into())]);
        assert_eq!(&codec.output()[..], [0x8a, 1, b'?']);
    }

    #[test]
    fn a_close_is_answered_once() {
        let mut codec = Codec::default();
        codec.close(CloseCode::ProtocolError);
        assert_eq!(all(&mut codec, &masked(0x88, &[3, 232])), [Message::Close]);
        codec.binary(&[b"too late"]);
        assert_eq!(&codec.output()[..], [0x88, 2, 3, 234]);
    }

    #[test]
    fn nonsense_is_refused() {
        let one = |bytes: &[u8]| Codec::default().poll(&mut BytesMut::from(bytes)).unwrap_err().0;
        assert_eq!(one(&[0x82, 1, b'x']), "a frame of a client is not masked");
        assert_eq!(one(&masked(0xc2, b"")), "a frame uses an extension that was not agreed on");
        assert_eq!(one(&masked(0x80, b"")), "a frame is not one that can be here");
        assert_eq!(one(&masked(0x83, b"")), "a frame is not one that can be here");
        assert_eq!(one(&[masked(2, b""), masked(0x82, b"")].concat()), "a frame is not one that can be here");
        assert_eq!(one(&masked(0x89, &[0; 126])), "a control frame is in parts or too long");
        assert_eq!(one(&masked(9, b"")), "a control frame is in parts or too long");
        // Refused by their lengths alone.
        assert_eq!(one(&[0x82, 0xff, 0, 0, 0, 0, 0x10, 0, 0, 1]), "a message is too long");
        assert_eq!(one(&[0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255]), "a message is too long");
        let long = [masked(2, &vec![0; MESSAGE]), masked(0, b"x")].concat();
        assert_eq!(one(&long), "a message is too long");
    }

    proptest! {
        /// However messages and their frames are cut, they come out as they were.
        #[test]
        fn messages_do_not_depend_on_the_cuts(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6),
            part in 1_usize..50,
            cut in 1_usize..50,
        ) {
            let mut bytes = Vec::new();
            for message in &messages {
                let parts: Vec<_> = match message.is_empty() {
                    true => vec![&message[..]],
                    false => message.chunks(part).collect(),
                };
                for (index, part) in parts.iter().enumerate() {
                    let opcode = if index == 0 { BINARY } else { CONTINUATION };
                    let fin = if index + 1 == parts.len() { 0x80 } else { 0 };
                    bytes.extend(masked(fin | opcode, part));
                }
            }
            let (mut codec, mut input, mut got) = (Codec::default(), BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                input.extend_from_slice(piece);
                while let Some(message) = codec.poll(&mut input).unwrap() {
                    let Message::Binary(bytes) = message else { panic!() };
                    got.push(bytes.to_vec());
                }
            }
            prop_assert_eq!(got, messages);
        }

        /// Whatever arrives is a message, or an error, or not enough.
        #[test]
        fn nonsense_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut input = BytesMut::from(&bytes[..]);
            let mut codec = Codec::default();
            while let Ok(Some(_)) = codec.poll(&mut input) {}
        }
    }
}
