//! kubectl drives `vaquita up`: each command as a user types it, on its real output.
//!
//! The kubectls are Debian's, of two releases (`hack/kubectl` fetches them). What is said to people is compared as they see it.

mod attach;
mod change;
mod clients;
mod create;
mod harness;
mod hostile;
mod look;
mod manifests;
mod node;
mod pods;
mod policy;
mod streams;
mod tutorial;
mod up;
mod volumes;

pub(crate) use harness::{Cluster, Kubectl};
