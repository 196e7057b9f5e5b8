//! Who signs, and what.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{DAY, Error, Identity, MASTERS, files, parse};

/// How long the authority's certificate is good for. It is signed anew, with the same key, in its last two years: what it
/// signed stays good, also with clients that know the older one.
const CA_DAYS: u32 = 3650;
const CA_DAYS_LEFT: u32 = 730;

/// How long the others are good for, and how many days before the end they are made anew.
const LEAF_DAYS: u32 = 365;
const LEAF_DAYS_LEFT: u32 = 90;

/// Clocks differ.
const BEFORE: Duration = Duration::from_secs(60 * 60);

/// The name in the authority's certificate, and so in what it signed.
const CA_NAME: &str = "vaquita-ca";

/// Who may do everything, as kubeadm names them.
const ADMIN: Leaf<'_> = Leaf::Client { name: "kubernetes-admin", group: Some(MASTERS) };

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// What is signed.
pub(super) enum Leaf<'a> {
    /// The user's name and group.
    Client { name: &'a str, group: Option<&'a str> },
    /// By which clients call us.
    Server { names: &'a [String] },
}

impl Authority {
    /// What is in the directory, or a new one.
    pub(super) fn open(dir: &Path, now: SystemTime) -> Result<Self, Error> {
        let key = files::key(&dir.join("ca.key"))?;
        let path = dir.join("ca.crt");
        let params = ca_params(now)?;
        let there = files::read(&path)?;
        let usable = there.filter(|pem| matches(pem, &key, now, CA_DAYS_LEFT));
        let pem = match usable {
            Some(pem) => pem,
            None => {
                let made = params.self_signed(&key).map_err(|error| Error::sign("the authority", &error))?;
                files::write(&path, made.pem().as_bytes())?;
                made.pem()
            }
        };
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| Error::malformed(&path, &error))?;
        Ok(Self { issuer: Issuer::new(params, key), pem, der })
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate by which clients know us.
    pub(super) fn serving(&self, dir: &Path, names: &[String], now: SystemTime) -> Result<Identity, Error> {
        self.kept(dir, "apiserver", &Leaf::Server { names }, now)
    }

    /// The certificate by which we know the admin.
    pub(super) fn admin(&self, dir: &Path, now: SystemTime) -> Result<Identity, Error> {
        self.kept(dir, "admin", &ADMIN, now)
    }

    /// Whether one of the two is about to end.
    pub(super) fn is_due(&self, dir: &Path, names: &[String], now: SystemTime) -> bool {
        let good = |name: &str, leaf: &Leaf<'_>| match load(dir, name) {
            Ok(Some(identity)) => self.good(&identity, leaf, now),
            _ => false,
        };
        !good("apiserver", &Leaf::Server { names }) || !good("admin", &ADMIN)
    }

    /// What is in `NAME.crt` and `NAME.key`, where that is good still; else a new one with the same key.
    fn kept(&self, dir: &Path, name: &str, leaf: &Leaf<'_>, now: SystemTime) -> Result<Identity, Error> {
        let key = files::key(&dir.join(format!("{name}.key")))?;
        if let Some(identity) = load(dir, name)?.filter(|identity| self.good(identity, leaf, now)) {
            return Ok(identity);
        }
        let made = self.issue(leaf, Some(&key), now)?;
        files::write(&dir.join(format!("{name}.crt")), made.certificate.as_bytes())?;
        Ok(made)
    }

    /// Signs a certificate, for a new key where none is given.
    pub(super) fn issue(
        &self,
        leaf: &Leaf<'_>,
        key: Option<&KeyPair>,
        now: SystemTime,
    ) -> Result<Identity, Error> {
        let failed = |error| Error::sign("a certificate", &error);
        let new;
        let key = match key {
            Some(key) => key,
            None => {
                new = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
                &new
            }
        };
        let certificate = leaf.params(now)?.signed_by(key, &self.issuer).map_err(failed)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Whether it is signed by us, for this key and these names, and not about to end.
    fn good(&self, identity: &Identity, leaf: &Leaf<'_>, now: SystemTime) -> bool {
        let Ok(key) = KeyPair::from_pem(&identity.key) else { return false };
        if !matches(&identity.certificate, &key, now, LEAF_DAYS_LEFT) {
            return false;
        }
        let Some((certificate, _)) = parse(identity) else { return false };
        let Ok((_, parsed)) = X509Certificate::from_der(&certificate) else { return false };
        let signed = self.verifier().is_ok_and(|verifier| {
            let leaf_is_client = matches!(leaf, Leaf::Client { .. });
            let until_now = rustls::pki_types::UnixTime::since_unix_epoch(since_epoch(now));
            // A server's certificate is none of a client: its signature is what counts.
            !leaf_is_client || verifier.verify_client_cert(&certificate, &[], until_now).is_ok()
        });
        signed && parsed.issuer().to_string() == format!("CN={CA_NAME}") && leaf.names_agree(&parsed)
    }

    /// What knows clients by certificates of ours.
    pub(super) fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::sign("the verifier of clients", error);
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).map_err(|error| failed(&error))?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), super::serving::provider())
                .allow_unauthenticated()
                .build();
        verifier.map_err(|error| failed(&error))
    }
}

