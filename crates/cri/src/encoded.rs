//! Answers whose parts are encoded already: lists, which are as long as there are pods.
//!
//! To build the messages of two hundred pods takes a millisecond, and their bytes in one buffer that grows another one. So samples
//! are kept as they go to clients, and what never changes of pods and containers, too. An answer is a list of pointers to items;
//! only short ones are copied, to be sent together.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body, Frame};
use prost::Message;
use prost::encoding::{self, WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::{Response, Status};

/// The most bytes of a message of several, unless its first item alone is longer: a client decodes one while the next is sent.
const PIECE: usize = 128 << 10;

/// The most items of a message of several.
const ITEMS: usize = 1000;

/// What is shorter is copied beside others.
const SHORT: usize = 4 << 10;

/// The most bytes that are copied into one part: a frame of HTTP/2 is no longer, unless the client allows it.
const FRAME: usize = 16 << 10;

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

/// One item of a list whose fields are encoded already, but for one of an enumeration.
pub(crate) fn item_with(fields: &[u8], field: u32, value: i32) -> Bytes {
    let length = fields.len() + encoding::int32::encoded_len(field, &value);
    let mut bytes = Vec::with_capacity(field_length(LIST, length));
    begin(LIST, length, &mut bytes);
    bytes.extend_from_slice(fields);
    encoding::int32::encode(field, &value, &mut bytes);
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

/// The messages of an answer, each behind its prefix, which a response carries beside an empty one: [`Encoded::take`] finds them.
#[derive(Clone, Debug)]
pub(crate) struct Encoded(Vec<Bytes>);

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
    let (mut messages, mut bytes) = (Vec::<Vec<_>>::new(), 0);
    for item in items {
        bytes += item.len();
        match messages.last_mut() {
            Some(message) if bytes <= PIECE && message.len() < ITEMS => message.push(item),
            _ => {
                bytes = item.len();
                messages.push(vec![item]);
            }
        }
    }
    Encoded::new(messages).beside(tokio_stream::empty())
}

impl Encoded {
    fn new(messages: impl IntoIterator<Item = Vec<Bytes>>) -> Self {
        let mut parts = Parts::default();
        for items in messages {
            let length: usize = items.iter().map(Bytes::len).sum();
            let mut prefix = [0; PREFIX];
            // No message is longer than clients take, which is far less.
            prefix[1..].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
            parts.copy(&prefix);
            items.into_iter().for_each(|item| parts.add(item));
        }
        parts.end();
        Self(parts.all)
    }

    fn beside<M>(self, empty: M) -> Response<M> {
        let mut response = Response::new(empty);
        response.extensions_mut().insert(self);
        response
    }

    /// The body in the place of the one that a response with these extensions has, if it carries any.
    pub(crate) fn take(extensions: &mut Extensions) -> Option<Sending> {
        let Self(parts) = extensions.remove()?;
        Some(Sending { parts: parts.into_iter(), ended: false })
    }
}

/// What is sent at a time.
#[derive(Default)]
struct Parts {
    all: Vec<Bytes>,
    /// Another one, where there is room.
    last: Vec<u8>,
}

impl Parts {
    fn add(&mut self, item: Bytes) {
        if item.len() < SHORT {
            self.copy(&item);
        } else {
            self.end();
            self.all.push(item);
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        if self.last.len() + bytes.len() > FRAME {
            self.end();
        }
        self.last.extend_from_slice(bytes);
    }

    /// Lets nothing more be copied to the last part.
    fn end(&mut self) {
        if !self.last.is_empty() {
            self.all.push(std::mem::take(&mut self.last).into());
        }
    }
}

/// An answer that is being sent.
#[derive(Debug)]
pub(crate) struct Sending {
    parts: std::vec::IntoIter<Bytes>,
    ended: bool,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(part) = self.parts.next() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
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
    use bytes::BytesMut;
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
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut bytes = BytesMut::new();
        loop {
            assert!(!body.is_end_stream());
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) else { panic!() };
            match frame.into_data() {
                Ok(data) => {
                    assert!(!data.is_empty());
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

    /// Short ones are copied together, long ones are not.
    #[test]
    fn what_is_sent_at_a_time() {
        let lengths = |sizes: &[usize]| {
            let items = sizes.iter().map(|size| vec![0; *size].into()).collect::<Vec<Bytes>>();
            Encoded::new([items]).0.iter().map(Bytes::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[]), [PREFIX]);
        assert_eq!(lengths(&[1, 2]), [PREFIX + 3]);
        assert_eq!(lengths(&[SHORT, SHORT * 9]), [PREFIX, SHORT, SHORT * 9]);
        assert_eq!(lengths(&[1, SHORT, 2, 3]), [PREFIX + 1, SHORT, 5]);
        assert_eq!(lengths(&[SHORT - 1; 5]), [PREFIX + 3 * (SHORT - 1), 2 * (SHORT - 1)]);
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
