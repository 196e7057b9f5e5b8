//! Counting requests, and telling in the log and a collector which trace one belongs to.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;
use vaquita_proto::otlp::span::SpanKind;
use vaquita_proto::otlp::status::StatusCode;
use vaquita_proto::otlp::{self, Span};

use super::about::{About, observed};
use super::spans::{number, text};
use super::trace::Trace;
use super::{Call, Method};
use crate::model::now;
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
        let per_million = self.node.spans.as_ref().map_or(0, |spans| spans.per_million);
        let trace = Trace::of(request.headers()).or_else(|| Trace::begin(per_million));
        let mut call = Running::new(self.node.clone(), request.uri().path(), trace);
        let span = call.span();
        let answer = self.inner.call(request);
        let answered = async move {
            let answer = match call.is_exported() {
                true => {
                    let (answer, about) = observed(answer).await;
                    call.about = about;
                    answer
                }
                false => answer.await,
            };
            call.answered(answer.as_ref().map(Response::headers).ok());
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
    service: &'static str,
    method: String,
    start: Instant,
    /// The same in nanoseconds since 1970.
    time: i64,
    code: Option<Code>,
    message: String,
    trace: Option<Trace>,
    about: About,
}

impl Running {
    fn new(node: Arc<Node>, path: &str, trace: Option<Trace>) -> Self {
        node.telemetry.running.inc();
        let (service, method) = method(path);
        let (start, time) = (Instant::now(), now());
        let (message, about) = (String::new(), About::default());
        Self { node, service, method, start, time, code: None, message, trace, about }
    }

    fn answered(mut self, headers: Option<&HeaderMap>) {
        self.code = Some(headers.map_or(Code::Internal, code));
        if self.is_exported() {
            let message = headers.and_then(Status::from_header_map);
            self.message = message.map(|status| status.message().to_owned()).unwrap_or_default();
        }
    }

    /// Whether a collector is told of it.
    fn is_exported(&self) -> bool {
        self.node.spans.is_some() && self.trace.as_ref().is_some_and(|trace| trace.sampled)
    }

    /// What is logged on the way belongs to the trace.
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

    /// As a collector is told of it, with the attributes of OpenTelemetry's semantic conventions for gRPC.
    fn export(&self, trace: &Trace, code: Code) -> Option<Span> {
        let start = u64::try_from(self.time).unwrap_or_default();
        let took = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or_default();
        let mut attributes = vec![
            text("rpc.system", "grpc"),
            text("rpc.service", self.service),
            text("rpc.method", &self.method),
            number("rpc.grpc.status_code", code as i64),
        ];
        let about = &self.about;
        attributes.extend(about.sandbox.as_ref().map(|id| text("k8s.pod.sandbox.id", id)));
        attributes.extend(about.container.as_ref().map(|id| text("container.id", id)));
        let status = is_fault(code)
            .then(|| otlp::Status { message: self.message.clone(), code: StatusCode::Error as i32 });
        let is_remote = if trace.parent.is_empty() { 0x100 } else { 0x300 };
        Some(Span {
            trace_id: bytes(&trace.id)?,
            span_id: bytes(&trace.own)?,
            trace_state: trace.state.clone(),
            parent_span_id: bytes(&trace.parent)?,
            name: format!("{}/{}", self.service, self.method),
            kind: SpanKind::Server as i32,
            start_time_unix_nano: start,
            end_time_unix_nano: start.saturating_add(took),
            attributes,
            status,
            flags: is_remote | 1,
        })
    }
}

/// What digits stand for.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}

/// Which codes are a server's faults, and not answers to what a client should not have asked (semantic conventions for
/// gRPC).
fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

impl Drop for Running {
    fn drop(&mut self) {
        let telemetry = &self.node.telemetry;
        telemetry.running.dec();
        let took = self.start.elapsed();
        let code = self.code.unwrap_or(Code::Cancelled);
        if let Some(trace @ Trace { id, parent, own, sampled: true, .. }) = &self.trace {
            let duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            tracing::info!(
                method = self.method,
                code = name(code),
                trace_id = id,
                span_id = own,
                parent_span_id = parent,
                duration_us,
                "traced"
            );
            if let Some(spans) = &self.node.spans
                && let Some(span) = self.export(trace, code)
            {
                spans.add(span);
            }
        }
        let method = std::mem::take(&mut self.method);
        telemetry.latencies.0.get_or_create(&Method { method: method.clone() }).observe(took.as_secs_f64());
        telemetry.rpcs.get_or_create(&Call { method, code: name(code) }).inc();
    }
}

/// The service and the method that a path calls; all that are not of our services are one, or a client could make up any number.
fn method(path: &str) -> (&'static str, String) {
    let known =
        ["runtime.v1.RuntimeService", "runtime.v1.ImageService", "vaquita.v1.Images", "vaquita.v1.Node"];
    let is_name = |name: &&str| name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_alphabetic());
    known
        .into_iter()
        .find_map(|service| {
            let name = path.strip_prefix('/')?.strip_prefix(service)?.strip_prefix('/').filter(is_name)?;
            Some((service, name.to_owned()))
        })
        .unwrap_or_else(|| ("other", "other".to_owned()))
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
    fn methods_are_bounded() {
        let expected = ("runtime.v1.RuntimeService", "ListContainers".to_owned());
        assert_eq!(method("/runtime.v1.RuntimeService/ListContainers"), expected);
        for path in ["/runtime.v1.RuntimeService/x\u{e4}", "/some.other/Thing", "runtime.v1.ImageService/x"] {
            assert_eq!(method(path), ("other", "other".to_owned()), "{path}");
        }
    }

    #[test]
    fn digits_are_bytes() {
        assert_eq!(bytes("00ff1a"), Some(vec![0, 255, 26]));
        assert_eq!((bytes(""), bytes("0"), bytes("zz")), (Some(vec![]), None, None));
    }
}
