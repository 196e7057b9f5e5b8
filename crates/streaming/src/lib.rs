//! Exec, attach and port-forward for the clients of Kubernetes, over SPDY/3.1 and WebSocket on one URL.
//!
//! A [`Server`] listens and hands out URLs, each good for one connection within a minute. What is done over that
//! connection is a [`Backend`]'s affair: it runs the process and gets the client's [`Streams`], or connects to a port.
//!
//! Everything that looks at bytes of a client is a state machine without input, output or clock. A thin driver moves bytes
//! between such a machine, the socket and the backend. Neither side's bytes gather: who does not read stops the other.

mod error;
mod forward;
mod negotiate;
mod remote;
mod request;
mod server;
mod session;
mod spdy;
mod streams;
mod tokens;
mod websocket;

pub(crate) use error::Malformed;
pub use error::{Error, Kind};
pub use remote::Size;
pub use request::{Attach, Exec, PortForward, Request, Wanted};
pub use server::{Backend, Config, Server, Tls};
pub use streams::{Client, Gone, Input, Output, Sizes, Streams};
