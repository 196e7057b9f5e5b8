//! Each stream of the process is a stream of SPDY, opened by the client.

use std::collections::BTreeMap;

use bytes::BytesMut;

use super::{Channel, Event, Outcome, Remote, Version};
use crate::spdy::{self, Connection, ResetCode};
use crate::{Malformed, Wanted};

/// More than a client can want.
const STREAMS: usize = 8;

/// The server's side of one session.
#[derive(Debug)]
pub(crate) struct SpdyRemote {
    connection: Connection,
    version: Version,
    /// The channels that the client has still to open.
    missing: Vec<Channel>,
    streams: BTreeMap<Channel, u32>,
    is_ready: bool,
}

impl SpdyRemote {
    /// A session with these streams.
    pub(crate) fn new(version: Version, wanted: Wanted) -> Self {
        let mut missing = vec![Channel::Error];
        let Wanted { stdin, stdout, stderr, tty } = wanted;
        let resizes = tty && version >= Version::V3;
        for (channel, is_wanted) in [
            (Channel::Stdin, stdin),
            (Channel::Stdout, stdout),
            (Channel::Stderr, stderr),
            (Channel::Resize, resizes),
        ] {
            missing.extend(is_wanted.then_some(channel));
        }
        let connection = Connection::new(STREAMS);
        Self { connection, version, missing, streams: BTreeMap::new(), is_ready: false }
    }

    fn open(&mut self, stream: u32, kind: Option<&str>) {
        let channel = match kind {
            Some("stdin") => Channel::Stdin,
            Some("stdout") => Channel::Stdout,
            Some("stderr") => Channel::Stderr,
            Some("error") => Channel::Error,
            Some("resize") => Channel::Resize,
            _ => return self.connection.reset(stream, ResetCode::ProtocolError),
        };
        // Twice, or not part of what was asked for.
        let Some(at) = self.missing.iter().position(|missing| *missing == channel) else {
            return self.connection.reset(stream, ResetCode::RefusedStream);
        };
        self.missing.swap_remove(at);
        self.streams.insert(channel, stream);
        self.connection.accept(stream);
    }

    /// Of the channels that carry something to us.
    fn incoming(&self, stream: u32) -> Option<Channel> {
        [Channel::Stdin, Channel::Resize]
            .into_iter()
            .find(|channel| self.streams.get(channel) == Some(&stream))
    }
}

impl Remote for SpdyRemote {
    fn poll(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Malformed> {
        loop {
            if self.missing.is_empty() && !self.is_ready {
                self.is_ready = true;
                return Ok(Some(Event::Ready));
            }
            let Some(event) = self.connection.poll(input)? else { return Ok(None) };
            match event {
                spdy::Event::Opened { stream, headers } => self.open(stream, headers.value("streamtype")),
                spdy::Event::Data { stream, bytes } => {
                    if let Some(channel) = self.incoming(stream) {
                        return Ok(Some(Event::Data(channel, bytes)));
                    }
                }
                spdy::Event::End(stream) | spdy::Event::Reset(stream) => {
                    if let Some(channel) = self.incoming(stream) {
                        return Ok(Some(Event::End(channel)));
                    }
                }
            }
        }
    }

    fn write(&mut self, channel: Channel, bytes: &[u8]) {
        if let Some(stream) = self.streams.get(&channel) {
            self.connection.write(*stream, bytes);
        }
    }

    fn end(&mut self, channel: Channel) {
        if let Some(stream) = self.streams.get(&channel) {
            self.connection.end(*stream);
        }
    }

    /// The output ends before the error stream does, which clients wait for last. A reset of what is left tells the
    /// client to stop sending; those who do not look at it see the end of the connection.
    fn finish(&mut self, outcome: &Outcome) {
        for channel in [Channel::Stdout, Channel::Stderr] {
            self.end(channel);
        }
        self.write(Channel::Error, &outcome.message(self.version));
        for channel in [Channel::Error, Channel::Stdin, Channel::Resize] {
            self.end(channel);
        }
        self.connection.go_away();
    }

    fn nudge(&mut self) {
        self.connection.nudge();
    }

    fn output(&mut self) -> &mut BytesMut {
        self.connection.output()
    }
}
