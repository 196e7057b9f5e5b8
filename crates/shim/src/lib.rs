//! The per-pod supervisor, its wire protocol and the client for it.
//!
//! One shim process serves one pod: it is the parent of the pod's pause process and of every container, owns their
//! standard streams and log files, and records how they ended. It outlives the daemon: whoever connects to its
//! socket, an old daemon, a new one or a debugger, sees the same pod.
//!
//! * [`server`] is the process itself: one thread, one epoll loop, no async runtime, a small heap.
//! * [`client`] is the other end, for tokio.
//! * [`wire`] is the protocol between them, as a pure codec.
//! * [`log`] is the CRI log format, as a pure splitter and a writer that never tears a record.

pub mod client;
mod disk;
mod error;
pub mod log;
pub mod server;
mod transport;
mod types;
pub mod wire;

pub use error::{Error, Kind};
pub use types::{
    AttachRequest, ContainerState, CreateRequest, Event, ExecRequest, Exit, ExitRecord, Exited, IdMap,
    Namespaces, OciRuntime, PodState, SandboxRequest, SandboxState, SignalScope, Status,
};
