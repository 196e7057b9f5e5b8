//! Each connection to a port is a pair of streams of SPDY, one for the data, one for an error.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{CONNECTIONS, Event, Forward};
use crate::Malformed;
use crate::spdy::{self, Connection, Headers, ResetCode};

/// How long the second stream of a pair may come after the first.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most characters of a client's name for a pair.
const NAME: usize = 256;

/// The server's side of one session.
#[derive(Debug)]
pub(crate) struct SpdyForward {
    connection: Connection,
    /// Pairs of which one stream is missing, by the client's name for them.
    halves: BTreeMap<String, Half>,
    /// The error stream of a pair by its data stream, whose number is that of the pair.
    pairs: BTreeMap<u32, u32>,
}

#[derive(Debug)]
struct Half {
    stream: u32,
    kind: Kind,
    port: u16,
    since: Instant,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Data,
    Error,
}

impl SpdyForward {
    /// A session without connections.
    pub(crate) fn new() -> Self {
        let connection = Connection::new(2 * CONNECTIONS);
        Self { connection, halves: BTreeMap::new(), pairs: BTreeMap::new() }
    }

    fn open(&mut self, stream: u32, headers: &Headers, now: Instant) -> Option<Event> {
        let Some((name, half)) = half(stream, headers, now) else {
            self.connection.reset(stream, ResetCode::ProtocolError);
            return None;
        };
        self.connection.accept(stream);
        let Some(other) = self.halves.remove(&name) else {
            self.halves.insert(name, half);
            return None;
        };
        let (data, error) = match (half.kind, other.kind) {
            (Kind::Data, Kind::Error) => (half, other),
            (Kind::Error, Kind::Data) => (other, half),
            _ => {
                self.halves.insert(name, other);
                self.connection.reset(stream, ResetCode::ProtocolError);
                return None;
            }
        };
        self.pairs.insert(data.stream, error.stream);
        Some(Event::Opened(data.stream, data.port))
    }

    /// What a client says on an error stream is not asked for. Of a data stream without its error stream nothing is kept:
    /// clients open both before they send.
    fn data(&mut self, stream: u32, bytes: Bytes) -> Option<Event> {
        if self.pairs.contains_key(&stream) {
            return Some(Event::Data(stream, bytes));
        }
        let is_early = |half: &Half| half.stream == stream && half.kind == Kind::Data;
        if self.halves.values().any(is_early) {
            self.halves.retain(|_, half| !is_early(half));
            self.connection.reset(stream, ResetCode::ProtocolError);
        }
        None
    }
}

impl Forward for SpdyForward {
    fn poll(&mut self, input: &mut BytesMut, now: Instant) -> Result<Option<Event>, Malformed> {
        while let Some(event) = self.connection.poll(input)? {
            let event = match event {
                spdy::Event::Opened { stream, headers } => self.open(stream, &headers, now),
                spdy::Event::Data { stream, bytes } => self.data(stream, bytes),
                spdy::Event::End(stream) => self.pairs.contains_key(&stream).then_some(Event::End(stream)),
                spdy::Event::Reset(stream) => {
                    self.halves.retain(|_, half| half.stream != stream);
                    self.pairs.remove(&stream).map(|error| {
                        self.connection.end(error);
                        Event::Reset(stream)
                    })
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn write(&mut self, connection: u32, bytes: &[u8]) {
        self.connection.write(connection, bytes);
    }

    /// Clients wait for the end of the error stream, too, when they have seen that of the data.
    fn end(&mut self, connection: u32) {
        self.connection.end(connection);
        if let Some(error) = self.pairs.get(&connection) {
            self.connection.end(*error);
        }
    }

    fn fail(&mut self, connection: u32, reason: &str) {
        if let Some(error) = self.pairs.remove(&connection) {
            self.connection.write(error, reason.as_bytes());
            self.connection.end(error);
            self.connection.reset(connection, ResetCode::Cancel);
            self.connection.reset(error, ResetCode::Cancel);
        }
    }

    fn expire(&mut self, now: Instant) -> Option<Instant> {
        let connection = &mut self.connection;
        self.halves.retain(|name, half| {
            let is_over = now.duration_since(half.since) >= PATIENCE;
            if is_over {
                if half.kind == Kind::Error {
                    let reason = format!("the data stream of request {name} did not come in time");
                    connection.write(half.stream, reason.as_bytes());
                    connection.end(half.stream);
                }
                connection.reset(half.stream, ResetCode::Cancel);
            }
            !is_over
        });
        self.halves.values().map(|half| half.since + PATIENCE).min()
    }

    fn finish(&mut self) {
        self.connection.go_away();
    }

    fn nudge(&mut self) {
        self.connection.nudge();
    }

    fn output(&mut self) -> &mut BytesMut {
        self.connection.output()
    }
}

/// What a stream says of itself, and the name of its pair.
fn half(stream: u32, headers: &Headers, since: Instant) -> Option<(String, Half)> {
    let port: u16 = headers.value("port")?.parse().ok().filter(|port| *port > 0)?;
    let (kind, number) = match headers.value("streamtype")? {
        "data" => (Kind::Data, stream.wrapping_sub(2)),
        "error" => (Kind::Error, stream),
        _ => return None,
    };
    // Old clients give no name: their data stream is the next after the error stream.
    let name = match headers.value("requestid") {
        Some(name) if name.len() <= NAME => name.to_owned(),
        Some(_) => return None,
        None => format!("stream {number}"),
    };
    Some((name, Half { stream, kind, port, since }))
}
