//! Pulls: each runs once, however many wait for it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::task::TaskTracker;

use crate::manifest::{self, Configuration, Document, Machine, Manifest};
use crate::registry::{Client, Fetched};
use crate::{Auth, Digest, Error, Image, Kind, Reference, Registries};

use super::{Layer, Locks, NewImage, Partials, Progress, Ready, Store, Sweep, blocking, ingest};

/// What is being pulled and loaded.
#[derive(Default)]
pub(crate) struct Running {
    pulls: Mutex<HashMap<Key, Pull>>,
    shown: Mutex<Vec<Weak<Progress>>>,
    /// One download of a layer at a time per registry: the second waits and finds it in the store. Registries do not wait
    /// for each other, so a slow one holds up nobody else. By chain id.
    layers: Locks<(String, Digest)>,
    /// The same for compressed bytes that come in as layers of several images, on top of different others: the second unpacks
    /// what the first has kept.
    blobs: Locks<(String, Digest)>,
}

/// Pulls with other credentials are other pulls: who may not have an image must not get it by joining.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    reference: Reference,
    auth: Option<Auth>,
}

struct Pull {
    result: watch::Receiver<Option<Result<Image, Error>>>,
    task: Weak<Task>,
}

/// Ends the pull when the last one who waits has gone.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Running {
    /// Shows a pull or load for as long as its progress is held.
    pub(crate) fn show(&self, progress: &Arc<Progress>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.retain(|progress| progress.strong_count() > 0);
        shown.push(Arc::downgrade(progress));
    }

    pub(super) fn progress(&self) -> Vec<Arc<Progress>> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Joins the pull of this reference, or starts it.
pub(super) async fn join(
    store: &Store,
    reference: &Reference,
    auth: Option<&Auth>,
    registries: &Registries,
) -> Result<Image, Error> {
    let key = Key { reference: reference.clone(), auth: auth.cloned() };
    let (mut result, _task) = {
        let mut pulls = store.0.running.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.retain(|_, pull| pull.task.strong_count() > 0);
        let running = pulls.get(&key).and_then(|pull| Some((pull.result.clone(), pull.task.upgrade()?)));
        // One that has ended is not joined: the registry is asked anew.
        match running.filter(|(result, _)| result.borrow().is_none()) {
            Some(running) => running,
            None => {
                let (pull, task) = start(store, &key, registries);
                let result = pull.result.clone();
                pulls.insert(key, pull);
                (result, task)
            }
        }
    };
    let ended = result.wait_for(Option::is_some).await.ok().and_then(|result| result.clone());
    ended.unwrap_or_else(|| Err(Error::new(Kind::Cancelled, format!("pull of {reference} was given up"))))
}

fn start(store: &Store, key: &Key, registries: &Registries) -> (Pull, Arc<Task>) {
    let (sender, result) = watch::channel(None);
    let (store, key, registries) = (store.clone(), key.clone(), registries.clone());
    let task = tokio::spawn(async move {
        let progress = Progress::new(key.reference.to_string());
        store.0.running.show(&progress);
        let pulled = run(&store, &key.reference, key.auth.as_ref(), &registries, &progress).await;
        drop(progress);
        let _ = sender.send(Some(pulled));
    });
    let task = Arc::new(Task(task.abort_handle()));
    (Pull { result, task: Arc::downgrade(&task) }, task)
}

