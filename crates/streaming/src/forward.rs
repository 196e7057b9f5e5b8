//! Connections to ports of a pod, many of them over one connection, in the protocols that Kubernetes has for it, without
//! any input or output.

mod spdy;
mod tunnel;
mod websocket;

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::Malformed;

pub(crate) use spdy::SpdyForward;
pub(crate) use tunnel::Tunnel;
pub(crate) use websocket::{PORTS, PORTS_BASE64, WebSocketForward};

/// How many connections to the pod one client may have at a time.
pub(crate) const CONNECTIONS: usize = 256;

/// What a client did. Each connection to a port has a number that is not used again.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// The client will send nothing at all any more.
    Closed,
    /// Bytes for a connection, never none.
    Data(u32, Bytes),
    /// The client will send nothing more on that one.
    End(u32),
    /// A new connection to a port.
    Opened(u32, u16),
    /// The client is not interested in that one any more.
    Reset(u32),
}

/// One protocol.
pub(crate) trait Forward: Send {
    /// The next event, or none before there are more bytes. After an error there is no way on.
    fn poll(&mut self, input: &mut BytesMut, now: Instant) -> Result<Option<Event>, Malformed>;

    /// Sends what came from a port.
    fn write(&mut self, connection: u32, bytes: &[u8]);

    /// Says that nothing more will come from a port.
    fn end(&mut self, connection: u32);

    /// Says why a connection could not be made. Nothing may be sent for it after that.
    fn fail(&mut self, connection: u32, reason: &str);

    /// Gives up what was begun too long ago, and says when to call this again.
    fn expire(&mut self, now: Instant) -> Option<Instant>;

    /// Says that this was all. Nothing may be sent after it.
    fn finish(&mut self);

    /// Sends something that says nothing and that clients do not answer, if there is something.
    fn nudge(&mut self);

    /// What is to be sent; whoever sends it takes it out.
    fn output(&mut self) -> &mut BytesMut;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::spdy::tests::{Writer, syn_stream};
    use crate::websocket::tests::masked;

    fn open(writer: &mut Writer, stream: u32, kind: &str, name: &str) -> Vec<u8> {
        syn_stream(writer, stream, &[("streamtype", kind), ("port", "80"), ("requestid", name)])
    }

    #[test]
    fn half_a_pair_is_given_up_in_time() {
        let (mut forward, mut writer, now) = (SpdyForward::new(), Writer::new(), Instant::now());
        let mut input = BytesMut::from(&open(&mut writer, 1, "error", "a")[..]);
        assert_eq!(forward.poll(&mut input, now), Ok(None));
        let deadline = forward.expire(now).unwrap();
        assert_eq!(deadline, now + Duration::from_secs(30));
        forward.output().clear();
        assert_eq!(forward.expire(deadline), None);
        let told = String::from_utf8_lossy(forward.output()).into_owned();
        assert!(told.contains("the data stream of request a did not come in time"), "{told:?}");
        // The other half comes too late, and begins a pair of its own.
        input.extend(open(&mut writer, 3, "data", "a"));
        assert_eq!(forward.poll(&mut input, deadline), Ok(None));
        assert!(forward.expire(deadline).is_some());
    }

    proptest! {
        /// Whatever a client does, tunnelled or not: a connection is opened once, and nothing is told of it before that
        /// or after its reset.
        #[test]
        fn connections_have_one_life(
            frames in prop::collection::vec((0..5_u8, 0..16_u32, 0..4_u8, any::<bool>()), 0..80),
            is_tunnelled: bool,
        ) {
            let mut forward: Box<dyn Forward> = match is_tunnelled {
                true => Box::new(Tunnel::new(SpdyForward::new())),
                false => Box::new(SpdyForward::new()),
            };
            let (mut writer, mut input, now) = (Writer::new(), BytesMut::new(), Instant::now());
            let (mut live, mut dead) = (BTreeSet::new(), BTreeSet::new());
            let mut last = 0;
            for (kind, stream, name, flag) in frames {
                let bytes = match kind {
                    0 | 1 => {
                        last += 2;
                        open(&mut writer, last - 1, if flag { "data" } else { "error" }, &name.to_string())
                    }
                    2 => [&stream.to_be_bytes()[..], &[u8::from(flag), 0, 0, 1, b'x']].concat(),
                    3 => crate::spdy::tests::frame(3, 0, &[stream.to_be_bytes(), [0; 4]].concat()),
                    _ => {
                        if live.remove(&stream) {
                            dead.insert(stream);
                            forward.fail(stream, "no");
                        }
                        continue;
                    }
                };
                match is_tunnelled {
                    true => input.extend(masked(0x82, &bytes)),
                    false => input.extend(bytes),
                }
                while let Some(event) = forward.poll(&mut input, now).unwrap() {
                    match event {
                        Event::Opened(number, 80) => prop_assert!(live.insert(number) && !dead.contains(&number)),
                        Event::Data(number, _) | Event::End(number) => prop_assert!(live.contains(&number)),
                        Event::Reset(number) => prop_assert!(live.remove(&number) && dead.insert(number)),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                forward.output().clear();
            }
        }
    }
}
