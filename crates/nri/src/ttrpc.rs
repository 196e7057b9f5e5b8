//! Requests and answers of ttrpc: what a [`Message`](crate::frame::Message) has in it.

use bytes::{Buf as _, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};

/// The most fields of a message of a plugin, so the most updates. Each takes 400 bytes, and can have four in the message.
const FIELDS: usize = 4096;

/// The services of both sides.
pub(crate) const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";
pub(crate) const RUNTIME: &str = "nri.pkg.api.v1alpha1.Runtime";

/// `ttrpc.Request`, but for metadata, which nobody uses here.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(string, tag = "1")]
    pub(crate) service: String,
    #[prost(string, tag = "2")]
    pub(crate) method: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) payload: Bytes,
    /// Nanoseconds; 0 for no limit.
    #[prost(int64, tag = "4")]
    pub(crate) timeout: i64,
}

/// `ttrpc.Response`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<Status>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) payload: Bytes,
}

/// `google.rpc.Status`, but for details.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

impl Status {
    /// The codes of gRPC that are used.
    pub(crate) const OK: i32 = 0;
    pub(crate) const INVALID_ARGUMENT: i32 = 3;
    pub(crate) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(crate) const UNIMPLEMENTED: i32 = 12;

    pub(crate) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Response {
    /// The bytes of an answer.
    pub(crate) fn of(result: Result<Bytes, Status>) -> Bytes {
        let response = match result {
            Ok(payload) => Self { status: None, payload },
            Err(status) => Self { status: Some(status), payload: Bytes::new() },
        };
        response.encode_to_vec().into()
    }
}

/// A message of a plugin.
///
/// # Errors
/// Why it is none, or is not taken.
pub(crate) fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, String> {
    let wrong = |error: prost::DecodeError| error.to_string();
    let mut rest = bytes.clone();
    let mut fields = 0;
    while rest.has_remaining() {
        let (tag, kind) = decode_key(&mut rest).map_err(wrong)?;
        skip_field(kind, tag, &mut rest, DecodeContext::default()).map_err(wrong)?;
        fields += 1;
        if fields > FIELDS {
            return Err(format!("it has more than {FIELDS} entries"));
        }
    }
    M::decode(bytes).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use vaquita_proto::nri::{ContainerUpdate, UpdateContainersRequest};

    use super::*;

    #[test]
    fn so_many_updates_are_taken_and_no_more() {
        let request = |count: usize| {
            let update = vec![ContainerUpdate::default(); count];
            UpdateContainersRequest { update, evict: Vec::new() }
        };
        let decode = |count: usize| decode::<UpdateContainersRequest>(request(count).encode_to_vec().into());
        assert_eq!(decode(FIELDS), Ok(request(FIELDS)));
        assert!(decode(FIELDS + 1).unwrap_err().contains("4096"));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [&[0xff; 20][..], &[0x0a, 200], &[0x0a, 2, 1], &[0x07, 0], &[0x00]] {
            assert!(decode::<UpdateContainersRequest>(Bytes::from_static(bytes)).is_err(), "{bytes:?}");
        }
    }
}
