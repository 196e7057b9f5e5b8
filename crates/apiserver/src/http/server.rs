//! Connections: TLS, limits, and the end of all.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

use super::Api;
use crate::access::Peer;
use crate::pki::{self, Pki};

/// Connections at once. Each takes some 40 KiB; who comes when so many are there waits until one ends.
const CONNECTIONS: usize = 4096;

/// How long a connection may take to say who it is. Until then it takes some 7 KiB.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a connection may be silent between two requests, and take for the head of one (kube-apiserver's idle timeout).
const IDLE: Duration = Duration::from_secs(90);

/// The most bytes of a request's head. Tokens and continue tokens stand there.
const HEAD: usize = 64 << 10;

/// Requests at once on one connection of HTTP/2 (`--http2-max-streams-per-connection`). Without a limit one client could take all
/// memory.
const STREAMS: u32 = 250;

/// The most bytes that wait for a client that does not read, for each request.
const UNSENT: usize = 64 << 10;

/// After how long without a word a client is asked whether it is there still, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// How long requests may go on when the server ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where the API is served, and with which certificates.
#[derive(Debug)]
pub struct Config {
    /// Connections come from here.
    pub listeners: Vec<TcpListener>,
    /// Who we are, and who clients are.
    pub pki: Pki,
}

/// What one connection needs.
struct Shared {
    api: Arc<Api>,
    pki: Pki,
    tls: TlsAcceptor,
    ending: watch::Receiver<bool>,
}

/// Serves the API over HTTPS until `shutdown` is done, then ends what runs.
///
/// # Errors
/// When TLS cannot be set up.
pub async fn serve(
    api: Arc<Api>,
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), pki::Error> {
    let (end, ending) = watch::channel(false);
    let Config { listeners, pki } = config;
    let tls = TlsAcceptor::from(pki.server_config()?);
    let shared = Arc::new(Shared { api, pki, tls, ending });
    let connections = Arc::new(Semaphore::new(most()));
    let tasks = TaskTracker::new();
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(accept(listener, shared.clone(), connections.clone(), tasks.clone())))
        .collect();
    shutdown.await;
    for listener in &accepting {
        listener.abort();
    }
    let _ = end.send(true);
    tasks.close();
    let _ = tokio::time::timeout(LAST_WORDS, tasks.wait()).await;
    Ok(())
}

/// Clients must not take the files that the rest of the process needs.
fn most() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let half = files.and_then(|files| usize::try_from(files / 2).ok());
    half.unwrap_or(CONNECTIONS).clamp(1, CONNECTIONS)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, connections: Arc<Semaphore>, tasks: TaskTracker) {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, from)) => {
                let shared = shared.clone();
                tasks.spawn(async move {
                    connection(socket, from, &shared).await;
                    drop(permit);
                });
            }
            // One that went away again, or too many open files: neither is the end of the others.
            Err(error) => {
                tracing::warn!(%error, "a connection to the API could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(socket: TcpStream, from: SocketAddr, shared: &Arc<Shared>) {
    keep_alive(&socket);
    let stream = match tokio::time::timeout(HANDSHAKE, shared.tls.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "TLS handshake"),
        Err(_) => return tracing::debug!(%from, "TLS handshake: it takes too long"),
    };
    let (_, tls) = stream.get_ref();
    let peer = Arc::new(shared.pki.peer(tls));
    if tls.alpn_protocol() == Some(b"h2") {
        speak_two(stream, peer, shared).await;
    } else {
        speak_one(stream, peer, shared).await;
    }
}

async fn speak_one(stream: TlsStream<TcpStream>, peer: Arc<Option<Peer>>, shared: &Arc<Shared>) {
    let api = shared.api.clone();
    let service = service_fn(move |request| answer(api.clone(), peer.clone(), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut ending = shared.ending.clone();
    tokio::pin!(served);
    tokio::select! {
        // What a client did wrong it was told.
        _ = &mut served => return,
        _ = ending.wait_for(|ending| *ending) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

async fn speak_two(stream: TlsStream<TcpStream>, peer: Arc<Option<Peer>>, shared: &Arc<Shared>) {
    let api = shared.api.clone();
    let service = service_fn(move |request| answer(api.clone(), peer.clone(), request));
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD as u32)
        .max_send_buf_size(UNSENT)
        .serve_connection(TokioIo::new(stream), service);
    let mut ending = shared.ending.clone();
    tokio::pin!(served);
    tokio::select! {
        _ = &mut served => return,
        _ = ending.wait_for(|ending| *ending) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

async fn answer(
    api: Arc<Api>,
    peer: Arc<Option<Peer>>,
    request: http::Request<Incoming>,
) -> Result<http::Response<super::Body>, Infallible> {
    Ok(super::handle(&api, peer.as_ref().as_ref(), request).await)
}

/// The kernel tells when the client's host is gone. None of this is worth a refusal.
fn keep_alive(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let _ = sockopt::set_tcp_keepidle(socket, Duration::from_secs(60));
    let _ = sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15));
    let _ = sockopt::set_tcp_keepcnt(socket, 4);
    let _ = sockopt::set_socket_keepalive(socket, true);
}
