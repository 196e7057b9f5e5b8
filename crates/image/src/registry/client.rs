//! Asking a registry and its mirrors for manifests and blobs.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE, USER_AGENT,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use tokio::sync::mpsc;

use crate::manifest::{self, Blob, DOCUMENT_LIMIT};
use crate::store::Piece;
use crate::{Auth, Digest, Error, Kind, Reference, Registries};

use super::challenge::{self, Challenge};
use super::http::{Body, Failure, Http, Origin};
use super::tls::Trust;
use super::token;

/// Attempts for one request, or for one blob without much progress between them.
const ATTEMPTS: u32 = 4;
const REDIRECTS: u32 = 5;
/// Progress after which a broken blob gets its attempts back.
const PROGRESS: u64 = 1 << 20;
const RETRY_LIMIT: Duration = Duration::from_secs(10);

/// The registry of one reference, with its mirrors. Lives as long as a pull: connections and tokens go with it.
#[derive(Debug)]
pub(crate) struct Client {
    reference: Reference,
    endpoints: Vec<Endpoint>,
}

/// A manifest or index as it came.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
}

#[derive(Debug)]
struct Endpoint {
    http: Http,
    origin: Mutex<Origin>,
    /// The scheme was not configured: HTTP was assumed for a loopback address.
    guessed: bool,
    auth: Option<Auth>,
    /// What to send as `Authorization`, once known.
    authorization: Mutex<Option<String>>,
    /// Query of a mirror: which registry is meant.
    namespace: Option<String>,
}

struct Ask<'a> {
    method: Method,
    path: String,
    accept: Option<&'a str>,
    offset: u64,
}

impl Client {
    pub(crate) fn new(reference: &Reference, auth: Option<&Auth>, registries: &Registries) -> Self {
        let settings = registries.settings(reference.registry());
        let mut endpoints = Vec::new();
        for mirror in settings.mirrors {
            let trust = Trust { ca_file: mirror.ca_file, skip_verify: mirror.skip_verify };
            let mut endpoint =
                Endpoint::new(&mirror.host, mirror.plain_http, Http::new(trust, registries.timeouts));
            endpoint.namespace = Some(reference.registry().to_owned());
            endpoints.push(endpoint);
        }
        let host =
            if reference.registry() == "docker.io" { "registry-1.docker.io" } else { reference.registry() };
        let trust = Trust { ca_file: settings.ca_file, skip_verify: settings.skip_verify };
        // A host that has TLS settings speaks TLS.
        let tls = trust != Trust::default();
        let mut endpoint = Endpoint::new(host, settings.plain_http, Http::new(trust, registries.timeouts));
        if tls && !settings.plain_http {
            endpoint.require_https();
        }
        endpoint.auth = auth.cloned();
        endpoints.push(endpoint);
        Self { reference: reference.clone(), endpoints }
    }

    /// What is being pulled from where, for errors.
    pub(crate) fn describe(&self) -> String {
        let origin = self.endpoints.last().map(|endpoint| endpoint.origin().to_string()).unwrap_or_default();
        format!("pull of {} from {origin}", self.reference)
    }

    /// The digest that the reference has at the moment; `None` where the registry does not say.
    pub(crate) async fn head(&self) -> Result<Option<Digest>, Error> {
        let path = format!("manifests/{}", self.reference.selector());
        let ask = Ask::new(Method::HEAD, &path, Some(ACCEPTED));
        self.document(&ask, "manifest", 0, |headers, _| Ok(claimed_digest(headers))).await
    }

    /// Fetches and verifies a manifest or index, by tag or digest.
    pub(crate) async fn manifest(&self, selector: &str) -> Result<Fetched, Error> {
        let wanted = Digest::parse(selector).ok();
        let verify = |headers: &HeaderMap, bytes: Bytes| {
            let digest = Digest::of(&bytes);
            let claimed = wanted.or_else(|| claimed_digest(headers));
            if let Some(claimed) = claimed.filter(|claimed| *claimed != digest) {
                return Err(Error::corrupt(format!("manifest {claimed} has the digest {digest}")));
            }
            let content_type =
                headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
            Ok(Fetched { bytes, digest, content_type })
        };
        let ask = Ask::new(Method::GET, &format!("manifests/{selector}"), Some(ACCEPTED));
        self.document(&ask, "manifest", DOCUMENT_LIMIT, verify).await
    }

