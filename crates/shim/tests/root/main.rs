//! A real shim with real containers. Needs root; says so where there is none.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "files of the tests")]

mod attach;
mod exec;
mod hostile;
mod lifecycle;
mod logs;
mod resilience;
mod support;
mod users;
