//! The same over TLS.

use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use vaquita_streaming::{Config, Exec, Kind, Request, Server, Tls};

use crate::spdy::Spdy;
use crate::support::{ALL, Running};

#[tokio::test]
async fn a_session_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["node".to_owned()]).unwrap();
    let tls = Tls { certificate: dir.path().join("cert"), key: dir.path().join("key") };
    std::fs::write(&tls.certificate, cert.pem()).unwrap();
    std::fs::write(&tls.key, signing_key.serialize_pem()).unwrap();
    let running = Running::with(&Config { tls: Some(tls), ..Config::default() });
    let request = Exec { container: "c".into(), command: vec!["both".into()], streams: ALL };
    let url = running.server.url_for(Request::Exec(request)).unwrap();
    let address = running.server.address();
    let path = url.strip_prefix(&format!("https://{address}")).unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("node").unwrap();
    let mut socket = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    let mut spdy = Spdy::new(socket);
    for kind in ["error", "stdin", "stdout", "stderr"] {
        spdy.open(&[("streamtype", kind)]).await;
    }
    assert_eq!(spdy.rest().await[&5].0, b"out");
}

#[tokio::test]
async fn files_that_are_no_certificate_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls { certificate: dir.path().join("no-such-cert"), key: dir.path().join("key") };
    let error = Server::bind(&Config { tls: Some(tls), ..Config::default() }).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("no-such-cert"), "{error}");
}
