//! Answers that are not decoded.

use bytes::Buf;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Asks with an empty message, and counts the bytes of the messages of the answer.
pub(super) async fn take(channel: Channel, path: PathAndQuery) -> Result<usize, Status> {
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(16 << 20);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    // An answer of one message is a stream of one.
    let answer = client.server_streaming(Request::new(()), path, Lengths).await?;
    let (mut messages, mut bytes) = (answer.into_inner(), 0);
    while let Some(length) = messages.message().await? {
        bytes += length;
    }
    Ok(bytes)
}

/// Takes no more of messages than their lengths.
#[derive(Debug)]
struct Lengths;

impl Codec for Lengths {
    type Encode = ();
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Lengths {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, _: (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Lengths {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = bytes.remaining();
        bytes.advance(length);
        Ok(Some(length))
    }
}
