//! Answers whose parts are encoded already: lists of what is sampled, which are as long as there are pods.
//!
//! To build the messages of two hundred pods takes a millisecond, and their bytes in one buffer that grows another one. So samples
//! are kept as they go to clients, an answer is a list of pointers to them, and they are copied a few at a time, when the
//! connection has room.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body, Frame};
use prost::Message;
use prost::encoding::{self, WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::{Response, Status};

use crate::service::batches::groups;

/// The most bytes of a message of several, unless its first item alone is longer: a client decodes one while the next is sent.
const PIECE: usize = 128 << 10;

/// So many bytes are copied at a time: four frames of HTTP/2.
const CHUNK: usize = 64 << 10;

/// The most bytes of a message, as with every CRI client and server.
pub(crate) const MESSAGE: usize = 16 << 20;

/// Whether a message is compressed, and how long it is (PROTOCOL-HTTP2.md of gRPC).
const PREFIX: usize = 5;

/// The field that the items are in, in all messages that are lists, and the one item of those that are not.
pub(crate) const LIST: u32 = 1;

/// One item of a list, with its key and its length.
pub(crate) fn item<M: Message>(message: &M) -> Bytes {
    let mut bytes = Vec::with_capacity(encoding::message::encoded_len(LIST, message));
    encoding::message::encode(LIST, message, &mut bytes);
    bytes.into()
}

/// Appends an item of a list as an element of another message's field.
pub(crate) fn put_item(field: u32, item: &Bytes, into: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, into);
    into.extend_from_slice(&item[key_len(LIST)..]);
}

/// Appends the key and the length of an embedded message.
pub(crate) fn begin(field: u32, length: usize, into: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, into);
    encode_varint(length as u64, into);
}

/// How long an embedded message is with its key and its length.
pub(crate) fn field_length(field: u32, length: usize) -> usize {
    key_len(field) + encoded_len_varint(length as u64) + length
}

/// The messages of an answer, which a response carries beside an empty one: [`Encoded::take`] finds them.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    /// Before each message its prefix.
    parts: Vec<Bytes>,
    length: usize,
}

/// An answer of one message, which is a list or has one item.
pub(crate) fn whole<M: Default>(items: Vec<Bytes>) -> Result<Response<M>, Status> {
    let length: usize = items.iter().map(Bytes::len).sum();
    if length > MESSAGE {
        return Err(Status::out_of_range(format!(
            "an answer of {length} bytes is longer than the {MESSAGE} that clients take: ask for a stream"
        )));
    }
    Ok(Encoded::new([items]).beside(M::default()))
}

/// An answer of as many messages as are needed; none where there are no items.
pub(crate) fn pieces<M>(items: Vec<Bytes>) -> Response<tokio_stream::Empty<Result<M, Status>>> {
    Encoded::new(groups(items, Bytes::len, PIECE)).beside(tokio_stream::empty())
}

impl Encoded {
    fn new(messages: impl IntoIterator<Item = Vec<Bytes>>) -> Self {
        let (mut parts, mut length) = (Vec::new(), 0);
        for items in messages {
            let bytes: usize = items.iter().map(Bytes::len).sum();
            let mut prefix = BytesMut::with_capacity(PREFIX);
            prefix.put_u8(0);
            // No message is longer than clients take, which is far less.
            prefix.put_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
            length += PREFIX + bytes;
            parts.push(prefix.freeze());
            parts.extend(items);
        }
        Self { parts, length }
    }

    fn beside<M>(self, empty: M) -> Response<M> {
        let mut response = Response::new(empty);
        response.extensions_mut().insert(self);
        response
    }

    /// The body in the place of the one that a response with these extensions has, if it carries any.
    pub(crate) fn take(extensions: &mut Extensions) -> Option<Sending> {
        let Self { parts, length } = extensions.remove()?;
        Some(Sending { parts: parts.into_iter(), rest: Bytes::new(), length, ended: false })
    }
}

/// An answer that is being sent.
#[derive(Debug)]
pub(crate) struct Sending {
    parts: std::vec::IntoIter<Bytes>,
    /// What is left of a part that was longer than a chunk had room.
    rest: Bytes,
    /// The bytes that are still to come.
    length: usize,
    ended: bool,
}

