//! Registries: their configuration, credentials, and the client.

mod challenge;
mod client;
mod docker;
mod endpoint;
mod hosts;
mod http;
mod proxy;
mod resolve;
mod tls;
mod token;
mod tries;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use client::{Client, Fetched};
pub use proxy::Proxies;
pub use token::Tokens;

/// Who we are, for registries and proxies.
const AGENT: &str = concat!("vaquita/", env!("CARGO_PKG_VERSION"));

/// How registries are reached. Files are looked at on each pull.
///
/// A registry without settings is reached by HTTPS with the certificate authorities that the host trusts; a loopback address by
/// HTTP, and by HTTPS when it does not speak that.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// A directory with settings, as containerd and Docker have it: `<registry>/hosts.toml`, `<registry>/*.crt`, `*.cert` and
    /// `*.key`; `_default` is for registries without a directory. `<registry>` is a host as in references,
    /// `registry.example:5000` or `registry.example_5000_`.
    pub certs_dir: Option<PathBuf>,
    /// A file with credentials, as Docker's `config.json`, for pulls that come without any, and for mirrors. Helpers that it
    /// names are not run.
    pub auth_file: Option<PathBuf>,
    /// How long to wait for a registry.
    pub timeouts: Timeouts,
    /// The way to registries.
    pub proxies: Proxies,
    /// Tokens that are still good.
    pub tokens: Tokens,
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
