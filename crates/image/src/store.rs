//! The store: what images, layers and snapshots there are.

mod commit;
mod db;
mod details;
mod ingest;
mod layout;
mod leftover;
mod partial;
mod pull;
mod snapshots;
mod space;
mod state;
mod usage;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fd::{BorrowedFd, OwnedFd};
use tokio::io::AsyncRead;

use crate::{
    Archive, Auth, BuiltinFile, Digest, Error, Image, ImageConfig, Reference, Registries, Snapshot,
    SnapshotInfo,
};

pub use details::{Details, LayerInfo, Removal};
pub use usage::{DiskUsage, ImageUsage, Part, Purpose};

pub(crate) use commit::NewImage;
pub(crate) use ingest::{Piece, Progress, Ready, ingest};
pub(crate) use layout::Layout;
pub(crate) use leftover::Sweep;
pub(crate) use partial::{Partial, Partials};
pub(crate) use pull::{admit, clean_up, collect};
pub(crate) use state::{Layer, State};

/// How a store works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Who unpacks layers.
    pub unpacker: Unpacker,
    /// Layers fetched and unpacked at the same time, per pull.
    pub parallel_layers: usize,
    /// Most bytes that one layer may hold unpacked.
    pub layer_bytes: u64,
    /// Most files and directories that one layer may hold.
    pub layer_entries: u64,
    /// What cancelled and killed pulls left, for the next one to go on with, is removed when less than this part of the filesystem is
    /// free, in hundredths. 15 is where kubelet begins to remove images.
    pub spare_percent: u8,
    /// Images that are [`Image::pinned`]: whole names as `registry.k8s.io/pause:3.10`, `name*` for all that begin so, `*part*` for
    /// all that have it inside.
    pub pinned: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            unpacker: Unpacker::Own,
            parallel_layers: 6,
            layer_bytes: 64 << 30,
            layer_entries: 4_000_000,
            spare_percent: 15,
            pinned: Vec::new(),
        }
    }
}

/// The process that unpacks layers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Unpacker {
    /// `/proc/self/exe`: the binary that this library is part of calls [`unpack::main`](crate::unpack::main).
    Own,
    /// This executable (a sealed copy of the binary).
    Exe(Arc<OwnedFd>),
    /// A thread of the calling process: for tests of this library only, since it gives hostile bytes no walls.
    Thread,
}

/// A running pull or load.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PullStatus {
    /// What is pulled, in full.
    pub reference: String,
    /// Bytes of layers that have come in, those that were there already included.
    pub bytes_done: u64,
    /// Bytes of all layers; 0 until the manifest is known.
    pub bytes_total: u64,
    /// Layers that are unpacked.
    pub layers_done: u32,
    /// Layers in all; 0 until the manifest is known.
    pub layers_total: u32,
    /// When it began, nanoseconds since 1970.
    pub started: i64,
}

/// What a removal gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Freed {
    /// Bytes of disk.
    pub bytes: u64,
}

/// Disk used by a snapshot's writable layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of disk blocks.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// The filesystem that holds the images.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FsInfo {
    /// The store's directory.
    pub mountpoint: PathBuf,
    /// Bytes that images use; it grows while a pull runs.
    pub used_bytes: u64,
    /// Files and directories that images use.
    pub inodes_used: u64,
    /// When this was determined, nanoseconds since 1970.
    pub timestamp: i64,
}

/// Images, their layers, and the snapshots of containers. Cheap to clone: clones are the same store.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) layout: Arc<Layout>,
    pub(crate) options: Options,
    db: db::Db,
    state: Mutex<State>,
    /// Held while the log and the state change together; never while something waits for a network.
    writing: Mutex<()>,
    running: pull::Running,
}

