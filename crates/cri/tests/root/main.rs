//! A server on a real host: its own directories, network and cgroups. Needs root; says so where there is none.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "files of the tests")]

mod api;
mod apparmor;
mod cdi;
mod checkpoint;
mod cni;
mod events;
mod fields;
mod handlers;
mod kubelet;
mod metrics;
mod nri;
mod restart;
mod retries;
mod selinux;
mod streams;
mod support;
mod telemetry;
mod traces;
mod users;
mod volumes;
