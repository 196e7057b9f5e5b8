//! The CRI services: sandbox and container life cycles, statistics, reconciliation.
//!
//! [`Server`] answers `runtime.v1` (kubelet, crictl, the node agent) and `vaquita.v1` (our own command line) on one unix
//! socket. It holds no process and no stream of a container: those belong to the shim of the pod. What it holds is
//! rebuilt from the records below the state directory and from the kernel whenever it starts.
//!
//! [`check::inventory`] lists every kernel resource of ours with its owner, with or without a running server.

mod apparmor;
mod cgroups;
pub mod check;
mod checkpoint;
mod config;
mod container;
mod encoded;
mod error;
mod exec;
mod host;
mod images;
mod kernel;
mod metrics;
mod model;
mod network;
mod node;
mod nri;
mod paths;
mod pod;
mod pod_files;
mod reconcile;
mod runtimes;
mod server;
mod service;
mod spec;
mod stats;
mod streaming;
mod telemetry;

pub use config::{CniConfig, Config, DemoImage, NetworkChoice, NetworkConfig};
pub use error::{Error, Kind, Result};
pub use server::Server;
pub use vaquita_cgroup::Driver as CgroupDriver;
pub use vaquita_net::Subnet6;
pub use vaquita_nri::Config as NriConfig;
pub use vaquita_streaming::{Config as StreamingConfig, Tls};
