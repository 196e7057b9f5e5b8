//! Credentials as Docker keeps them: `config.json`, and programs that are asked for them.

mod helper;

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::{Auth, Error, Kind, Reference};

const LIMIT: u64 = 1 << 20;
/// What Docker calls its own registry when it asks for credentials.
const DOCKER_IO: &str = "https://index.docker.io/v1/";

/// A `config.json`, or podman's `auth.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct DockerConfig {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Auth {
    /// Looks up the credentials for a reference in a docker `config.json`, as Docker's own client does it: of a credential helper,
    /// where the file names one (`credHelpers`, `credsStore`), that is found in `PATH` and is run; else of the file.
    /// `Ok(None)`: there are none.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for a file that is not such a configuration, and a helper that
    /// fails; [`Kind::Timeout`](crate::Kind::Timeout) for one that takes too long; [`Kind::Kernel`](crate::Kind::Kernel) where the file cannot be
    /// read or the helper not be run.
    pub async fn from_docker_config(path: &Path, reference: &Reference) -> Result<Option<Self>, Error> {
        let config = DockerConfig::read(path)?;
        if let Some(helper) = config.helper(reference.registry()) {
            let server = if reference.registry() == "docker.io" { DOCKER_IO } else { reference.registry() };
            let found = helper::get(helper, server).await.map_err(|e| e.context(path.display()))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        config.entry(&reference.name()).map_err(|e| e.context(path.display()))
    }

    /// The credentials that the content of such a file has: an image pull secret. Helpers are not run.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for text that is not such a configuration.
    pub fn from_docker_json(text: &[u8], reference: &Reference) -> Result<Option<Self>, Error> {
        DockerConfig::parse(text)?.entry(&reference.name())
    }

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

impl DockerConfig {
    /// Reads the file. Blocks as long as that takes.
    #[expect(clippy::disallowed_methods, reason = "a file of the settings, on the host")]
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        use std::io::Read as _;
        let named = |e: std::io::Error| Error::io(format!("read({})", path.display()), &e);
        let mut text = Vec::new();
        std::fs::File::open(path).map_err(named)?.take(LIMIT).read_to_end(&mut text).map_err(named)?;
        Self::parse(&text).map_err(|e| e.context(path.display()))
    }

    fn parse(text: &[u8]) -> Result<Self, Error> {
        // The library's text names what it found, which may be a secret: its place has to do.
        serde_json::from_slice(text).map_err(|e| {
            Error::invalid(format!("not a docker configuration: line {}, column {}", e.line(), e.column()))
        })
    }

    /// What the file itself has for a name, `registry/repository`. The most specific entry wins, as kubelet does it: an entry
    /// may name a repository, and `*` stands for a part of a host name.
    pub(super) fn entry(&self, name: &str) -> Result<Option<Auth>, Error> {
        let best = self
            .auths
            .iter()
            .filter(|(key, _)| matches_entry(key, name))
            .max_by_key(|(key, _)| docker_key(key).len());
        best.map_or(Ok(None), |(_, entry)| entry.auth())
    }

    /// What the file itself has, where no helper is run: an error says that one would have to be.
    pub(super) fn entry_alone(&self, registry: &str, name: &str) -> Result<Option<Auth>, Error> {
        let found = self.entry(name)?;
        let named = self.helpers.keys().any(|key| host_of(key) == registry)
            || self.auths.keys().any(|key| host_of(key) == registry);
        match self.helper(registry) {
            Some(helper) if found.is_none() && named => Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the credentials of {registry} are in docker-credential-{helper}, which the daemon does not run: they have to be \
                     in \"auths\", or come with the pull"
                ),
            )),
            _ => Ok(found),
        }
    }

    /// The helper that has a registry's credentials.
    fn helper(&self, registry: &str) -> Option<&str> {
        let own =
            self.helpers.iter().find(|(key, _)| host_of(key) == registry).map(|(_, helper)| helper.as_str());
        own.or(Some(self.store.as_str())).filter(|helper| !helper.is_empty())
    }
}

impl Entry {
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

/// Host and path of a key without its scheme and API version: docker writes `https://index.docker.io/v1/`.
fn docker_key(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        key => key,
    }
}

fn host_of(key: &str) -> &str {
    let key = docker_key(key);
    key.split_once('/').map_or(key, |(host, _)| host)
}

fn matches_entry(key: &str, name: &str) -> bool {
    let (host, path) = docker_key(key).split_once('/').unwrap_or((docker_key(key), ""));
    let (registry, repository) = name.split_once('/').unwrap_or((name, ""));
    let same_host = host.split('.').count() == registry.split('.').count()
        && host.split('.').zip(registry.split('.')).all(|(wanted, part)| wanted == "*" || wanted == part);
    let inside = repository.strip_prefix(path);
    same_host && inside.is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Option<Auth> {
        Some(Auth::Basic { username: username.into(), password: password.into() })
    }

    #[test]
    fn docker_configurations() {
        let text = br#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"dTpw"},
            "registry.example:5000":{"username":"a","password":"b"},
            "registry.example:5000/team":{"identitytoken":"t"},
            "*.wild.example":{"registrytoken":"r"},
            "other":{"auth":""}},"credsStore":"x"}"#;
        let look = |name: &str| Auth::from_docker_json(text, &Reference::parse(name).unwrap()).unwrap();
        assert_eq!(look("busybox"), basic("u", "p"));
        assert_eq!(look("registry.example:5000/x"), basic("a", "b"));
        assert_eq!(look("registry.example:5000/team/x"), Some(Auth::IdentityToken("t".into())));
        assert_eq!(look("registry.example:5000/team"), Some(Auth::IdentityToken("t".into())));
        assert_eq!(look("registry.example:5000/teams/x"), basic("a", "b"));
        assert_eq!(look("a.wild.example/x"), Some(Auth::RegistryToken("r".into())));
        assert_eq!(look("a.b.wild.example/x"), None);
        assert_eq!(look("registry.example/x"), None);
        assert_eq!(look("quay.io/x"), None);
        assert!(Auth::from_basic("!!").is_err());
        assert!(!format!("{:?}", basic("user", "secret")).contains("secret"));
    }

    #[test]
    fn errors_do_not_repeat_secrets() {
        for text in [
            r#"{"auths":{"a":{"auth":["secret"]}}}"#,
            r#"{"auths":{"a":"secret"}}"#,
            "secret",
            "{\"auths\": secret",
        ] {
            let error = DockerConfig::parse(text.as_bytes()).err().unwrap();
            assert!(error.to_string().contains("line 1") && !error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn helpers() {
        let config = DockerConfig::parse(
            br#"{"auths":{"b.example":{},"c.example":{"auth":"dTpw"}},"credHelpers":{"a.example":"one"},"credsStore":"all"}"#,
        )
        .unwrap();
        assert_eq!((config.helper("a.example"), config.helper("x.example")), (Some("one"), Some("all")));
        // Without running one: public images need none, and what the file has is used.
        assert_eq!(config.entry_alone("x.example", "x.example/a").unwrap(), None);
        assert_eq!(config.entry_alone("c.example", "c.example/a").unwrap(), basic("u", "p"));
        for registry in ["a.example", "b.example"] {
            let error = config.entry_alone(registry, &format!("{registry}/a")).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.to_string().contains("docker-credential-"), "{error}");
        }
        assert_eq!(DockerConfig::default().helper("a"), None);
    }
}
