//! Writable root filesystems on top of an image's layers.

use std::path::PathBuf;

use rustix::fd::OwnedFd;

use crate::{Digest, Error, Kind};

/// The root filesystem of one container: the image's layers, read-only, and a directory that takes what is written.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) id: String,
    pub(crate) image: Digest,
    pub(crate) dir: PathBuf,
    pub(crate) lower: Vec<PathBuf>,
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
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Mounts it detached: the descriptor is the only way to it, and the mount goes when the last use of it goes.
    ///
    /// `readonly` mounts the layers alone, for looking users up and for image volumes; it can be had any number of times.
    /// The writable form has one mount at a time. It is "volatile": after a power cut its content is void.
    ///
    /// # Errors
    /// [`Kind::Kernel`] with the call that failed.
    pub fn mount(&self, readonly: bool) -> Result<OwnedFd, Error> {
        let _ = (readonly, &self.lower);
        Err(Error::new(Kind::Unsupported, "snapshots cannot be mounted yet"))
    }
}
