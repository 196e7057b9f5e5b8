//! `vaquita.v1.Node`: what our own command line needs.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use vaquita_image::{Image, Reference};
use vaquita_proto::node::node_server::Node as NodeService;
use vaquita_proto::{cri, node as proto};

use super::Service;
use crate::{Error, Result, images};

/// How often a transfer tells how far it is.
const PERIOD: Duration = Duration::from_millis(100);

/// What a transfer sends.
type Progress = std::result::Result<proto::ImageProgress, Status>;

#[tonic::async_trait]
impl NodeService for Service {
    type LoadImageStream = ReceiverStream<Progress>;
    type PullImageStream = ReceiverStream<Progress>;

    async fn load_image(
        &self,
        request: Request<Streaming<proto::LoadImageRequest>>,
    ) -> std::result::Result<Response<Self::LoadImageStream>, Status> {
        let archive = Archive { messages: request.into_inner(), rest: Vec::new(), at: 0 };
        let store = self.node.images.clone();
        let done = Arc::new(AtomicU64::new(0));
        let counter = done.clone();
        let load = async move {
            let progress = move |bytes| counter.store(bytes, Ordering::Relaxed);
            Ok(store.load(archive, progress).await?)
        };
        let status = move || proto::ImageProgress {
            reference: "archive".into(),
            bytes_done: done.load(Ordering::Relaxed),
            ..Default::default()
        };
        Ok(Response::new(follow(load, status)))
    }

    async fn pull_image(
        &self,
        request: Request<proto::PullImageRequest>,
    ) -> std::result::Result<Response<Self::PullImageStream>, Status> {
        let request = request.into_inner();
        let reference = Reference::parse(&request.reference).map_err(Error::from)?;
        let auth = cri::AuthConfig {
            username: request.username,
            password: request.password,
            identity_token: request.identity_token,
            registry_token: request.registry_token,
            ..Default::default()
        };
        let auth = images::auth(&auth, &request.reference)?;
        let node = self.node.clone();
        let name = request.reference;
        let pull = async move { Ok(vec![images::pull(&node, &name, auth.as_ref()).await?]) };
        let node = self.node.clone();
        let full = reference.to_string();
        let status = move || {
            let running = node.images.pulls().into_iter().find(|pull| pull.reference == full);
            let mut progress = proto::ImageProgress { reference: full.clone(), ..Default::default() };
            if let Some(pull) = running {
                progress.bytes_done = pull.bytes_done;
                progress.bytes_total = pull.bytes_total;
                progress.layers_done = pull.layers_done;
                progress.layers_total = pull.layers_total;
            }
            progress
        };
        Ok(Response::new(follow(pull, status)))
    }
}

/// Runs a transfer and says every now and then how far it is. It is given up when nobody listens any more.
fn follow(
    transfer: impl Future<Output = Result<Vec<Image>>> + Send + 'static,
    status: impl Fn() -> proto::ImageProgress + Send + 'static,
) -> ReceiverStream<Progress> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut transfer = std::pin::pin!(transfer);
        let mut ticks = tokio::time::interval(PERIOD);
        let last = loop {
            tokio::select! {
                result = &mut transfer => break result,
                () = sender.closed() => return,
                _ = ticks.tick() => {
                    // A client that reads slowly misses a step, not the end.
                    let _ = sender.try_send(Ok(status()));
                }
            }
        };
        let last = last.map_err(Status::from).map(|images| {
            let mut progress = proto::ImageProgress { done: true, ..status() };
            for image in images {
                let names = if image.repo_tags.is_empty() { vec![String::new()] } else { image.repo_tags };
                progress.image_ids.extend(names.iter().map(|_| image.id.to_string()));
                progress.references.extend(names);
            }
            progress
        });
        let _ = sender.send(last).await;
    });
    ReceiverStream::new(receiver)
}

/// The pieces of an archive as one stream of bytes.
struct Archive {
    messages: Streaming<proto::LoadImageRequest>,
    rest: Vec<u8>,
    at: usize,
}

impl AsyncRead for Archive {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.at == self.rest.len() {
            match Pin::new(&mut self.messages).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => {
                    self.rest = message.data;
                    self.at = 0;
                }
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Err(std::io::Error::other(status))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
        let count = buffer.remaining().min(self.rest.len() - self.at);
        buffer.put_slice(&self.rest[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}
