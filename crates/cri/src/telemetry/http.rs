//! Where the metrics are read: a Unix socket beside the records and, when asked for, a loopback port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::error::Doing;
use crate::node::{Node, blocking};
use crate::paths::{keep_private, remove_socket};
use crate::{Config, Error, Result};

/// How many may read at a time; others wait.
const READERS: usize = 8;

/// How long one may take to read.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the metrics are served.
#[derive(Debug)]
pub(crate) struct Listeners {
    unix: UnixListener,
    path: PathBuf,
    tcp: Option<TcpListener>,
}

impl Listeners {
    /// Listens at the port that is configured, if one is.
    pub(crate) async fn port(config: &Config) -> Result<Option<TcpListener>> {
        match config.metrics_address {
            Some(address) => loopback(address).await.map(Some),
            None => Ok(None),
        }
    }

    /// Listens at `metrics.sock` in the state directory too. For the one who has that directory.
    pub(crate) fn bind(config: &Config, tcp: Option<TcpListener>) -> Result<Self> {
        let path = config.state.join("metrics.sock");
        let doing = || format!("listen on {}", path.display());
        remove_socket(&path).map_err(|error| error.within(doing()))?;
        // The directory is ours alone, so nobody slips in before the mode is set.
        let unix = UnixListener::bind(&path).doing(doing)?;
        keep_private(&path).map_err(|error| error.within(doing()))?;
        Ok(Self { unix, path, tcp })
    }

    /// Answers for ever.
    pub(crate) async fn serve(self, node: Arc<Node>) -> Infallible {
        let readers = Arc::new(Semaphore::new(READERS));
        loop {
            let Ok(permit) = readers.clone().acquire_owned().await else { std::future::pending().await };
            let (node, tcp) = (node.clone(), self.tcp.as_ref());
            let accepted = tokio::select! {
                stream = self.unix.accept() => stream.map(|(stream, _)| {
                    tokio::spawn(async move {
                        answer(stream, node).await;
                        drop(permit);
                    });
                }),
                stream = async { match tcp {
                    Some(tcp) => tcp.accept().await,
                    None => std::future::pending().await,
                } } => stream.map(|(stream, _)| {
                    tokio::spawn(async move {
                        answer(stream, node).await;
                        drop(permit);
                    });
                }),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "a reader of the metrics could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        let _ = remove_socket(&self.path);
    }
}

async fn loopback(address: SocketAddr) -> Result<TcpListener> {
    if !address.ip().is_loopback() {
        let message = format!(
            "metrics address {address}: is no loopback address, and everybody who reaches it would read the metrics; \
             use 127.0.0.1 or [::1]"
        );
        return Err(Error::invalid(message));
    }
    TcpListener::bind(address).await.doing(|| format!("listen on {address} for the metrics"))
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, node: Arc<Node>) {
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let node = node.clone();
        async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            // The image store is looked at, which may take a moment.
            let answer = blocking("metrics", move || Ok(respond(&method, &path, &node))).await;
            let (status, body) = answer.unwrap_or_else(|_| failed());
            Ok::<_, Infallible>(response(status, body))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Who breaks off has what it wanted.
    let _ = tokio::time::timeout(PATIENCE, connection).await;
}

fn respond(method: &Method, path: &str, node: &Node) -> (StatusCode, String) {
    match (method, path) {
        (&Method::GET, "/metrics") => {
            node.telemetry.text(node).map_or_else(|_| failed(), |text| (StatusCode::OK, text))
        }
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".into()),
        _ => (StatusCode::NOT_FOUND, "there is /metrics only\n".into()),
    }
}

fn failed() -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n".into())
}

fn response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let kind = match status {
        StatusCode::OK => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        _ => "text/plain; charset=utf-8",
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
