//! A real shim with real containers. Needs root; says so where there is none.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod attach;
mod exec;
mod hostile;
mod lifecycle;
mod logs;
mod resilience;
mod support;
mod users;
