//! What happens around every call: its connection is in use, and a fault in it is its own.

use std::any::Any;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use super::clients::{Call, Client};
use crate::encoded::Encoded;

/// Puts [`Calls`] around services.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallsLayer;

impl<S> Layer<S> for CallsLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Calls { inner }
    }
}

/// A service whose panics are answers. What runs besides the call, in tasks of its own, is not its concern: a task that
/// panics ends alone, and who waits for it gets an error.
#[derive(Clone, Debug)]
pub(super) struct Calls<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method: Arc<str> = request.uri().path().into();
        let call = request.extensions().get::<Arc<Client>>().map(Client::begin);
        let began = catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        Box::pin(async move {
            let ended = match began {
                Ok(future) => Caught(Box::pin(future)).await,
                Err(panic) => Err(panic),
            };
            match ended {
                Ok(Ok(mut response)) => {
                    let encoded = Encoded::take(response.extensions_mut()).map(Body::new);
                    let answer = |body| Answer { body: encoded.unwrap_or(body), method, _call: call };
                    Ok(response.map(|body| Body::new(answer(body))))
                }
                Ok(Err(never)) => match never {},
                Err(panic) => Ok(fault(&method, panic.as_ref()).into_http()),
            }
        })
    }
}

/// A future whose panic is its output.
struct Caught<F>(Pin<Box<F>>);

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Box<dyn Any + Send>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// The answer to a call, which may be a stream that goes on for long.
struct Answer {
    body: Body,
    method: Arc<str>,
    _call: Option<Call>,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut self.body).poll_frame(context))) {
            Ok(poll) => poll,
            Err(panic) => {
                let status = fault(&self.method, panic.as_ref());
                self.body = Body::empty();
                Poll::Ready(Some(trailers(&status)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The end of a stream, which says why (PROTOCOL-HTTP2.md of gRPC, Trailers).
fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut headers = http::HeaderMap::new();
    status.add_header(&mut headers)?;
    Ok(Frame::trailers(headers))
}

/// Logs a fault, and tells the client.
fn fault(method: &str, panic: &(dyn Any + Send)) -> Status {
    let said = panic.downcast_ref::<&str>().copied();
    let said =
        said.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given");
    tracing::error!(method, panic = said, "a call failed by a fault of vaquita: please report it");
    Status::internal(format!("{method}: a fault of vaquita, please report it: {said}"))
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::sync::Notify;
    use tokio_stream::{Stream, StreamExt};
    use tonic::Code;
    use tonic::transport::{Channel, Endpoint, Server};
    use vaquita_proto::node::node_client::NodeClient;
    use vaquita_proto::node::node_server::{Node, NodeServer};
    use vaquita_proto::node::{ImageProgress, LoadImageRequest, PullImageRequest};

    use super::*;

    type Progress = Pin<Box<dyn Stream<Item = Result<ImageProgress, Status>> + Send>>;

    /// Panics when it is asked to.
    #[derive(Clone, Debug, Default)]
    struct Faulty {
        began: Arc<Notify>,
        go_on: Arc<Notify>,
    }

    #[tonic::async_trait]
    impl Node for Faulty {
        type PullImageStream = Progress;
        type LoadImageStream = Progress;

        async fn pull_image(
            &self,
            request: tonic::Request<PullImageRequest>,
        ) -> Result<tonic::Response<Progress>, Status> {
            let one = tokio_stream::once(Ok(ImageProgress::default()));
            match request.into_inner().reference.as_str() {
                "call" => panic!("on purpose {}", 1),
                "stream" => {
                    let panics = tokio_stream::once(()).map(|()| panic!("on purpose"));
                    Ok(tonic::Response::new(Box::pin(panics)))
                }
                _ => {
                    self.began.notify_one();
                    self.go_on.notified().await;
                    Ok(tonic::Response::new(Box::pin(one)))
                }
            }
        }

        async fn load_image(
            &self,
            _: tonic::Request<tonic::Streaming<LoadImageRequest>>,
        ) -> Result<tonic::Response<Progress>, Status> {
            panic!("at once")
        }
    }

    /// A client with one connection for all its calls.
    fn client(faulty: &Faulty) -> NodeClient<Channel> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let service = NodeServer::new(faulty.clone());
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(theirs));
        tokio::spawn(Server::builder().layer(CallsLayer).add_service(service).serve_with_incoming(incoming));
        let mut ours = Some(ours);
        let connector = tower::service_fn(move |_| {
            let ours = ours.take().map(TokioIo::new);
            std::future::ready(ours.ok_or(std::io::Error::from(std::io::ErrorKind::ConnectionAborted)))
        });
        NodeClient::new(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector))
    }

    fn pull(reference: &str) -> PullImageRequest {
        PullImageRequest { reference: reference.into(), ..Default::default() }
    }

    #[tokio::test]
    async fn a_panic_in_one_call_never_ends_another() {
        let faulty = Faulty::default();
        let client = client(&faulty);
        let mut other = client.clone();
        let other = tokio::spawn(async move { other.pull_image(pull("wait")).await });
        faulty.began.notified().await;

        let error = client.clone().pull_image(pull("call")).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert!(error.message().ends_with("please report it: on purpose 1"), "{error}");
        let error = client.clone().load_image(tokio_stream::empty()).await.unwrap_err();
        assert!(error.message().ends_with("please report it: at once"), "{error}");
        let mut stream = client.clone().pull_image(pull("stream")).await.unwrap().into_inner();
        let error = stream.message().await.unwrap_err();
        assert!(error.message().ends_with("please report it: on purpose"), "{error}");

        faulty.go_on.notify_one();
        let mut stream = other.await.unwrap().unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_some());
        assert!(stream.message().await.unwrap().is_none());
    }
}
