//! A server with certificates of its own, and clients for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vaquita_apiserver::pki::{Identity, Pki};
use vaquita_apiserver::{
    Access, Answer, Api, Cluster, Config, LogOptions, LogText, Node, NodeUsage, Options, PodUsage, Status,
    Stream, Usage, Write, serve,
};
use vaquita_store::Store;

/// A machine that says what it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// Where streams go; without one there is nothing to be joined to.
    pub(crate) streams: Option<String>,
}

impl Node for Machine {
    fn log<'a>(&'a self, _: &'a Value, options: &'a LogOptions) -> Answer<'a, LogText> {
        Box::pin(async move {
            let (send, receive) = mpsc::channel(4);
            let text = format!("{} {:?} {}\n", options.container, options.tail_lines, options.follow);
            send.send(Ok(Bytes::from(text))).await.unwrap();
            Ok(LogText(receive))
        })
    }

    fn stream<'a>(&'a self, _: &'a Value, what: &'a Stream) -> Answer<'a, String> {
        Box::pin(async move {
            let verb = match what {
                Stream::Attach { .. } => "attach",
                Stream::Exec { .. } => "exec",
                Stream::PortForward { .. } => "portforward",
            };
            let address =
                self.streams.as_ref().ok_or_else(|| Status::internal("container not found (\"a\")"))?;
            Ok(format!("http://{address}/{verb}/token"))
        })
    }

    fn usage(&self) -> Answer<'_, Option<NodeUsage>> {
        let usage = Usage { cpu: 5_000_000, memory: 3 << 20 };
        let pods = vec![PodUsage {
            namespace: "default".to_owned(),
            name: "p".to_owned(),
            containers: vec![("a".to_owned(), usage)],
        }];
        Box::pin(async move {
            Ok(Some(NodeUsage {
                name: "n".to_owned(),
                total: usage,
                window: 10,
                pods,
                ..NodeUsage::default()
            }))
        })
    }
}

pub(crate) struct Home {
    pub(crate) cluster: Cluster,
    pub(crate) pki: Pki,
    pub(crate) address: String,
    end: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Home {
    pub(crate) async fn start(machine: Machine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb"), vaquita_store::Options::default()).unwrap();
        let cluster = Cluster::new(store, Options::default());
        cluster.bootstrap().await.unwrap();
        let pki = Pki::open(&dir.path().join("pki"), &[]).unwrap();
        let access = Access::new(pki.signer(), Box::new(cluster.clone()));
        let api = Arc::new(Api { cluster: cluster.clone(), access, node: Arc::new(machine) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (end, ended) = oneshot::channel::<()>();
        let config = Config { listeners: vec![listener], pki: pki.clone() };
        let server = tokio::spawn(async move {
            let ended = async {
                let _ = ended.await;
            };
            serve(api, config, ended).await.unwrap();
        });
        Self { cluster, pki, address, end: Some(end), server, _dir: dir }
    }

    /// Ends the server, as a shutdown does.
    pub(crate) async fn end(mut self) {
        let _ = self.end.take().unwrap().send(());
        tokio::time::timeout(Duration::from_secs(30), &mut self.server).await.expect("an end").unwrap();
    }

    /// The administrator.
    pub(crate) fn admin(&self) -> Identity {
        self.pki.identity("kubernetes-admin", Some("system:masters")).unwrap()
    }

    pub(crate) async fn connect(&self, who: Option<&Identity>) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pki.ca().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match who {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
                config.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        let socket = TcpStream::connect(&self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
    }

    /// Sends a request; the status and the body.
    pub(crate) async fn ask(
        &self,
        who: Option<&Identity>,
        line: &str,
        headers: &str,
        body: &str,
    ) -> (u16, String) {
        let mut stream = self.connect(who).await;
        let length = body.len();
        let text = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
        let _ = read.expect("an answer");
        let answer = String::from_utf8(answer).unwrap();
        let code = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        (code, body)
    }

    /// The same by a token.
    pub(crate) async fn ask_by(&self, token: &str, line: &str) -> (u16, String) {
        self.ask(None, line, &format!("authorization: Bearer {token}\r\n"), "").await
    }

    /// The same for an answer in JSON.
    pub(crate) async fn post(&self, who: &Identity, path: &str, body: &Value) -> (u16, Value) {
        let (code, text) = self.ask(Some(who), &format!("POST {path}"), "", &body.to_string()).await;
        (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    pub(crate) async fn create(&self, plural: &str, object: Value) -> Value {
        let kind = self.cluster.kind("", "v1", plural).unwrap();
        self.cluster.create(kind, "default", object, &Write::system("test")).await.unwrap().value()
    }

    /// A pod of one container `a`, on a node if one is named.
    pub(crate) async fn pod(&self, name: &str, node: Option<&str>) -> Value {
        let mut pod = json!({
            "metadata": { "name": name, "labels": { "app": name } },
            "spec": { "containers": [{ "name": "a", "image": "x" }] },
        });
        if let Some(node) = node {
            pod["spec"]["nodeName"] = node.into();
        }
        self.create("pods", pod).await
    }
}