async fn run(
    store: &Store,
    reference: &Reference,
    auth: Option<&Auth>,
    registries: &Registries,
    progress: &Arc<Progress>,
) -> Result<Image, Error> {
    let client = Arc::new(Client::open(reference, auth, registries).await?);
    let top = fetch_top(store, &client, reference).await?;
    let repo_digest = reference.repo_digest(&top.digest);
    let machine = Machine::host();
    let named = |error: Error| error.context(format!("image {reference}"));
    let (manifest, mut documents) = find_manifest(store, &client, top, &machine).await.map_err(named)?;
    let config = match store.0.layout.blob(&manifest.config.digest) {
        Some(bytes) => bytes.into(),
        None => client.blob(&manifest.config).await?,
    };
    let configuration = manifest.configuration(&config, &machine).map_err(named)?;
    let layers_size = layers_size(&manifest, store.0.options.layer_bytes).map_err(named)?;
    let id = manifest.id(documents.last().map_or(&[], |bytes| &bytes[..]));
    let documents_size = documents.last().map_or(0, |bytes| bytes.len() as u64) + config.len() as u64;
    documents.push(config.to_vec());
    progress.bytes_total.store(layers_size, Ordering::Relaxed);
    progress.layers_total.store(u32::try_from(manifest.layers.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    let parts = Parts::new(reference, &manifest, &configuration);
    let new = NewImage {
        id,
        configuration,
        documents,
        repo_tags: reference.repo_tag().into_iter().collect(),
        repo_digests: vec![repo_digest],
        size: layers_size + documents_size,
        layers: Vec::new(),
    };
    let parts = Arc::new(parts);
    let result = bring(store, &client, &parts, new, progress).await;
    match result {
        Ok(image) => Ok(image),
        Err(error) => {
            let missing = parts.missing(store);
            let error = clean_up(store, parts.digests(), missing, error).await;
            Err(if error.is_no_space() { named(error) } else { error })
        }
    }
}

/// The layers that a pull is about.
struct Parts {
    reference: Reference,
    layers: Vec<Part>,
}

#[derive(Clone)]
struct Part {
    blob: manifest::Blob,
    diff_id: Digest,
    chain: Digest,
}

impl Parts {
    fn new(reference: &Reference, manifest: &Manifest, configuration: &Configuration) -> Self {
        let chain = manifest::chain_ids(&configuration.diff_ids);
        let ids = configuration.diff_ids.iter().copied().zip(chain);
        let part = |(blob, (diff_id, chain)): (&manifest::Blob, (Digest, Digest))| Part {
            blob: blob.clone(),
            diff_id,
            chain,
        };
        Self { reference: reference.clone(), layers: manifest.layers.iter().zip(ids).map(part).collect() }
    }

    /// By which leftovers of it are known.
    fn digests(&self) -> Vec<Digest> {
        self.layers.iter().flat_map(|part| [part.chain, part.blob.digest]).collect()
    }

    /// Compressed bytes of the layers that are not there.
    fn missing(&self, store: &Store) -> u64 {
        let state = store.0.state();
        let missing = self.layers.iter().filter(|part| !state.layers.contains_key(&part.chain));
        missing.map(|part| part.blob.size).sum()
    }
}

/// Brings in what is missing, and records the image.
async fn bring(
    store: &Store,
    client: &Arc<Client>,
    parts: &Arc<Parts>,
    mut new: NewImage,
    progress: &Arc<Progress>,
) -> Result<Image, Error> {
    let (inner, wanted) = (Arc::clone(&store.0), Arc::clone(parts));
    let missing = parts.missing(store);
    let may_keep = blocking(move || {
        inner.sweep_leftovers(Sweep::For(missing, &wanted.digests()))?;
        Ok(inner.may_keep(missing))
    })
    .await?;
    new.layers = match fetch_layers(store, client, parts, progress, may_keep).await {
        // Once more without what only makes a later pull shorter.
        Err(error) if error.is_no_space() && sweep(store, None).await > 0 => {
            progress.bytes_done.store(0, Ordering::Relaxed);
            progress.layers_done.store(0, Ordering::Relaxed);
            fetch_layers(store, client, parts, progress, false).await?
        }
        result => result?,
    };
    let inner = Arc::clone(&store.0);
    blocking(move || inner.commit(new)).await
}

/// Removes what a pull or load that failed has left, if it is of no use to the next one; says what to do about a full disk.
/// `digests` are the chain ids and compressed layers that it was about, `missing` the bytes that it had to bring in.
pub(crate) async fn clean_up(store: &Store, digests: Vec<Digest>, missing: u64, error: Error) -> Error {
    match error.kind() {
        Kind::Corrupt | Kind::Invalid | Kind::Unsupported | Kind::NotFound | Kind::Denied => {
            sweep(store, Some(digests)).await;
            error
        }
        _ if error.is_no_space() => {
            sweep(store, None).await;
            no_space(store, missing, &error)
        }
        _ => error,
    }
}

/// Removes leftovers: these, or all. How much that freed.
async fn sweep(store: &Store, those: Option<Vec<Digest>>) -> u64 {
    let inner = Arc::clone(&store.0);
    let swept = blocking(move || {
        // A layer of the log that only this pull used has nobody now.
        inner.free_unused()?;
        inner.sweep_leftovers(those.as_deref().map_or(Sweep::All, Sweep::These))
    });
    swept.await.unwrap_or_else(|error| {
        tracing::warn!("what a pull left stays until the next one: {error}");
        0
    })
}

fn no_space(store: &Store, missing: u64, error: &Error) -> Error {
    let path = store.mountpoint().display();
    let free = store.0.layout.space().map_or_else(
        |_| "too little is free".to_owned(),
        |space| match space.inodes.saturating_sub(space.inodes_used) {
            0 if space.inodes == 0 => format!("{} bytes are free", space.bytes_available),
            inodes => format!("{} bytes and {inodes} inodes are free", space.bytes_available),
        },
    );
    error.clone().context(format!(
        "no space left in {path}: {free} there now, which is too little for {missing} bytes of layers and what is unpacked from \
         them; remove images (vaquita image prune) or make room otherwise, and try again"
    ))
}

/// Bytes of all layers. One that is longer than it may be when unpacked is not begun.
fn layers_size(manifest: &Manifest, limit: u64) -> Result<u64, Error> {
    if let Some(layer) = manifest.layers.iter().find(|layer| layer.size > limit) {
        let (digest, size) = (layer.digest, layer.size);
        return Err(Error::invalid(format!(
            "layer {digest} has {size} bytes, more than the limit of {limit}"
        )));
    }
    Ok(manifest.layers.iter().map(|layer| layer.size).sum())
}

/// The manifest or index that the reference names. What is in the store is used when the registry says that it is still
/// the same; the registry is asked in any case, since it decides who may have the image.
async fn fetch_top(store: &Store, client: &Client, reference: &Reference) -> Result<Fetched, Error> {
    let selector = reference.selector();
    if store.find(&reference.to_string()).is_some()
        && let Some(digest) = client.head().await?
        && reference.digest().is_none_or(|wanted| *wanted == digest)
        && let Some(bytes) = store.0.layout.blob(&digest)
    {
        return Ok(Fetched { bytes: bytes.into(), digest, content_type: None });
    }
    client.manifest(&selector).await
}

/// Goes from an index to the manifest for this machine. Returns it with the documents on the way, the manifest last.
async fn find_manifest(
    store: &Store,
    client: &Client,
    top: Fetched,
    machine: &Machine,
) -> Result<(Manifest, Vec<Vec<u8>>), Error> {
    let mut documents = Vec::new();
    let mut current = top;
    for _ in 0..=manifest::DEPTH_LIMIT {
        documents.push(current.bytes.to_vec());
        let manifests = match manifest::parse(&current.bytes, current.content_type.as_deref())? {
            Document::Manifest(manifest) => return Ok((manifest, documents)),
            Document::Index(manifests) => manifests,
        };
        let chosen = manifest::select(&manifests, machine)?;
        let blob = manifest::blob(chosen)?;
        manifest::check_size("manifest", blob.size)?;
        let media_type = Some(chosen.media_type().to_string());
        current = match store.0.layout.blob(&blob.digest) {
            Some(bytes) => Fetched { bytes: bytes.into(), digest: blob.digest, content_type: media_type },
            None => client.manifest(&blob.digest.to_string()).await?,
        };
        if current.bytes.len() as u64 != blob.size {
            return Err(Error::corrupt(format!(
                "manifest {} does not have its {} bytes",
                blob.digest, blob.size
            )));
        }
    }
    Err(Error::invalid(format!("the index is nested more than {} deep", manifest::DEPTH_LIMIT)))
}

/// Brings the layers in, some at a time. `may_keep`: their compressed bytes are kept until they are unpacked.
async fn fetch_layers(
    store: &Store,
    client: &Arc<Client>,
    parts: &Arc<Parts>,
    progress: &Arc<Progress>,
    may_keep: bool,
) -> Result<Vec<Arc<Layer>>, Error> {
    let parallel = Arc::new(Semaphore::new(store.0.options.parallel_layers.max(1)));
    let mut layers = vec![None; parts.layers.len()];
    let mut fetching = JoinSet::new();
    let tracker = TaskTracker::new();
    for (index, part) in parts.layers.iter().enumerate() {
        let fetch = Fetch {
            store: store.clone(),
            client: Arc::clone(client),
            registry: parts.reference.registry().to_owned(),
            part: part.clone(),
            progress: Arc::clone(progress),
            tracker: tracker.clone(),
            may_keep,
        };
        let parallel = Arc::clone(&parallel);
        fetching.spawn(async move { fetch.run(&parallel).await.map(|layer| (index, layer)) });
    }
    collect(fetching, tracker, &mut layers).await?;
    Ok(layers.into_iter().flatten().collect())
}

/// Waits for all layers. After the first error the others are given up, and are at rest when this returns.
pub(crate) async fn collect(
    mut running: JoinSet<Result<(usize, Arc<Layer>), Error>>,
    tracker: TaskTracker,
    layers: &mut [Option<Arc<Layer>>],
) -> Result<(), Error> {
    let mut result = Ok(());
    while let Some(done) = running.join_next().await {
        match done.unwrap_or_else(|e| Err(Error::corrupt(format!("a layer's task ended: {e}")))) {
            Ok((index, layer)) => layers[index] = Some(layer),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    running.shutdown().await;
    tracker.close();
    tracker.wait().await;
    result
}

/// Makes a layer that came in one that images can be made of; see [`super::Inner::admit`].
pub(crate) async fn admit(
    tracker: &TaskTracker,
    store: &Store,
    chain: Digest,
    ready: Ready,
) -> Result<Arc<Layer>, Error> {
    let inner = Arc::clone(&store.0);
    tracked(tracker, move || inner.admit(chain, ready)).await
}

/// Does what blocks on a thread that is known to `tracker`, with all that comes out of it: when that has none left, nobody holds
/// the result of one whose pull was given up.
async fn tracked<T: Send + 'static>(
    tracker: &TaskTracker,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (done, result) = oneshot::channel();
    // Not the value of the task: that could outlive its mark in the tracker.
    tracker.spawn_blocking(move || drop(done.send(work())));
    result.await.unwrap_or_else(|e| Err(thread_ended(&e)))
}

fn thread_ended(error: &dyn std::error::Error) -> Error {
    Error::corrupt(format!("a layer's thread ended: {error}"))
}

/// One layer that a pull needs.
struct Fetch {
    store: Store,
    client: Arc<Client>,
    registry: String,
    part: Part,
    progress: Arc<Progress>,
    tracker: TaskTracker,
    may_keep: bool,
}

impl Fetch {
    async fn run(&self, parallel: &Semaphore) -> Result<Arc<Layer>, Error> {
        let (running, Part { blob, chain, .. }) = (&self.store.0.running, &self.part);
        // Whoever waits for the first lock has nothing yet, and who has the second waits for no other pull.
        let _layer = running.layers.lock((self.registry.clone(), *chain)).await;
        if let Some(layer) = self.store.0.state().layers.get(chain).cloned() {
            self.progress.bytes_done.fetch_add(blob.size, Ordering::Relaxed);
            self.progress.layers_done.fetch_add(1, Ordering::Relaxed);
            return Ok(layer);
        }
        let _permit = parallel.acquire().await;
        let key = (self.registry.clone(), blob.digest);
        let _blob = running.blobs.lock(key.clone()).await;
        let layer = match self.unpack().await {
            // What was kept is not what the registry has: once more, from the beginning.
            Err((error, kept)) if kept > 0 && is_about_bytes(&error) => {
                tracing::warn!("the {kept} bytes that were kept of layer {} are wrong: {error}", blob.digest);
                self.forget();
                self.unpack().await.map_err(|(error, _)| error)?
            }
            result => result.map_err(|(error, _)| error)?,
        };
        Ok(layer)
    }

    fn forget(&self) {
        self.store.0.layout.partials.remove_idle(&self.part.blob.digest);
    }

    /// Fetches what is not there and unpacks all. With an error comes how many bytes were there.
    async fn unpack(&self) -> Result<Arc<Layer>, (Error, u64)> {
        let Part { blob, diff_id, .. } = &self.part;
        let layout = &self.store.0.layout;
        let partial = if self.may_keep { Partials::take(layout, blob) } else { None };
        let kept = partial.as_ref().map_or(0, super::Partial::kept);
        let (sender, task) = ingest(
            &self.tracker,
            layout,
            &self.store.0.options,
            Some(blob.clone()),
            *diff_id,
            Arc::clone(&self.progress),
            partial,
        );
        let streamed = self.client.stream(blob, kept, &sender).await;
        drop(sender);
        let unpacked = task.await.unwrap_or_else(|e| Err(thread_ended(&e)));
        let ready = match (streamed, unpacked) {
            (_, Ok(ready)) => Ok(ready),
            (Err(error), Err(_)) => Err(error),
            (Ok(()), Err(error)) => Err(error.context(self.client.describe())),
        };
        let admitted = match ready {
            Ok(ready) => self.admit(ready).await,
            Err(error) => Err(error),
        };
        admitted.map_err(|error| (error, kept))
    }

    /// The layer is there, so its compressed bytes may go, unless another pull waits to unpack them.
    async fn admit(&self, ready: Ready) -> Result<Arc<Layer>, Error> {
        let (inner, chain, blob) = (Arc::clone(&self.store.0), self.part.chain, self.part.blob.digest);
        let key = (self.registry.clone(), blob);
        let work = move || {
            let layer = inner.admit(chain, ready)?;
            if !inner.running.blobs.is_awaited(&key) {
                inner.layout.partials.remove_idle(&blob);
            }
            Ok(layer)
        };
        tracked(&self.tracker, work).await
    }
}

/// Whether other bytes would make it right.
fn is_about_bytes(error: &Error) -> bool {
    matches!(error.kind(), Kind::Corrupt | Kind::Invalid | Kind::Unsupported)
}
