//! Our own certificate authority, and what it signs.
//!
//! All lies in one directory (0700) in files of 0600, in the forms that other programs read: `ca.crt` and `ca.key`,
//! `apiserver.crt` and `apiserver.key`, `admin.crt` and `admin.key`, and `sa.key`, which signs the tokens of service accounts.
//! Keys are made once; certificates anew before they end, also while we run, and the serving one when we get other names.

mod authority;
mod error;
mod files;
mod serving;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::danger::ClientCertVerifier;
use serde_json::json;

use self::authority::{Authority, Leaf};
pub use self::error::{Error, Kind};
use self::serving::Serving;
use crate::access::{MASTERS, Peer, Signer};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How often a server that runs looks whether a certificate is about to end.
const LOOK: Duration = Duration::from_secs(60 * 60);

/// The certificates and keys of one control plane. Cheap to clone.
#[derive(Clone)]
pub struct Pki(Arc<Parts>);

struct Parts {
    dir: PathBuf,
    names: Vec<String>,
    authority: Authority,
    serving: Arc<Serving>,
    clients: Arc<dyn ClientCertVerifier>,
    signer: Signer,
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki").field("dir", &self.0.dir).field("names", &self.0.names).finish_non_exhaustive()
    }
}

/// A client's certificate with its key, in PEM form.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Pki {
    /// Takes up what is in the directory, and makes what is missing or about to end.
    ///
    /// `names` are those by which clients call the server, beside the ones that it always has: names and addresses.
    ///
    /// # Errors
    /// When the directory cannot be used, when somebody else could read or change what is in it, or when a file in it is
    /// not what its name says.
    pub fn open(dir: &Path, names: &[String]) -> Result<Self, Error> {
        Self::open_at(dir, names, SystemTime::now())
    }

    fn open_at(dir: &Path, names: &[String], now: SystemTime) -> Result<Self, Error> {
        files::make_dir(dir)?;
        let authority = Authority::open(dir, now)?;
        let names = all_names(names);
        let serving = Arc::new(Serving::new(authority.serving(dir, &names, now)?)?);
        authority.admin(dir, now)?;
        let clients = authority.verifier()?;
        let signer = files::key(&dir.join("sa.key"))?;
        let signer = Signer::from_pkcs8(signer.serialized_der())
            .map_err(|error| Error::malformed(&dir.join("sa.key"), &error))?;
        Ok(Self(Arc::new(Parts { dir: dir.to_owned(), names, authority, serving, clients, signer })))
    }

    /// The authority's certificate, in PEM form.
    pub fn ca(&self) -> &str {
        self.0.authority.pem()
    }

    /// What signs tokens.
    pub fn signer(&self) -> Signer {
        self.0.signer.clone()
    }

    /// A client's certificate for a year, signed now: the user's name and group.
    ///
    /// # Errors
    /// When signing fails.
    pub fn identity(&self, name: &str, group: Option<&str>) -> Result<Identity, Error> {
        let leaf = Leaf::Client { name, group };
        self.0.authority.issue(&leaf, None, SystemTime::now())
    }

    /// A kubeconfig for the admin, in YAML that is JSON too: `server` is `https://127.0.0.1:6443`.
    ///
    /// # Errors
    /// When the admin's certificate cannot be read or made anew.
    pub fn kubeconfig(&self, server: &str) -> Result<String, Error> {
        let admin = self.0.authority.admin(&self.0.dir, SystemTime::now())?;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "vaquita", "cluster": {
                "certificate-authority-data": STANDARD.encode(self.ca()),
                "server": server,
            } }],
            "contexts": [{ "name": "vaquita", "context": { "cluster": "vaquita", "user": "vaquita-admin" } }],
            "current-context": "vaquita",
            "users": [{ "name": "vaquita-admin", "user": {
                "client-certificate-data": STANDARD.encode(admin.certificate),
                "client-key-data": STANDARD.encode(admin.key),
            } }],
        });
        Ok(yaml(&config))
    }

    /// Writes [`Self::kubeconfig`] to a file (0600), in one step.
    ///
    /// # Errors
    /// As there, and when the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, server: &str) -> Result<(), Error> {
        files::write(path, self.kubeconfig(server)?.as_bytes())
    }

    /// How connections are encrypted: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, a certificate of the client if it has one.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        self.0.serving.config(&self.0.authority)
    }

    /// Who is at the other end of a connection, if it showed a certificate.
    pub fn peer(&self, connection: &rustls::ServerConnection) -> Option<Peer> {
        Peer::from_chain(connection.peer_certificates()?, &self.0.clients)
    }

    /// Makes certificates anew before they end, for ever. `admin` is called when the admin's has changed.
    pub async fn renew(&self, mut admin: impl FnMut(&Self)) {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.renew_at(SystemTime::now()) {
                Ok(true) => {
                    tracing::info!("certificates were renewed");
                    admin(self);
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "certificates could not be renewed: trying again in an hour")
                }
            }
        }
    }

    /// Whether one was made anew.
    fn renew_at(&self, now: SystemTime) -> Result<bool, Error> {
        let Parts { dir, names, authority, serving, .. } = &*self.0;
        let due = authority.is_due(dir, names, now);
        if due {
            serving.replace(&authority.serving(dir, names, now)?)?;
            authority.admin(dir, now)?;
        }
        Ok(due)
    }
}

/// With the names by which pods and people on the host call the server.
fn all_names(given: &[String]) -> Vec<String> {
    const ALWAYS: [&str; 8] = [
        "localhost",
        "127.0.0.1",
        "::1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster",
        "kubernetes.default.svc.cluster.local",
    ];
    let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let mut names: Vec<String> = ALWAYS.iter().map(|name| (*name).to_owned()).collect();
    for name in std::iter::once(&host).chain(given) {
        // Listening on all addresses is no name.
        let nowhere = name.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
        if !name.is_empty() && !nowhere && !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// The first certificate and the key of two PEM texts.
fn parse(identity: &Identity) -> Option<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>)> {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).ok()?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(identity.key.as_bytes()).ok()?;
    Some((certificate, key))
}

/// Plain YAML of maps, lists and strings, as people expect a kubeconfig to look.
fn yaml(value: &serde_json::Value) -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(value, options).unwrap_or_else(|_| value.to_string())
}

#[cfg(test)]
mod tests;