impl Sending {
    /// The next bytes; none where everything was sent.
    fn chunk(&mut self) -> Option<Bytes> {
        let most = self.length.min(CHUNK);
        let mut chunk = BytesMut::with_capacity(most);
        while chunk.len() < most {
            if self.rest.is_empty() {
                self.rest = self.parts.next()?;
            }
            chunk.extend_from_slice(&self.rest.split_to(self.rest.len().min(most - chunk.len())));
        }
        self.length -= most;
        (most > 0).then(|| chunk.freeze())
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(chunk) = self.chunk() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        let success = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::from_iter([success])))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vaquita_proto::cri::{Container, ListContainersResponse, StreamContainersResponse};

    use super::*;

    fn containers(sizes: &[usize]) -> Vec<Container> {
        let container = |(number, size): (usize, &usize)| Container {
            id: number.to_string(),
            image_ref: "x".repeat(*size),
            ..Default::default()
        };
        sizes.iter().enumerate().map(container).collect()
    }

    fn items(sizes: &[usize]) -> Vec<Bytes> {
        containers(sizes).iter().map(item).collect()
    }

    /// What a client gets: the messages' bytes.
    fn sent<M>(mut response: Response<M>) -> Vec<Bytes> {
        let mut body = Encoded::take(response.extensions_mut()).unwrap();
        let expected = body.length;
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut bytes = BytesMut::new();
        loop {
            assert!(!body.is_end_stream());
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) else { panic!() };
            match frame.into_data() {
                Ok(data) => {
                    assert!((1..=CHUNK).contains(&data.len()));
                    bytes.extend_from_slice(&data);
                }
                Err(frame) => {
                    assert_eq!(frame.into_trailers().unwrap()["grpc-status"], "0");
                    break;
                }
            }
        }
        assert!(body.is_end_stream());
        assert!(matches!(Pin::new(&mut body).poll_frame(&mut context), Poll::Ready(None)));
        assert_eq!(bytes.len(), expected);
        let (mut messages, mut bytes) = (Vec::new(), bytes.freeze());
        while !bytes.is_empty() {
            let prefix = bytes.split_to(PREFIX);
            assert_eq!(prefix[0], 0);
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap());
            messages.push(bytes.split_to(length as usize));
        }
        messages
    }

    fn pieces(sizes: &[usize]) -> Vec<Vec<Container>> {
        let decoded = |bytes| StreamContainersResponse::decode(bytes).unwrap().containers;
        sent(super::pieces::<()>(items(sizes))).into_iter().map(decoded).collect()
    }

    #[test]
    fn full_by_number_by_bytes_and_by_one_item() {
        let lengths = |sizes: &[usize]| pieces(sizes).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&[]), [0_usize; 0]);
        assert_eq!(lengths(&[1; 2500]), [1000, 1000, 500]);
        assert_eq!(lengths(&[50 << 10; 5]), [2, 2, 1]);
        assert_eq!(lengths(&[1, 2 << 20, 1]), [1, 1, 1]);
    }

    #[test]
    fn a_list_is_one_message_also_when_it_is_empty_and_none_when_it_is_too_long() {
        for sizes in [&[][..], &[1, 2, 3]] {
            let messages = sent(whole::<()>(items(sizes)).unwrap());
            assert_eq!(messages.len(), 1);
            let decoded = ListContainersResponse::decode(messages[0].clone()).unwrap();
            assert_eq!(decoded.containers, containers(sizes));
        }
        let error = whole::<()>(items(&[MESSAGE])).unwrap_err();
        assert_eq!(error.code(), tonic::Code::OutOfRange);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Nothing is lost, doubled or moved, in one message and in several.
        #[test]
        fn what_arrives_is_what_was_sent(sizes in prop::collection::vec(0_usize..100_000, 0..40)) {
            let expected = containers(&sizes);
            prop_assert_eq!(&pieces(&sizes).concat(), &expected);
            let whole = sent(whole::<()>(items(&sizes)).unwrap()).remove(0);
            let decoded = ListContainersResponse::decode(whole).unwrap();
            prop_assert_eq!(&decoded.containers, &expected);
        }
    }
}
