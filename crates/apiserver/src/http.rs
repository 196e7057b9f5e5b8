//! The API over HTTP.

mod body;
#[expect(dead_code, reason = "routed to soon")]
mod openapi;
mod server;

use std::sync::Arc;

use hyper::body::Incoming;

use crate::access::Peer;
use crate::{Access, Cluster, Node, Status};

pub use body::Body;
pub use server::{Config, serve};

/// All that requests are answered with.
#[derive(Clone, Debug)]
pub struct Api {
    /// The objects.
    pub cluster: Cluster,
    /// Who may.
    pub access: Access,
    /// The machine with the pods.
    pub node: Arc<dyn Node>,
}

/// Answers one request. What goes wrong is an answer, too.
pub async fn handle(
    api: &Api,
    peer: Option<&Peer>,
    request: http::Request<Incoming>,
) -> http::Response<Body> {
    let result = api.access.authenticate(request.headers(), peer).map(|_| Status::no_such_path());
    let status = result.unwrap_or_else(|status| status);
    let mut answer = http::Response::new(Body::full(status.to_value().to_string()));
    *answer.status_mut() = http::StatusCode::from_u16(status.code).unwrap_or_default();
    answer
}
