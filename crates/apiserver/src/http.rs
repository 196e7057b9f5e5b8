//! The API over HTTP.

mod body;

use std::sync::Arc;

use tokio::net::TcpListener;

pub use body::Body;

use crate::Cluster;

/// Where and how to listen.
#[derive(Debug)]
pub struct Config {
    /// Connections come from here.
    pub listener: TcpListener,
    /// TLS with optional client certificates; None for plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// Serves the API until `shutdown` is done, then ends what runs.
pub async fn serve(cluster: Cluster, config: Config, shutdown: impl Future<Output = ()> + Send) {
    let _ = (cluster, config);
    shutdown.await;
}
