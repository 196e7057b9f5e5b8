//! A real shim with containers that other OCI runtimes make. Needs root, runc and crun.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "files of the tests")]

mod containers;
#[path = "../root/support.rs"]
#[allow(dead_code, reason = "the built-in runtime's tests have more to ask")]
mod support;
