//! Frames: eight bytes of header and a payload.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{Deflater, Headers, Inflater};
use crate::Malformed;

/// The version that control frames bear.
const VERSION: u16 = 3;
/// The bytes before a payload.
const FRAME_HEADER: usize = 8;
/// The most bytes in the payload of a control frame. The protocol allows 16 MiB; nobody needs more than some hundred.
const CONTROL: usize = 64 << 10;
/// The flag of the last frame of a stream.
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Why a stream ends before its time: section 2.6.3.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ResetCode {
    /// The other side did what it must not do.
    ProtocolError = 1,
    /// It is not wanted; nothing was done for it.
    RefusedStream = 3,
    /// It is not needed any more.
    Cancel = 5,
}

/// What a client sends.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Frame {
    /// A part of the data of a stream: long frames are passed on as they come.
    Data {
        /// Which stream.
        stream: u32,
        /// The part.
        bytes: Bytes,
        /// Nothing follows.
        fin: bool,
    },
    /// No stream will be opened any more.
    GoAway,
    /// Something that has no meaning here.
    Other,
    /// To be answered with the same number.
    Ping(u32),
    /// The end of a stream in both directions.
    Reset(u32),
    /// A new stream.
    SynStream {
        /// Its number.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// The client will send nothing.
        fin: bool,
    },
}

/// Takes frames out of the bytes of a connection.
#[derive(Debug)]
pub(super) struct Decoder {
    headers: Inflater,
    /// The data frame that is being read.
    data: Option<Data>,
}

#[derive(Debug)]
struct Data {
    stream: u32,
    left: usize,
    fin: bool,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { headers: Inflater::new(), data: None }
    }

    /// The next frame, or none before there are more bytes. After an error there is no way on.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        if let Some(data) = self.data.take() {
            return Ok(self.part(data, input));
        }
        let Some(&[a, b, c, d, flags, l1, l2, l3]) = input.first_chunk::<FRAME_HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, l1, l2, l3]) as usize;
        if a & 0x80 == 0 {
            input.advance(FRAME_HEADER);
            let data = Data { stream: u32::from_be_bytes([a, b, c, d]), left: length, fin: flags & FIN != 0 };
            return Ok(self.part(data, input));
        }
        if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
            return Err(Malformed("a frame is of another version than SPDY/3"));
        }
        if length > CONTROL {
            return Err(Malformed("a control frame is too long"));
        }
        if input.len() < FRAME_HEADER + length {
            return Ok(None);
        }
        let frame = input.split_to(FRAME_HEADER + length);
        self.control(u16::from_be_bytes([c, d]), flags, &frame[FRAME_HEADER..]).map(Some)
    }

    /// As much of a data frame as there is. An empty frame is a part, too: it may be the last.
    fn part(&mut self, data: Data, input: &mut BytesMut) -> Option<Frame> {
        let Data { stream, left, fin } = data;
        if left > 0 && input.is_empty() {
            self.data = Some(data);
            return None;
        }
        let bytes = input.split_to(left.min(input.len())).freeze();
        let left = left - bytes.len();
        if left > 0 {
            self.data = Some(Data { left, ..data });
        }
        Some(Frame::Data { stream, bytes, fin: fin && left == 0 })
    }

    fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Frame, Malformed> {
        Ok(match kind {
            SYN_STREAM => {
                let (stream, rest) = take_u32(payload)?;
                // The associated stream, the priority, a byte that is not used.
                let block = rest.get(6..).ok_or(Malformed("a SYN_STREAM frame is cut off"))?;
                let headers = self.headers.inflate(block)?;
                Frame::SynStream { stream, headers, fin: flags & FIN != 0 }
            }
            // Not that we ever open a stream, but what is compressed after it refers to it.
            SYN_REPLY | HEADERS => {
                let (_, block) = take_u32(payload)?;
                self.headers.inflate(block)?;
                Frame::Other
            }
            RST_STREAM => Frame::Reset(take_u32(payload)?.0),
            PING => {
                let id = payload.first_chunk().ok_or(Malformed("a frame is cut off"))?;
                Frame::Ping(u32::from_be_bytes(*id))
            }
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        })
    }
}

/// The number of a stream, and what follows it.
fn take_u32(payload: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let (number, rest) = payload.split_first_chunk().ok_or(Malformed("a frame is cut off"))?;
    Ok((u32::from_be_bytes(*number) & 0x7fff_ffff, rest))
}

/// Writes frames.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    headers: Deflater,
}

impl Encoder {
    /// The answer to a new stream.
    pub(super) fn reply(&mut self, out: &mut BytesMut, stream: u32) {
        let at = out.len();
        control(out, SYN_REPLY, 0);
        out.put_u32(stream);
        self.headers.empty_block(out);
        let length = out.len() - at - FRAME_HEADER;
        let [_, _, a, b] = u32::try_from(length).unwrap_or_default().to_be_bytes();
        out[at + 6..at + 8].copy_from_slice(&[a, b]);
    }
}

/// A part of the data of a stream, of at most 64 KiB.
pub(super) fn data(out: &mut BytesMut, stream: u32, bytes: &[u8], fin: bool) {
    debug_assert!(bytes.len() < 1 << 24, "the length has three bytes");
    out.reserve(FRAME_HEADER + bytes.len());
    out.put_u32(stream & 0x7fff_ffff);
    out.put_u32(u32::from(fin) << 24 | u32::try_from(bytes.len()).unwrap_or_default());
    out.put_slice(bytes);
}