impl Store {
    /// Opens the store in `dir`, making it where it is not there, and removes what an earlier process left unfinished.
    ///
    /// Only one process at a time can have it open.
    ///
    /// # Errors
    /// [`Kind::Busy`](crate::Kind::Busy) when another process has it open, [`Kind::Kernel`](crate::Kind::Kernel) for what the
    /// filesystem refuses. A transaction log that is damaged is moved aside and begun anew, from the layers that there are.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        let dir = std::path::absolute(dir)
            .map_err(|e| Error::io(format!("absolute path of {}", dir.display()), &e))?;
        let layout = Arc::new(Layout::open(&dir)?);
        let (db, content) = db::Db::open(&dir.join("store.redb"))?;
        let state = Mutex::new(State::with_pins(&options.pinned));
        let inner =
            Inner { layout, options, db, state, writing: Mutex::new(()), running: pull::Running::default() };
        inner.recover(content)?;
        Ok(Self(Arc::new(inner)))
    }

    /// Fetches an image, or makes sure that the one in the store is what the registry has.
    ///
    /// A second pull of the same reference with the same credentials joins the running one. When nobody waits any
    /// more (all futures dropped), the pull is given up. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) and [`Kind::Denied`](crate::Kind::Denied) name reference and registry;
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) and [`Kind::Timeout`](crate::Kind::Timeout) begin with
    /// `RegistryUnavailable`; [`Kind::Corrupt`](crate::Kind::Corrupt) for bytes that are not what their digest says.
    pub async fn pull(
        &self,
        reference: &Reference,
        auth: Option<&Auth>,
        registries: &Registries,
    ) -> Result<Image, Error> {
        pull::join(self, reference, auth, registries).await
    }

    /// The pulls and loads that are running now.
    #[must_use]
    pub fn pulls(&self) -> Vec<PullStatus> {
        let status = |progress: &Arc<Progress>| PullStatus {
            reference: progress.reference.clone(),
            bytes_done: progress.bytes_done.load(Ordering::Relaxed),
            bytes_total: progress.bytes_total.load(Ordering::Relaxed),
            layers_done: progress.layers_done.load(Ordering::Relaxed),
            layers_total: progress.layers_total.load(Ordering::Relaxed),
            started: progress.started,
        };
        self.0.running.progress().iter().map(status).collect()
    }

    /// Takes in every image of an archive: the tar of an OCI layout or of `docker save`, either of them also gzipped.
    ///
    /// `progress` is called with the number of bytes read so far.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for an archive that is neither, [`Kind::Corrupt`](crate::Kind::Corrupt)
    /// for one whose digests are wrong.
    pub async fn load(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<Vec<Image>, Error> {
        crate::archive::load(self, archive, progress).await
    }

    /// Gets images, by any of their names, ready to be written as one archive that [`Store::load`], `docker load` and others take.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) for an image that is not there, [`Kind::Unsupported`](crate::Kind::Unsupported) for
    /// one with a layer that was unpacked by a version that kept no recipes, or that replaces too much of itself.
    pub async fn save(&self, names: &[String]) -> Result<Archive, Error> {
        crate::archive::save(self, names).await
    }

    /// Puts a synthesised image of one layer into the store. The same content gives the same digest.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) for a path that is not absolute, [`Kind::Kernel`](crate::Kind::Kernel)
    /// for a source that cannot be read.
    pub async fn builtin(
        &self,
        reference: &Reference,
        config: ImageConfig,
        files: Vec<BuiltinFile>,
    ) -> Result<Image, Error> {
        crate::archive::builtin(self, reference, config, files).await
    }

    /// All images, from memory, sorted by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.0.state().images.values().map(|stored| Arc::clone(&stored.image)).collect()
    }

    /// Finds an image by id (with or without `sha256:`, or at least 4 digits of its beginning when they are
    /// unambiguous), by reference, or by reference with digest. From memory.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Image>> {
        self.0.state().find(name).map(|stored| Arc::clone(&stored.image))
    }

    /// Removes the image that `name` finds, with all its names, and frees at once what no other image and no snapshot uses.
    /// An image that is not there is no error.
    ///
    /// # Errors
    /// [`Kind::Kernel`](crate::Kind::Kernel) for what the filesystem refuses; the image is gone from the list then too.
    pub async fn remove(&self, name: &str) -> Result<Freed, Error> {
        let (inner, name) = (Arc::clone(&self.0), name.to_owned());
        blocking(move || inner.remove(&name)).await
    }

    /// Gives an image another name. The name is taken away from an image that had it.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) when `name` finds nothing, [`Kind::Invalid`](crate::Kind::Invalid) for
    /// a reference with a digest.
    pub async fn tag(&self, name: &str, reference: &Reference) -> Result<Image, Error> {
        let tag = reference.repo_tag().ok_or_else(|| {
            Error::invalid(format!("{reference} is a digest: an image cannot be tagged with it"))
        })?;
        let (inner, name) = (Arc::clone(&self.0), name.to_owned());
        blocking(move || inner.tag(&name, &tag)).await
    }

    /// Makes the directories of a container's root filesystem. The same id and image again gives the same snapshot.
    ///
    /// A few system calls; blocks no longer than they do.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) for an image that is not there, [`Kind::Exists`](crate::Kind::Exists)
    /// when the id is used with another image, [`Kind::Invalid`](crate::Kind::Invalid) for an id that is not 1 to 128
    /// letters, digits, '-', '_', '.'.
    pub fn snapshot(&self, id: &str, image: &Digest) -> Result<Snapshot, Error> {
        self.0.make_snapshot(id, image)
    }

    /// Whether snapshots of this store can be mounted for the user namespace `users` ([`Snapshot::mount_mapped`]).
    ///
    /// # Errors
    /// [`Kind::Kernel`](crate::Kind::Kernel): they cannot, and why.
    pub fn can_map(&self, users: BorrowedFd<'_>) -> Result<(), Error> {
        crate::snapshot::can_map(&self.0.layout.path, users)
    }

    /// A snapshot that was made before, maybe by an earlier process.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound); [`Kind::Corrupt`](crate::Kind::Corrupt) when its record was lost.
    pub fn open_snapshot(&self, id: &str) -> Result<Snapshot, Error> {
        self.0.open_snapshot(id)
    }

    /// All snapshots, sorted by id.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.0.list_snapshots()
    }

    /// Removes a snapshot and frees at once what nobody else uses; returns how much that is without the writable layer, which is not
    /// looked at. One that is not there is no error.
    ///
    /// Blocks while the tree is deleted.
    ///
    /// # Errors
    /// [`Kind::Kernel`](crate::Kind::Kernel) for what the filesystem refuses.
    pub fn remove_snapshot(&self, id: &str) -> Result<Freed, Error> {
        self.0.remove_snapshot(id)
    }

    /// Removes every snapshot whose id is not in `live`; returns how much is free then.
    ///
    /// # Errors
    /// The first error, after all have been tried.
    pub fn sweep(&self, live: &[&str]) -> Result<Freed, Error> {
        let mut freed = Freed::default();
        let mut result = Ok(());
        for snapshot in self.snapshots().iter().filter(|snapshot| !live.contains(&snapshot.id.as_str())) {
            match self.0.free_snapshot(&snapshot.id) {
                Ok(more) => freed.bytes += more.bytes,
                Err(error) => result = result.and(Err(error)),
            }
        }
        result.map(|()| freed)
    }

    /// What a snapshot's writable layer uses. Blocks while the tree is walked.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound), [`Kind::Kernel`](crate::Kind::Kernel).
    pub fn usage(&self, id: &str) -> Result<Usage, Error> {
        self.0.snapshot_usage(id)
    }

    /// Where its filesystem is: its directory.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.0.layout.path
    }

    /// Disk used by all but the snapshots: images, what pulls bring in at the moment and what cancelled ones left, the log. What a walk
    /// over the directory finds, to the block; whole layers are known from memory, the rest is looked at. Blocks for it.
    ///
    /// # Errors
    /// [`Kind::Kernel`](crate::Kind::Kernel) for what the filesystem refuses.
    pub fn fs_info(&self) -> Result<FsInfo, Error> {
        let known: HashMap<u32, Usage> = {
            let state = self.0.state();
            let records = state.layers.values().map(|layer| &layer.record);
            records
                .map(|record| (record.number, Usage { bytes: record.bytes, inodes: record.inodes }))
                .collect()
        };
        let usage = self.0.layout.usage(&known)?;
        Ok(FsInfo {
            mountpoint: self.0.layout.path.clone(),
            used_bytes: usage.bytes,
            inodes_used: usage.inodes,
            timestamp: now(),
        })
    }

    /// Removes what cancelled and killed pulls left and nobody took up for a day; all of it where the disk is short. Returns how
    /// much that frees. Pulls do so, too; it is for who looks for room. Blocks while trees are deleted.
    ///
    /// # Errors
    /// [`Kind::Kernel`](crate::Kind::Kernel) for what the filesystem refuses.
    pub fn tidy(&self) -> Result<Freed, Error> {
        self.0.sweep_leftovers(Sweep::Stale).map(|bytes| Freed { bytes })
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.0.layout.path).finish_non_exhaustive()
    }
}

