//! Whom to trust, and who we say we are.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::Error;

/// How the certificate of a registry is judged, and which of ours it may see.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    /// Authorities, or certificates of servers themselves, besides those that the host trusts.
    pub(super) authorities: Vec<CertificateDer<'static>>,
    /// Certificates of ours with their keys. Of several the first that the server asks for is shown.
    pub(super) identities: Vec<Arc<CertifiedKey>>,
    pub(super) skip_verify: bool,
}

impl Trust {
    /// Whether there are no settings.
    pub(super) fn is_default(&self) -> bool {
        self.authorities.is_empty() && self.identities.is_empty() && !self.skip_verify
    }

    /// The settings for TLS connections. Reads the host's authorities.
    pub(super) fn config(&self, identified: bool) -> Result<Arc<ClientConfig>, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let wrong = |e: &dyn std::fmt::Display| Error::invalid(format!("TLS: {e}"));
        let verifier: Arc<dyn ServerCertVerifier> = if self.skip_verify {
            Arc::new(Anyone(Arc::clone(&provider)))
        } else {
            let mut roots = host_authorities();
            for certificate in &self.authorities {
                roots.add(certificate.clone()).map_err(|e| wrong(&e))?;
            }
            let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|e| wrong(&e))?;
            Arc::new(Verifier { usual, pinned: self.authorities.clone() })
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| wrong(&e))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = if identified && !self.identities.is_empty() {
            builder.with_client_cert_resolver(Arc::new(Identities(self.identities.clone())))
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The certificates of a PEM file.
///
/// # Errors
/// Names the file: not readable, malformed, or without a certificate.
pub(super) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong =
        |e: &dyn std::fmt::Display| Error::invalid(format!("certificate file {}: {e}", file.display()));
    let all: Vec<_> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(|e| wrong(&e))?;
    if all.is_empty() {
        return Err(wrong(&"it has no certificate in PEM form"));
    }
    // What cannot be trusted is told now, with the file's name.
    let mut tried = RootCertStore::empty();
    all.iter().try_for_each(|certificate| tried.add(certificate.clone())).map_err(|e| wrong(&e))?;
    Ok(all)
}

/// A client certificate and its key, in one PEM file or two.
///
/// # Errors
/// Names the file.
pub(super) fn read_identity(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, Error> {
    let chain = read_certificates(certificate)?;
    let wrong = |e: &dyn std::fmt::Display| Error::invalid(format!("key file {}: {e}", key.display()));
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(&e))?;
    let identity = CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider());
    identity.map(Arc::new).map_err(|e| wrong(&format!("{e} (certificate {})", certificate.display())))
}

/// What this host trusts; where it has no list of its own, the public authorities that this program brings.
fn host_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Single entries that are not understood are passed over, as every TLS library does it with the host's list.
    let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.roots.extend_from_slice(webpki_roots::TLS_SERVER_ROOTS);
    }
    roots
}

/// Judges as usual, and also trusts a certificate that is itself in the settings: people put the self-signed certificate of a server
/// there, which may say of itself that it is an authority.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let judged = self.usual.verify_server_cert(certificate, intermediates, name, ocsp, now);
        match judged {
            // Its validity was found right before either of these.
            Err(error) if is_about_the_chain(&error) && self.pinned.contains(certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Nobody has signed it, or it is an authority: all that a pinned certificate may be.
fn is_about_the_chain(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
        }
        _ => false,
    }
}

/// Trusts any certificate, as `skip_verify` asks; signatures of the handshake still have to be right.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Our certificates: the first that names an authority which the server asks for, else the first that can sign.
#[derive(Debug)]
struct Identities(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Identities {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = || self.0.iter().filter(|identity| identity.key.choose_scheme(schemes).is_some());
        // A name is the same bytes in the server's list and in what that authority has signed.
        let asked_for = |identity: &&Arc<CertifiedKey>| {
            let mut names = authorities.iter().filter(|name| !name.is_empty());
            names.any(|name| {
                identity.cert.iter().any(|cert| cert.windows(name.len()).any(|part| part == *name))
            })
        };
        usable().find(asked_for).or_else(|| usable().next()).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