/// The end of a stream in both directions.
pub(super) fn reset(out: &mut BytesMut, stream: u32, code: ResetCode) {
    control(out, RST_STREAM, 8);
    out.put_u32(stream);
    out.put_u32(code as u32);
}

/// The answer to a ping.
pub(super) fn pong(out: &mut BytesMut, id: u32) {
    control(out, PING, 4);
    out.put_u32(id);
}

/// The last words: no stream after `last` was looked at.
pub(super) fn go_away(out: &mut BytesMut, last: u32) {
    control(out, GOAWAY, 8);
    out.put_u32(last);
    out.put_u32(0);
}

fn control(out: &mut BytesMut, kind: u16, length: u32) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(length);
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::super::headers::tests::Writer;
    use super::*;

    /// A control frame.
    pub(crate) fn frame(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x80, 3];
        bytes.extend(kind.to_be_bytes());
        bytes.extend((u32::from(flags) << 24 | u32::try_from(payload.len()).unwrap()).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// A new stream, as a client opens it.
    pub(crate) fn syn_stream(writer: &mut Writer, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        payload.extend(writer.block(headers));
        frame(SYN_STREAM, 0, &payload)
    }

    fn all(decoder: &mut Decoder, input: &mut BytesMut) -> Vec<Frame> {
        std::iter::from_fn(|| decoder.next(input).unwrap()).collect()
    }

    #[test]
    fn each_kind_is_understood() {
        let mut writer = Writer::new();
        let mut input = BytesMut::new();
        input.extend(syn_stream(&mut writer, 1, &[("streamtype", "error")]));
        input.extend(frame(4, 0, &[0, 0, 0, 0]));
        input.extend(frame(HEADERS, 0, &[&[0, 0, 0, 1][..], &writer.block(&[("a", "b")])].concat()));
        input.extend(frame(PING, 0, &[0, 0, 0, 9]));
        input.extend(frame(RST_STREAM, 0, &[0, 0, 0, 1, 0, 0, 0, 5]));
        input.extend(frame(GOAWAY, 0, &[0; 8]));
        let frames = all(&mut Decoder::new(), &mut input);
        let Frame::SynStream { stream: 1, headers, fin: false } = &frames[0] else { panic!("{frames:?}") };
        assert_eq!(headers.value("streamtype"), Some("error"));
        let rest = [Frame::Other, Frame::Other, Frame::Ping(9), Frame::Reset(1), Frame::GoAway];
        assert_eq!(frames[1..], rest);
    }

    #[test]
    fn what_would_take_memory_is_refused_before_it_is_read() {
        let mut input = BytesMut::from(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff][..]);
        assert_eq!(Decoder::new().next(&mut input).unwrap_err().0, "a control frame is too long");
        let mut input = BytesMut::from(&[0x80, 2, 0, 1, 0, 0, 0, 0][..]);
        assert!(Decoder::new().next(&mut input).is_err());
    }

    #[test]
    fn our_frames_are_what_the_draft_draws() {
        let mut out = BytesMut::new();
        data(&mut out, 3, b"hi", true);
        assert_eq!(&out[..], [0, 0, 0, 3, 1, 0, 0, 2, b'h', b'i']);
        out.clear();
        reset(&mut out, 5, ResetCode::Cancel);
        assert_eq!(&out[..], [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 5]);
        out.clear();
        pong(&mut out, 7);
        assert_eq!(&out[..], [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
        out.clear();
        Encoder::default().reply(&mut out, 1);
        assert_eq!(out[..12], [0x80, 3, 0, 2, 0, 0, 0, 24, 0, 0, 0, 1]);
        assert_eq!(out.len(), 8 + 24);
    }

    proptest! {
        /// However the bytes are cut on their way, the same data comes out, and an end once.
        #[test]
        fn data_does_not_depend_on_the_cuts(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
            cuts in prop::collection::vec(1_usize..64, 1..64),
        ) {
            let mut bytes = BytesMut::new();
            for (index, payload) in payloads.iter().enumerate() {
                data(&mut bytes, 3, payload, index + 1 == payloads.len());
            }
            let (mut decoder, mut input) = (Decoder::new(), BytesMut::new());
            let (mut got, mut ends) = (Vec::new(), 0);
            let mut cuts = cuts.iter().cycle();
            while !bytes.is_empty() {
                let cut = (*cuts.next().unwrap()).min(bytes.len());
                input.extend(bytes.split_to(cut));
                for frame in all(&mut decoder, &mut input) {
                    let Frame::Data { stream: 3, bytes, fin } = frame else { panic!() };
                    got.extend(bytes);
                    ends += usize::from(fin);
                }
            }
            prop_assert_eq!(got, payloads.concat());
            prop_assert_eq!(ends, 1);
        }

        /// Whatever arrives is a frame, or an error, or not enough.
        #[test]
        fn nonsense_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000), is_control: bool) {
            let mut input = BytesMut::from(&bytes[..]);
            if is_control && input.len() >= FRAME_HEADER {
                input[..2].copy_from_slice(&[0x80, 3]);
                input[2] = 0;
                input[3] %= 10;
                input[5] = 0;
            }
            let mut decoder = Decoder::new();
            while let Ok(Some(_)) = decoder.next(&mut input) {}
        }
    }
}
