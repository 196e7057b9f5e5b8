//! Client certificates.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::User;
use super::user::AUTHENTICATED;

/// What `extra` calls the certificate or token that was shown.
pub(crate) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// What is at the other end of a connection, as its certificate says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Peer {
    /// A certificate of our authority: user and groups, and when it ends, in seconds since 1970.
    Known(Box<User>, i64),
    /// A certificate that is not to be trusted: why.
    Refused(String),
}

impl Peer {
    /// From the certificates of a connection, of which the first is the client's own.
    ///
    /// `verifier` is asked here and not during the handshake, so that a certificate that has expired gets an answer that
    /// says so (401) and not a broken connection, as with Kubernetes.
    pub(crate) fn from_chain(
        chain: &[CertificateDer<'_>],
        verifier: &Arc<dyn ClientCertVerifier>,
    ) -> Option<Self> {
        let (own, rest) = chain.split_first()?;
        if let Err(error) = verifier.verify_client_cert(own, rest, UnixTime::now()) {
            return Some(Self::Refused(error.to_string()));
        }
        Some(match X509Certificate::from_der(own) {
            Ok((_, parsed)) => Self::from_certificate(own, &parsed),
            Err(error) => Self::Refused(error.to_string()),
        })
    }

    /// Common name and organizations, as Kubernetes reads them.
    fn from_certificate(der: &[u8], parsed: &X509Certificate<'_>) -> Self {
        let subject = parsed.subject();
        let name = subject.iter_common_name().next().and_then(|value| value.as_str().ok());
        let Some(name) = name.filter(|name| !name.is_empty()).map(str::to_owned) else {
            return Self::Refused("the certificate has no common name".to_owned());
        };
        let organizations = subject.iter_organization().filter_map(|value| value.as_str().ok());
        let mut groups: Vec<String> = organizations.map(str::to_owned).collect();
        groups.push(AUTHENTICATED.to_owned());
        let id = digest(&SHA256, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let extra = [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={id}")])].into();
        let user = User { name, uid: String::new(), groups, extra };
        Self::Known(Box::new(user), parsed.validity().not_after.timestamp())
    }
}
