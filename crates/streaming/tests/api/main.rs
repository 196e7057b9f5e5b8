//! The server on a socket, with clients of the tests' own: SPDY written here, WebSocket by another library.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![allow(clippy::disallowed_methods, reason = "files of the tests")]

mod exec;
mod forward;
mod limits;
mod spdy;
mod support;
mod tls;
mod websocket;
