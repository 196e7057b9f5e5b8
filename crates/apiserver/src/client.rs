//! A client of the API by a kubeconfig of ours: for commands on the same host.

use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::HOST;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Status;

/// The most bytes of an answer that says what is wrong.
const COMPLAINT: usize = 64 << 10;

/// Asks for a path, with the certificate of the kubeconfig, and gives what comes to `write`, piece by piece.
///
/// # Errors
/// What the server says, or why it cannot be asked: then 503.
pub async fn fetch(
    kubeconfig: &str,
    path: &str,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Status> {
    let known =
        Known::parse(kubeconfig).ok_or_else(|| Status::unavailable("the kubeconfig is none of ours"))?;
    let failed = |error: &dyn std::fmt::Display| {
        Status::unavailable(format!("cannot ask the API at https://{}: {error}", known.authority))
    };
    let socket = TcpStream::connect(&known.authority).await.map_err(|error| failed(&error))?;
    let tls =
        TlsConnector::from(known.tls).connect(known.name, socket).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(tls)).await.map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header(HOST, &known.authority).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| failed(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let code = answer.status().as_u16();
    let mut body = answer.into_body();
    if code != 200 {
        let text = Limited::new(body, COMPLAINT).collect().await.map(http_body_util::Collected::to_bytes);
        let said: Value = serde_json::from_slice(&text.unwrap_or_default()).unwrap_or_default();
        let why = said["message"].as_str().unwrap_or("it does not say why").to_owned();
        return Err(Status::plain(code, crate::Reason::Unknown, why));
    }
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame.map_err(|error| failed(&error))?.into_data() {
            write(&piece).map_err(|error| failed(&error))?;
        }
    }
    connection.abort();
    Ok(())
}

/// What a kubeconfig says.
struct Known {
    /// Host and port.
    authority: String,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

impl Known {
    fn parse(kubeconfig: &str) -> Option<Self> {
        let config: Value = serde_saphyr::from_str(kubeconfig).ok()?;
        let cluster = &config["clusters"][0]["cluster"];
        let user = &config["users"][0]["user"];
        let pem = |value: &Value| STANDARD.decode(value.as_str()?).ok();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&pem(&cluster["certificate-authority-data"])?).ok()?)
            .ok()?;
        let own = CertificateDer::from_pem_slice(&pem(&user["client-certificate-data"])?).ok()?;
        let key = PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])?).ok()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .ok()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![own], key)
            .ok()?;
        let uri: Uri = cluster["server"].as_str()?.parse().ok()?;
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Self {
            authority: uri.authority()?.to_string(),
            name: ServerName::try_from(host).ok()?,
            tls: Arc::new(tls),
        })
    }
}
