//! One host of a registry: a request to it with everything that may come between.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use serde::Deserialize;

use crate::{Auth, Error, Registries};

use super::challenge::{self, Challenge};
use super::hosts::Host;
use super::http::{Body, Failure, Http, Origin, Way};
use super::token::{self, Key, Tokens};

const REDIRECTS: u32 = 5;
/// What is read of an answer that says no.
const COMPLAINT: u64 = 16 << 10;
const COMPLAINT_TIME: Duration = Duration::from_secs(2);

/// A host, as long as a pull lasts: its connections go with it.
#[derive(Debug)]
pub(super) struct Endpoint {
    host: Host,
    http: Http,
    repository: String,
    /// Which registry is meant, for a host that has the content of several.
    query: String,
    auth: Option<Auth>,
    /// What the host turned out to be, where it was guessed.
    origin: Mutex<Origin>,
    /// What to send as `Authorization`, once known.
    authorization: Mutex<Option<HeaderValue>>,
    /// Held by who answers a challenge, so that requests that are refused at the same time ask for one token.
    answering: tokio::sync::Mutex<()>,
    tokens: Tokens,
    /// It did not answer the last time: others are asked before it.
    is_down: AtomicBool,
}

/// A request, but for where it goes.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Below the repository: `manifests/latest`.
    pub(super) path: String,
    pub(super) accept: Option<&'a str>,
    /// First byte that is wanted.
    pub(super) offset: u64,
}

impl Endpoint {
    /// The host with the credentials that it may see.
    pub(super) fn new(
        host: Host,
        registry: &str,
        repository: &str,
        auth: Option<Auth>,
        registries: &Registries,
    ) -> Self {
        let mut timeouts = registries.timeouts;
        timeouts.connect = host.connect.unwrap_or(timeouts.connect);
        let http = Http::new(host.trust.clone(), timeouts, registries.proxies.clone());
        let query = if host.is_proxy { format!("?ns={registry}") } else { String::new() };
        let endpoint = Self {
            http,
            repository: repository.to_owned(),
            query,
            auth,
            origin: Mutex::new(host.origin.clone()),
            authorization: Mutex::default(),
            answering: tokio::sync::Mutex::default(),
            tokens: registries.tokens.clone(),
            is_down: AtomicBool::new(false),
            host,
        };
        let kept = endpoint.tokens.find(&endpoint.key());
        *endpoint.authorization.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        endpoint
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    pub(super) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One request with everything that may come between: the scheme, credentials, redirects. Returns an answer of success.
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Response<Body<'_>>, Failure> {
        let path = format!("{}/{}/{}{}", self.host.base, self.repository, ask.path, self.query);
        let mut refreshed = false;
        loop {
            let origin = self.origin();
            let authorization = self.authorization();
            let request = ask.request(&path, authorization.as_ref(), Some(&self.host.headers))?;
            let response = match self.http.send(&origin, request, Way::Known).await {
                Err(Failure::NotHttp(_)) if self.switch_to_https() => continue,
                Err(Failure::NotHttp(why)) => return Err(Failure::Refused(why)),
                other => other?,
            };
            let status = response.status();
            if status == StatusCode::BAD_REQUEST && self.switch_to_https() {
                // Go's server says so in words when it is asked by HTTP and speaks HTTPS.
                continue;
            }
            if status == StatusCode::UNAUTHORIZED && !refreshed {
                refreshed = true;
                if self.answer(response.headers(), authorization.as_ref()).await? {
                    continue;
                }
            }
            if status.is_redirection() {
                return self.follow(ask, response).await;
            }
            return self.judge(response).await;
        }
    }

