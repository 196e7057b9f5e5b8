//! The file `hosts.toml` (containerd's docs/hosts.md).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use indexmap::IndexMap;
use serde::Deserialize;

use crate::Error;
use crate::registry::http::Origin;
use crate::registry::tls::{self, Trust};

use super::Host;

/// The whole file. What stands at the top is about the server.
#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: IndexMap<String, Settings>,
    // Spelled out instead of flattened, so that errors have their place.
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMore>,
    client: Option<Pairs>,
    skip_verify: Option<bool>,
    header: Option<IndexMap<String, OneOrMore>>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

/// What can be said of one host.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMore>,
    client: Option<Pairs>,
    skip_verify: Option<bool>,
    header: Option<IndexMap<String, OneOrMore>>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a file, a list of files, or a list of pairs of files")]
enum Pairs {
    One(String),
    More(Vec<Pair>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a file, or a pair of files")]
enum Pair {
    Both(String),
    Two([String; 2]),
}

impl OneOrMore {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::More(more) => more,
        }
    }
}

/// Reads the text of `path`; `own`: it is for this registry alone.
pub(super) fn parse(text: &str, path: &Path, registry: &str, own: bool) -> Result<Vec<Host>, Error> {
    let wrong = |why: &str| Error::invalid(format!("{}: {why}", path.display()));
    // The library's own text quotes the line, which may hold a password.
    let located = |e: &toml::de::Error| {
        let line = e.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        Error::invalid(format!("{}:{line}: {}", path.display(), e.message()))
    };
    let document = toml::de::Deserializer::parse(text).map_err(|e| located(&e))?;
    let mut unknown = Vec::new();
    let file: File =
        serde_ignored::deserialize(document, |key| unknown.push(key.to_string())).map_err(|e| located(&e))?;
    unknown.iter().for_each(|key| warn_once(path, key));
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut hosts = Vec::new();
    for (url, settings) in file.host {
        let mut host = locate(&url, settings.override_path.unwrap_or_default())
            .and_then(|host| settings.apply(host, directory))
            .map_err(|e| e.context(format!("{}: host {:?}", path.display(), without_user(&url))))?;
        host.is_proxy = !is_its_own(&host.origin, registry);
        hosts.push(host);
    }
    let settings = Settings {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
    };
    let mut host = match file.server.filter(|server| !server.is_empty()) {
        None if settings.override_path == Some(true) => {
            return Err(wrong("override_path needs a server with a path"));
        }
        None => Host::own(registry),
        Some(url) => {
            let host = locate(&url, settings.override_path.unwrap_or_default());
            let mut host =
                host.map_err(|e| e.context(format!("{}: server {:?}", path.display(), without_user(&url))))?;
            host.is_proxy = !is_its_own(&host.origin, registry);
            // A file for all registries cannot make one host the origin of them all.
            host.is_registry = own || !host.is_proxy;
            host
        }
    };
    host = settings.apply(host, directory).map_err(|e| e.context(path.display()))?;
    host.settle();
    hosts.push(host);
    Ok(hosts)
}

/// Whether an origin is the one that the name of a registry stands for.
fn is_its_own(origin: &Origin, registry: &str) -> bool {
    let own = Host::own(registry).origin;
    origin.host == own.host && origin.port == own.port
}

/// A URL for errors: what stands before an `@` may be a password.
fn without_user(url: &str) -> &str {
    url.rsplit('@').next().unwrap_or_default()
}

/// The host of a URL; without a scheme it is reached by HTTPS.
fn locate(url: &str, override_path: bool) -> Result<Host, Error> {
    let wrong = || Error::invalid("is not a URL of HTTP, as https://mirror.example:5000");
    let text = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let origin = Origin::of(&uri).ok_or_else(wrong)?;
    if uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Error::invalid("has a user or a query, which is not supported"));
    }
    let path = uri.path().trim_end_matches('/');
    let is_root = override_path || path.ends_with("/v2");
    Ok(Host {
        origin,
        guessed: false,
        base: if is_root { path.to_owned() } else { format!("{path}/v2") },
        is_registry: false,
        ..Host::own("mirror.invalid")
    })
}

impl Settings {
    fn apply(self, mut host: Host, directory: &Path) -> Result<Host, Error> {
        // An absolute path stays what it is.
        let file = |name: &str| -> PathBuf { directory.join(name) };
        if let Some(capabilities) = self.capabilities.filter(|list| !list.is_empty()) {
            (host.resolve, host.pull) = (false, false);
            for capability in capabilities {
                match capability.to_ascii_lowercase().as_str() {
                    "pull" => host.pull = true,
                    "resolve" => host.resolve = true,
                    "push" => {}
                    other => {
                        return Err(Error::invalid(format!(
                            "unknown capability {other:?}: there are pull, resolve and push"
                        )));
                    }
                }
            }
        }
        let mut trust = Trust { skip_verify: self.skip_verify.unwrap_or_default(), ..Trust::default() };
        for name in self.ca.map(OneOrMore::into_vec).unwrap_or_default() {
            trust.authorities.extend(tls::read_certificates(&file(&name))?);
        }
        let pairs = match self.client {
            None => Vec::new(),
            Some(Pairs::One(both)) => vec![Pair::Both(both)],
            Some(Pairs::More(pairs)) => pairs,
        };
        for pair in pairs {
            let [certificate, key] = match pair {
                Pair::Two([certificate, key]) if !key.is_empty() => [certificate, key],
                Pair::Two([both, _]) | Pair::Both(both) => [both.clone(), both],
            };
            trust.identities.push(tls::read_identity(&file(&certificate), &file(&key))?);
        }
        host.trust = trust;
        host.headers = headers(self.header.unwrap_or_default())?;
        host.connect = self.dial_timeout.map(|text| duration(&text)).transpose()?;
        Ok(host)
    }
}

fn headers(table: IndexMap<String, OneOrMore>) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (name, values) in table {
        let wrong = |what: &str| Error::invalid(format!("header {name:?}: {what}"));
        let header =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("is not a name of a header"))?;
        for value in values.into_vec() {
            let mut value = HeaderValue::from_str(&value).map_err(|_| wrong("its value cannot be sent"))?;
            // It may well be a password: then `Debug` does not show it.
            value.set_sensitive(true);
            headers.append(header.clone(), value);
        }
    }
    Ok(headers)
}

/// A duration as Go writes it: `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, Error> {
    let wrong = || Error::invalid(format!("dial_timeout {text:?} is not a time as \"500ms\" or \"1m30s\""));
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let seconds = number.parse::<f64>().map_err(|_| wrong())? * unit;
        total = Duration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|more| total.checked_add(more))
            .ok_or_else(wrong)?;
        rest = after;
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

/// Tells of a key that has no meaning here. Files are read at each pull, so once.
fn warn_once(path: &Path, key: &str) {
    static TOLD: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    const MOST: usize = 1000;
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let told = told.get_or_insert_default();
    let line = format!("{}: key {key:?} is unknown and has no effect", path.display());
    if told.len() < MOST && told.insert(line.clone()) {
        tracing::warn!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1500));
        for wrong in ["", "5", "s", "0s", "-1s", "1x", "1..2s", "99999999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
