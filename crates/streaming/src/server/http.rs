//! The HTTP request that becomes a session.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{Backend, INTRODUCTION, Shared, Watch, socket};
use crate::forward::{Forward, PORTS, PORTS_BASE64, SpdyForward, Tunnel, WebSocketForward};
use crate::negotiate::{self, ForwardProtocol, Refusal, RemoteProtocol, STREAM_PROTOCOL, Transport};
use crate::remote::{Encoding, Outcome, Remote, SpdyRemote, WebSocketRemote};
use crate::{PortForward, Request, Streams, Wanted, session, websocket};

/// Why a request does not become a session.
struct Refused {
    status: StatusCode,
    message: String,
    /// What would have been accepted.
    protocols: Vec<&'static str>,
}

/// The most bytes of a request's head.
const HEAD: usize = 16 << 10;

/// A request, and the connection that it came by.
struct Asked {
    request: hyper::Request<Incoming>,
    watch: Watch,
}

/// Answers the requests of a connection until it becomes a session or ends.
pub(super) async fn meet<B: Backend>(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    backend: Arc<B>,
) {
    let (socket, watch) = socket::socket(socket);
    match tls {
        None => introduce(socket, watch, shared, backend).await,
        Some(tls) => {
            if let Ok(socket) = tls.accept(socket).await {
                introduce(socket, watch, shared, backend).await;
            }
        }
    }
}

async fn introduce<S, B>(socket: S, watch: Watch, shared: Arc<Shared>, backend: Arc<B>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Backend,
{
    let service = service_fn(move |request| {
        let answer = answer(Asked { request, watch: watch.clone() }, &shared, &backend)
            .unwrap_or_else(Refused::into_answer);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(INTRODUCTION)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    // What a client did wrong it was told.
    let _ = connection.await;
}

/// Takes the token of the request, and begins what it stands for.
fn answer<B: Backend>(
    asked: Asked,
    shared: &Arc<Shared>,
    backend: &Arc<B>,
) -> Result<Response<Full<Bytes>>, Refused> {
    let request = &asked.request;
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "GET and POST only");
    }
    let mut path = request.uri().path().split('/');
    let (Some(""), Some(verb), Some(token), None) = (path.next(), path.next(), path.next(), path.next())
    else {
        return refusal(StatusCode::NOT_FOUND, "there is nothing here");
    };
    let Some(what) = shared.tokens().take(verb, token, Instant::now()) else {
        return refusal(
            StatusCode::NOT_FOUND,
            "the token was used already, is older than a minute, or never was",
        );
    };
    let Some(transport) = negotiate::transport(request.headers()) else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "the request must ask for an upgrade to SPDY/3.1 or websocket",
        );
    };
    let accept = match transport {
        Transport::Spdy => None,
        Transport::WebSocket => match websocket::accept(request.headers()) {
            Ok(accept) => Some(accept),
            Err(websocket::Refusal::Key) => {
                return refusal(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64");
            }
            Err(websocket::Refusal::Version) => {
                return refusal(StatusCode::UPGRADE_REQUIRED, "only version 13 of WebSocket is known");
            }
        },
    };
    let begun = match what {
        Request::Exec(exec) => {
            let (wanted, backend) = (exec.streams, backend.clone());
            begin_remote(asked, transport, shared, wanted, move |streams| async move {
                match backend.exec(exec, streams).await {
                    Ok(0) => Outcome::Success,
                    Ok(code) => Outcome::Exit(code),
                    Err(message) => Outcome::Failed(message),
                }
            })
        }
        Request::Attach(attach) => {
            let (wanted, backend) = (attach.streams, backend.clone());
            begin_remote(asked, transport, shared, wanted, move |streams| async move {
                match backend.attach(attach, streams).await {
                    Ok(()) => Outcome::Success,
                    Err(message) => Outcome::Failed(message),
                }
            })
        }
        Request::PortForward(forward) => begin_forward(asked, transport, shared, forward, backend),
    };
    Ok(switch(transport, accept.as_deref(), begun?))
}