    /// Answers a challenge. `false` when there is nothing to answer with.
    async fn answer(&self, headers: &HeaderMap, refused: Option<&HeaderValue>) -> Result<bool, Failure> {
        let _answering = self.answering.lock().await;
        let now = self.authorization();
        if now.is_some() && now.as_ref() != refused {
            return Ok(true);
        }
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let authorization = match (challenge::parse(values), &self.auth) {
            (Some(Challenge::Basic), Some(Auth::Basic { username, password })) => {
                token::secret(&token::basic(username, password))?
            }
            (Some(Challenge::Bearer { .. }), Some(Auth::RegistryToken(token))) => {
                token::secret(&format!("Bearer {token}"))?
            }
            (Some(Challenge::Bearer { realm, service, scope }), auth) => {
                self.tokens.forget(&self.key());
                let scope = choose_scope(scope, &self.repository);
                let wanted = token::Wanted { realm: &realm, service: service.as_deref(), scope: &scope };
                let token = token::fetch(&self.http, &self.origin(), auth.as_ref(), &wanted).await?;
                let authorization = token.authorization.clone();
                self.tokens.keep(self.key(), token);
                authorization
            }
            _ => return Ok(false),
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        Ok(true)
    }

    /// Follows redirects. Credentials stay with the registry's own origin (T39), HTTPS never becomes HTTP, and a registry
    /// elsewhere cannot send us to this machine.
    async fn follow<'e>(
        &'e self,
        ask: &Ask<'_>,
        first: Response<Body<'e>>,
    ) -> Result<Response<Body<'e>>, Failure> {
        let home = self.origin();
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
            let is_home = origin == home;
            let authorization = self.authorization().filter(|_| is_home);
            let headers = Some(&self.host.headers).filter(|_| is_home);
            let request = ask.request(&path, authorization.as_ref(), headers)?;
            let way = if is_home { Way::Known } else { Way::Redirected { outside: !home.is_loopback() } };
            response = self.http.send(&origin, request, way).await.map_err(|failure| failure.at(&origin))?;
            current = origin;
            if !response.status().is_redirection() {
                return self.judge(response).await;
            }
        }
        Err(Failure::Final(Error::invalid(format!("{home} redirects more than {REDIRECTS} times: refused"))))
    }

    /// What an answer means that leads nowhere else.
    async fn judge<'e>(&'e self, response: Response<Body<'e>>) -> Result<Response<Body<'e>>, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let wait = retry_after(response.headers());
        let code = code(response.into_body()).await;
        let told = code.map_or_else(|| status.to_string(), |code| format!("{status}, {code}"));
        Err(match status {
            StatusCode::NOT_FOUND => Failure::Missing,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let how = if self.auth.is_some() { "with these credentials" } else { "without credentials" };
                Failure::Denied(format!("it answers {told} {how}"))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Failure::Busy(format!("it answers {told}"), wait)
            }
            _ if status.is_server_error() => Failure::Busy(format!("it answers {told}"), wait),
            _ => Failure::Final(Error::invalid(format!("it answers {told}"))),
        })
    }

    fn key(&self) -> Key {
        let repository = format!("{}/{}", self.host.base, self.repository);
        Key::new(self.host.origin.clone(), &repository, self.auth.as_ref())
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// HTTP was a guess, and a wrong one. `false` when it was not.
    fn switch_to_https(&self) -> bool {
        let mut origin = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        let switch = self.host.guessed && !origin.https;
        origin.https |= switch;
        switch
    }
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, path: &str, accept: Option<&'a str>) -> Self {
        Self { method, path: path.to_owned(), accept, offset: 0 }
    }

    fn request(
        &self,
        path: &str,
        authorization: Option<&HeaderValue>,
        more: Option<&HeaderMap>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() =
            path.parse().map_err(|e| Failure::Final(Error::invalid(format!("request of {path:?}: {e}"))))?;
        let headers = request.headers_mut();
        if let Some(more) = more {
            headers.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        headers.insert(USER_AGENT, HeaderValue::from_static(super::AGENT));
        if let Some(accept) = self.accept.and_then(|accept| HeaderValue::from_str(accept).ok()) {
            headers.insert(ACCEPT, accept);
        }
        if self.offset > 0 {
            // No `If-Range`: content has the name of its digest, and servers of one registry may well differ in their tags.
            headers.insert(
                RANGE,
                HeaderValue::from_str(&format!("bytes={}-", self.offset))
                    .map_err(|e| Failure::Final(Error::invalid(format!("request of {path:?}: {e}"))))?,
            );
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

/// The scope to ask a token for: to pull the repository, and nothing else that a registry may name. A proxy knows the repository by
/// a longer name.
fn choose_scope(named: Option<String>, repository: &str) -> String {
    let is_pull = |scope: &String| {
        let name = scope.strip_prefix("repository:").and_then(|rest| rest.strip_suffix(":pull"));
        name.and_then(|name| name.strip_suffix(repository)).is_some_and(|front| {
            (front.is_empty() || front.ends_with('/')) && !front.contains([' ', ':', ','])
        })
    };
    named.filter(is_pull).unwrap_or_else(|| format!("repository:{repository}:pull"))
}

/// How long a server wants to be left alone (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let seconds = date.as_second().saturating_sub(jiff::Timestamp::now().as_second());
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The code of the first error in an answer (distribution's specification): `TOOMANYREQUESTS`. The text beside it is the registry's
/// to choose, and stays there.
async fn code(body: Body<'_>) -> Option<String> {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        code: String,
    }
    let text = tokio::time::timeout(COMPLAINT_TIME, body.read("error", COMPLAINT)).await.ok()?.ok()?;
    let code = serde_json::from_slice::<Errors>(&text).ok()?.errors.into_iter().next()?.code;
    (code.len() <= 40 && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')).then_some(code)
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn scopes_are_for_pulls_of_the_repository() {
        let own = "repository:a/b:pull";
        for (named, expected) in [
            ("", own),
            (own, own),
            ("repository:proxy/a/b:pull", "repository:proxy/a/b:pull"),
            ("repository:a/b:pull,push", own),
            ("repository:xa/b:pull", own),
            ("repository:other:pull", own),
            ("registry:catalog:*", own),
            ("repository:c:push repository:d/a/b:pull", own),
        ] {
            assert_eq!(choose_scope(Some(named.to_owned()), "a/b"), expected, "{named}");
        }
        assert_eq!(choose_scope(None, "a/b"), own);
    }

    #[test]
    fn times_to_wait() {
        let wait = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(wait("Tue, 31 Dec 2199 23:59:59 GMT").unwrap() > Duration::from_secs(1 << 30));
        assert_eq!(wait("soon"), None);
    }
}
