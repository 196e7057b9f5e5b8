//! The streams of one process over one connection, in the protocols that Kubernetes has for it, without any input or
//! output.

mod resize;
mod spdy;
mod status;
mod websocket;

use bytes::{Bytes, BytesMut};

use crate::Malformed;

pub(crate) use resize::Resizes;
pub use resize::Size;
pub(crate) use spdy::SpdyRemote;
pub(crate) use status::Outcome;
pub(crate) use websocket::{Encoding, WebSocketRemote, decode};

/// The streams. The numbers are those of WebSocket's channels.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Channel {
    /// To the process.
    Stdin = 0,
    /// From the process.
    Stdout = 1,
    /// From the process.
    Stderr = 2,
    /// How it ended.
    Error = 3,
    /// The sizes of the client's terminal.
    Resize = 4,
}

/// The versions of what is said on these streams.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Version {
    /// `channel.k8s.io`. Served as the second, which is the same with its mistakes put right.
    V1,
    /// `v2.channel.k8s.io`.
    V2,
    /// `v3.channel.k8s.io`: the size of the terminal can change.
    V3,
    /// `v4.channel.k8s.io`: the end is told as JSON, with the exit code.
    V4,
    /// `v5.channel.k8s.io`: streams can be closed over WebSocket.
    V5,
}

/// What a client did.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// The client will send nothing at all any more.
    Closed,
    /// Bytes for a stream, never none.
    Data(Channel, Bytes),
    /// Nothing follows on that stream.
    End(Channel),
    /// All streams are there. Once; data may have come before.
    Ready,
}

/// One protocol.
pub(crate) trait Remote: Send {
    /// The next event, or none before there are more bytes. After an error there is no way on.
    fn poll(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Malformed>;

    /// Sends output of the process.
    fn write(&mut self, channel: Channel, bytes: &[u8]);

    /// Ends a stream.
    fn end(&mut self, channel: Channel);

    /// Says how it ended, and that this was all. Nothing may be sent after it.
    fn finish(&mut self, outcome: &Outcome);

    /// Sends something that says nothing and that clients do not answer.
    fn nudge(&mut self);

    /// What is to be sent; whoever sends it takes it out.
    fn output(&mut self) -> &mut BytesMut;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Wanted;
    use crate::spdy::tests::{Writer, frame, syn_stream};
    use crate::websocket::tests::masked;

    fn wanted() -> impl Strategy<Value = Wanted> {
        any::<[bool; 4]>().prop_map(|[stdin, stdout, stderr, tty]| Wanted { stdin, stdout, stderr, tty })
    }

    fn version() -> impl Strategy<Value = Version> {
        prop::sample::select(vec![Version::V1, Version::V2, Version::V3, Version::V4, Version::V5])
    }

    /// Takes all events; whether it went well. Nothing may come for a stream that was not asked for, or after its end.
    fn take(
        remote: &mut dyn Remote,
        wanted: Wanted,
        input: &mut BytesMut,
        ended: &mut bool,
    ) -> Result<bool, TestCaseError> {
        loop {
            match remote.poll(input) {
                Ok(Some(Event::Data(channel, bytes))) => {
                    prop_assert!(!bytes.is_empty());
                    match channel {
                        Channel::Stdin => prop_assert!(wanted.stdin && !*ended),
                        Channel::Resize => prop_assert!(wanted.tty),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Ok(Some(Event::End(Channel::Stdin))) => *ended = true,
                Ok(Some(Event::End(_) | Event::Ready)) => {}
                Ok(Some(Event::Closed)) | Err(_) => return Ok(false),
                Ok(None) => return Ok(true),
            }
        }
    }

    proptest! {
        #[test]
        fn any_frames_of_spdy(
            wanted in wanted(),
            version in version(),
            frames in prop::collection::vec((0..5_u8, 0..9_u32, prop::collection::vec(any::<u8>(), 0..40)), 0..40),
        ) {
            let (mut remote, mut writer) = (SpdyRemote::new(version, wanted), Writer::new());
            let (mut input, mut ended) = (BytesMut::new(), false);
            let kinds = ["error", "stdin", "stdout", "stderr", "resize", "other", ""];
            for (kind, number, bytes) in frames {
                match kind {
                    0 => {
                        let name = kinds[bytes.len() % kinds.len()];
                        input.extend(syn_stream(&mut writer, number, &[("streamtype", name)]));
                    }
                    1 => {
                        input.extend(number.to_be_bytes());
                        input.extend((u32::from(bytes.len() % 3 == 0) << 24 | u32::try_from(bytes.len()).unwrap()).to_be_bytes());
                        input.extend(&bytes);
                    }
                    2 => input.extend(frame(3, 0, &[number.to_be_bytes(), [0; 4]].concat())),
                    3 => input.extend(frame(u16::try_from(number).unwrap(), 0, &bytes)),
                    _ => input.extend(&bytes),
                }
                let before = input.len();
                if !take(&mut remote, wanted, &mut input, &mut ended)? {
                    break;
                }
                // What is answered is no longer than what was asked.
                prop_assert!(remote.output().split().len() <= 2 * before + 64);
            }
            remote.write(Channel::Stdout, b"x");
            remote.finish(&Outcome::Exit(1));
        }

        #[test]
        fn any_messages_of_a_websocket(
            wanted in wanted(),
            version in version(),
            is_text: bool,
            messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..40),
        ) {
            let encoding = if is_text { Encoding::Base64 } else { Encoding::Binary };
            let mut remote = WebSocketRemote::new(version, encoding, wanted);
            let (mut input, mut ended) = (BytesMut::new(), false);
            for (first, bytes) in messages {
                // Mostly whole messages of either kind.
                let first = if first % 8 == 0 { first } else { 0x81 + first % 2 };
                input.extend(masked(first, &bytes));
                if !take(&mut remote, wanted, &mut input, &mut ended)? {
                    break;
                }
                ended = false;
            }
            remote.write(Channel::Stdout, b"x");
            remote.finish(&Outcome::Success);
            let length = remote.output().len();
            remote.write(Channel::Stdout, b"too late");
            prop_assert_eq!(remote.output().len(), length);
        }
    }
}
