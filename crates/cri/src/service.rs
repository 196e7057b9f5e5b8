//! The gRPC services: thin, because all they do is translate.

mod answer;
mod image;
mod images;
mod node;
mod runtime;
mod select;

use std::sync::Arc;

use tonic::Status;

use crate::node::Node;

/// The server side of one node, for each of its services.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    node: Arc<Node>,
}

impl Service {
    /// Services that work on `node`.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

/// A part of the interface that there is not, and what to do instead.
fn missing(what: &str) -> Status {
    Status::unimplemented(what)
}
