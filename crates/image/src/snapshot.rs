//! Writable root filesystems on top of an image's layers.

mod apart;
mod classic;
mod diff;
mod mapped;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use vaquita_sys::mount::Filesystem;

use crate::store::Layer;
use crate::{Digest, Error};

pub use diff::Changes;

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
    /// What SELinux takes for the label of everything in a mount of it.
    label: Option<String>,
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
        Self { id: id.to_owned(), image, store: store.to_owned(), dir, lower, label: None, _layers: layers }
    }

    /// The same, with an SELinux label that everything in a mount of it has, whatever its files have (`context=` of mount(8)).
    /// For kernels that run SELinux: others refuse to mount it.
    #[must_use]
    pub fn labelled(self, label: &str) -> Self {
        Self { label: Some(label.to_owned()), ..self }
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
        let layers = self.layers(readonly);
        match self.mount_layers(&layers, readonly) {
            // Layers one by one are known since Linux 6.7.
            Err(Errno::INVAL) => self.mount_classic(&layers, readonly),
            other => other,
        }
        .map_err(|e| self.failed(readonly, e))
    }

    /// As [`Self::mount`], as the user namespace `users` sees it: what belongs to user 0 in the image belongs to user 0 of the
    /// namespace. The layers stay as they are; what is written belongs, in the writable directory, to the host's ids that the
    /// namespace maps to, so a snapshot that was written to is of use with the same mappings only.
    ///
    /// # Errors
    /// [`Kind::Kernel`](crate::Kind::Kernel) with the call that failed: `EINVAL` where the store's filesystem cannot map identities, or
    /// before Linux 5.19.
    pub fn mount_mapped(&self, readonly: bool, users: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
        let failed = |error: vaquita_sys::Error| {
            Error::kernel(format!("the root of {} with mapped identities: {error}", self.id), error.errno())
        };
        let layers = mapped::layers(&self.layers(readonly), users).map_err(failed)?;
        if !readonly {
            self.forget_volatile();
            if let Some(top) = layers.first() {
                self.give_root_to_owner_of(top).map_err(|errno| self.failed(false, errno))?;
            }
        }
        mapped::mount(&self.store, &layers, (!readonly).then_some(&*self.dir), self.label.as_deref())
            .map_err(failed)
    }

    /// The root of an overlay shows the owner of the writable directory.
    #[expect(clippy::disallowed_methods, reason = "the store's own directory, by names that it gave")]
    fn give_root_to_owner_of(&self, layer: &OwnedFd) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let stat = rustix::fs::fstat(layer)?;
        let upper = rustix::fs::open(self.dir.join("upper"), flags, Mode::empty())?;
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::fchown(&upper, Some(uid), Some(gid))
    }

    /// Directories for an overlay, topmost first.
    fn layers(&self, readonly: bool) -> Vec<PathBuf> {
        let mut layers: Vec<PathBuf> = self.lower.iter().rev().cloned().collect();
        if readonly || layers.is_empty() {
            // Without a writable layer overlayfs wants two others.
            layers.push(self.store.join("empty"));
        }
        if readonly && layers.len() < 2 {
            layers.push(self.store.join("snapshots").join(&self.id).join("work"));
        }
        layers
    }

    fn mount_layers(&self, layers: &[PathBuf], readonly: bool) -> Result<OwnedFd, Errno> {
        let errno = |e: vaquita_sys::Error| e.errno();
        let overlay = Filesystem::open("overlay").map_err(errno)?;
        for layer in layers {
            overlay.set_string("lowerdir+", layer).map_err(errno)?;
        }
        if readonly {
            overlay.set_flag("ro").map_err(errno)?;
        } else {
            self.forget_volatile();
            overlay.set_string("upperdir", self.dir.join("upper")).map_err(errno)?;
            overlay.set_string("workdir", self.dir.join("work")).map_err(errno)?;
            overlay.set_flag("volatile").map_err(errno)?;
        }
        for key in ["index", "metacopy"] {
            overlay.set_string(key, "off").map_err(errno)?;
        }
        if let Some(label) = &self.label {
            overlay.set_string("context", label).map_err(errno)?;
        }
        overlay.create().map_err(errno)
    }

    fn mount_classic(&self, layers: &[PathBuf], readonly: bool) -> Result<OwnedFd, Errno> {
        let layers: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        self.forget_volatile();
        classic::mount(&self.store, &layers, (!readonly).then_some(&*self.dir), self.label.as_deref())
    }

    /// What an earlier volatile mount left, to warn of lost data: nothing was lost while the machine ran.
    #[expect(clippy::disallowed_methods, reason = "the store's own directory, by names that it gave")]
    fn forget_volatile(&self) {
        let _ = std::fs::remove_dir_all(self.dir.join("work/work/incompat"));
    }

    fn failed(&self, readonly: bool, errno: Errno) -> Error {
        let layers = self.lower.len();
        let how = if readonly { "read-only" } else { "writable" };
        Error::kernel(format!("fsmount(overlay of {layers} layers, {how}, {})", self.dir.display()), errno)
    }
}

