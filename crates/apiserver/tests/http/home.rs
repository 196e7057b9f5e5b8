//! A server on a port of its own, and a client for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpListener;
use vaquita_apiserver::access::Peer;
use vaquita_apiserver::http::handle;
use vaquita_apiserver::pki::Pki;
use vaquita_apiserver::{
    Access, Answer, Api, Cluster, LogOptions, LogText, Node, NodeUsage, Options, Status, Stream, User, Write,
};
use vaquita_store::Store;

/// A machine without pods.
#[derive(Debug)]
struct Nothing;

impl Node for Nothing {
    fn log<'a>(&'a self, _: &'a Value, _: &'a LogOptions) -> Answer<'a, LogText> {
        Box::pin(async { Err(Status::unavailable("no pods here")) })
    }

    fn stream<'a>(&'a self, _: &'a Value, _: &'a Stream) -> Answer<'a, String> {
        Box::pin(async { Err(Status::unavailable("no pods here")) })
    }

    fn usage(&self) -> Answer<'_, Option<NodeUsage>> {
        Box::pin(async { Ok(None) })
    }
}

pub(crate) struct Home {
    pub(crate) cluster: Cluster,
    pub(crate) address: String,
    client: Client<HttpConnector, Full<Bytes>>,
    server: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Home {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Home {
    /// With every kind, if asked.
    pub(crate) async fn start(all_kinds: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb"), vaquita_store::Options::default()).unwrap();
        let cluster = Cluster::new(store, Options { all_kinds });
        cluster.bootstrap().await.unwrap();
        let pki = Pki::open(&dir.path().join("pki"), &["localhost".to_owned()]).unwrap();
        let access = Access::new(pki.signer(), Box::new(cluster.clone()));
        let api = Arc::new(Api { cluster: cluster.clone(), access, node: Arc::new(Nothing) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(serve(listener, api));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { cluster, address, client, server, _dir: dir }
    }

    pub(crate) fn write(&self) -> Write {
        Write::system("test")
    }

    /// Sends a request; `accept` and `content` are the headers, empty for none.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        (accept, content): (&str, &str),
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if !accept.is_empty() {
            request = request.header("accept", accept);
        }
        if !content.is_empty() {
            request = request.header("content-type", content);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        tokio::time::timeout(Duration::from_secs(60), self.client.request(request))
            .await
            .expect("an answer")
            .unwrap()
    }

    /// Sends JSON; the status and the JSON of the answer.
    pub(crate) async fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let content = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
        let response = self.send(method, path, ("", content), body).await;
        read(response).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (code, value) = self.json("GET", path, &Value::Null).await;
        assert_eq!(code, 200, "{value}");
        value
    }
}

/// The status and JSON of an answer.
pub(crate) async fn read(response: Response<Incoming>) -> (u16, Value) {
    let code = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let value = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    (StatusCode::as_u16(&code), value)
}

async fn serve(listener: TcpListener, api: Arc<Api>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let api = api.clone();
        tokio::spawn(async move {
            let peer = Peer::Known(Box::new(User::system("masters")), i64::MAX);
            let service = service_fn(|request| {
                let (api, peer) = (api.clone(), peer.clone());
                async move { Ok::<_, std::convert::Infallible>(handle(&api, Some(&peer), request).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .with_upgrades();
            let _ = served.await;
        });
    }
}
