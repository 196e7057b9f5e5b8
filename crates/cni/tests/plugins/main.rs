//! Runs plugins that are small scripts: what they are told, and what becomes of what they do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "files of the tests")]

mod attach;
mod network;
mod place;
mod trouble;