    /// Fetches and verifies a small blob: a configuration.
    pub(crate) async fn blob(&self, blob: &Blob) -> Result<Bytes, Error> {
        manifest::check_size("image configuration", blob.size)?;
        let verify = |_: &HeaderMap, bytes: Bytes| {
            let digest = Digest::of(&bytes);
            if digest == blob.digest {
                Ok(bytes)
            } else {
                Err(Error::corrupt(format!("blob {} has the digest {digest}", blob.digest)))
            }
        };
        let ask = Ask::new(Method::GET, &format!("blobs/{}", blob.digest), None);
        self.document(&ask, "image configuration", blob.size, verify).await
    }

    /// Sends a blob's bytes on from `offset`, and [`Piece::End`] after the last one. A broken connection is taken up where it broke.
    /// Digest and size are verified by the receiver; when that has gone, this ends.
    pub(crate) async fn stream(
        &self,
        blob: &Blob,
        mut offset: u64,
        to: &mpsc::Sender<Piece>,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        for endpoint in &self.endpoints {
            result = self.stream_from(endpoint, blob, &mut offset, to).await;
            if result.is_ok() {
                break;
            }
        }
        result
    }

    async fn stream_from(
        &self,
        endpoint: &Endpoint,
        blob: &Blob,
        offset: &mut u64,
        to: &mpsc::Sender<Piece>,
    ) -> Result<(), Error> {
        let mut attempt = 1;
        let mut mark = *offset;
        loop {
            let failure = match self.stream_once(endpoint, blob, offset, to).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(self.about(endpoint, error)),
                Err(failure) => failure,
            };
            if *offset >= mark + PROGRESS {
                (attempt, mark) = (1, *offset);
            }
            if attempt >= ATTEMPTS {
                return Err(self.explain(endpoint, failure));
            }
            tracing::debug!(
                "layer {} of {} at byte {offset}: {failure:?}, again",
                blob.digest,
                self.reference
            );
            endpoint.pause(attempt).await;
            attempt += 1;
        }
    }

    async fn stream_once(
        &self,
        endpoint: &Endpoint,
        blob: &Blob,
        offset: &mut u64,
        to: &mpsc::Sender<Piece>,
    ) -> Result<(), Failure> {
        let ask = Ask { offset: *offset, ..Ask::new(Method::GET, &format!("blobs/{}", blob.digest), None) };
        let response = if *offset < blob.size || blob.size == 0 {
            self.ask(endpoint, &ask).await?
        } else {
            let _ = to.send(Piece::End).await;
            return Ok(());
        };
        // A server that does not know ranges starts anew: what is there already is passed over.
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT {
            check_range(response.headers(), *offset)?;
            0
        } else {
            *offset
        };
        let announced =
            response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if let Some(length) = announced
            && length != blob.size - (*offset - skip)
        {
            return Err(Failure::Final(Error::corrupt(format!(
                "layer {}: the registry announces {length} bytes where the manifest says {}",
                blob.digest,
                blob.size - (*offset - skip)
            ))));
        }
        let mut body = response.into_body();
        while let Some(mut bytes) = body.next().await? {
            if skip > 0 {
                let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
                skip -= passed as u64;
                let _ = bytes.split_to(passed);
            }
            *offset += bytes.len() as u64;
            // A receiver that has gone has its reason.
            if !bytes.is_empty() && to.send(Piece::Data(bytes)).await.is_err() {
                return Ok(());
            }
        }
        if *offset < blob.size {
            return Err(Failure::Unreachable(format!(
                "the body ended after {offset} of {} bytes",
                blob.size
            )));
        }
        let _ = to.send(Piece::End).await;
        Ok(())
    }

    /// A small answer, verified. Mirrors in turn, the registry last; on each some attempts. The registry's own error is told.
    async fn document<T: Send>(
        &self,
        ask: &Ask<'_>,
        what: &str,
        limit: u64,
        verify: impl Fn(&HeaderMap, Bytes) -> Result<T, Error> + Send + Sync,
    ) -> Result<T, Error> {
        let mut last = Error::invalid("no registry");
        for endpoint in &self.endpoints {
            let mut attempt = 1;
            loop {
                let failure = match self.read(endpoint, ask, what, limit).await {
                    Ok((headers, bytes)) => match verify(&headers, bytes) {
                        Ok(value) => return Ok(value),
                        Err(error) => Failure::Final(error),
                    },
                    Err(failure) => failure,
                };
                last = match failure {
                    Failure::Final(error) => self.about(endpoint, error),
                    failure if attempt >= ATTEMPTS => self.explain(endpoint, failure),
                    _ => {
                        endpoint.pause(attempt).await;
                        attempt += 1;
                        continue;
                    }
                };
                break;
            }
        }
        Err(last)
    }

    async fn read(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        what: &str,
        limit: u64,
    ) -> Result<(HeaderMap, Bytes), Failure> {
        let response = self.ask(endpoint, ask).await?;
        let headers = response.headers().clone();
        Ok((headers, response.into_body().read(what, limit).await?))
    }

    /// One request with everything that may come between: the scheme, credentials, redirects.
    async fn ask<'e>(&self, endpoint: &'e Endpoint, ask: &Ask<'_>) -> Result<Response<Body<'e>>, Failure> {
        let query = endpoint.namespace.as_ref().map(|ns| format!("?ns={ns}")).unwrap_or_default();
        let path = format!("/v2/{}/{}{query}", self.reference.repository(), ask.path);
        let mut refreshed = false;
        loop {
            let origin = endpoint.origin();
            let authorization = endpoint.authorization();
            let response = match endpoint
                .http
                .send(&origin, ask.request(&path, authorization.as_deref())?, false)
                .await
            {
                Err(Failure::NotHttp(_)) if endpoint.switch_to_https() => continue,
                Err(Failure::NotHttp(why)) => return Err(Failure::Unreachable(format!("{origin}: {why}"))),
                other => other?,
            };
            let status = response.status();
            if status == StatusCode::BAD_REQUEST && endpoint.switch_to_https() {
                // Go's server says so in words when it is asked by HTTP and speaks HTTPS.
                continue;
            }
            if status == StatusCode::UNAUTHORIZED && !refreshed {
                let headers = response.headers().clone();
                drop(response);
                if self.answer(endpoint, &headers).await? {
                    refreshed = true;
                    continue;
                }
                return Err(self.denied(endpoint, status));
            }
            if status.is_redirection() {
                return self.follow(endpoint, ask, response).await;
            }
            return self.judge(endpoint, response);
        }
    }

    /// Answers a challenge. `false` when there is nothing to answer with.
    async fn answer(&self, endpoint: &Endpoint, headers: &HeaderMap) -> Result<bool, Failure> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let authorization = match (challenge::parse(values), &endpoint.auth) {
            (Some(Challenge::Basic), Some(Auth::Basic { username, password })) => {
                token::basic(username, password)
            }
            (Some(Challenge::Bearer { .. }), Some(Auth::RegistryToken(token))) => format!("Bearer {token}"),
            (Some(Challenge::Bearer { realm, service, .. }), auth) => {
                // The scope is ours to choose, not the registry's: exactly what a pull needs.
                let scope = format!("repository:{}:pull", self.reference.repository());
                let wanted = token::Wanted { realm: &realm, service: service.as_deref(), scope: &scope };
                token::fetch(&endpoint.http, &endpoint.origin(), auth.as_ref(), &wanted).await?
            }
            _ => return Ok(false),
        };
        let mut known = endpoint.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(authorization);
        Ok(true)
    }

    /// Follows redirects. Credentials stay with the registry's own origin (T39), HTTPS never becomes HTTP, and a registry
    /// elsewhere cannot send us to this machine.
    async fn follow<'e>(
        &self,
        endpoint: &'e Endpoint,
        ask: &Ask<'_>,
        first: Response<Body<'e>>,
    ) -> Result<Response<Body<'e>>, Failure> {
        let home = endpoint.origin();
        let mut current = home.clone();
        let mut response = first;
        for _ in 0..REDIRECTS {
            let refused =
                |why: &str| Failure::Final(Error::invalid(format!("{current} redirects {why}: refused")));
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| refused("to nowhere"))?;
            let (origin, path) = target(&current, location)
                .ok_or_else(|| refused("to something that is not a URL of HTTP"))?;
            if current.https && !origin.https {
                return Err(refused("from HTTPS to HTTP"));
            }
            let authorization = endpoint.authorization().filter(|_| origin == home);
            let request = ask.request(&path, authorization.as_deref())?;
            let outside = !home.is_loopback() && origin != home;
            response = endpoint.http.send(&origin, request, outside).await?;
            current = origin;
            if !response.status().is_redirection() {
                return self.judge(endpoint, response);
            }
        }
        Err(Failure::Final(Error::invalid(format!("{home} redirects more than {REDIRECTS} times: refused"))))
    }

    fn judge<'e>(
        &self,
        endpoint: &Endpoint,
        response: Response<Body<'e>>,
    ) -> Result<Response<Body<'e>>, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(match status {
            StatusCode::NOT_FOUND => Failure::Final(Error::not_found(format!(
                "image {} does not exist in registry {}",
                self.reference,
                endpoint.origin()
            ))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(endpoint, status),
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Failure::Unreachable(format!("{} answers {status}", endpoint.origin()))
            }
            _ => Failure::Final(Error::invalid(format!("registry {} answers {status}", endpoint.origin()))),
        })
    }

    fn denied(&self, endpoint: &Endpoint, status: StatusCode) -> Failure {
        let how = match &endpoint.auth {
            Some(_) => "with these credentials",
            None => "without credentials",
        };
        Failure::Final(Error::new(
            Kind::Denied,
            format!(
                "registry {} denies image {} {how} ({status}): it may be private, or not exist",
                endpoint.origin(),
                self.reference
            ),
        ))
    }

    /// A final error that names what was pulled and from where.
    fn about(&self, endpoint: &Endpoint, error: Error) -> Error {
        match error.kind() {
            Kind::NotFound | Kind::Denied if error.to_string().contains(&self.reference.to_string()) => error,
            _ => error.context(format!("pull of {} from {}", self.reference, endpoint.origin())),
        }
    }

    fn explain(&self, endpoint: &Endpoint, failure: Failure) -> Error {
        let from = format!("{} from registry {}", self.reference, endpoint.origin());
        match failure {
            Failure::NotHttp(why) | Failure::Unreachable(why) => {
                Error::new(Kind::Unavailable, format!("RegistryUnavailable: cannot pull {from}: {why}"))
            }
            Failure::Stalled(why) => {
                Error::new(Kind::Timeout, format!("RegistryUnavailable: cannot pull {from}: {why}"))
            }
            Failure::Final(error) => error,
        }
    }
}

