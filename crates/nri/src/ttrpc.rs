//! Requests and answers of ttrpc: what a [`Message`](crate::frame::Message) has in it.

use bytes::Bytes;
use prost::Message;

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
