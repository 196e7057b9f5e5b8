//! Images that do not come from a registry: archives and synthesised ones.

mod builtin;
mod load;
mod save;
mod spool;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::manifest::{self, Blob, Configuration};
use crate::store::{Layer, NewImage, Piece, Progress, admit, blocking, clean_up, collect, ingest};
use crate::{Digest, Error, Image, Store};

pub(crate) use builtin::builtin;
pub(crate) use load::load;
pub use save::Archive;
pub(crate) use save::save;

/// Bytes of a file that move at once.
const CHUNK: usize = 128 << 10;

/// One file of a synthesised image.
#[derive(Clone, Debug)]
pub struct BuiltinFile {
    /// Absolute path inside the image. Parents are made with mode 0755.
    pub path: String,
    /// Permission bits, set-uid and sticky included.
    pub mode: u32,
    /// What it is made of.
    pub source: Source,
}

/// The content of a [`BuiltinFile`].
#[derive(Clone, Debug)]
pub enum Source {
    /// These bytes.
    Bytes(Vec<u8>),
    /// An empty directory.
    Directory,
    /// The content of this file of the host: the daemon's own executable.
    File(PathBuf),
    /// A symbolic link to this target.
    Symlink(String),
}

/// An image whose layers are files in the store's `tmp`.
struct Local {
    id: Digest,
    configuration: Configuration,
    documents: Vec<Vec<u8>>,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    layers: Vec<LayerFile>,
}

#[derive(Clone, Debug)]
struct LayerFile {
    path: PathBuf,
    size: u64,
    /// What its bytes must be, where the archive says so.
    blob: Option<Blob>,
}

/// Unpacks what is not there yet, and records the image. With an error nothing of it stays.
async fn take_in(store: &Store, local: Local, progress: &Arc<Progress>) -> Result<Image, Error> {
    let chain = manifest::chain_ids(&local.configuration.diff_ids);
    let size = local.layers.iter().map(|layer| layer.size).sum();
    match unpack_all(store, local, &chain, progress).await {
        Ok(image) => Ok(image),
        Err(error) => Err(clean_up(store, chain, size, error).await),
    }
}

async fn unpack_all(
    store: &Store,
    local: Local,
    chain: &[Digest],
    progress: &Arc<Progress>,
) -> Result<Image, Error> {
    let parallel = Arc::new(Semaphore::new(store.0.options.parallel_layers.max(1)));
    let mut layers: Vec<Option<Arc<Layer>>> = Vec::new();
    let mut unpacking = JoinSet::new();
    let tracker = TaskTracker::new();
    progress.layers_total.fetch_add(u32::try_from(chain.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    for (index, id) in chain.iter().enumerate() {
        let known = store.0.state().layers.get(id).cloned();
        if let Some(layer) = known {
            progress.layers_done.fetch_add(1, Ordering::Relaxed);
            layers.push(Some(layer));
            continue;
        }
        layers.push(None);
        let (store, file, progress) = (store.clone(), local.layers[index].clone(), Arc::clone(progress));
        let (diff_id, parallel) = (local.configuration.diff_ids[index], Arc::clone(&parallel));
        let (tracker, id) = (tracker.clone(), *id);
        unpacking.spawn(async move {
            let _permit = parallel.acquire_owned().await;
            unpack(&tracker, &store, &file, id, diff_id, progress).await.map(|layer| (index, layer))
        });
    }
    collect(unpacking, tracker, &mut layers).await?;
    let documents_size: usize = local.documents.iter().map(Vec::len).sum();
    let new = NewImage {
        id: local.id,
        configuration: local.configuration,
        size: local.layers.iter().map(|layer| layer.size).sum::<u64>() + documents_size as u64,
        documents: local.documents,
        repo_tags: local.repo_tags,
        repo_digests: local.repo_digests,
        layers: layers.into_iter().flatten().collect(),
    };
    let inner = Arc::clone(&store.0);
    blocking(move || inner.commit(new)).await
}

#[expect(clippy::disallowed_methods, reason = "a file of the store's own spool")]
async fn unpack(
    tracker: &TaskTracker,
    store: &Store,
    file: &LayerFile,
    chain: Digest,
    diff_id: Digest,
    progress: Arc<Progress>,
) -> Result<Arc<Layer>, Error> {
    let failed = |e: std::io::Error| Error::io(format!("read({})", file.path.display()), &e);
    let (sender, task) =
        ingest(tracker, &store.0.layout, &store.0.options, file.blob.clone(), diff_id, progress, None);
    let mut input = tokio::fs::File::open(&file.path).await.map_err(failed)?;
    loop {
        let mut buffer = Vec::with_capacity(CHUNK);
        let count = input.read_buf(&mut buffer).await.map_err(failed)?;
        let piece = if count == 0 { Piece::End } else { Piece::Data(Bytes::from(buffer)) };
        if sender.send(piece).await.is_err() || count == 0 {
            break;
        }
    }
    drop(sender);
    let unpacked = task.await.map_err(|e| Error::corrupt(format!("a layer's thread ended: {e}")))?;
    let ready = unpacked.map_err(|e| e.context(format!("layer {diff_id}")))?;
    admit(tracker, store, chain, ready).await
}
