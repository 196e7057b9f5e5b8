//! Spans, as a collector of OpenTelemetry gets them.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use vaquita_cri::{Kind, Server};
use vaquita_proto::cri;
use vaquita_proto::otlp::any_value::Value;
use vaquita_proto::otlp::trace_service_server::{TraceService, TraceServiceServer};
use vaquita_proto::otlp::{ExportTraceServiceRequest, ExportTraceServiceResponse, Span};

use crate::support::Node;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Takes what it is sent, but for the first message, if it was not `refused` before.
struct Collector {
    seen: mpsc::UnboundedSender<ExportTraceServiceRequest>,
    refused: std::sync::atomic::AtomicBool,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if !self.refused.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return Err(Status::unavailable("not yet"));
        }
        self.seen.send(request.into_inner()).map_err(|_| Status::internal("nobody looks"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector on a port of its own, which may refuse the first message: its address, and what it gets.
async fn collector(refuses: bool) -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (seen, see) = mpsc::unbounded_channel();
    let service = TraceServiceServer::new(Collector { seen, refused: (!refuses).into() });
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    (address, see)
}

fn traced<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{PARENT}-{flags}").parse().unwrap());
    request.metadata_mut().insert("tracestate", "vendor=1".parse().unwrap());
    request
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(span: &Span) -> BTreeMap<&str, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(value) => value.to_string(),
    };
    let value =
        |one: &vaquita_proto::otlp::KeyValue| text(one.value.as_ref().unwrap().value.as_ref().unwrap());
    span.attributes.iter().map(|one| (one.key.as_str(), value(one))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_the_spans_of_a_clients_trace() {
    let (address, mut see) = collector(true).await;
    let mut node = Node::without_server();
    node.config.otlp_endpoint = Some(address);
    node.start().await;
    node.pull().await;
    let sandbox = node.run("traced").await;
    let id = node.launch(&sandbox, "main", &["sleep"]).await;
    let mut runtime = node.runtime();
    runtime.list_containers(traced(cri::ListContainersRequest::default(), "00")).await.unwrap();
    let request = cri::ContainerStatusRequest { container_id: id[..12].to_owned(), verbose: false };
    runtime.container_status(traced(request, "01")).await.unwrap();
    let request = cri::ContainerStatusRequest { container_id: "ab".repeat(32), verbose: false };
    runtime.container_status(traced(request, "01")).await.unwrap_err();
    runtime.checkpoint_pod(traced(cri::CheckpointPodRequest::default(), "01")).await.unwrap_err();
    let stop = cri::StopContainerRequest { container_id: id.clone(), timeout: 0 };
    runtime.stop_container(traced(stop, "01")).await.unwrap();

    let mut spans = Vec::new();
    while spans.len() < 4 {
        for of in see.recv().await.unwrap().resource_spans {
            let of_resource = &of.resource.as_ref().unwrap().attributes;
            let service = of_resource.iter().find(|one| one.key == "service.name").unwrap();
            let value = service.value.as_ref().unwrap().value.as_ref();
            assert_eq!(value, Some(&Value::StringValue("vaquita".into())));
            spans.extend(of.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    let names: Vec<_> = spans.iter().map(|span| span.name.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["ContainerStatus", "ContainerStatus", "CheckpointPod", "StopContainer"]);
    let mut own = std::collections::BTreeSet::new();
    for span in &spans {
        assert_eq!((hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()), (TRACE, PARENT));
        assert_eq!((span.trace_state.as_str(), span.flags), ("vendor=1", 0x301));
        assert_eq!(span.kind(), vaquita_proto::otlp::span::SpanKind::Server);
        assert!(span.span_id.len() == 8 && own.insert(&span.span_id), "an id of its own");
        assert!(span.start_time_unix_nano > 0 && span.start_time_unix_nano < span.end_time_unix_nano);
        assert_eq!(attributes(span)["rpc.system"], "grpc");
        assert_eq!(attributes(span)["rpc.service"], "runtime.v1.RuntimeService");
    }
    assert_eq!(spans[0].name, "runtime.v1.RuntimeService/ContainerStatus");
    for (span, code) in spans.iter().zip(["0", "5", "12", "0"]) {
        assert_eq!(attributes(span)["rpc.grpc.status_code"], code, "{span:?}");
    }
    for span in [&spans[0], &spans[3]] {
        assert_eq!(attributes(span)["container.id"], id);
        assert_eq!(attributes(span)["k8s.pod.sandbox.id"], sandbox);
        assert!(span.status.is_none());
    }
    assert!(spans[1].status.is_none(), "that there is none is no fault of the server");
    let status = spans[2].status.clone().unwrap();
    assert_eq!(status.code(), vaquita_proto::otlp::status::StatusCode::Error);
    assert!(status.message.contains("CheckpointPod"), "{status:?}");
    node.finish().await;
}

/// Nobody waits for a collector that is not there, and traces begin where it is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn requests_begin_traces_and_do_not_wait_for_a_collector() {
    let (address, mut see) = collector(false).await;
    let mut node = Node::without_server();
    node.config.otlp_endpoint = Some(address);
    node.config.otlp_sampling_per_million = 1_000_000;
    node.start().await;
    node.runtime().version(cri::VersionRequest::default()).await.unwrap();
    node.finish().await;
    let mut resources = tokio_stream::iter(see.recv().await.unwrap().resource_spans);
    let span = resources.next().await.unwrap().scope_spans.remove(0).spans.remove(0);
    assert_eq!(span.name, "runtime.v1.RuntimeService/Version");
    assert_eq!((span.trace_id.len(), span.parent_span_id.len(), span.flags), (16, 0, 0x101));

    let mut node = Node::without_server();
    // Nobody listens there.
    node.config.otlp_endpoint = Some("http://127.0.0.1:1".into());
    node.config.otlp_sampling_per_million = 1_000_000;
    node.start().await;
    for _ in 0..10 {
        node.runtime().version(cri::VersionRequest::default()).await.unwrap();
    }
    node.finish().await;

    let mut config = Node::without_server().config.clone();
    config.otlp_endpoint = Some("https://127.0.0.1:4317".into());
    let error = Server::start(config).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
}
