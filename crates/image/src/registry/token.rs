//! Tokens from the realm that a registry names (the distribution project's token protocol, and OAuth2 for refresh tokens).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::Full;
use serde::Deserialize;
use tokio::time::Instant;

use crate::digest::Hasher;
use crate::{Auth, Digest, Error};

use super::http::{Failure, Http, Origin, Way};

const LIMIT: u64 = 1 << 20;
/// What a token lives when its realm does not say (distribution's token protocol).
const LIFE: u64 = 60;
/// What is believed at most.
const LIFE_LIMIT: u64 = 24 * 3600;
/// Tokens that are kept.
const MOST: usize = 1000;

/// The tokens that registries have given, until they expire. In memory only; clones are the same tokens.
///
/// A token is used for the registry that asked for it, the repository and the credentials it was given for, and nothing else.
#[derive(Clone, Default)]
pub struct Tokens(Arc<Mutex<HashMap<Key, Token>>>);

/// What a token was given for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    origin: Origin,
    repository: String,
    /// Of the credentials: they themselves are not kept.
    credentials: Option<Digest>,
}

/// The value of an `Authorization` header, and how long it is good.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) authorization: HeaderValue,
    until: Instant,
}

impl Tokens {
    pub(super) fn find(&self, key: &Key) -> Option<HeaderValue> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(key).filter(|token| token.until > Instant::now()).map(|token| token.authorization.clone())
    }

    pub(super) fn keep(&self, key: Key, token: Token) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= MOST {
            let now = Instant::now();
            tokens.retain(|_, token| token.until > now);
        }
        if tokens.len() >= MOST {
            let first = tokens.iter().min_by_key(|(_, token)| token.until).map(|(key, _)| key.clone());
            first.and_then(|key| tokens.remove(&key));
        }
        tokens.insert(key, token);
    }

    /// Forgets a token that the registry does not like any more.
    pub(super) fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(…)")
    }
}

impl Key {
    pub(super) fn new(origin: Origin, repository: &str, auth: Option<&Auth>) -> Self {
        let credentials = auth.map(|auth| {
            let mut hasher = Hasher::new();
            let parts = match auth {
                Auth::Basic { username, password } => ["basic", username, password],
                Auth::IdentityToken(token) => ["identity", token, ""],
                Auth::RegistryToken(token) => ["registry", token, ""],
            };
            for part in parts {
                hasher.update(&part.len().to_be_bytes());
                hasher.update(part.as_bytes());
            }
            hasher.finish()
        });
        Self { origin, repository: repository.to_owned(), credentials }
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// What is asked of a realm.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) realm: &'a str,
    pub(super) service: Option<&'a str>,
    pub(super) scope: &'a str,
}

/// The value of an `Authorization` header with user and password.
pub(super) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

/// A header value that `Debug` does not show.
pub(super) fn secret(value: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Failure::Final(Error::invalid("the credentials hold characters that cannot be sent")))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Fetches a token. Credentials go to the realm, which has the registry's word; never in clear when the registry itself
/// is reached by HTTPS.
pub(super) async fn fetch(
    http: &Http,
    registry: &Origin,
    auth: Option<&Auth>,
    wanted: &Wanted<'_>,
) -> Result<Token, Failure> {
    let wrong = |why: &str| {
        let shown: String = wanted.realm.chars().take(200).collect();
        Failure::Final(Error::invalid(format!("registry {registry} names the token realm {shown:?}: {why}")))
    };
    let realm: Uri = wanted.realm.parse().map_err(|_| wrong("not a URL"))?;
    let origin = Origin::of(&realm).ok_or_else(|| wrong("not a URL of HTTP"))?;
    if registry.https && !origin.https {
        return Err(wrong("it is not reached by HTTPS, but the registry is"));
    }
    let request = request(&realm, auth, wanted).map_err(|_| wrong("not a URL"))?;
    let way = if origin == *registry { Way::Known } else { Way::Realm { outside: !registry.is_loopback() } };
    let at = |failure: Failure| failure.at(&origin);
    let response = http.send(&origin, request, way).await.map_err(at)?;
    let status = response.status();
    let wait = super::endpoint::retry_after(response.headers());
    let body = response.into_body().read("token", LIMIT).await.map_err(at)?;
    if status.is_server_error() || status.as_u16() == 429 {
        return Err(Failure::Busy(format!("token realm {origin} answers {status}"), wait));
    }
    if !status.is_success() {
        return Err(Failure::Denied(format!("its token realm {origin} answers {status}")));
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| wrong("its answer is not a token"))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong("its answer has no token"));
    }
    // A little less: it has to be good when it arrives.
    let life = answer.expires_in.unwrap_or(LIFE).min(LIFE_LIMIT);
    let until = Instant::now() + Duration::from_secs(life - life / 10);
    Ok(Token { authorization: secret(&format!("Bearer {token}"))?, until })
}

