//! All objects in one file, for who may do everything: `GET /vaquita/v1/backup`.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use vaquita_store::Store;

use crate::http::Body;
use crate::{Cluster, Status, names};

/// Where it is served.
pub(crate) const PATH: &str = "/vaquita/v1/backup";

/// Read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// What `Store::restore` takes, as it was at one moment.
pub(crate) async fn serve(cluster: &Cluster) -> Result<Response<Body>, Status> {
    let store = cluster.store().clone();
    let made = tokio::task::spawn_blocking(move || make(&store)).await;
    let mut file = made
        .map_err(Status::internal)?
        .map_err(|error| Status::internal(format!("cannot make a backup: {error}")))?;
    let (send, receive) = mpsc::channel::<io::Result<Bytes>>(2);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = vec![0; CHUNK];
            let read = file.read(&mut piece).map(|length| {
                piece.truncate(length);
                Bytes::from(piece)
            });
            let last = !matches!(&read, Ok(piece) if !piece.is_empty());
            let ended = read.as_ref().is_ok_and(Bytes::is_empty);
            if ended || send.blocking_send(read).is_err() || last {
                return;
            }
        }
    });
    let frames = ReceiverStream::new(receive).map(|piece| piece.map(Frame::data));
    let mut answer = Response::new(Body::new(StreamBody::new(frames)));
    let form = HeaderValue::from_static("application/octet-stream");
    answer.headers_mut().insert(header::CONTENT_TYPE, form);
    Ok(answer)
}

/// A file that has no name any more: it goes when it has been read, or when we end.
fn make(store: &Store) -> io::Result<File> {
    // Nobody else's to look into or to plant something in.
    let dir = std::env::temp_dir().join(format!("vaquita-backup-{}", names::uid()));
    DirBuilder::new().mode(0o700).create(&dir)?;
    let path = dir.join("store");
    let file = store.backup(&path).map_err(io::Error::other).and_then(|()| File::open(&path));
    let _ = std::fs::remove_dir_all(&dir);
    file
}