/// Whether layers of this store can be shown to a user namespace: tried with directories that every store has.
pub(crate) fn can_map(store: &Path, users: BorrowedFd<'_>) -> Result<(), Error> {
    let failed = |error: vaquita_sys::Error| {
        Error::kernel(format!("layers with mapped identities in {}: {error}", store.display()), error.errno())
    };
    let layers = mapped::layers(&["empty", "layers"].map(|name| store.join(name)), users).map_err(failed)?;
    mapped::mount(store, &layers, None, None).map(drop).map_err(failed)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files that the tests make")]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use rustix::fd::AsFd;
    use rustix::fs::{AtFlags, Mode, statat};

    use super::*;

    /// Both ways show the same, for a stack whose names do not fit 255 bytes.
    #[test]
    fn old_kernels_mount_the_same() {
        vaquita_testing::require_root();
        let dir = tempfile::tempdir().unwrap();
        let path = |inner: &str| dir.path().join(inner);
        for inner in ["empty", "snapshots/c/upper", "snapshots/c/work"] {
            fs::create_dir_all(path(inner)).unwrap();
        }
        let lower: Vec<PathBuf> = (1..=60).map(|n| path(&format!("layers/{n}/fs"))).collect();
        for (n, layer) in lower.iter().enumerate() {
            fs::create_dir_all(layer).unwrap();
            fs::write(layer.join(format!("f{n}")), "").unwrap();
        }
        let snapshot = Snapshot::new("c", Digest::of(b""), dir.path(), lower.clone(), Vec::new());
        let layers: Vec<PathBuf> = lower.into_iter().rev().collect();
        for readonly in [true, false, false] {
            // One after the other: a writable snapshot has one mount at a time.
            for classic in [false, true] {
                let mount = if classic { Snapshot::mount_classic } else { Snapshot::mount_layers };
                let root = mount(&snapshot, &layers, readonly).unwrap();
                for n in [0, 59] {
                    statat(&root, format!("f{n}"), AtFlags::empty()).unwrap();
                }
                let made = rustix::fs::mkdirat(&root, "new", Mode::from_raw_mode(0o700));
                assert_eq!(made.is_ok() || made == Err(Errno::EXIST), !readonly);
            }
        }
        let mounted = vaquita_sys::mount::mountinfo().unwrap();
        let here = dir.path();
        assert!(!mounted.iter().any(|mount| mount.mount_point.starts_with(here)), "visible on the host");
    }
    /// Both ways of mapping show the image's root as the namespace's, keep the layers as they are, and write as the host's
    /// ids.
    #[test]
    fn layers_are_mapped() {
        vaquita_testing::require_root();
        let users = vaquita_sys::ns::new_userns("0 70000 65536\n", "0 80000 65536\n").unwrap();
        for by_path in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = |inner: &str| dir.path().join(inner);
            for inner in ["empty", "snapshots/c/upper", "snapshots/c/work", "layers/1/fs", "layers/2/fs"] {
                fs::create_dir_all(path(inner)).unwrap();
            }
            let file = path("layers/1/fs/file");
            fs::write(&file, "text").unwrap();
            std::os::unix::fs::chown(&file, Some(7), Some(0)).unwrap();
            let lower = ["layers/1/fs", "layers/2/fs"].map(&path).to_vec();
            let snapshot = Snapshot::new("c", Digest::of(b""), dir.path(), lower, Vec::new());
            let owner = |root: &OwnedFd, name: &str| {
                let stat = statat(root, name, AtFlags::empty()).unwrap();
                (stat.st_uid, stat.st_gid)
            };
            for readonly in [true, false] {
                let root = if by_path {
                    let layers = mapped::layers(&snapshot.layers(readonly), users.as_fd()).unwrap();
                    if !readonly {
                        snapshot.give_root_to_owner_of(&layers[0]).unwrap();
                    }
                    mapped::by_path(dir.path(), &layers, (!readonly).then_some(snapshot.dir()), None).unwrap()
                } else {
                    snapshot.mount_mapped(readonly, users.as_fd()).unwrap()
                };
                assert_eq!((owner(&root, "."), owner(&root, "file")), ((70000, 80000), (70007, 80000)));
                let made = rustix::fs::mkdirat(&root, "new", Mode::from_raw_mode(0o700));
                assert_eq!(made.is_ok(), !readonly);
                if !readonly {
                    // A copy-up keeps the owner that is shown.
                    rustix::fs::chmodat(&root, "file", Mode::from_raw_mode(0o600), AtFlags::empty()).unwrap();
                    assert_eq!(owner(&root, "file"), (70007, 80000));
                    let copy = fs::metadata(path("snapshots/c/upper/file")).unwrap();
                    assert_eq!((copy.uid(), copy.gid()), (70007, 80000));
                }
            }
            let below = fs::metadata(&file).unwrap();
            assert_eq!((below.uid(), below.gid()), (7, 0));
            let here = dir.path();
            let mounted = vaquita_sys::mount::mountinfo().unwrap();
            assert!(!mounted.iter().any(|mount| mount.mount_point.starts_with(here)), "visible on the host");
        }
    }
}
