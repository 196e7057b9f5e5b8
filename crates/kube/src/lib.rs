//! The node agent: drives the pods of a Kubernetes manifest through the CRI.
//!
//! * [`manifest`] reads Pod, ConfigMap and Secret documents strictly and says where they are wrong.
//! * `worker` (private) is the life of one pod as a pure state machine: time goes in, actions come out.
//! * [`agent`] performs those actions through the CRI client and on the host's files, and nothing else: it can be
//!   pointed at any CRI socket. A pod of a manifest lives and goes with the call that runs it; one of a cluster is kept by a
//!   handle, stays after its end until it is told to go, and is adopted by the next process.
//! * [`rotation`] keeps logs of containers short, and finds all parts of one.
//! * [`event`] is what the agent tells while it works; [`api`] are the Kubernetes objects.

pub mod agent;
pub mod api;
pub mod client;
mod error;
pub mod event;
pub mod manifest;
mod qos;
pub mod rotation;
mod worker;

pub use self::error::{Error, Kind, Result};