impl Inner {
    /// Shows a load for as long as its progress is held.
    pub(crate) fn show(&self, progress: &Arc<Progress>) {
        self.running.show(progress);
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the log has, and removes what is left over.
    fn recover(&self, content: db::Content) -> Result<(), Error> {
        let mut state = State::with_pins(&self.options.pinned);
        let numbers = self.layout.numbers()?;
        let mut change = db::Change::default();
        for (chain, record) in content.layers {
            if numbers.contains(&record.number) {
                state.layers.insert(chain, Arc::new(Layer::recorded(chain, record)));
            } else {
                tracing::warn!("image store: layer {chain} has gone: layers/{} is not there", record.number);
                change.drop_layers.push(chain);
            }
        }
        for record in content.images {
            let id = record.image.id;
            let Some(layers) = state.stack(&record.chain) else {
                tracing::warn!("image store: image {id} has gone with a layer of it; pull it again");
                change.drop_images.push(id);
                continue;
            };
            let mut image = record.image;
            state.pins.apply(&mut image);
            let stored = state::Stored { image: Arc::new(image), layers, blobs: record.blobs };
            state.images.insert(id, stored);
        }
        self.recover_leftovers(&mut state, &numbers, content.is_lost)?;
        self.recover_snapshots(&mut state)?;
        let unused = state.forget_unused(Layer::is_recorded);
        change.drop_layers.extend(unused.iter().map(|layer| layer.chain));
        if !change.drop_layers.is_empty() || !change.drop_images.is_empty() {
            self.db.apply(&change)?;
        }
        let numbers: Vec<u32> = state.layers.values().map(|layer| layer.record.number).collect();
        let blobs: Vec<Digest> =
            state.images.values().flat_map(|stored| stored.blobs.iter().copied()).collect();
        self.layout.sweep(&numbers, &blobs)?;
        *self.state() = state;
        self.sweep_leftovers(Sweep::Stale)?;
        self.db.keep_reserve();
        Ok(())
    }
}

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::corrupt(format!("image store: {e}"))))
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Locks that are handed out by name and forgotten when nobody has them.
pub(crate) struct Locks<K>(Mutex<HashMap<K, std::sync::Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: std::hash::Hash + Eq> Locks<K> {
    /// Waits for the lock of this name.
    pub(crate) async fn lock(&self, key: K) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let found = locks.get(&key).and_then(std::sync::Weak::upgrade);
            found.unwrap_or_else(|| {
                let lock = Arc::default();
                locks.insert(key, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    /// Whether somebody waits for a lock that is held.
    pub(crate) fn is_awaited(&self, key: &K) -> bool {
        let locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The one is in the guard of whoever holds it.
        locks.get(key).is_some_and(|lock| lock.strong_count() > 1)
    }
}
