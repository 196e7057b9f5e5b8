//! HTTP/1.1 connections to registries: kept for the next request, every wait bounded.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::Error;

use super::tls::Trust;
use super::{Timeouts, resolve};

/// Bytes that twice the stall time must bring.
const LEAST: u64 = 64 << 10;
/// Read buffer of a connection: bounds what one piece of a body takes.
const BUFFER: usize = 128 << 10;
const IDLE_LIMIT: usize = 8;

/// Who a request goes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) https: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The peer does not speak HTTP: maybe TLS.
    NotHttp(String),
    /// Not reachable, or the connection broke.
    Unreachable(String),
    /// Nothing was heard for too long.
    Stalled(String),
    /// No use to try again.
    Final(Error),
}

/// Connections to any number of origins, with one kind of trust.
#[derive(Debug)]
pub(super) struct Http {
    trust: Trust,
    tls: OnceLock<Arc<ClientConfig>>,
    pub(super) timeouts: Timeouts,
    idle: Mutex<HashMap<Origin, Vec<SendRequest<Full<Bytes>>>>>,
}

/// A body that is being read.
pub(super) struct Body<'a> {
    http: &'a Http,
    origin: Origin,
    incoming: Incoming,
    sender: Option<SendRequest<Full<Bytes>>>,
    window: (Instant, u64),
}

impl Origin {
    /// The origin of an absolute URI.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Some(Self { https, host, port })
    }

    /// Whether the host is this machine by its name alone.
    pub(super) fn is_loopback(&self) -> bool {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        self.host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    fn authority(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }
}

impl Http {
    pub(super) fn new(trust: Trust, timeouts: Timeouts) -> Self {
        Self { trust, tls: OnceLock::new(), timeouts, idle: Mutex::default() }
    }

    /// Sends a request whose URI is in origin form, and waits for the head of the answer. With `from_outside`, an origin
    /// that turns out to be this machine or its link is refused: a redirect must not lead there.
    pub(super) async fn send(
        &self,
        origin: &Origin,
        mut request: Request<Full<Bytes>>,
        from_outside: bool,
    ) -> Result<Response<Body<'_>>, Failure> {
        let host = http::HeaderValue::from_str(&origin.authority())
            .map_err(|_| Failure::Final(Error::invalid(format!("{origin} is not a host"))))?;
        request.headers_mut().insert(http::header::HOST, host);
        // A kept connection may have been closed meanwhile: then once more with a new one.
        while let Some(sender) = self.take_idle(origin) {
            match self.send_over(sender, origin, request.clone()).await {
                Err(Failure::Unreachable(_) | Failure::NotHttp(_)) => {}
                other => return other,
            }
        }
        let sender = self.connect(origin, from_outside).await?;
        self.send_over(sender, origin, request).await
    }

    async fn send_over(
        &self,
        mut sender: SendRequest<Full<Bytes>>,
        origin: &Origin,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Body<'_>>, Failure> {
        let answered = timeout(self.timeouts.answer, sender.send_request(request)).await;
        let response = answered
            .map_err(|_| Failure::Stalled(format!("no answer within {:?}", self.timeouts.answer)))?
            .map_err(|e| {
                if e.is_parse() { Failure::NotHttp(e.to_string()) } else { Failure::Unreachable(explain(&e)) }
            })?;
        Ok(response.map(|incoming| Body {
            http: self,
            origin: origin.clone(),
            incoming,
            sender: Some(sender),
            window: (Instant::now(), 0),
        }))
    }

    fn take_idle(&self, origin: &Origin) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.get_mut(origin)?;
        std::iter::from_fn(|| senders.pop()).find(SendRequest::is_ready)
    }

    async fn connect(
        &self,
        origin: &Origin,
        from_outside: bool,
    ) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let unreachable = |why: String| Failure::Unreachable(format!("{origin}: {why}"));
        let addresses = timeout(self.timeouts.connect, resolve::resolve(&origin.host, origin.port))
            .await
            .map_err(|_| unreachable("the name server does not answer".to_owned()))?
            .map_err(unreachable)?;
        if addresses.is_empty() {
            return Err(unreachable("the host name does not exist".to_owned()));
        }
        if from_outside && let Some(inside) = addresses.iter().find(|address| is_inside(address)) {
            return Err(Failure::Final(Error::invalid(format!(
                "redirected to {origin}, which is {inside}: refused"
            ))));
        }
        let mut last = String::new();
        for address in addresses {
            match timeout(self.timeouts.connect, self.open(origin, address)).await {
                Ok(Ok(sender)) => return Ok(sender),
                Ok(Err(Failure::Unreachable(why))) => last = why,
                Ok(Err(other)) => return Err(other),
                Err(_) => last = format!("connect({address}): no answer within {:?}", self.timeouts.connect),
            }
        }
        Err(unreachable(last))
    }

    async fn open(&self, origin: &Origin, address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|e| Failure::Unreachable(format!("connect({address}): {}", os_text(&e))))?;
        // Requests are small and each waits for its answer.
        let _ = stream.set_nodelay(true);
        if !origin.https {
            return handshake(stream).await;
        }
        let name = origin.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name)
            .map_err(|e| Failure::Final(Error::invalid(format!("{origin}: {e}"))))?;
        let connector = TlsConnector::from(self.tls().map_err(Failure::Final)?);
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|e| Failure::Unreachable(format!("TLS with {address}: {e}")))?;
        handshake(stream).await
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, Error> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let config = self.trust.config()?;
        Ok(Arc::clone(self.tls.get_or_init(|| config)))
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, Failure>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER).max_headers(100);
    let (sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|e| Failure::Unreachable(explain(&e)))?;
    // Ends with the last sender or body, and its error is theirs.
    tokio::spawn(connection);
    Ok(sender)
}

