//! Writable root filesystems on top of an image's layers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use vaquita_sys::mount::Filesystem;

use crate::store::Layer;
use crate::{Digest, Error};

/// The root filesystem of one container: the image's layers, read-only, and a directory that takes what is written.
#[derive(Clone, Debug)]
pub struct Snapshot {
    id: String,
    image: Digest,
    /// The store's directory.
    store: PathBuf,
    dir: PathBuf,
    /// Root directories of the layers, lowest first.
    lower: Vec<PathBuf>,
    /// As long as somebody has this, the layers stay.
    _layers: Vec<Arc<Layer>>,
}

/// A snapshot as [`Store::snapshots`](crate::Store::snapshots) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// The container's id.
    pub id: String,
    /// The image below; `None` where the record was lost with the power.
    pub image: Option<Digest>,
    /// The directory that holds `upper` and `work`.
    pub dir: PathBuf,
}

impl Snapshot {
    pub(crate) fn new(
        id: &str,
        image: Digest,
        store: &Path,
        lower: Vec<PathBuf>,
        layers: Vec<Arc<Layer>>,
    ) -> Self {
        let dir = store.join("snapshots").join(id);
        Self { id: id.to_owned(), image, store: store.to_owned(), dir, lower, _layers: layers }
    }

    /// The id it was made with.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The image below.
    #[must_use]
    pub fn image(&self) -> &Digest {
        &self.image
    }

    /// The directory on the host that holds `upper` and `work`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Mounts it detached: the descriptor is the only way to it, and the mount goes when the last use of it goes.
    ///
    /// `readonly` mounts the layers alone, for looking users up and for image volumes; it can be had any number of times.
    /// The writable form has one mount at a time. It is "volatile" (Linux 5.10): after a power cut its content is void.
    ///
    /// # Errors
    /// [`Kind::Kernel`](crate::Kind::Kernel) with the call that failed.
    pub fn mount(&self, readonly: bool) -> Result<OwnedFd, Error> {
        let mut layers: Vec<PathBuf> = self.lower.iter().rev().cloned().collect();
        if readonly || layers.is_empty() {
            // Without a writable layer overlayfs wants two others.
            layers.push(self.store.join("empty"));
        }
        if readonly && layers.len() < 2 {
            layers.push(self.store.join("snapshots").join(&self.id).join("work"));
        }
        match self.mount_with(&layers, readonly, Lower::Single) {
            Err(Errno::INVAL) => {
                self.mount_with(&layers, readonly, Lower::Joined).map_err(|e| self.failed(readonly, e))
            }
            other => other.map_err(|e| self.failed(readonly, e)),
        }
    }

    fn mount_with(&self, layers: &[PathBuf], readonly: bool, lower: Lower) -> Result<OwnedFd, Errno> {
        let errno = |e: vaquita_sys::Error| e.errno();
        let overlay = Filesystem::open("overlay").map_err(errno)?;
        match lower {
            Lower::Single => {
                for layer in layers {
                    overlay.set_string("lowerdir+", layer).map_err(errno)?;
                }
            }
            Lower::Joined => {
                let joined: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
                overlay.set_string("lowerdir", joined.join(":")).map_err(errno)?;
            }
        }
        if readonly {
            overlay.set_flag("ro").map_err(errno)?;
        } else {
            // What an earlier volatile mount left to warn of lost data: nothing was lost while the machine ran.
            let _ = std::fs::remove_dir_all(self.dir.join("work/work/incompat"));
            overlay.set_string("upperdir", self.dir.join("upper")).map_err(errno)?;
            overlay.set_string("workdir", self.dir.join("work")).map_err(errno)?;
            let _ = overlay.set_flag("volatile");
        }
        for (key, value) in [("index", "off"), ("metacopy", "off")] {
            let _ = overlay.set_string(key, value);
        }
        overlay.create().map_err(errno)
    }

    fn failed(&self, readonly: bool, errno: Errno) -> Error {
        let layers = self.lower.len();
        let how = if readonly { "read-only" } else { "writable" };
        Error::kernel(format!("fsmount(overlay of {layers} layers, {how}, {})", self.dir.display()), errno)
    }
}

/// How layers are named to the kernel.
#[derive(Clone, Copy)]
enum Lower {
    /// One by one (Linux 6.7), any number.
    Single,
    /// In one text, as long as it has at most 255 bytes.
    Joined,
}
