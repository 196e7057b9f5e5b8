//! Tests of the whole system, in one binary.
//!
//! Each test has a node of its own: the built binary with private directories, bridge, subnet and cgroup. At its end it
//! sees that nothing is left (`Node::finish`). All but a few need root and say so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![allow(clippy::print_stderr, reason = "a failing test shows the log of its daemon")]

mod check;
mod cli;
mod cni;
mod demo;
mod engines;
mod exec;
mod features;
mod floods;
mod image;
mod install;
mod kubectl;
mod lifecycle;
mod logs;
mod memory;
mod net;
mod oci;
mod pod;
mod pull;
mod registries;
mod restart;
mod run;
mod scopes;
mod security;
mod streaming;
mod support;
mod workspace;
