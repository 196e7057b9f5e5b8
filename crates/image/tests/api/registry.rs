//! A registry on loopback that does what a test tells it to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::content::Content;

/// A request as the registry saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) method: String,
    /// With query.
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) headers: hyper::HeaderMap,
    /// First byte of a `Range`.
    pub(crate) from: Option<usize>,
    pub(crate) body: String,
}

/// What to answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Break the connection after this many bytes of the body.
    pub(crate) breaks_after: Option<usize>,
    /// Never send the rest after this many bytes.
    pub(crate) stalls_after: Option<usize>,
}

/// A running registry; it ends when this is dropped.
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Ask>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registry {
    pub(crate) async fn start(answer: impl Fn(&Ask) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, answer).await
    }

    /// With TLS where a configuration is given.
    pub(crate) async fn start_with(
        tls: Option<rustls::ServerConfig>,
        answer: impl Fn(&Ask) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let answer: Arc<dyn Fn(&Ask) -> Reply + Send + Sync> = Arc::new(answer);
        let tls = tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        let task = tokio::spawn(async move {
            // The connections end with the listener: the set is dropped with this task.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, tls.clone(), Arc::clone(&answer), Arc::clone(&log)));
            }
        });
        Self { address, seen, task }
    }

    /// A registry that has one image, in any repository.
    pub(crate) async fn of(content: Content) -> Self {
        Self::start(move |ask| content.answer(ask)).await
    }

    /// A reference into it.
    pub(crate) fn reference(&self, rest: &str) -> vaquita_image::Reference {
        vaquita_image::Reference::parse(&format!("{}/{rest}", self.address)).unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Ask> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|ask| ask.path.contains(part)).count()
    }
}

async fn serve(
    stream: TcpStream,
    tls: Option<tokio_rustls::TlsAcceptor>,
    answer: Arc<dyn Fn(&Ask) -> Reply + Send + Sync>,
    log: Arc<Mutex<Vec<Ask>>>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
        async move {
            let text =
                |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let from =
                text("range").and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
            let mut ask = Ask {
                method: request.method().to_string(),
                path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
                authorization: text("authorization"),
                headers: request.headers().clone(),
                from,
                body: String::new(),
            };
            let body = http_body_util::BodyExt::collect(request.into_body()).await.map(|b| b.to_bytes());
            ask.body = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
            let reply = answer(&ask);
            log.lock().unwrap().push(ask.clone());
            let mut response = Response::builder().status(reply.status);
            for (name, value) in &reply.headers {
                response = response.header(*name, value);
            }
            let body =
                Body { bytes: reply.body, sent: 0, end: reply.breaks_after, stall: reply.stalls_after };
            Ok::<_, Infallible>(response.body(body).unwrap())
        }
    });
    let http = hyper::server::conn::http1::Builder::new();
    // A client that goes away is part of the tests.
    let _ = match tls {
        None => http.serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
            Err(_) => Ok(()),
        },
    };
}

struct Body {
    bytes: Vec<u8>,
    sent: usize,
    end: Option<usize>,
    stall: Option<usize>,
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let limit =
            self.bytes.len().min(self.end.unwrap_or(usize::MAX)).min(self.stall.unwrap_or(usize::MAX));
        if self.sent < limit {
            let until = limit.min(self.sent + 16_384);
            let piece = Bytes::copy_from_slice(&self.bytes[self.sent..until]);
            self.sent = until;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if self.stall.is_some_and(|at| self.sent >= at) {
            return Poll::Pending;
        }
        if self.end.is_some_and(|at| self.sent >= at) {
            return Poll::Ready(Some(Err(std::io::Error::other("broken on purpose"))));
        }
        Poll::Ready(None)
    }
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

impl Content {
    /// What a decent registry answers, whatever the repository.
    pub(crate) fn answer(&self, ask: &Ask) -> Reply {
        let path = ask.path.split('?').next().unwrap_or_default();
        let at = path.find("/manifests/").or_else(|| path.find("/blobs/"));
        let Some((kind, bytes)) = at.and_then(|at| self.files.get(&path[at + 1..])) else {
            return Reply::status(404);
        };
        let digest = vaquita_image::Digest::of(bytes).to_string();
        let reply =
            Reply::status(200).header("content-type", kind.clone()).header("docker-content-digest", digest);
        match ask.from {
            _ if ask.method == "HEAD" => reply,
            Some(from) if from < bytes.len() => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                let reply = Reply { status: 206, ..reply };
                reply.header("content-range", range).body(&bytes[from..])
            }
            _ => reply.body(bytes.clone()),
        }
    }
}
