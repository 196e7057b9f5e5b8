//! What the API asks of the machine that runs the pods.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::Status;

/// Pieces of a log as they come; the sender waits for a reader that is slow.
#[derive(Debug)]
pub struct LogText(pub mpsc::Receiver<std::io::Result<Bytes>>);

/// The one machine. Implemented where pods are run; what is given is the pod's object as it is stored.
pub trait Node: fmt::Debug + Send + Sync {
    /// What a container has written.
    ///
    /// # Errors
    /// In kubelet's words, as a Status.
    fn log<'a>(&'a self, pod: &'a Value, options: &'a LogOptions) -> Answer<'a, LogText>;

    /// Prepares to run a command in a container, to attach to it, or to forward ports of the pod: an `http:` URL on this machine that
    /// is good for one connection, to which the client's is joined.
    ///
    /// # Errors
    /// In kubelet's words, as a Status.
    fn stream<'a>(&'a self, pod: &'a Value, what: &'a Stream) -> Answer<'a, String>;

    /// What the machine uses; `None` where that is not known yet.
    fn usage(&self) -> Answer<'_, Option<NodeUsage>>;
}

/// What a call of [`Node`] gives, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send + 'a>>;

/// Which part of a log, and how (`PodLogOptions`).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogOptions {
    /// The container's name.
    pub container: String,
    /// Go on with what comes.
    pub follow: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Of the container that ended before this one.
    pub previous: bool,
    /// Nothing from before that.
    pub since: Option<Timestamp>,
    /// One of the two streams, or both.
    pub stream: LogStream,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// With the time in front of each line.
    pub timestamps: bool,
}

/// Which of a container's outputs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogStream {
    /// Both.
    #[default]
    All,
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
}

/// What is to be done over a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stream {
    /// What a container does already.
    Attach {
        /// Its name, and what is wanted of it.
        container: String,
        /// Which streams.
        streams: Streams,
    },
    /// A command in a container.
    Exec {
        /// The container's name.
        container: String,
        /// The command with its arguments.
        command: Vec<String>,
        /// Which streams.
        streams: Streams,
    },
    /// Ports of the pod.
    PortForward {
        /// Those that old clients name beforehand; mostly none.
        ports: Vec<u16>,
    },
}

/// Which streams are wanted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// What the machine and its pods use, as `metrics.k8s.io` tells it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeUsage {
    /// The machine's name.
    pub name: String,
    /// All of it.
    pub total: Usage,
    /// When it was measured, and over how many seconds.
    pub time: Timestamp,
    /// Over how many seconds the processors' time was taken.
    pub window: u32,
    /// Pods by namespace and name.
    pub pods: Vec<PodUsage>,
}

/// What a pod uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodUsage {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its containers by name.
    pub containers: Vec<(String, Usage)>,
}

/// Processors and memory.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Billionths of a processor.
    pub cpu: u64,
    /// The working set, in bytes.
    pub memory: u64,
}
