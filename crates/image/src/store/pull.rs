//! Pulls: each runs once, however many wait for it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::task::TaskTracker;

use crate::manifest::{self, Configuration, Document, Machine, Manifest};
use crate::registry::{Client, Fetched};
use crate::{Auth, Digest, Error, Image, Kind, Reference, Registries};

use super::{Locks, NewImage, NewLayer, Progress, Ready, Store, blocking, ingest};

/// What is being pulled and loaded.
#[derive(Default)]
pub(crate) struct Running {
    pulls: Mutex<HashMap<Key, Pull>>,
    shown: Mutex<Vec<Weak<Progress>>>,
    /// One download of a layer at a time per registry: the second waits and finds it in the store. Registries do not wait
    /// for each other, so a slow one holds up nobody else.
    layers: Locks<(String, Digest)>,
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
    let client = Arc::new(Client::new(reference, auth, registries));
    let top = fetch_top(store, &client, reference).await?;
    let repo_digest = reference.repo_digest(&top.digest);
    let machine = Machine::host();
    let named = |error: Error| error.context(format!("image {reference}"));
    let (manifest, mut documents) = find_manifest(store, &client, top, &machine).await.map_err(named)?;
    let config = match store.0.layout.blob(&manifest.config.digest) {
        Some(bytes) => bytes.into(),
        None => client.blob(&manifest.config).await?,
    };
    let configuration = manifest::configuration(&config, manifest.layers.len(), &machine).map_err(named)?;
    let layers_size: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
    let documents_size = documents.last().map_or(0, |bytes| bytes.len() as u64) + config.len() as u64;
    documents.push(config.to_vec());
    progress.bytes_total.store(layers_size, Ordering::Relaxed);
    progress.layers_total.store(u32::try_from(manifest.layers.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    let (layers, _locks) =
        fetch_layers(store, &client, reference, &manifest, &configuration, progress).await?;
    let new = NewImage {
        id: manifest.config.digest,
        configuration,
        documents,
        repo_tags: reference.repo_tag().into_iter().collect(),
        repo_digests: vec![repo_digest],
        size: layers_size + documents_size,
        layers,
    };
    let inner = Arc::clone(&store.0);
    blocking(move || inner.commit(new)).await
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

/// Brings the layers in, some at a time. The locks are held until the image is recorded.
async fn fetch_layers(
    store: &Store,
    client: &Arc<Client>,
    reference: &Reference,
    manifest: &Manifest,
    configuration: &Configuration,
    progress: &Arc<Progress>,
) -> Result<(Vec<(Digest, NewLayer)>, Vec<tokio::sync::OwnedMutexGuard<()>>), Error> {
    let chain = manifest::chain_ids(&configuration.diff_ids);
    let parallel = Arc::new(Semaphore::new(store.0.options.parallel_layers.max(1)));
    let mut locks = Vec::new();
    let mut layers: Vec<Option<NewLayer>> = Vec::new();
    let mut fetching = JoinSet::new();
    let tracker = TaskTracker::new();
    for (index, id) in chain.iter().enumerate() {
        // In the order of the chain, so that two pulls cannot wait for each other.
        let lock = store.0.running.layers.lock((reference.registry().to_owned(), *id)).await;
        let known = store.0.state().layers.get(id).cloned();
        let blob = manifest.layers[index].clone();
        if let Some(layer) = known {
            progress.bytes_done.fetch_add(blob.size, Ordering::Relaxed);
            progress.layers_done.fetch_add(1, Ordering::Relaxed);
            layers.push(Some(NewLayer::Known(layer)));
            continue;
        }
        locks.push(lock);
        layers.push(None);
        let (store, client, progress) = (store.clone(), Arc::clone(client), Arc::clone(progress));
        let tracker = tracker.clone();
        let (diff_id, parallel) = (configuration.diff_ids[index], Arc::clone(&parallel));
        fetching.spawn(async move {
            let _permit = parallel.acquire_owned().await;
            fetch_layer(&tracker, &store, &client, blob, diff_id, progress).await.map(|ready| (index, ready))
        });
    }
    collect(fetching, tracker, &mut layers).await?;
    let layers = chain.into_iter().zip(layers).filter_map(|(id, layer)| Some((id, layer?))).collect();
    Ok((layers, locks))
}

/// Waits for all layers. After the first error the others are given up, and have left nothing when this returns.
pub(crate) async fn collect(
    mut running: JoinSet<Result<(usize, Ready), Error>>,
    tracker: TaskTracker,
    layers: &mut [Option<NewLayer>],
) -> Result<(), Error> {
    let mut result = Ok(());
    while let Some(done) = running.join_next().await {
        match done.unwrap_or_else(|e| Err(Error::corrupt(format!("a layer's task ended: {e}")))) {
            Ok((index, ready)) => layers[index] = Some(NewLayer::Fresh(Box::new(ready))),
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

async fn fetch_layer(
    tracker: &TaskTracker,
    store: &Store,
    client: &Client,
    blob: manifest::Blob,
    diff_id: Digest,
    progress: Arc<Progress>,
) -> Result<Ready, Error> {
    let (sender, task) =
        ingest(tracker, &store.0.layout, &store.0.options, Some(blob.clone()), diff_id, progress);
    let streamed = client.stream(&blob, &sender).await;
    drop(sender);
    let unpacked = task.await.map_err(|e| Error::corrupt(format!("a layer's thread ended: {e}")))?;
    match (streamed, unpacked) {
        (_, Ok(ready)) => Ok(ready),
        (Err(error), Err(_)) => Err(error),
        (Ok(()), Err(error)) => Err(error.context(client.describe())),
    }
}
