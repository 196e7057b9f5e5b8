//! What is told of the daemon itself, in the format of Prometheus.

mod about;
mod http;
mod rpc;
mod spans;
mod trace;

use std::fmt::Debug;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::kernel;
use crate::node::Node;

pub(crate) use about::{about_container, about_sandbox};
pub(crate) use http::Listeners;
pub(crate) use rpc::Observe;
pub(crate) use spans::Spans;

/// Upper bounds of the latencies, in seconds.
const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0, 120.0];

/// Counters that run while the daemon does; the rest is looked up whenever somebody asks.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    rpcs: Family<Call, Counter>,
    latencies: Latencies,
    running: Gauge,
    pulls: Family<Outcome, Counter>,
    streams: Family<Kind, Gauge>,
    /// Spans, by what has become of them.
    pub(crate) spans: Family<Outcome, Counter>,
}

#[derive(Clone, Debug)]
struct Latencies(Family<Method, Histogram>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(BOUNDS)))
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Call {
    method: String,
    code: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Method {
    method: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(crate) struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct State {
    state: String,
}

/// A stream that is open while this is held.
#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Telemetry {
    /// A pull has ended.
    pub(crate) fn pulled(&self, succeeded: bool) {
        let result = if succeeded { "success" } else { "error" };
        self.pulls.get_or_create(&Outcome { result }).inc();
    }

    /// A client is connected with something in a container.
    pub(crate) fn open(&self, kind: &'static str) -> Open {
        let gauge = self.streams.get_or_create(&Kind { kind }).clone();
        gauge.inc();
        Open(gauge)
    }

    /// Everything, as text.
    fn text(&self, node: &Node) -> Result<String, std::fmt::Error> {
        let mut all = Registry::with_prefix("vaquita");
        all.register(
            "cri_requests",
            "Requests that were answered, by method and code; a stream when it begins",
            self.rpcs.clone(),
        );
        all.register(
            "cri_request_duration_seconds",
            "How long requests took, by method; a stream until it begins",
            self.latencies.0.clone(),
        );
        all.register("cri_requests_running", "Requests that are not answered yet", self.running.clone());
        all.register("image_pulls", "Pulls that have ended, by result", self.pulls.clone());
        all.register("open_streams", "Clients connected by exec and attach", self.streams.clone());
        all.register(
            "trace_spans",
            "Spans for a collector of traces, by what became of them",
            self.spans.clone(),
        );
        let version = Family::<Version, Gauge>::default();
        version.get_or_create(&Version { version: env!("CARGO_PKG_VERSION") }).set(1);
        all.register("build_info", "The version; always 1", version);
        pods(node, &mut all);
        images(node, &mut all);
        process(&mut all);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &all)?;
        Ok(text)
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Version {
    version: &'static str,
}

fn pods(node: &Node, all: &mut Registry) {
    let (pods, containers) = (Family::<State, Gauge>::default(), Family::<State, Gauge>::default());
    let mut shims = 0;
    for sandbox in node.tables.sandboxes() {
        let life = sandbox.life();
        shims += u64::from(life.pid.is_some() && sandbox.shim.get().is_some());
        pods.get_or_create(&state(life.phase)).inc();
    }
    for container in node.tables.containers() {
        let state = container.life().state().as_str_name().trim_start_matches("CONTAINER_").to_lowercase();
        containers.get_or_create(&State { state }).inc();
    }
    all.register("pods", "Pods, by state", pods);
    all.register("containers", "Containers, by state", containers);
    all.register("shims", "Shims, one for each pod that is up", number(shims));
}

fn state(phase: impl Debug) -> State {
    State { state: format!("{phase:?}").to_lowercase() }
}

fn images(node: &Node, all: &mut Registry) {
    let bytes = node.images.fs_info().map_or(0, |info| info.used_bytes);
    all.register("images", "Images", number(node.images.list().len() as u64));
    all.register("image_bytes", "What the image store holds, in bytes", number(bytes));
    all.register("image_pulls_running", "Pulls under way", number(node.images.pulls().len() as u64));
}

/// The names are those of Prometheus' own client libraries, behind ours.
fn process(all: &mut Registry) {
    let status = kernel::own("status");
    let value = |name: &str| status_value(&status, name).unwrap_or_default();
    let descriptors = kernel::own_descriptors() as u64;
    all.register(
        "process_resident_memory_bytes",
        "Memory of the daemon that is in RAM",
        number(value("VmRSS") * 1024),
    );
    all.register("process_threads", "Threads of the daemon", number(value("Threads")));
    all.register("process_open_fds", "Descriptors that the daemon has open", number(descriptors));
}

/// A line of proc_pid_status(5) that is a number.
fn status_value(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn number(value: u64) -> Gauge<u64, AtomicU64> {
    let gauge = Gauge::default();
    gauge.set(value);
    gauge
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_status() {
        let status = "Name:\tvaquita\nVmRSS:\t   12 kB\nThreads:\t3\n";
        assert_eq!(status_value(status, "VmRSS"), Some(12));
        assert_eq!(status_value(status, "Threads"), Some(3));
        assert_eq!(status_value(status, "Vm"), None);
    }

    #[test]
    fn a_stream_counts_while_it_is_open() {
        let telemetry = Telemetry::default();
        let count = || telemetry.streams.get_or_create(&Kind { kind: "exec" }).get();
        let one = telemetry.open("exec");
        assert_eq!(count(), 1);
        drop(one);
        assert_eq!(count(), 0);
    }
}