/// A session with a process. The name of the protocol, if there is one, is what the client is told.
fn begin_remote<F>(
    asked: Asked,
    transport: Transport,
    shared: &Arc<Shared>,
    wanted: Wanted,
    work: impl FnOnce(Streams) -> F + Send + 'static,
) -> Result<Option<HeaderValue>, Refused>
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let (protocol, name) = negotiate::remote(transport, asked.request.headers()).map_err(refused)?;
    let protocol: Box<dyn Remote> = match protocol {
        RemoteProtocol::Spdy(version) => Box::new(SpdyRemote::new(version, wanted)),
        RemoteProtocol::WebSocket(version, encoding) => {
            Box::new(WebSocketRemote::new(version, encoding, wanted))
        }
    };
    let patience = shared.patience;
    begin(asked, shared, move |socket, watch| {
        session::remote(socket, watch, protocol, wanted, patience, work)
    })?;
    Ok(name)
}

/// A session with ports, in the same way.
fn begin_forward<B: Backend>(
    asked: Asked,
    transport: Transport,
    shared: &Arc<Shared>,
    forward: PortForward,
    backend: &Arc<B>,
) -> Result<Option<HeaderValue>, Refused> {
    let (protocol, name) = negotiate::forward(transport, asked.request.headers()).map_err(refused)?;
    let protocol: Box<dyn Forward> = match protocol {
        ForwardProtocol::Spdy => Box::new(SpdyForward::new()),
        ForwardProtocol::Tunnel => Box::new(Tunnel::new(SpdyForward::new())),
        ForwardProtocol::WebSocket(encoding) => {
            let most = if encoding == Encoding::Binary { PORTS } else { PORTS_BASE64 };
            if !(1..=most).contains(&forward.ports.len()) {
                let message =
                    format!("this protocol needs from 1 to {most} ports in the request for the URL");
                return refusal(StatusCode::BAD_REQUEST, message);
            }
            Box::new(WebSocketForward::new(encoding, &forward.ports))
        }
    };
    let (patience, backend, forward) = (shared.patience, backend.clone(), Arc::new(forward));
    begin(asked, shared, move |socket, watch| {
        session::forward(socket, watch, protocol, patience, move |port| {
            let (backend, forward) = (backend.clone(), forward.clone());
            async move { backend.connect(&forward, port).await }
        })
    })?;
    Ok(name)
}

/// Begins a session as soon as the answer to the request is sent.
fn begin<F>(
    asked: Asked,
    shared: &Arc<Shared>,
    session: impl FnOnce(TokioIo<Upgraded>, Watch) -> F + Send + 'static,
) -> Result<(), Refused>
where
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(permit) = shared.sessions.clone().try_acquire_owned() else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "too many sessions are open");
    };
    shared.spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(asked.request).await {
            session(TokioIo::new(upgraded), asked.watch).await;
        }
        drop(permit);
    });
    Ok(())
}

fn switch(
    transport: Transport,
    accept: Option<&str>,
    protocol: Option<HeaderValue>,
) -> Response<Full<Bytes>> {
    let mut answer = Response::default();
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let (upgrade, name) = match transport {
        Transport::Spdy => ("SPDY/3.1", STREAM_PROTOCOL),
        Transport::WebSocket => ("websocket", SEC_WEBSOCKET_PROTOCOL),
    };
    headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
    headers.extend(protocol.map(|protocol| (name, protocol)));
    headers
        .extend(accept.and_then(|accept| accept.parse().ok()).map(|accept| (SEC_WEBSOCKET_ACCEPT, accept)));
    answer
}

fn refused(refusal: Refusal) -> Refused {
    let (status, message, protocols) = match refusal {
        Refusal::Missing => {
            let message = "the header X-Stream-Protocol-Version must name a protocol";
            (StatusCode::BAD_REQUEST, message.to_owned(), Vec::new())
        }
        Refusal::NoOverlap(ours) => {
            let message = format!("none of the protocols is one of these: {}", ours.join(", "));
            (StatusCode::FORBIDDEN, message, ours)
        }
    };
    Refused { status, message, protocols }
}

fn refusal<T>(status: StatusCode, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { status, message: message.into(), protocols: Vec::new() })
}

impl Refused {
    fn into_answer(self) -> Response<Full<Bytes>> {
        let mut answer = Response::new(Full::new(format!("{}\n", self.message).into()));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        for name in self.protocols {
            headers.append(negotiate::ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        answer
    }
}