impl Leaf<'_> {
    fn params(&self, now: SystemTime) -> Result<CertificateParams, Error> {
        let mut params = CertificateParams::default();
        params.not_before = (now - BEFORE).into();
        params.not_after = (now + DAY * LEAF_DAYS).into();
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        match self {
            Self::Client { name, group } => {
                params.distinguished_name.push(DnType::CommonName, *name);
                if let Some(group) = group {
                    params.distinguished_name.push(DnType::OrganizationName, *group);
                }
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
            Self::Server { names } => {
                params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params.subject_alt_names =
                    names.iter().map(|name| alternative(name)).collect::<Result<_, _>>()?;
            }
        }
        Ok(params)
    }

    /// Whether a server's certificate has all the names that it should have.
    fn names_agree(&self, parsed: &X509Certificate<'_>) -> bool {
        let Self::Server { names } = self else { return true };
        let Ok(Some(there)) = parsed.subject_alternative_name() else { return false };
        let there = &there.value.general_names;
        names.iter().all(|name| match name.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => there.contains(&GeneralName::IPAddress(&address.octets())),
            Ok(IpAddr::V6(address)) => there.contains(&GeneralName::IPAddress(&address.octets())),
            Err(_) => there.contains(&GeneralName::DNSName(name)),
        })
    }
}

fn alternative(name: &str) -> Result<SanType, Error> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let name =
        name.try_into().map_err(|error| Error::sign(&format!("a certificate for {name:?}"), &error))?;
    Ok(SanType::DnsName(name))
}

fn ca_params(now: SystemTime) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.not_before = (now - BEFORE).into();
    params.not_after = (now + DAY * CA_DAYS).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn load(dir: &Path, name: &str) -> Result<Option<Identity>, Error> {
    let certificate = files::read(&dir.join(format!("{name}.crt")))?;
    let key = files::read(&dir.join(format!("{name}.key")))?;
    Ok(certificate.zip(key).map(|(certificate, key)| Identity { certificate, key }))
}

/// Whether the certificate is for this key and good for so many days more.
fn matches(pem: &str, key: &KeyPair, now: SystemTime, days: u32) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    let Ok((_, parsed)) = X509Certificate::from_der(&der) else { return false };
    let at = |time: SystemTime| i64::try_from(since_epoch(time).as_secs()).unwrap_or(i64::MAX);
    parsed.public_key().subject_public_key.data == key.public_key_raw()
        && parsed.validity().not_before.timestamp() <= at(now)
        && parsed.validity().not_after.timestamp() > at(now + DAY * days)
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
