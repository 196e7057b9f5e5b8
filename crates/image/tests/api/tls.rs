//! HTTPS with certificates of one's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vaquita_image::{Kind, Reference};

use crate::hosts::hosts;
use crate::pull::small;
use crate::registry::{Registry, Reply};
use crate::{Place, impatient};

/// A certificate for 127.0.0.1, with the file that is to be trusted.
pub(crate) fn certificate(dir: &Path, is_authority: bool) -> (rustls::ServerConfig, PathBuf) {
    let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    if is_authority {
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let made = parameters.self_signed(&key).unwrap();
    let file = dir.join("ca.pem");
    std::fs::write(&file, made.pem()).unwrap();
    (server(None, made.der().clone(), &key), file)
}

pub(crate) fn server(
    clients: Option<rustls::RootCertStore>,
    certificate: rustls::pki_types::CertificateDer<'static>,
    key: &rcgen::KeyPair,
) -> rustls::ServerConfig {
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider)
                .build()
                .unwrap(),
        ),
    };
    builder.with_single_cert(vec![certificate], key).unwrap()
}

#[tokio::test]
async fn https_with_an_authority_of_its_own() {
    // The second certificate says of itself that it is an authority: people do make such.
    for is_authority in [false, true] {
        let place = Place::new();
        let (tls, ca_file) = certificate(place.dir.path(), is_authority);
        let content = small();
        let registry = Registry::start_with(Some(tls), move |ask| content.answer(ask)).await;
        let (reference, name) = (registry.reference("a"), registry.address.to_string());
        let unknown = place.store.pull(&reference, None, &impatient()).await.unwrap_err();
        assert_eq!(unknown.kind(), Kind::Unavailable);
        let told = unknown.to_string();
        assert!(told.contains("TLS") && told.contains("ca.crt"), "{told}");
        assert_eq!(told.matches(&format!("https://{name}")).count(), 1, "{told}");
        for text in [
            format!("server = \"https://{name}\"\nca = \"{}\"", ca_file.display()),
            format!("server = \"https://{name}\"\nskip_verify = true"),
            format!("[host.\"https://{name}\"]\nca = [\"../../ca.pem\"]\n"),
        ] {
            place.store.pull(&reference, None, &hosts(&place, &name, &text)).await.unwrap();
        }
        let registries = hosts(&place, &name, "");
        std::fs::copy(&ca_file, place.dir.path().join("certs.d").join(&name).join("ca.crt")).unwrap();
        place.store.pull(&reference, None, &registries).await.unwrap();
        // Another certificate is not what was trusted.
        let other = tempfile::tempdir().unwrap();
        let (_, file) = certificate(other.path(), is_authority);
        std::fs::copy(file, place.dir.path().join("certs.d").join(&name).join("ca.crt")).unwrap();
        let error = place.store.pull(&reference, None, &registries).await.unwrap_err();
        assert!(error.to_string().contains("TLS"), "{error}");
    }
}

/// A certificate that is trusted is still good for its own names only.
#[tokio::test]
async fn a_certificate_has_the_name_of_its_host() {
    for is_authority in [false, true] {
        let place = Place::new();
        let (tls, ca_file) = certificate(place.dir.path(), is_authority);
        let registry = Registry::start_with(Some(tls), |_| Reply::status(404)).await;
        let name = format!("localhost:{}", registry.address.port());
        let registries = hosts(&place, &name, &format!("ca = \"{}\"", ca_file.display()));
        let reference = Reference::parse(&format!("{name}/a")).unwrap();
        let error = place.store.pull(&reference, None, &registries).await.unwrap_err();
        assert!(error.to_string().contains("not valid for name"), "{error}");
    }
}

/// The client certificate is for the registry, not for where it sends us.
#[tokio::test]
async fn client_certificates() {
    let place = Place::new();
    let dir = place.dir.path();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, &authority_key);
    let leaf = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let made =
            rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (made, key)
    };
    let (served, key) = leaf("127.0.0.1");
    let mut clients = rustls::RootCertStore::empty();
    clients.add(authority.der().clone()).unwrap();
    let content = small();
    // It wants a certificate, too, and must not get one.
    let storage =
        Registry::start_with(Some(server(Some(clients.clone()), served.der().clone(), &key)), |_| {
            Reply::status(404)
        })
        .await;
    let elsewhere = format!("https://{}", storage.address);
    let registry =
        Registry::start_with(Some(server(Some(clients), served.der().clone(), &key)), move |ask| {
            if ask.path.contains("/v2/away/") {
                return Reply::status(307).header("location", format!("{elsewhere}{}", ask.path));
            }
            content.answer(ask)
        })
        .await;
    let name = registry.address.to_string();
    std::fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
    let (mine, my_key) = leaf("node");
    std::fs::write(dir.join("me.pem"), mine.pem()).unwrap();
    std::fs::write(dir.join("me.key"), my_key.serialize_pem()).unwrap();
    std::fs::write(dir.join("both.pem"), mine.pem() + &my_key.serialize_pem()).unwrap();
    let pull = async |path: &str, more: &str| {
        let registries = hosts(&place, &name, &format!("ca = \"../../ca.pem\"\n{more}"));
        place.store.pull(&registry.reference(path), None, &registries).await.map(|_| ())
    };
    let none = pull("a", "").await.unwrap_err();
    assert!(none.to_string().contains("client certificate"), "{none}");
    pull("a", "client = [[\"../../me.pem\", \"../../me.key\"]]").await.unwrap();
    pull("b", "client = \"../../both.pem\"").await.unwrap();
    let away = pull("away", "client = \"../../both.pem\"").await.unwrap_err();
    assert!(away.to_string().contains("client certificate"), "{away}");
    let wrong =
        pull("a", "client = [[\"../../me.pem\", \"../../both.pem\"], [\"../../ca.pem\", \"../../me.key\"]]")
            .await;
    assert!(wrong.unwrap_err().to_string().contains("me.key"));
}
