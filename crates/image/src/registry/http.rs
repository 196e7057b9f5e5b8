//! HTTP/1.1 with registries: connections are kept for the next request, every wait is bounded.

mod connect;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};

use crate::Error;

use super::Timeouts;
use super::proxy::{Proxies, Proxy};
use super::tls::Trust;

/// Bytes that twice the stall time must bring.
const LEAST: u64 = 64 << 10;
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
    /// It answers that it cannot answer now; maybe how long it wants to be left alone.
    Busy(String, Option<Duration>),
    /// Nothing was heard for too long.
    Stalled(String),
    /// There is no talking to this host, and asking again would not help: certificates, a proxy that refuses.
    Refused(String),
    /// It does not have what was asked for.
    Missing,
    /// It does not give it to us, and how it said so.
    Denied(String),
    /// No use to ask this host again.
    Final(Error),
}

/// How a request is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To a host of the settings.
    Known,
    /// To where a registry has its tokens, which may want the client certificate, too.
    Realm { outside: bool },
    /// To where a registry has sent us for content: without the client certificate. `outside`: the registry is not this machine, so
    /// neither may be the target.
    Redirected { outside: bool },
}

/// Connections to any number of origins, with one kind of trust.
#[derive(Debug)]
pub(super) struct Http {
    trust: Trust,
    /// With and without the client certificate.
    tls: [OnceLock<Arc<ClientConfig>>; 2],
    proxies: Proxies,
    pub(super) timeouts: Timeouts,
    idle: Mutex<HashMap<Peer, Vec<SendRequest<Full<Bytes>>>>>,
}

/// Whom a connection leads to, and whether our certificate is shown there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Peer {
    origin: Origin,
    identified: bool,
}

/// A body that is being read.
pub(super) struct Body<'a> {
    http: &'a Http,
    peer: Peer,
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
        self.host == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }

    /// Host, and port where it is not that of the scheme.
    pub(super) fn authority(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The host where it is an address.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.bare_host().parse().ok()
    }
}

impl Way {
    /// Whether the client certificate is shown.
    fn identifies(self) -> bool {
        !matches!(self, Self::Redirected { .. })
    }

    fn is_outside(self) -> bool {
        matches!(self, Self::Realm { outside: true } | Self::Redirected { outside: true })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }
}

impl Failure {
    /// The same, told of another host than the one that was asked first.
    pub(super) fn at(self, origin: &Origin) -> Self {
        match self {
            Self::NotHttp(why) => Self::NotHttp(format!("{origin}: {why}")),
            Self::Unreachable(why) => Self::Unreachable(format!("{origin}: {why}")),
            Self::Busy(why, wait) => Self::Busy(format!("{origin}: {why}"), wait),
            Self::Stalled(why) => Self::Stalled(format!("{origin}: {why}")),
            Self::Refused(why) => Self::Refused(format!("{origin}: {why}")),
            other => other,
        }
    }
}

impl Http {
    pub(super) fn new(trust: Trust, timeouts: Timeouts, proxies: Proxies) -> Self {
        Self { trust, tls: Default::default(), proxies, timeouts, idle: Mutex::default() }
    }

    /// Sends a request whose URI is in origin form, and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        origin: &Origin,
        mut request: Request<Full<Bytes>>,
        way: Way,
    ) -> Result<Response<Body<'_>>, Failure> {
        let host = HeaderValue::from_str(&origin.authority())
            .map_err(|_| Failure::Final(Error::invalid(format!("{origin} is not a host"))))?;
        request.headers_mut().insert(HOST, host);
        let proxy = self.proxies.to(origin).map_err(|why| Failure::Final(Error::invalid(why)))?;
        if let Some(proxy) = proxy.as_ref().filter(|_| !origin.https) {
            to_proxy(origin, &mut request, proxy)?;
        }
        let peer = Peer { origin: origin.clone(), identified: way.identifies() };
        // A kept connection may have been closed meanwhile: then once more with a new one.
        while let Some(sender) = self.take_idle(&peer) {
            match self.send_over(sender, &peer, request.clone()).await {
                Err(Failure::Unreachable(_) | Failure::NotHttp(_)) => {}
                other => return other,
            }
        }
        let sender = self.connect(origin, proxy.as_deref(), way).await?;
        self.send_over(sender, &peer, request).await
    }

    async fn send_over(
        &self,
        mut sender: SendRequest<Full<Bytes>>,
        peer: &Peer,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Body<'_>>, Failure> {
        let answered = timeout(self.timeouts.answer, sender.send_request(request)).await;
        let response = answered
            .map_err(|_| Failure::Stalled(format!("no answer within {:?}", self.timeouts.answer)))?
            .map_err(|e| if e.is_parse() { Failure::NotHttp(e.to_string()) } else { broken(&e) })?;
        Ok(response.map(|incoming| Body {
            http: self,
            peer: peer.clone(),
            incoming,
            sender: Some(sender),
            window: (Instant::now(), 0),
        }))
    }

    fn take_idle(&self, peer: &Peer) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.get_mut(peer)?;
        std::iter::from_fn(|| senders.pop()).find(SendRequest::is_ready)
    }
}

/// A plain request by way of a proxy has the whole URL (RFC 9112, 3.2.2).
fn to_proxy(origin: &Origin, request: &mut Request<Full<Bytes>>, proxy: &Proxy) -> Result<(), Failure> {
    let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    *request.uri_mut() = format!("{origin}{path}")
        .parse()
        .map_err(|_| Failure::Final(Error::invalid(format!("{origin}{path} is not a URL"))))?;
    if let Some(authorization) = &proxy.authorization {
        request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
    }
    Ok(())
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
            let frame = frame.map_err(|e| broken(&e))?;
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
            let senders = idle.entry(self.peer.clone()).or_default();
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

/// A connection that broke. With TLS 1.3 a server says only then that it does not like our certificate.
fn broken(error: &hyper::Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(refusal) = connect::tls_refusal(inner) {
            return Failure::Refused(refusal);
        }
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    Failure::Unreachable(text)
}
