//! Spans on their way to a collector (OTLP over gRPC).
//!
//! Nobody waits for the collector: what it does not take in time is dropped and counted.

use std::time::Duration;

use http::Uri;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use vaquita_proto::otlp::trace_service_client::TraceServiceClient;
use vaquita_proto::otlp::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans,
    Span, any_value::Value,
};

use super::Outcome;
use crate::{Config, Error, Result};

/// The most spans that wait, as with OpenTelemetry's own batch processor. One takes some hundred bytes.
const ROOM: usize = 2048;
/// The most spans of one message, as there.
const BATCH: usize = 512;
/// How long the first span of a message waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// How long the collector may take for a message.
const PATIENCE: Duration = Duration::from_secs(10);
/// The wait after the first failure, doubled after each; after the last one the message is dropped.
const RETRY: Duration = Duration::from_secs(1);
const RETRIES: u32 = 5;

/// Takes spans for the collector.
#[derive(Debug)]
pub(crate) struct Spans {
    queue: mpsc::Sender<Message>,
    results: Family<Outcome, Counter>,
    /// Of a million requests whose client has no trace.
    pub(super) per_million: u32,
}

enum Message {
    Span(Box<Span>),
    /// Send what there is, and say so.
    Flush(oneshot::Sender<()>),
}

impl Spans {
    /// Begins to export, if that is configured. Nothing is connected before there is a span.
    pub(crate) fn start(config: &Config, results: &Family<Outcome, Counter>) -> Result<Option<Self>> {
        let Some(address) = &config.otlp_endpoint else { return Ok(None) };
        let channel = endpoint(address)?.connect_lazy();
        let (queue, spans) = mpsc::channel(ROOM);
        tokio::spawn(Exporter { channel, results: results.clone(), is_failing: false }.run(spans));
        Ok(Some(Self { queue, results: results.clone(), per_million: config.otlp_sampling_per_million }))
    }

    /// Takes a span, or drops it when too many wait.
    pub(super) fn add(&self, span: Span) {
        if self.queue.try_send(Message::Span(Box::new(span))).is_err() {
            count(&self.results, "dropped", 1);
        }
    }

    /// Waits until what was added before has been sent or given up, at most this long.
    pub(crate) async fn flush(&self, patience: Duration) {
        let flushed = async {
            let (done, wait) = oneshot::channel();
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                let _ = wait.await;
            }
        };
        let _ = tokio::time::timeout(patience, flushed).await;
    }
}

fn count(results: &Family<Outcome, Counter>, result: &'static str, number: usize) {
    results.get_or_create(&Outcome { result }).inc_by(number as u64);
}

/// A collector's address. There is no TLS: the way to a collector elsewhere is that of a collector on this host.
fn endpoint(address: &str) -> Result<Endpoint> {
    let refused = |why: &str| {
        Error::invalid(format!(
            "OTLP endpoint {address:?}: {why}; it must be that of OTLP over gRPC without TLS, as http://127.0.0.1:4317"
        ))
    };
    let uri: Uri = address.parse().map_err(|error: http::uri::InvalidUri| refused(&error.to_string()))?;
    if uri.scheme_str() != Some("http") {
        return Err(refused("its scheme is not http"));
    }
    if uri.host().is_none_or(str::is_empty) || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(refused("it must have a host and no path"));
    }
    Ok(Endpoint::from(uri).connect_timeout(PATIENCE).timeout(PATIENCE))
}

struct Exporter {
    channel: Channel,
    results: Family<Outcome, Counter>,
    is_failing: bool,
}

