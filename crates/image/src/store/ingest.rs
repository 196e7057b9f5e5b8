//! One layer on its way in: hashed, verified and unpacked while it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::digest::Hasher;
use crate::manifest::Blob;
use crate::unpack::{Job, Limits, Unpacked};
use crate::{Digest, Error, Kind, Options};

use super::layout::{Layout, Staged};
use super::now;

/// Pieces between the network and the unpacker.
const QUEUE: usize = 4;

/// A piece of a layer; a stream that ends without [`Piece::End`] was given up.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    End,
}

/// What a running pull or load shows.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) reference: String,
    pub(crate) started: i64,
    pub(crate) bytes_done: AtomicU64,
    pub(crate) bytes_total: AtomicU64,
    pub(crate) layers_done: AtomicU32,
    pub(crate) layers_total: AtomicU32,
}

impl Progress {
    pub(crate) fn new(reference: String) -> Arc<Self> {
        Arc::new(Self {
            reference,
            started: now(),
            bytes_done: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
            layers_done: AtomicU32::new(0),
            layers_total: AtomicU32::new(0),
        })
    }
}

/// A layer that is unpacked and verified, and not yet part of the store.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) staged: Staged,
    pub(crate) unpacked: Unpacked,
}

/// Starts to take a layer in. Send its bytes to the sender; the future ends with the verified layer.
///
/// `blob` is what the compressed bytes must be; `None` where only the unpacked form is known. Dropping the sender
/// without [`Piece::End`] gives up. The thread that does it is known to `tracker`: when that has none left, nothing of an
/// unfinished layer is left either.
pub(crate) fn ingest(
    tracker: &TaskTracker,
    layout: &Arc<Layout>,
    options: &Options,
    blob: Option<Blob>,
    diff_id: Digest,
    progress: Arc<Progress>,
) -> (mpsc::Sender<Piece>, oneshot::Receiver<Result<Ready, Error>>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (done, result) = oneshot::channel();
    let (layout, options) = (Arc::clone(layout), options.clone());
    tracker.spawn_blocking(move || {
        // Not the value of the task: that could outlive its mark in the tracker.
        let _ = done.send(take_in(&layout, &options, receiver, blob.as_ref(), diff_id, &progress));
    });
    (sender, result)
}

fn take_in(
    layout: &Arc<Layout>,
    options: &Options,
    pieces: mpsc::Receiver<Piece>,
    blob: Option<&Blob>,
    diff_id: Digest,
    progress: &Progress,
) -> Result<Ready, Error> {
    let staged = layout.stage()?;
    let limits = Limits { bytes: options.layer_bytes, entries: options.layer_entries };
    let job = Job::start(&options.unpacker, layout.layer_home(staged.number)?, limits)?;
    let unpacked = feed(pieces, blob, job, progress)?;
    if unpacked.diff_id != diff_id {
        return Err(Error::corrupt(format!(
            "a layer is {} when unpacked, but the image configuration says {diff_id}",
            unpacked.diff_id
        )));
    }
    progress.layers_done.fetch_add(1, Ordering::Relaxed);
    Ok(Ready { staged, unpacked })
}

fn feed(
    mut pieces: mpsc::Receiver<Piece>,
    blob: Option<&Blob>,
    mut job: Job,
    progress: &Progress,
) -> Result<Unpacked, Error> {
    let mut hasher = Hasher::new();
    let mut size = 0;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(bytes)) => {
                size += bytes.len() as u64;
                if let Some(blob) = blob
                    && size > blob.size
                {
                    return Err(Error::corrupt(format!(
                        "layer {} is longer than its {} bytes",
                        blob.digest, blob.size
                    )));
                }
                if blob.is_some() {
                    hasher.update(&bytes);
                }
                progress.bytes_done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if !job.write(&bytes) {
                    return match job.finish() {
                        Ok(_) => Err(Error::corrupt("the unpacker ended before the layer did")),
                        Err(error) => Err(error),
                    };
                }
            }
            Some(Piece::End) => break,
            None => return Err(Error::new(Kind::Cancelled, "the layer was given up")),
        }
    }
    if let Some(blob) = blob {
        let digest = hasher.finish();
        if size != blob.size {
            return Err(Error::corrupt(format!("layer {} has {size} bytes, not {}", blob.digest, blob.size)));
        }
        if digest != blob.digest {
            return Err(Error::corrupt(format!("layer {} has the digest {digest}", blob.digest)));
        }
    }
    job.finish()
}
