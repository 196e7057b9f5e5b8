//! Tokens from the realm that a registry names (the distribution project's token protocol, and OAuth2 for refresh tokens).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Uri};
use http_body_util::Full;
use serde::Deserialize;

use crate::{Auth, Error, Kind};

use super::http::{Failure, Http, Origin};

const LIMIT: u64 = 1 << 20;

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
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

/// Fetches a token. Credentials go to the realm, which has the registry's word; never in clear when the registry itself
/// is reached by HTTPS.
pub(super) async fn fetch(
    http: &Http,
    registry: &Origin,
    auth: Option<&Auth>,
    wanted: &Wanted<'_>,
) -> Result<String, Failure> {
    let wrong = |why: &str| {
        Failure::Final(Error::invalid(format!(
            "registry {registry} names the token realm {:?}: {why}",
            wanted.realm
        )))
    };
    let realm: Uri = wanted.realm.parse().map_err(|_| wrong("not a URL"))?;
    let origin = Origin::of(&realm).ok_or_else(|| wrong("not a URL of HTTP"))?;
    if registry.https && !origin.https {
        return Err(wrong("it is not reached by HTTPS, but the registry is"));
    }
    let mut query = vec![("scope", wanted.scope)];
    query.extend(wanted.service.map(|service| ("service", service)));
    let request = match auth {
        Some(Auth::IdentityToken(token)) => {
            query.extend([
                ("grant_type", "refresh_token"),
                ("refresh_token", token),
                ("client_id", "vaquita"),
            ]);
            Request::builder()
                .method(Method::POST)
                .uri(realm.path())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Full::new(Bytes::from(form(&query))))
        }
        _ => {
            let joint = if realm.query().is_some() { "&" } else { "?" };
            let path = realm.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
            let mut builder = Request::builder().uri(format!("{path}{joint}{}", form(&query)));
            if let Some(Auth::Basic { username, password }) = auth {
                builder = builder.header(AUTHORIZATION, basic(username, password));
            }
            builder.body(Full::default())
        }
    };
    let request = request.map_err(|_| wrong("not a URL"))?;
    let response = http.send(&origin, request, !registry.is_loopback() && origin != *registry).await?;
    let status = response.status();
    let body = response.into_body().read("token", LIMIT).await?;
    if status.is_server_error() || status.as_u16() == 429 {
        return Err(Failure::Unreachable(format!("token realm {origin} answers {status}")));
    }
    if !status.is_success() {
        return Err(Failure::Final(Error::new(
            Kind::Denied,
            format!("token realm {origin} answers {status}"),
        )));
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| wrong("its answer is not a token"))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong("its answer has no token"));
    }
    Ok(format!("Bearer {token}"))
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
}
