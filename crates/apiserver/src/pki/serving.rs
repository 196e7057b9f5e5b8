//! The certificate that connections are served with, which changes while they come.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

use super::authority::Authority;
use super::{Error, Identity, parse};

#[derive(Debug)]
pub(super) struct Serving(RwLock<Arc<CertifiedKey>>);

impl Serving {
    pub(super) fn new(identity: Identity) -> Result<Self, Error> {
        Ok(Self(RwLock::new(certified(&identity)?)))
    }

    /// Connections that come from now on get this one.
    pub(super) fn replace(&self, identity: &Identity) -> Result<(), Error> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified(identity)?;
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn config(self: &Arc<Self>, authority: &Authority) -> Result<Arc<ServerConfig>, Error> {
        let clients = Arc::new(AnyClient(authority.verifier()?));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::sign("the settings of TLS", &error))?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Clients keep their connections; what could be resumed would be kept here for each.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, Error> {
    let failed = |why: &dyn std::fmt::Display| Error::sign("the serving certificate", why);
    let (certificate, key) = parse(identity).ok_or_else(|| failed(&"it is no PEM"))?;
    let key =
        CertifiedKey::from_der(vec![certificate], PrivateKeyDer::Pkcs8(key), &aws_lc_rs::default_provider());
    key.map(Arc::new).map_err(|error| failed(&error))
}

/// Takes any certificate whose key the client has. Whether it is one of ours is asked afterwards, so that who shows
/// another gets an answer.
#[derive(Debug)]
struct AnyClient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyClient {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _own: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