impl Endpoint {
    fn new(host: &str, plain_http: bool, http: Http) -> Self {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
            _ => (host, None),
        };
        let mut origin = Origin { https: false, host: name.to_ascii_lowercase(), port: 0 };
        let guessed = !plain_http && origin.is_loopback() && port != Some(443);
        origin.https = !plain_http && !guessed;
        origin.port = port.unwrap_or(if origin.https { 443 } else { 80 });
        Self {
            http,
            origin: Mutex::new(origin),
            guessed,
            auth: None,
            authorization: Mutex::default(),
            namespace: None,
        }
    }

    fn require_https(&mut self) {
        self.guessed = false;
        let origin = self.origin.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !origin.https && origin.port == 80 {
            origin.port = 443;
        }
        origin.https = true;
    }

    fn origin(&self) -> Origin {
        self.origin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn authorization(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// HTTP was a guess, and a wrong one. `false` when it was not.
    fn switch_to_https(&self) -> bool {
        let mut origin = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        let switch = self.guessed && !origin.https;
        origin.https |= switch;
        switch
    }

    async fn pause(&self, attempt: u32) {
        let pause = self.http.timeouts.retry * 4_u32.saturating_pow(attempt - 1);
        tokio::time::sleep(pause.min(RETRY_LIMIT)).await;
    }
}

const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

impl<'a> Ask<'a> {
    fn new(method: Method, path: &str, accept: Option<&'a str>) -> Self {
        Self { method, path: path.to_owned(), accept, offset: 0 }
    }

    fn request(&self, path: &str, authorization: Option<&str>) -> Result<Request<Full<Bytes>>, Failure> {
        let mut builder = Request::builder().method(self.method.clone()).uri(path);
        builder = builder.header(USER_AGENT, concat!("vaquita/", env!("CARGO_PKG_VERSION")));
        if let Some(accept) = self.accept {
            builder = builder.header(ACCEPT, accept);
        }
        if self.offset > 0 {
            builder = builder.header(RANGE, format!("bytes={}-", self.offset));
        }
        if let Some(authorization) = authorization {
            builder = builder.header(AUTHORIZATION, authorization);
        }
        builder
            .body(Full::default())
            .map_err(|e| Failure::Final(Error::invalid(format!("request of {path:?}: {e}"))))
    }
}

/// Where a `Location` leads, seen from an origin: absolute, without scheme, or a path.
fn target(current: &Origin, location: &str) -> Option<(Origin, String)> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some((current.clone(), location.to_owned()));
    }
    let absolute = match location.strip_prefix("//") {
        Some(rest) => format!("{}://{rest}", if current.https { "https" } else { "http" }),
        None => location.to_owned(),
    };
    let uri: Uri = absolute.parse().ok()?;
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    Some((Origin::of(&uri)?, path.to_owned()))
}