fn request(
    realm: &Uri,
    auth: Option<&Auth>,
    wanted: &Wanted<'_>,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut query = vec![("scope", wanted.scope)];
    query.extend(wanted.service.map(|service| ("service", service)));
    let mut builder = Request::builder().header(USER_AGENT, super::AGENT);
    if let Some(Auth::IdentityToken(token)) = auth {
        query.extend([("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "vaquita")]);
        return builder
            .method(Method::POST)
            .uri(realm.path_and_query().map_or("/", http::uri::PathAndQuery::as_str))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(form(&query))));
    }
    let joint = if realm.query().is_some() { "&" } else { "?" };
    let path = realm.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    builder = builder.uri(format!("{path}{joint}{}", form(&query)));
    if let Some(Auth::Basic { username, password }) = auth {
        let mut value = HeaderValue::from_str(&basic(username, password))?;
        value.set_sensitive(true);
        builder = builder.header(AUTHORIZATION, value);
    }
    builder.body(Full::default())
}

/// `name=value&…`, percent-encoded.
fn form(pairs: &[(&str, &str)]) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
                out.push(char::from(byte));
            } else {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded() {
        let pairs = [("scope", "repository:a/b:pull"), ("service", "x y&z=1\n")];
        assert_eq!(form(&pairs), "scope=repository:a/b:pull&service=x%20y%26z%3D1%0A");
        assert_eq!(basic("a", "b"), "Basic YTpi");
    }

    #[tokio::test]
    async fn tokens_are_for_one_registry_repository_and_user() {
        let origin = |host: &str| Origin { https: true, host: host.into(), port: 443 };
        let user = |password: &str| Auth::Basic { username: "u".into(), password: password.into() };
        let token = |life| Token {
            authorization: secret("Bearer t0ken").ok().unwrap(),
            until: Instant::now() + Duration::from_secs(life),
        };
        let tokens = Tokens::default();
        let key = Key::new(origin("a"), "team/app", Some(&user("x")));
        tokens.keep(key.clone(), token(60));
        assert_eq!(tokens.find(&key).unwrap(), "Bearer t0ken");
        for other in [
            Key::new(origin("b"), "team/app", Some(&user("x"))),
            Key::new(origin("a"), "team/ap", Some(&user("x"))),
            Key::new(origin("a"), "team/app", Some(&user("y"))),
            Key::new(origin("a"), "team/app", None),
        ] {
            assert_eq!(tokens.find(&other), None);
        }
        assert!(!format!("{tokens:?} {:?}", tokens.find(&key)).contains("t0ken"));
        tokens.keep(key.clone(), token(0));
        assert_eq!(tokens.find(&key), None, "it has expired");
        tokens.keep(key.clone(), token(60));
        for index in 0..MOST {
            tokens.keep(Key::new(origin("a"), &index.to_string(), None), token(1000));
        }
        assert_eq!(tokens.0.lock().unwrap().len(), MOST);
        assert_eq!(tokens.find(&key), None, "the first to expire has made room");
        tokens.forget(&Key::new(origin("a"), "7", None));
        assert_eq!(tokens.find(&Key::new(origin("a"), "7", None)), None);
    }
}
