use std::os::unix::fs::PermissionsExt;

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{RootCertStore, client::WebPkiServerVerifier};
use tempfile::TempDir;

use super::*;
use crate::access::User;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("pki")
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir().join(name)).unwrap()
    }
}

fn year(years: u32) -> SystemTime {
    SystemTime::now() + DAY * 365 * years
}

/// Whether a client that trusts the authority takes the server's certificate for the name, at the time.
fn trusted(ca: &str, certificate: &str, name: &str, at: SystemTime) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), serving::provider()).build().unwrap();
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let now = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    verifier.verify_server_cert(&der, &[], &name, &[], now).map(|_| ())
}

fn peer(pki: &Pki, identity: &Identity) -> Peer {
    let der = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    Peer::from_chain(&[der], &pki.0.clients).unwrap()
}

#[test]
fn files_are_ours_alone_and_stay() {
    let place = Place::new();
    let first = Pki::open(&place.dir(), &[]).unwrap();
    let names = ["ca.crt", "ca.key", "apiserver.crt", "apiserver.key", "admin.crt", "admin.key", "sa.key"];
    let texts: Vec<String> = names.iter().map(|name| place.text(name)).collect();
    let mut there: Vec<_> = std::fs::read_dir(place.dir()).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(there.len(), names.len());
    for entry in there.drain(..) {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o7777, 0o600, "{entry:?}");
    }
    assert_eq!(place.dir().metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    let again = Pki::open(&place.dir(), &[]).unwrap();
    assert_eq!(again.ca(), first.ca());
    assert_eq!(names.iter().map(|name| place.text(name)).collect::<Vec<_>>(), texts);
}

#[test]
fn clients_trust_the_server_by_all_its_names() {
    let place = Place::new();
    let pki = Pki::open(&place.dir(), &["192.0.2.7".to_owned(), "node.example".to_owned()]).unwrap();
    let names = [
        "localhost",
        "127.0.0.1",
        "::1",
        "kubernetes.default.svc.cluster.local",
        "192.0.2.7",
        "node.example",
    ];
    for name in names {
        trusted(pki.ca(), &place.text("apiserver.crt"), name, SystemTime::now()).unwrap();
    }
    trusted(pki.ca(), &place.text("apiserver.crt"), "elsewhere.example", SystemTime::now()).unwrap_err();
    trusted(pki.ca(), &place.text("apiserver.crt"), "localhost", year(2)).unwrap_err();
    assert!(!all_names(&["0.0.0.0".to_owned()]).contains(&"0.0.0.0".to_owned()));
}

#[test]
fn a_certificate_is_made_anew_before_it_ends_and_for_new_names() {
    let place = Place::new();
    Pki::open(&place.dir(), &[]).unwrap();
    let (serving, admin, key) =
        (place.text("apiserver.crt"), place.text("admin.crt"), place.text("apiserver.key"));
    let pki = Pki::open(&place.dir(), &["192.0.2.7".to_owned()]).unwrap();
    assert_ne!(place.text("apiserver.crt"), serving);
    assert_eq!(place.text("admin.crt"), admin);
    assert!(!pki.renew_at(SystemTime::now()).unwrap());

    let before = pki.0.serving.current();
    let soon = SystemTime::now() + DAY * 300;
    assert!(pki.renew_at(soon).unwrap());
    assert_ne!(pki.0.serving.current().cert, before.cert);
    assert_ne!(place.text("admin.crt"), admin);
    assert_eq!(place.text("apiserver.key"), key);
    trusted(pki.ca(), &place.text("apiserver.crt"), "localhost", soon + DAY * 364).unwrap();
}

#[test]
fn what_an_older_authority_signed_stays_good() {
    let place = Place::new();
    let first = Pki::open(&place.dir(), &[]).unwrap();
    let late = Pki::open_at(&place.dir(), &[], year(9)).unwrap();
    assert_ne!(late.ca(), first.ca());
    let at = year(9) + DAY * 30;
    trusted(late.ca(), &place.text("apiserver.crt"), "localhost", at).unwrap();
    trusted(first.ca(), &place.text("apiserver.crt"), "localhost", at).unwrap();
}

#[test]
fn the_admin_is_known_and_a_stranger_is_not() {
    let place = Place::new();
    let pki = Pki::open(&place.dir(), &[]).unwrap();
    let admin = pki.0.authority.admin(&place.dir(), SystemTime::now()).unwrap();
    let Peer::Known(user, _) = peer(&pki, &admin) else { panic!() };
    assert_eq!(user.name, "kubernetes-admin");
    assert!(user.is_in(MASTERS) && user.is_in("system:authenticated"));
    let jane = pki.identity("jane", Some("dev")).unwrap();
    let Peer::Known(user, _) = peer(&pki, &jane) else { panic!() };
    let User { name, groups, .. } = *user;
    assert_eq!((name.as_str(), groups.len()), ("jane", 2));

    let other = Pki::open(&Place::new().dir(), &[]).unwrap();
    let forged = other.identity("kubernetes-admin", Some(MASTERS)).unwrap();
    assert!(matches!(peer(&pki, &forged), Peer::Refused(_)));
    let jane = Leaf::Client { name: "jane", group: None };
    let expired = pki.0.authority.issue(&jane, None, SystemTime::now() - DAY * 400);
    assert!(matches!(peer(&pki, &expired.unwrap()), Peer::Refused(_)));
    // The server's own certificate is none of a client.
    let serving = Identity { certificate: place.text("apiserver.crt"), key: place.text("apiserver.key") };
    assert!(matches!(peer(&pki, &serving), Peer::Refused(_)));
}

#[test]
fn what_others_could_read_or_nobody_can_is_refused() {
    let place = Place::new();
    Pki::open(&place.dir(), &[]).unwrap();
    let key = place.dir().join("ca.key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    assert_eq!(Pki::open(&place.dir(), &[]).unwrap_err().kind(), Kind::Open);
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::set_permissions(place.dir(), PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(Pki::open(&place.dir(), &[]).unwrap_err().kind(), Kind::Open);
    std::fs::set_permissions(place.dir(), PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(&key, "nonsense").unwrap();
    let error = Pki::open(&place.dir(), &[]).unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
    assert!(error.to_string().contains("ca.key"), "{error}");
}

#[test]
fn a_file_that_was_cut_off_in_the_making_does_no_harm() {
    let place = Place::new();
    Pki::open(&place.dir(), &[]).unwrap();
    std::fs::write(place.dir().join("apiserver.crt.new"), "half").unwrap();
    std::fs::remove_file(place.dir().join("apiserver.crt")).unwrap();
    let pki = Pki::open(&place.dir(), &[]).unwrap();
    trusted(pki.ca(), &place.text("apiserver.crt"), "localhost", SystemTime::now()).unwrap();
    assert!(!place.dir().join("apiserver.crt.new").exists());
}

#[test]
fn the_kubeconfig_reads_as_one() {
    let place = Place::new();
    let pki = Pki::open(&place.dir(), &[]).unwrap();
    let text = pki.kubeconfig("https://127.0.0.1:6443").unwrap();
    let config: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    let ca =
        STANDARD.decode(config["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap());
    assert_eq!(ca.unwrap(), pki.ca().as_bytes());
    let path = place.0.path().join("admin.kubeconfig");
    pki.write_kubeconfig(&path, "https://127.0.0.1:6443").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
}