impl Body<'_> {
    /// The next piece; `None` at the end, after which the connection is kept for another request.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let stall = self.http.timeouts.stall;
            let frame = timeout(stall, self.incoming.frame())
                .await
                .map_err(|_| Failure::Stalled(format!("no bytes within {stall:?}")))?;
            let Some(frame) = frame else {
                self.give_back();
                return Ok(None);
            };
            let frame = frame.map_err(|e| Failure::Unreachable(explain(&e)))?;
            let Ok(bytes) = frame.into_data() else { continue };
            self.window.1 += bytes.len() as u64;
            if self.window.0.elapsed() > stall * 2 {
                if self.window.1 < LEAST {
                    return Err(Failure::Stalled(format!("fewer than {LEAST} bytes within {:?}", stall * 2)));
                }
                self.window = (Instant::now(), 0);
            }
            return Ok(Some(bytes));
        }
    }

    /// Reads the whole body when it has at most `limit` bytes.
    pub(super) async fn read(mut self, what: &str, limit: u64) -> Result<Bytes, Failure> {
        let mut out = Vec::new();
        while let Some(bytes) = self.next().await? {
            if (out.len() + bytes.len()) as u64 > limit {
                return Err(Failure::Final(Error::invalid(format!("{what} is longer than {limit} bytes"))));
            }
            out.extend_from_slice(&bytes);
        }
        Ok(Bytes::from(out))
    }

    fn give_back(&mut self) {
        if let Some(sender) = self.sender.take() {
            let mut idle = self.http.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let senders = idle.entry(self.origin.clone()).or_default();
            if senders.len() < IDLE_LIMIT {
                senders.push(sender);
            }
        }
    }
}

/// Addresses that no redirect from elsewhere may lead to: this machine, and its link (where clouds keep secrets).
fn is_inside(address: &SocketAddr) -> bool {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

fn explain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn os_text(error: &std::io::Error) -> String {
    rustix::io::Errno::from_io_error(error).map_or_else(|| error.to_string(), |errno| errno.to_string())
}