fn claimed_digest(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(headers.get("docker-content-digest")?.to_str().ok()?).ok()
}

fn check_range(headers: &HeaderMap, offset: u64) -> Result<(), Failure> {
    let start = headers.get(CONTENT_RANGE).and_then(|value| {
        value.to_str().ok()?.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse::<u64>().ok()
    });
    if start == Some(offset) {
        Ok(())
    } else {
        Err(Failure::Final(Error::corrupt(format!(
            "the registry sent another range than the one from byte {offset}"
        ))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_and_ports() {
        let origin = |host: &str, plain| {
            let endpoint =
                Endpoint::new(host, plain, Http::new(Trust::default(), super::super::Timeouts::default()));
            (endpoint.origin().to_string(), endpoint.guessed)
        };
        assert_eq!(origin("quay.io", false), ("https://quay.io".into(), false));
        assert_eq!(origin("quay.io:5000", false), ("https://quay.io:5000".into(), false));
        assert_eq!(origin("quay.io:5000", true), ("http://quay.io:5000".into(), false));
        assert_eq!(origin("localhost:5000", false), ("http://localhost:5000".into(), true));
        assert_eq!(origin("[::1]:5000", false), ("http://[::1]:5000".into(), true));
        assert_eq!(origin("127.0.0.1", false), ("http://127.0.0.1".into(), true));
        assert_eq!(origin("10.0.0.1", false), ("https://10.0.0.1".into(), false));
    }

    #[test]
    fn locations() {
        let current = Origin { https: true, host: "a".into(), port: 443 };
        let to = |location: &str| target(&current, location).map(|(origin, path)| format!("{origin}{path}"));
        assert_eq!(to("/x?y").as_deref(), Some("https://a/x?y"));
        assert_eq!(to("https://b:1/x").as_deref(), Some("https://b:1/x"));
        assert_eq!(to("//b/x").as_deref(), Some("https://b/x"));
        for wrong in ["file:///etc/passwd", "ftp://b/x", "x/y", "", "http:///x"] {
            assert_eq!(to(wrong), None, "{wrong}");
        }
    }
}
