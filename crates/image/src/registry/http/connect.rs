//! New connections: addresses, proxies, TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{Empty, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::Error;
use crate::registry::proxy::Proxy;
use crate::registry::resolve;
use crate::registry::tls::Trust;

use super::{Failure, Http, Origin, Way, is_inside};

/// Read buffer of a connection: bounds what one piece of a body takes.
const BUFFER: usize = 128 << 10;

const TRUST: &str =
    "; to trust it, put it or its authority into ca.crt in the registry's directory of --certs-dir";

/// What bytes go over, whatever is below.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Http {
    pub(super) async fn connect(
        &self,
        origin: &Origin,
        proxy: Option<&Proxy>,
        way: Way,
    ) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let outside = way.is_outside();
        // Where a proxy looks the name up, an address is refused all the same.
        let written = origin.address().map(|address| SocketAddr::new(address, origin.port));
        if outside && written.as_ref().is_some_and(is_inside) {
            return Err(inside(origin, origin.host.as_str()));
        }
        if let Some(proxy) = proxy {
            let stream = self.reach_proxy(proxy).await.map_err(|failure| by(proxy, failure))?;
            if !origin.https {
                return handshake(stream).await;
            }
            let tunnel =
                self.bounded(tunnel(stream, origin, proxy)).await.map_err(|failure| by(proxy, failure))?;
            let config = self.tls(way.identifies()).await?;
            return handshake(self.bounded(tls(tunnel, config, origin)).await?).await;
        }
        let stream = self.dial(origin, outside).await?;
        if !origin.https {
            return handshake(stream).await;
        }
        let config = self.tls(way.identifies()).await?;
        handshake(self.bounded(tls(stream, config, origin)).await?).await
    }

    /// A connection to one of the host's addresses, tried one after the other.
    async fn dial(&self, origin: &Origin, outside: bool) -> Result<TcpStream, Failure> {
        let addresses = timeout(self.timeouts.connect, resolve::resolve(&origin.host, origin.port))
            .await
            .map_err(|_| Failure::Unreachable("the name server does not answer".to_owned()))?
            .map_err(Failure::Unreachable)?;
        if outside && let Some(address) = addresses.iter().find(|address| is_inside(address)) {
            return Err(inside(origin, address));
        }
        if addresses.is_empty() {
            return Err(Failure::Refused("the host name does not exist".to_owned()));
        }
        let mut last = String::new();
        for address in addresses {
            match timeout(self.timeouts.connect, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Requests are small and each waits for its answer.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(e)) => last = format!("connect({address}): {}", os_text(&e)),
                Err(_) => last = format!("connect({address}): no answer within {:?}", self.timeouts.connect),
            }
        }
        Err(Failure::Unreachable(last))
    }

    async fn reach_proxy(&self, proxy: &Proxy) -> Result<Box<dyn Stream>, Failure> {
        let stream = self.dial(&proxy.origin, false).await?;
        if !proxy.origin.https {
            return Ok(Box::new(stream));
        }
        // The settings of a registry are none of the proxy's.
        let config = build(Trust::default(), false).await?;
        Ok(Box::new(self.bounded(tls(stream, config, &proxy.origin)).await?))
    }

    async fn bounded<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let limit = self.timeouts.connect;
        let late = |_| Failure::Unreachable(format!("no connection within {limit:?}"));
        timeout(limit, work).await.map_err(late)?
    }

    async fn tls(&self, identified: bool) -> Result<Arc<ClientConfig>, Failure> {
        let known = &self.tls[usize::from(identified)];
        if let Some(config) = known.get() {
            return Ok(Arc::clone(config));
        }
        let config = build(self.trust.clone(), identified).await?;
        Ok(Arc::clone(known.get_or_init(|| config)))
    }
}

