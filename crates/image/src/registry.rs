//! Registries: their configuration, credentials, and the client.

mod challenge;
mod client;
mod http;
mod resolve;
mod tls;
mod token;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::{Error, Reference};

pub(crate) use client::{Client, Fetched};

const DOCKER_CONFIG_LIMIT: u64 = 1 << 20;

/// How registries are reached; by host as written in a reference (`docker.io`, `registry.example:5000`).
///
/// A host without an entry is reached by HTTPS with the public certificate authorities; a loopback address by HTTP, and
/// by HTTPS when it does not speak that.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Settings of single hosts.
    pub hosts: BTreeMap<String, RegistryConfig>,
    /// How long to wait for a registry.
    pub timeouts: Timeouts,
    /// A directory that is looked into at each pull: `<host[:port]>/ca.crt` is as [`RegistryConfig::ca_file`] of that
    /// registry, which goes before it.
    pub certificates: Option<PathBuf>,
}

impl Registries {
    /// The settings of one registry, by its host as written in a reference.
    #[expect(clippy::disallowed_methods, reason = "a file of the settings, on the host")]
    fn settings(&self, registry: &str) -> RegistryConfig {
        let mut settings = self.hosts.get(registry).cloned().unwrap_or_default();
        if settings.ca_file.is_none()
            && let Some(dir) = &self.certificates
        {
            settings.ca_file = Some(dir.join(registry).join("ca.crt")).filter(|file| file.exists());
        }
        settings
    }
}

/// How long to wait for a registry before giving up.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the head of an answer.
    pub answer: Duration,
    /// For more bytes of a body. Also, twice this time must bring at least 64 KiB.
    pub stall: Duration,
    /// Before the second attempt; four times as long before each further one.
    pub retry: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            retry: Duration::from_millis(250),
        }
    }
}

/// Settings of one registry.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// Use HTTP, not HTTPS.
    pub plain_http: bool,
    /// PEM file with certificate authorities that are trusted besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// Trust any certificate. Digests are still verified.
    pub skip_verify: bool,
    /// Asked in turn before the registry itself.
    pub mirrors: Vec<Mirror>,
}

/// Another place that has a registry's content.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Host with an optional port.
    pub host: String,
    /// Use HTTP, not HTTPS.
    pub plain_http: bool,
    /// PEM file with certificate authorities that are trusted besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// Trust any certificate.
    pub skip_verify: bool,
}

/// Credentials for one registry. They go to that registry and to the token realm it names, nowhere else.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Auth {
    /// User and password.
    Basic {
        /// User name.
        username: String,
        /// Password or personal token.
        password: String,
    },
    /// An OAuth2 refresh token, exchanged at the token realm.
    IdentityToken(String),
    /// A bearer token, sent as it is.
    RegistryToken(String),
}

impl Auth {
    /// Looks up a reference's registry in a docker `config.json`.
    ///
    /// Credential helpers are not run. `Ok(None)`: the file has nothing for this registry.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for a file that is not such a configuration,
    /// [`Kind::Kernel`](crate::Kind::Kernel) where it cannot be read.
    #[expect(clippy::disallowed_methods, reason = "a file of the settings, on the host")]
    pub fn from_docker_config(path: &Path, reference: &Reference) -> Result<Option<Self>, Error> {
        use std::io::Read as _;
        let named = |e: std::io::Error| Error::io(format!("read({})", path.display()), &e);
        let mut text = Vec::new();
        std::fs::File::open(path)
            .map_err(named)?
            .take(DOCKER_CONFIG_LIMIT)
            .read_to_end(&mut text)
            .map_err(named)?;
        Self::from_docker_json(&text, reference).map_err(|e| e.context(path.display()))
    }

    /// The same for the content of such a file: an image pull secret.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for text that is not such a configuration.
    pub fn from_docker_json(text: &[u8], reference: &Reference) -> Result<Option<Self>, Error> {
        let config: DockerConfig =
            serde_json::from_slice(text).map_err(|e| Error::invalid(format!("docker configuration: {e}")))?;
        let wanted = reference.name();
        // The most specific entry wins, as kubelet does it: an entry may name a repository.
        let best = config
            .auths
            .iter()
            .filter(|(key, _)| matches_entry(key, &wanted))
            .max_by_key(|(key, _)| docker_key(key).len());
        best.map_or(Ok(None), |(_, entry)| entry.auth())
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerEntry>,
}

#[derive(Deserialize)]
struct DockerEntry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

impl DockerEntry {
    fn auth(&self) -> Result<Option<Auth>, Error> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Auth::RegistryToken(self.registrytoken.clone())));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Auth::IdentityToken(self.identitytoken.clone())));
        }
        if !self.username.is_empty() {
            return Ok(Some(Auth::Basic {
                username: self.username.clone(),
                password: self.password.clone(),
            }));
        }
        Auth::from_basic(&self.auth)
    }
}

impl Auth {
    /// Reads the base64 of `user:password`; an empty text is no credentials.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for other text; the text is not repeated in the error.
    pub fn from_basic(text: &str) -> Result<Option<Self>, Error> {
        if text.is_empty() {
            return Ok(None);
        }
        let wrong = || Error::invalid("\"auth\" is not the base64 of user:password");
        let plain = STANDARD.decode(text.trim()).map_err(|_| wrong())?;
        let plain = String::from_utf8(plain).map_err(|_| wrong())?;
        let (username, password) = plain.trim_end_matches('\0').split_once(':').ok_or_else(wrong)?;
        Ok(Some(Self::Basic { username: username.to_owned(), password: password.to_owned() }))
    }
}

/// Host and path of a key without its scheme and API version: docker writes `https://index.docker.io/v1/`.
fn docker_key(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

fn matches_entry(key: &str, name: &str) -> bool {
    let key = match docker_key(key) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        key => key,
    };
    name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl std::fmt::Debug for Auth {
    /// Says the form only: secrets stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Auth::Basic(…)",
            Self::IdentityToken(_) => "Auth::IdentityToken(…)",
            Self::RegistryToken(_) => "Auth::RegistryToken(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_configurations() {
        let text = br#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"dTpw"},
            "registry.example:5000":{"username":"a","password":"b"},
            "registry.example:5000/team":{"identitytoken":"t"},
            "other":{"auth":""}},"credsStore":"x"}"#;
        let look = |name: &str| Auth::from_docker_json(text, &Reference::parse(name).unwrap()).unwrap();
        let basic = |u: &str, p: &str| Some(Auth::Basic { username: u.into(), password: p.into() });
        assert_eq!(look("busybox"), basic("u", "p"));
        assert_eq!(look("registry.example:5000/x"), basic("a", "b"));
        assert_eq!(look("registry.example:5000/team/x"), Some(Auth::IdentityToken("t".into())));
        assert_eq!(look("registry.example:5000/teams/x"), basic("a", "b"));
        assert_eq!(look("registry.example/x"), None);
        assert_eq!(look("quay.io/x"), None);
        assert!(Auth::from_basic("!!").is_err());
        assert!(!format!("{:?}", basic("user", "secret")).contains("secret"));
    }
}
