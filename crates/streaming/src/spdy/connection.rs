//! A connection: which streams are open, and in which direction.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::frame::{self, Decoder, Encoder, Frame, ResetCode};
use super::headers::Headers;
use crate::Malformed;

/// The most bytes in one of our data frames.
const CHUNK: usize = 64 << 10;

/// The server's side of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    decoder: Decoder,
    encoder: Encoder,
    streams: BTreeMap<u32, Stream>,
    /// The number of the newest stream.
    last: u32,
    /// How many streams may be open at once.
    limit: usize,
    going_away: bool,
    events: VecDeque<Event>,
    out: BytesMut,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stream {
    receives: bool,
    sends: bool,
}

/// What the client did.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// A stream has been opened: to be accepted or refused before anything else is done.
    Opened {
        /// Its number.
        stream: u32,
        /// What it is for.
        headers: Headers,
    },
    /// Data of a stream that is open.
    Data {
        /// Its number.
        stream: u32,
        /// The data, never empty.
        bytes: Bytes,
    },
    /// The client will send nothing more on that stream.
    End(u32),
    /// The client wants to hear nothing of that stream any more, and will send nothing.
    Reset(u32),
}

impl Connection {
    /// A connection on which at most `limit` streams may be open at once.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            decoder: Decoder::new(),
            encoder: Encoder::default(),
            streams: BTreeMap::new(),
            last: 0,
            limit,
            going_away: false,
            events: VecDeque::new(),
            out: BytesMut::new(),
        }
    }

    /// The next event, or none before there are more bytes.
    pub(crate) fn poll(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Malformed> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.decoder.next(input)? {
                Some(frame) => self.take(frame),
                None => return Ok(None),
            }
        }
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { stream, headers, fin } => self.open(stream, headers, fin),
            Frame::Data { stream, bytes, fin } => {
                // Data may have been on its way when the stream ended.
                let Some(state) = self.streams.get_mut(&stream).filter(|state| state.receives) else {
                    return;
                };
                if !bytes.is_empty() {
                    self.events.push_back(Event::Data { stream, bytes });
                }
                if fin {
                    state.receives = false;
                    self.events.push_back(Event::End(stream));
                    self.forget_if_over(stream);
                }
            }
            Frame::Reset(stream) => {
                if self.streams.remove(&stream).is_some() {
                    self.events.push_back(Event::Reset(stream));
                }
            }
            // Those with even numbers would be answers to pings of ours.
            Frame::Ping(id) if id % 2 == 1 => frame::pong(&mut self.out, id),
            Frame::GoAway => self.going_away = true,
            Frame::Ping(_) | Frame::Other => {}
        }
    }

    fn open(&mut self, stream: u32, headers: Headers, fin: bool) {
        if stream.is_multiple_of(2) || stream <= self.last {
            return frame::reset(&mut self.out, stream, ResetCode::ProtocolError);
        }
        self.last = stream;
        if self.going_away || self.streams.len() >= self.limit {
            return frame::reset(&mut self.out, stream, ResetCode::RefusedStream);
        }
        self.streams.insert(stream, Stream { receives: !fin, sends: true });
        self.events.push_back(Event::Opened { stream, headers });
        if fin {
            self.events.push_back(Event::End(stream));
        }
    }

    /// Accepts a stream: data may be sent from now on.
    pub(crate) fn accept(&mut self, stream: u32) {
        if self.streams.contains_key(&stream) {
            self.encoder.reply(&mut self.out, stream);
        }
    }

    /// Sends data. Nothing happens if the stream is not open any more.
    pub(crate) fn write(&mut self, stream: u32, bytes: &[u8]) {
        if self.streams.get(&stream).is_some_and(|state| state.sends) {
            for chunk in bytes.chunks(CHUNK) {
                frame::data(&mut self.out, stream, chunk, false);
            }
        }
    }

    /// Ends our direction of a stream.
    pub(crate) fn end(&mut self, stream: u32) {
        if let Some(state) = self.streams.get_mut(&stream).filter(|state| state.sends) {
            state.sends = false;
            frame::data(&mut self.out, stream, &[], true);
            self.forget_if_over(stream);
        }
    }

    /// Ends both directions of a stream, or refuses it.
    pub(crate) fn reset(&mut self, stream: u32, code: ResetCode) {
        if self.streams.remove(&stream).is_some() {
            frame::reset(&mut self.out, stream, code);
        }
    }

    /// Says that this was all.
    pub(crate) fn go_away(&mut self) {
        self.going_away = true;
        frame::go_away(&mut self.out, self.last);
    }

    /// What is to be sent; whoever sends it takes it out.
    pub(crate) fn output(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    fn forget_if_over(&mut self, stream: u32) {
        if self.streams.get(&stream) == Some(&Stream { receives: false, sends: false }) {
            self.streams.remove(&stream);
        }
    }
}
