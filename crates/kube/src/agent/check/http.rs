//! A small HTTP client for probes and hooks (`pkg/probe/http`): no verification, no reuse of connections.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT as AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::api::{HTTPGetAction, UriScheme};
use crate::{Error, Kind, Result};

/// How the agent names itself; many servers know health checks by it.
pub(super) const USER_AGENT: &str = concat!("kube-probe/vaquita-", env!("CARGO_PKG_VERSION"));
/// What is read of a body, in bytes.
const BODY: usize = 10 << 10;
/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
}

/// Asks. Redirects are followed on the same host; one that leads to another host is an answer by itself.
///
/// # Errors
/// The server could not be reached or does not speak HTTP; more than 10 redirects.
pub(super) async fn get(action: &HTTPGetAction, host: &str, port: u16) -> Result<Answer> {
    let first = url(action, host, port);
    let mut uri: Uri = first.parse().map_err(|error| Error::invalid(format!("{first:?}: {error}")))?;
    let headers = headers(action)?;
    for _ in 0..=REDIRECTS {
        let (status, location) =
            ask(&uri, &headers).await.map_err(|error| error.context(format!("GET {uri}")))?;
        let next = location.and_then(|location| resolve(&uri, &location));
        match next {
            Some(next) if (300..400).contains(&status) && status != 304 && next.host() == uri.host() => {
                uri = next
            }
            _ => return Ok(Answer { status }),
        }
    }
    Err(Error::new(Kind::Failed, format!("GET {first}: more than {REDIRECTS} redirects")))
}

/// What is asked for.
pub(super) fn url(action: &HTTPGetAction, host: &str, port: u16) -> String {
    let scheme = if action.scheme == UriScheme::HTTPS { "https" } else { "http" };
    let slash = if action.path.starts_with('/') { "" } else { "/" };
    format!("{scheme}://{}:{port}{slash}{}", bracketed(host), action.path)
}

/// An IPv6 address as URIs write it.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

fn headers(action: &HTTPGetAction) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for header in &action.http_headers {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_str(&header.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Error::invalid(format!("header {:?} cannot be sent", header.name)));
        };
        // An empty value of these two means: not at all.
        if value.is_empty() && (name == AGENT || name == ACCEPT) {
            continue;
        }
        headers.append(name, value);
    }
    let named = |name: &HeaderName| {
        action.http_headers.iter().any(|header| header.name.eq_ignore_ascii_case(name.as_str()))
    };
    if !named(&AGENT) {
        headers.insert(AGENT, HeaderValue::from_static(USER_AGENT));
    }
    if !named(&ACCEPT) {
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// One request. Returns the status and where a redirect leads.
async fn ask(uri: &Uri, headers: &HeaderMap) -> Result<(u16, Option<String>)> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| Error::new(Kind::Failed, format!("{what}: {error}"));
    let tls = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let stream =
        tokio::net::TcpStream::connect((host, port)).await.map_err(|error| failed("connect", &error))?;
    let response = if tls {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed("host", &error))?;
        let config = tls_config().map_err(|error| failed("TLS", &error))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(|error| failed("TLS", &error))?;
        exchange(stream, uri, headers).await
    } else {
        exchange(stream, uri, headers).await
    };
    let response = response.map_err(|error| failed("HTTP", &error))?;
    let status = response.status().as_u16();
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    drain(response.into_body()).await;
    Ok((status, location))
}

async fn exchange<S>(stream: S, uri: &Uri, headers: &HeaderMap) -> hyper::Result<http::Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let target = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = target.parse().unwrap_or_else(|_| Uri::from_static("/"));
    *request.headers_mut() = headers.clone();
    if !headers.contains_key(HOST)
        && let Some(authority) = uri.authority()
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, value);
    }
    let task = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    if response.is_err() {
        task.abort();
    }
    response
}

/// Reads a little of the body, so that a server does not see its answer refused.
async fn drain(mut body: Incoming) {
    let mut read = 0;
    while read < BODY
        && let Some(Ok(frame)) = body.frame().await
    {
        read += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// Where a Location leads, from here.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let absolute = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    let absolute = absolute.split('#').next().unwrap_or_default().to_owned();
    absolute.parse().ok()
}

fn tls_config() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(NoVerification(Arc::clone(&provider)));
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Probes ask whether somebody answers, not who: certificates are not verified, as with the kubelet.
#[derive(Debug)]
struct NoVerification(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let base: Uri = "http://10.0.0.2:80/a/b?c".parse().unwrap();
        for (location, expected) in [
            ("/x", "http://10.0.0.2:80/x"),
            ("x?y", "http://10.0.0.2:80/a/x?y"),
            ("//other/x", "http://other/x"),
            ("https://other/#frag", "https://other/"),
        ] {
            assert_eq!(resolve(&base, location).unwrap().to_string(), expected);
        }
        assert_eq!(bracketed("::1"), "[::1]");
    }
}
