//! Counting requests, and telling in the log which trace of a client one belongs to.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderMap, Request, Response};
use tonic::Code;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{Call, Method};
use crate::node::Node;

/// Observes every request.
#[derive(Clone, Debug)]
pub(crate) struct Observe(pub(crate) Arc<Node>);

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observed { node: self.0.clone(), inner }
    }
}

/// Services that are observed.
#[derive(Clone, Debug)]
pub(crate) struct Observed<S> {
    node: Arc<Node>,
    inner: S,
}

impl<S, A, B> Service<Request<A>> for Observed<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let trace = Trace::of(request.headers());
        let call = Running::new(self.node.clone(), method(request.uri().path()), trace);
        let span = call.span();
        let answer = self.inner.call(request);
        let answered = async move {
            let answer = answer.await;
            call.answered(match &answer {
                Ok(response) => code(response.headers()),
                Err(_) => Code::Internal,
            });
            answer
        };
        match span {
            Some(span) => Box::pin(answered.instrument(span)),
            None => Box::pin(answered),
        }
    }
}

/// A request under way. One whose client gives it up was cancelled.
struct Running {
    node: Arc<Node>,
    method: String,
    start: Instant,
    code: Option<Code>,
    trace: Option<Trace>,
}

impl Running {
    fn new(node: Arc<Node>, method: String, trace: Option<Trace>) -> Self {
        node.telemetry.running.inc();
        Self { node, method, start: Instant::now(), code: None, trace }
    }

    fn answered(mut self, code: Code) {
        self.code = Some(code);
    }

    /// What is logged on the way belongs to the client's trace.
    fn span(&self) -> Option<tracing::Span> {
        let Trace { id, parent, own, .. } = self.trace.as_ref()?;
        Some(tracing::info_span!(
            "rpc",
            method = self.method,
            trace_id = id,
            span_id = own,
            parent_span_id = parent
        ))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let telemetry = &self.node.telemetry;
        telemetry.running.dec();
        let (method, took) = (std::mem::take(&mut self.method), self.start.elapsed());
        let code = name(self.code.unwrap_or(Code::Cancelled));
        if let Some(Trace { id, parent, own, sampled: true }) = &self.trace {
            let duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            tracing::info!(
                method,
                code,
                trace_id = id,
                span_id = own,
                parent_span_id = parent,
                duration_us,
                "traced"
            );
        }
        telemetry.latencies.0.get_or_create(&Method { method: method.clone() }).observe(took.as_secs_f64());
        telemetry.rpcs.get_or_create(&Call { method, code }).inc();
    }
}

/// Where a client's trace (W3C Trace Context, level 1) goes on here.
#[derive(Debug, Eq, PartialEq)]
struct Trace {
    id: String,
    parent: String,
    own: String,
    sampled: bool,
}

impl Trace {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let (id, parent, sampled) = parse(headers.get("traceparent")?.to_str().ok()?)?;
        let mut own = [0_u8; 8];
        rustix::rand::getrandom(&mut own[..], rustix::rand::GetRandomFlags::empty()).ok()?;
        let own = format!("{:016x}", u64::from_ne_bytes(own));
        Some(Self { id: id.to_owned(), parent: parent.to_owned(), own, sampled })
    }
}

/// The trace, the span in it and whether it is recorded: `00-<32 digits>-<16 digits>-<2 digits>`. A later version may
/// have more behind that.
fn parse(text: &str) -> Option<(&str, &str, bool)> {
    let mut parts = text.split('-');
    let mut digits = |length: usize| {
        let part = parts.next()?;
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (part.len() == length && part.bytes().all(lower)).then_some(part)
    };
    let (version, id, parent, flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let more = parts.next().is_some();
    if version == "ff" || (version == "00" && more) || zero(id) || zero(parent) {
        return None;
    }
    Some((id, parent, u8::from_str_radix(flags, 16).ok()? & 1 == 1))
}

/// What a path calls; all that are not of our services are one, or a client could make up any number.
fn method(path: &str) -> String {
    let known = ["/runtime.v1.RuntimeService/", "/runtime.v1.ImageService/", "/vaquita.v1.Node/"];
    let name = known.iter().find_map(|service| path.strip_prefix(service));
    name.filter(|name| name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_alphabetic()))
        .unwrap_or("other")
        .to_owned()
}

/// The code of an answer; one that begins without has succeeded so far.
fn code(headers: &HeaderMap) -> Code {
    headers.get("grpc-status").map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

/// As gRPC spells it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_parents() {
        let (id, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        assert_eq!(parse(&format!("00-{id}-{span}-01")), Some((id, span, true)));
        assert_eq!(parse(&format!("00-{id}-{span}-00")), Some((id, span, false)));
        assert_eq!(parse(&format!("01-{id}-{span}-01-more")), Some((id, span, true)));
        for bad in [
            format!("ff-{id}-{span}-01"),
            format!("00-{id}-{span}-01-more"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{}-{span}-01", id.to_uppercase()),
            format!("00-{id}-{}-01", "0".repeat(16)),
            format!("00-{id}-01"),
            String::new(),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn methods_are_bounded() {
        assert_eq!(method("/runtime.v1.RuntimeService/ListContainers"), "ListContainers");
        assert_eq!(method("/runtime.v1.RuntimeService/x\u{e4}"), "other");
        assert_eq!(method("/some.other/Thing"), "other");
    }
}
