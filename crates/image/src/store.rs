//! The store: what images, layers and snapshots there are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fd::OwnedFd;
use tokio::io::AsyncRead;

use crate::{
    Auth, BuiltinFile, Digest, Error, Image, ImageConfig, Kind, Reference, Registries, Snapshot, SnapshotInfo,
};

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
}

impl Default for Options {
    fn default() -> Self {
        Self { unpacker: Unpacker::Own, parallel_layers: 3, layer_bytes: 64 << 30, layer_entries: 4_000_000 }
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
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the store in `dir`, making it where it is not there, and removes what an earlier process left unfinished.
    ///
    /// Only one process at a time can have it open.
    ///
    /// # Errors
    /// [`Kind::Busy`] when another process has it open, [`Kind::Corrupt`] when the transaction log cannot be read,
    /// [`Kind::Kernel`] for what the filesystem refuses.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        let _ = options;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Fetches an image, or makes sure that the one in the store is what the registry has.
    ///
    /// A second pull of the same reference with the same credentials joins the running one. When nobody waits any
    /// more (all futures dropped), the pull is given up.
    ///
    /// # Errors
    /// [`Kind::NotFound`] and [`Kind::Denied`] name reference and registry; [`Kind::Unavailable`] begins with
    /// `RegistryUnavailable`; [`Kind::Corrupt`] for bytes that are not what their digest says; [`Kind::Timeout`].
    pub async fn pull(
        &self,
        reference: &Reference,
        auth: Option<&Auth>,
        registries: &Registries,
    ) -> Result<Image, Error> {
        let _ = (auth, registries);
        Err(Error::new(Kind::Unsupported, format!("{reference} cannot be pulled yet")))
    }

    /// The pulls and loads that are running now.
    #[must_use]
    pub fn pulls(&self) -> Vec<PullStatus> {
        Vec::new()
    }

    /// Takes in every image of an archive: the tar of an OCI layout or of `docker save`, either of them also gzipped.
    ///
    /// `progress` is called with the number of bytes read so far.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for an archive that is neither, [`Kind::Corrupt`] for one whose digests are wrong.
    pub async fn load(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<Vec<Image>, Error> {
        let _ = (archive, progress);
        Err(Error::new(Kind::Unsupported, "archives cannot be loaded yet"))
    }

    /// Puts a synthesised image of one layer into the store. The same content gives the same digest.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a path that is not absolute, [`Kind::Kernel`] for a source that cannot be read.
    pub async fn builtin(
        &self,
        reference: &Reference,
        config: ImageConfig,
        files: Vec<BuiltinFile>,
    ) -> Result<Image, Error> {
        let _ = (config, files);
        Err(Error::new(Kind::Unsupported, format!("{reference} cannot be made yet")))
    }

    /// All images, from memory, sorted by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        Vec::new()
    }

    /// Finds an image by id (with or without `sha256:`, or at least 4 digits of its beginning when they are
    /// unambiguous), by reference, or by reference with digest. From memory.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Image>> {
        let _ = name;
        None
    }

    /// Removes the image that `name` finds, with all its names, and frees at once what no other image and no snapshot uses.
    /// An image that is not there is no error.
    ///
    /// # Errors
    /// [`Kind::Kernel`] for what the filesystem refuses; the image is gone from the list in any case.
    pub async fn remove(&self, name: &str) -> Result<Freed, Error> {
        let _ = name;
        Ok(Freed::default())
    }

    /// Gives an image another name. The name is taken away from an image that had it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when `name` finds nothing, [`Kind::Invalid`] for a reference with a digest.
    pub async fn tag(&self, name: &str, reference: &Reference) -> Result<Image, Error> {
        Err(Error::not_found(format!("image {name:?} to be tagged {reference} is not in the store")))
    }

    /// Makes the directories of a container's root filesystem. The same id and image again gives the same snapshot.
    ///
    /// A few system calls; blocks no longer than they do.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for an image that is not there, [`Kind::Exists`] when the id is used with another image,
    /// [`Kind::Invalid`] for an id that is not letters, digits, '-', '_', '.'.
    pub fn snapshot(&self, id: &str, image: &Digest) -> Result<Snapshot, Error> {
        Err(Error::new(Kind::Unsupported, format!("snapshot {id} of {image} cannot be made yet")))
    }

    /// A snapshot that was made before, maybe by an earlier process.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn open_snapshot(&self, id: &str) -> Result<Snapshot, Error> {
        Err(Error::not_found(format!("snapshot {id} does not exist")))
    }

    /// All snapshots, sorted by id.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        Vec::new()
    }

    /// Removes a snapshot and frees at once what nobody else uses. One that is not there is no error.
    ///
    /// Blocks while the tree is deleted.
    ///
    /// # Errors
    /// [`Kind::Kernel`] for what the filesystem refuses.
    pub fn remove_snapshot(&self, id: &str) -> Result<Freed, Error> {
        let _ = id;
        Ok(Freed::default())
    }

    /// Removes every snapshot whose id is not in `live`.
    ///
    /// # Errors
    /// The first error, after all have been tried.
    pub fn sweep(&self, live: &[&str]) -> Result<Freed, Error> {
        let _ = live;
        Ok(Freed::default())
    }

    /// What a snapshot's writable layer uses. Blocks while the tree is walked.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Kernel`].
    pub fn usage(&self, id: &str) -> Result<Usage, Error> {
        Err(Error::not_found(format!("snapshot {id} does not exist")))
    }

    /// Disk used by images: from memory.
    #[must_use]
    pub fn fs_info(&self) -> FsInfo {
        FsInfo { mountpoint: self.dir.clone(), used_bytes: 0, inodes_used: 0, timestamp: now() }
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
