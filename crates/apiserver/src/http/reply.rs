//! Answers.

use std::convert::Infallible;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::Frame;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Body;
use super::negotiate::Form;
use super::table::{self, Include};
use crate::status::quote;
use crate::{Kind, List, Object, Status};

/// Bytes that are made before they are sent.
const PIECE: usize = 64 << 10;

/// KiB of objects that lists may keep from being forgotten while clients read them.
const SENDING: u32 = 512 << 10;
static SENT: Semaphore = Semaphore::const_new(SENDING as usize);

/// Answers from this size on are compressed for clients that take it, as by Kubernetes.
const COMPRESSED: usize = 128 << 10;

/// How the client wants objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) form: Form,
    pub(crate) include: Include,
    pub(crate) gzip: bool,
}

/// Any JSON.
pub(crate) fn json(code: u16, value: &Value) -> Response<Body> {
    let mut text = Vec::new();
    table::write(value, &mut text);
    text.push(b'\n');
    bytes(code, "application/json", text)
}

/// Plain text.
pub(crate) fn text(code: u16, text: &str) -> Response<Body> {
    bytes(code, "text/plain; charset=utf-8", text.as_bytes().to_vec())
}

/// Any bytes.
pub(crate) fn bytes(code: u16, form: &'static str, bytes: Vec<u8>) -> Response<Body> {
    with(code, form, Body::full(bytes))
}

/// What was not done.
pub(crate) fn status(status: &Status) -> Response<Body> {
    let mut response = json(status.code, &status.to_value());
    let retry = status.details.as_ref().map_or(0, |details| details.retry_after);
    if retry > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, retry.into());
    }
    if status.code == 401 {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// One object.
pub(crate) fn object(code: u16, object: &Object, shape: Shape) -> Response<Body> {
    let mut out = match shape.form {
        Form::Objects => object.text(),
        Form::Metadata(version) => {
            let mut out = Vec::new();
            table::write(&table::metadata(object.metadata(), version), &mut out);
            out
        }
        Form::Table(version) => {
            let mut out = table_head(object.kind, version, object.revision, "", None);
            table::row(object, shape.include, version, Timestamp::now(), &mut out);
            out.extend_from_slice(b"]}");
            out
        }
    };
    out.push(b'\n');
    bytes(code, "application/json", out)
}

/// A list, made while it is sent.
///
/// # Errors
/// 429 when too many others read theirs too slowly.
pub(crate) fn list(kind: &'static Kind, list: List, shape: Shape) -> Result<Response<Body>, Status> {
    let size: usize = list.items.iter().map(Object::len).sum();
    let mut pieces = Pieces::new(kind, list, shape);
    if size < PIECE {
        let whole: Vec<u8> = pieces.flatten().collect();
        return Ok(bytes(200, "application/json", whole));
    }
    let share = u32::try_from(size >> 10).unwrap_or(u32::MAX).min(SENDING);
    let share = SENT.try_acquire_many(share);
    pieces.share =
        Some(share.map_err(|_| Status::too_many_requests("Too many requests, please try again later.", 1))?);
    if shape.gzip && size >= COMPRESSED {
        pieces.gzip = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut response = with(200, "application/json", Body::new(Stream(pieces)));
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        return Ok(response);
    }
    Ok(with(200, "application/json", Body::new(Stream(pieces))))
}

/// An answer with a body.
pub(crate) fn with(code: u16, form: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Tells warnings: `299 - "text"`.
pub(crate) fn warn(headers: &mut HeaderMap, warnings: Vec<String>) {
    for warning in warnings {
        let clean: String = warning.chars().filter(|c| !c.is_control()).collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - {}", quote(&clean)).as_bytes()) {
            headers.append(header::WARNING, value);
        }
    }
}

/// Everything of a table before its first row.
pub(crate) fn table_head(
    kind: &Kind,
    version: &str,
    revision: u64,
    continued: &str,
    remaining: Option<usize>,
) -> Vec<u8> {
    let mut out =
        format!("{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":").into_bytes();
    table::write(&list_metadata(revision, continued, remaining), &mut out);
    out.extend_from_slice(b",\"columnDefinitions\":");
    table::write(&table::columns(kind), &mut out);
    out.extend_from_slice(b",\"rows\":[");
    out
}

fn list_metadata(revision: u64, continued: &str, remaining: Option<usize>) -> Value {
    let mut value = json!({});
    if revision > 0 {
        value["resourceVersion"] = revision.to_string().into();
    }
    if !continued.is_empty() {
        value["continue"] = continued.into();
    }
    if let Some(remaining) = remaining {
        value["remainingItemCount"] = remaining.into();
    }
    value
}

/// The text of a list, piece by piece.
struct Pieces {
    items: vec::IntoIter<Object>,
    shape: Shape,
    now: Timestamp,
    buffer: Vec<u8>,
    first: bool,
    done: bool,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// Given back when all is sent, or nobody reads any more.
    share: Option<SemaphorePermit<'static>>,
}

impl Pieces {
    fn new(kind: &'static Kind, list: List, shape: Shape) -> Self {
        let buffer = match shape.form {
            Form::Table(version) => table_head(kind, version, list.revision, &list.continued, list.remaining),
            Form::Objects => head(kind.name, &kind.api_version(), &list),
            Form::Metadata(version) => {
                head("PartialObjectMetadata", &format!("meta.k8s.io/{version}"), &list)
            }
        };
        Self {
            items: list.items.into_iter(),
            shape,
            now: Timestamp::now(),
            buffer,
            first: true,
            done: false,
            gzip: None,
            share: None,
        }
    }

    fn add(&mut self, object: &Object) {
        if !std::mem::take(&mut self.first) {
            self.buffer.push(b',');
        }
        match self.shape.form {
            Form::Objects => object.item(&mut self.buffer),
            Form::Metadata(version) => {
                let metadata = table::metadata(object.metadata(), version);
                table::write(&metadata, &mut self.buffer);
            }
            Form::Table(version) => {
                table::row(object, self.shape.include, version, self.now, &mut self.buffer)
            }
        }
    }

    fn compressed(&mut self) -> Option<Bytes> {
        let Some(mut gzip) = self.gzip.take() else { return Some(std::mem::take(&mut self.buffer).into()) };
        // Writing into memory does not fail.
        let _ = gzip.write_all(&self.buffer);
        self.buffer.clear();
        if self.done {
            return gzip.finish().ok().map(Bytes::from);
        }
        let ready = std::mem::take(gzip.get_mut());
        self.gzip = Some(gzip);
        Some(ready.into())
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        while self.buffer.len() < PIECE {
            match self.items.next() {
                Some(object) => self.add(&object),
                None => {
                    self.buffer.extend_from_slice(b"]}\n");
                    self.done = true;
                    break;
                }
            }
        }
        self.compressed()
    }
}

fn head(kind: &str, version: &str, list: &List) -> Vec<u8> {
    let mut out =
        format!("{{\"kind\":\"{kind}List\",\"apiVersion\":\"{version}\",\"metadata\":").into_bytes();
    table::write(&list_metadata(list.revision, &list.continued, list.remaining), &mut out);
    out.extend_from_slice(b",\"items\":[");
    out
}

/// A body of pieces that are made when they are wanted.
struct Stream(Pieces);

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            match self.0.next() {
                Some(piece) if piece.is_empty() => {}
                piece => return Poll::Ready(piece.map(|piece| Ok(Frame::data(piece)))),
            }
        }
    }
}