/// Reads the host's certificate authorities, which takes a few milliseconds.
async fn build(trust: Trust, identified: bool) -> Result<Arc<ClientConfig>, Failure> {
    let built = tokio::task::spawn_blocking(move || trust.config(identified)).await;
    built.map_err(|e| Failure::Unreachable(e.to_string()))?.map_err(Failure::Final)
}

async fn handshake(stream: impl Stream + 'static) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER).max_headers(100);
    let (sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|e| super::broken(&e))?;
    // Ends with the last sender or body, and its error is theirs.
    tokio::spawn(connection);
    Ok(sender)
}

/// Has a proxy connect to an origin (RFC 9110, 9.3.6).
async fn tunnel(
    stream: Box<dyn Stream>,
    origin: &Origin,
    proxy: &Proxy,
) -> Result<TokioIo<hyper::upgrade::Upgraded>, Failure> {
    let target = format!("{}:{}", origin.host, origin.port);
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(&target)
        .header(HOST, &target)
        .header(USER_AGENT, super::super::AGENT);
    if let Some(authorization) = &proxy.authorization {
        request = request.header(PROXY_AUTHORIZATION, authorization);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|_| Failure::Final(Error::invalid(format!("{target} is not a host"))))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| super::broken(&e))?;
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(|e| super::broken(&e))?;
    match response.status() {
        status if status.is_success() => {
            let upgraded = hyper::upgrade::on(response).await.map_err(|e| super::broken(&e))?;
            Ok(TokioIo::new(upgraded))
        }
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(Failure::Refused(
            "it wants other credentials: http://USER:PASSWORD@HOST:PORT in the environment".to_owned(),
        )),
        status if status.is_server_error() => Err(Failure::Unreachable(format!("it answers {status}"))),
        status => Err(Failure::Refused(format!("it answers {status}"))),
    }
}

async fn tls<S: Stream>(
    stream: S,
    config: Arc<ClientConfig>,
    origin: &Origin,
) -> Result<tokio_rustls::client::TlsStream<S>, Failure> {
    let name = ServerName::try_from(origin.bare_host().to_owned())
        .map_err(|e| Failure::Final(Error::invalid(format!("{origin}: {e}"))))?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|e| match tls_refusal(&e) {
        Some(refusal) => Failure::Refused(refusal),
        None => Failure::Unreachable(format!("TLS: {e}")),
    })
}

/// What certificates or versions have to do with an error, in words. `None`: nothing.
pub(super) fn tls_refusal(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let refusal = match inner {
        Some(inner) => inner.downcast_ref::<rustls::Error>(),
        None => error.downcast_ref::<rustls::Error>(),
    }?;
    let help = match refusal {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => TRUST,
        rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) =>
        {
            return Some(format!("TLS: the certificate is an authority's own{TRUST}"));
        }
        rustls::Error::InvalidMessage(_) => "; plain HTTP has to be configured in hosts.toml",
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateUnknown
            | AlertDescription::HandshakeFailure
            | AlertDescription::UnknownCA,
        ) => "; it may want a client certificate",
        rustls::Error::InvalidCertificate(_)
        | rustls::Error::AlertReceived(_)
        | rustls::Error::PeerIncompatible(_) => "",
        _ => return None,
    };
    Some(format!("TLS: {refusal}{help}"))
}

/// Tells that it is the proxy which failed.
fn by(proxy: &Proxy, failure: Failure) -> Failure {
    let named = |why: String| format!("proxy {}: {why}", proxy.origin);
    match failure {
        Failure::NotHttp(why) | Failure::Unreachable(why) => Failure::Unreachable(named(why)),
        Failure::Refused(why) => Failure::Refused(named(why)),
        other => other,
    }
}

fn inside(origin: &Origin, address: impl std::fmt::Display) -> Failure {
    Failure::Final(Error::invalid(format!("redirected to {origin}, which is {address}: refused")))
}

fn os_text(error: &std::io::Error) -> String {
    rustix::io::Errno::from_io_error(error).map_or_else(|| error.to_string(), |errno| errno.to_string())
}