impl Exporter {
    async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        while let Some(message) = queue.recv().await {
            let (spans, flushed) = gather(message, &mut queue).await;
            self.send(spans).await;
            if let Some(flushed) = flushed {
                let _ = flushed.send(());
            }
        }
    }

    async fn send(&mut self, spans: Vec<Span>) {
        let number = spans.len();
        if number == 0 {
            return;
        }
        let request = request(spans);
        let mut wait = RETRY;
        for attempt in 0..=RETRIES {
            let mut client = TraceServiceClient::new(self.channel.clone());
            match client.export(request.clone()).await {
                Ok(response) => {
                    let partial = response.into_inner().partial_success.unwrap_or_default();
                    let rejected = usize::try_from(partial.rejected_spans).unwrap_or_default().min(number);
                    if rejected > 0 {
                        tracing::warn!(
                            rejected,
                            reason = partial.error_message,
                            "the collector rejected spans"
                        );
                    }
                    count(&self.results, "rejected", rejected);
                    count(&self.results, "sent", number - rejected);
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("the collector of traces takes spans again");
                    }
                    return;
                }
                Err(status) => {
                    if !std::mem::replace(&mut self.is_failing, true) {
                        tracing::warn!(%status, "the collector of traces takes no spans");
                    }
                    if attempt == RETRIES || !may_be_repeated(&status) {
                        break;
                    }
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
            }
        }
        count(&self.results, "failed", number);
    }
}

/// Which failures pass (OTLP 1.x, Failures).
fn may_be_repeated(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
            // A connection that broke.
            | Code::Unknown
    )
}

/// Waits for more spans, a little.
async fn gather(
    first: Message,
    queue: &mut mpsc::Receiver<Message>,
) -> (Vec<Span>, Option<oneshot::Sender<()>>) {
    let deadline = Instant::now() + DELAY;
    let (mut spans, mut next) = (Vec::new(), Some(first));
    loop {
        match next {
            Some(Message::Span(span)) => spans.push(*span),
            Some(Message::Flush(done)) => return (spans, Some(done)),
            None => return (spans, None),
        }
        if spans.len() == BATCH {
            return (spans, None);
        }
        next = tokio::time::timeout_at(deadline, queue.recv()).await.unwrap_or_default();
    }
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let attributes =
        vec![text("service.name", "vaquita"), text("service.version", VERSION), text("host.name", &host)];
    let scope = InstrumentationScope { name: env!("CARGO_PKG_NAME").into(), version: VERSION.into() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
        }],
    }
}

/// An attribute that is a text.
pub(super) fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value) }
}

/// An attribute that is a number.
pub(super) fn number(key: &str, value: i64) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::IntValue(value)) }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_spoken_is_an_endpoint() {
        for good in ["http://127.0.0.1:4317", "http://collector.example:4317/", "http://[::1]:4317"] {
            endpoint(good).unwrap();
        }
        for bad in
            ["127.0.0.1:4317", "https://127.0.0.1:4317", "http://127.0.0.1:4318/v1/traces", "http://", ""]
        {
            let error = endpoint(bad).unwrap_err();
            assert!(error.to_string().contains("as http://127.0.0.1:4317"), "{error}");
        }
    }

    #[tokio::test]
    async fn spans_go_together_and_the_rest_is_dropped() {
        let span = |number: usize| Span { name: number.to_string(), ..Span::default() };
        let (queue, mut waiting) = mpsc::channel(ROOM);
        let spans = Spans { queue, results: Family::default(), per_million: 0 };
        (0..ROOM + 3).for_each(|number| spans.add(span(number)));
        assert_eq!(spans.results.get_or_create(&Outcome { result: "dropped" }).get(), 3);
        let mut lengths = Vec::new();
        while let Ok(first) = waiting.try_recv() {
            lengths.push(gather(first, &mut waiting).await.0.len());
        }
        assert_eq!(lengths, [BATCH; 4]);
        // Few are sent when their time is up, and when somebody waits for that.
        spans.add(span(0));
        let first = waiting.recv().await.unwrap();
        assert_eq!(gather(first, &mut waiting).await.0.len(), 1);
        spans.add(span(1));
        let (done, _wait) = oneshot::channel();
        spans.queue.try_send(Message::Flush(done)).ok().unwrap();
        let first = waiting.recv().await.unwrap();
        let (gathered, flushed) = gather(first, &mut waiting).await;
        assert!(gathered.len() == 1 && flushed.is_some());
    }
}
