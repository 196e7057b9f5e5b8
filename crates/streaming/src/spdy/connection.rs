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
                Some(frame) => self.take(frame)?,
                None => return Ok(None),
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), Malformed> {
        match frame {
            Frame::SynStream { stream, headers, fin } => self.open(stream, headers, fin)?,
            Frame::Data { stream, bytes, fin } => {
                // Data may have been on its way when the stream ended.
                let Some(state) = self.streams.get_mut(&stream).filter(|state| state.receives) else {
                    return Ok(());
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
        Ok(())
    }

    fn open(&mut self, stream: u32, headers: Headers, fin: bool) -> Result<(), Malformed> {
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(Malformed("a new stream has a number that is not new, or one of ours"));
        }
        self.last = stream;
        if self.going_away || self.streams.len() >= self.limit {
            frame::reset(&mut self.out, stream, ResetCode::RefusedStream);
            return Ok(());
        }
        self.streams.insert(stream, Stream { receives: !fin, sends: true });
        self.events.push_back(Event::Opened { stream, headers });
        if fin {
            self.events.push_back(Event::End(stream));
        }
        Ok(())
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

    /// Sends data of no bytes on any stream that is open. A ping would do, but clients answer it, and those that wait for
    /// us to read do not read themselves before they have sent the answer.
    pub(crate) fn nudge(&mut self) {
        if let Some((stream, _)) = self.streams.iter().find(|(_, state)| state.sends) {
            frame::data(&mut self.out, *stream, &[], false);
        }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::tests::{Writer, frame, syn_stream};
    use super::*;

    /// What either side may do, sensible or not.
    #[derive(Clone, Debug)]
    enum Step {
        Open(u32),
        TheirData(u32, bool),
        TheirReset(u32),
        GoAway,
        Accept(u32),
        OurData(u32),
        OurNudge,
        OurEnd(u32),
        OurReset(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let id = 0..24_u32;
        prop_oneof![
            (0..2_u32).prop_map(Step::Open),
            (id.clone(), any::<bool>()).prop_map(|(id, fin)| Step::TheirData(id, fin)),
            id.clone().prop_map(Step::TheirReset),
            Just(Step::GoAway),
            id.clone().prop_map(Step::Accept),
            id.clone().prop_map(Step::OurData),
            Just(Step::OurNudge),
            id.clone().prop_map(Step::OurEnd),
            id.prop_map(Step::OurReset),
        ]
    }

    /// Kind and stream of each frame of ours; kind 0 is data, 100 the last of it.
    fn sent(mut bytes: &[u8]) -> Vec<(u16, u32)> {
        let mut all = Vec::new();
        while let Some((&[a, b, c, d, flags, l1, l2, l3], rest)) = bytes.split_first_chunk() {
            let length = u32::from_be_bytes([0, l1, l2, l3]) as usize;
            let number = |at: &[u8]| u32::from_be_bytes(*at.first_chunk().unwrap());
            all.push(match a & 0x80 {
                0 => (if flags & 1 == 1 { 100 } else { 0 }, u32::from_be_bytes([a, b, c, d])),
                _ => (u16::from_be_bytes([c, d]), number(rest)),
            });
            bytes = &rest[length..];
        }
        all
    }

    proptest! {
        /// Whatever both sides do: nothing is sent on a stream after its end, nothing is heard of it after its reset, and
        /// at most so many are open.
        #[test]
        fn an_end_is_an_end(steps in prop::collection::vec(step(), 0..60)) {
            let mut last = 0;
            let (mut connection, mut writer) = (Connection::new(3), Writer::new());
            let (mut all, mut gone) = (Vec::new(), BTreeSet::new());
            for step in steps {
                let mut input = BytesMut::new();
                match step {
                    Step::Open(more) => {
                        last = (last + 1 + 2 * more) | 1;
                        input.extend(syn_stream(&mut writer, last, &[("streamtype", "x")]));
                    }
                    Step::TheirData(id, fin) => frame::data(&mut input, id, b"abc", fin),
                    Step::TheirReset(id) => frame::reset(&mut input, id, ResetCode::Cancel),
                    Step::GoAway => input.extend(frame(7, 0, &[0; 8])),
                    Step::Accept(id) => connection.accept(id),
                    Step::OurData(id) => connection.write(id, b"xyz"),
                    Step::OurNudge => connection.nudge(),
                    Step::OurEnd(id) => connection.end(id),
                    Step::OurReset(id) => {
                        connection.reset(id, ResetCode::Cancel);
                        gone.insert(id);
                    }
                }
                while let Some(event) = connection.poll(&mut input).unwrap() {
                    match event {
                        Event::Opened { stream, .. } => {
                            prop_assert!(stream % 2 == 1);
                            gone.remove(&stream);
                        }
                        Event::Data { stream, .. } | Event::End(stream) => prop_assert!(!gone.contains(&stream)),
                        Event::Reset(stream) => prop_assert!(gone.insert(stream)),
                    }
                }
                prop_assert!(connection.streams.len() <= 3);
                all.extend(sent(&connection.output().split()));
            }
            let mut ended = BTreeSet::new();
            for (kind, stream) in all {
                match kind {
                    0 => prop_assert!(!ended.contains(&stream)),
                    100 => prop_assert!(ended.insert(stream)),
                    3 => drop(ended.insert(stream)),
                    _ => {}
                }
            }
        }
    }
}
