//! The server on a socket, with clients of the tests' own: SPDY written here, WebSocket by another library.

mod exec;
mod forward;
mod limits;
mod spdy;
mod support;
mod tls;
mod websocket;
