//! The store's directories, and what is done in them.
//!
//! `blobs/sha256/<hex>` manifests and configurations, `layers/<n>/fs` unpacked layers, beside each the `recipe` from which its tar
//! stream can be made again, with what the layer itself `replaced`, `snapshots/<id>/{upper,work}`
//! writable layers, `tmp/` what is being written, `empty/` a layer of nothing, `store.redb` the transaction log. What is
//! in `layers` and not in the log, and all of `tmp`, is left over from a process that ended early.

#![expect(clippy::disallowed_methods, reason = "the store's own directories, by names that it gave")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, Timestamps};
use rustix::io::Errno;

use crate::unpack::remove_tree;
use crate::{Digest, Error};

/// Open directories of a store.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) path: PathBuf,
    blobs: OwnedFd,
    layers: OwnedFd,
    pub(crate) snapshots: OwnedFd,
    pub(crate) tmp: OwnedFd,
    next_layer: AtomicU32,
    next_tmp: AtomicU64,
}

impl Layout {
    /// Opens or makes the directories.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let dir = |name: &str| -> Result<OwnedFd, Error> {
            let full = path.join(name);
            let mode = Mode::from_raw_mode(0o700);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::mkdir(&full, mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(Error::kernel(format!("mkdir({full:?})"), e)),
            }
            rustix::fs::open(&full, flags, mode)
                .map_err(|e| Error::kernel(format!("open({full:?}, O_DIRECTORY)"), e))
        };
        make_parents(path)?;
        dir("")?;
        dir("blobs")?;
        let empty = dir("empty")?;
        rustix::fs::fchmod(&empty, Mode::from_raw_mode(0o755))
            .map_err(|e| Error::kernel("fchmod(empty)", e))?;
        Ok(Self {
            path: path.to_owned(),
            blobs: dir("blobs/sha256")?,
            layers: dir("layers")?,
            snapshots: dir("snapshots")?,
            tmp: dir("tmp")?,
            next_layer: AtomicU32::new(1),
            next_tmp: AtomicU64::new(1),
        })
    }

    /// Removes what is not in use: unknown layers and blobs, all of `tmp`. Layers that are added later get numbers that
    /// no layer had.
    pub(crate) fn sweep(&self, layers: &[u32], blobs: &[Digest]) -> Result<(), Error> {
        let known: Vec<String> = layers.iter().map(u32::to_string).collect();
        self.next_layer.store(layers.iter().max().map_or(1, |n| n + 1), Ordering::Relaxed);
        for name in names(self.layers.as_fd())? {
            if !known.iter().any(|known| known.as_bytes() == name) {
                remove_tree(self.layers.as_fd(), &name).map_err(|e| self.failed("layers", &name, e))?;
            }
        }
        for name in names(self.tmp.as_fd())? {
            remove_tree(self.tmp.as_fd(), &name).map_err(|e| self.failed("tmp", &name, e))?;
        }
        let known: Vec<String> = blobs.iter().map(Digest::hex).collect();
        for name in names(self.blobs.as_fd())? {
            if !known.iter().any(|known| known.as_bytes() == name) {
                remove_tree(self.blobs.as_fd(), &name).map_err(|e| self.failed("blobs", &name, e))?;
            }
        }
        Ok(())
    }

    /// A new empty layer, which goes again when it is dropped before [`Staged::keep`].
    pub(crate) fn stage(self: &std::sync::Arc<Self>) -> Result<Staged, Error> {
        let number = self.next_layer.fetch_add(1, Ordering::Relaxed);
        let staged = Staged { layout: Some(std::sync::Arc::clone(self)), number };
        let name = number.to_string();
        rustix::fs::mkdirat(&self.layers, &name, Mode::from_raw_mode(0o700))
            .map_err(|e| Error::kernel(format!("mkdir(layers/{name})"), e))?;
        let inner = format!("{name}/fs");
        rustix::fs::mkdirat(&self.layers, &inner, Mode::from_raw_mode(0o755))
            .map_err(|e| Error::kernel(format!("mkdir(layers/{inner})"), e))?;
        Ok(staged)
    }

    /// The root directory of a layer.
    pub(crate) fn layer(&self, number: u32) -> Result<OwnedFd, Error> {
        self.open_layer(format!("{number}/fs"))
    }

    /// The directory of a layer, with `fs`, the recipe, and what the layer itself replaced.
    pub(crate) fn layer_home(&self, number: u32) -> Result<OwnedFd, Error> {
        self.open_layer(number.to_string())
    }

    fn open_layer(&self, name: String) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.layers, &name, flags, Mode::empty())
            .map_err(|e| Error::kernel(format!("open(layers/{name})"), e))
    }

    /// The path of a layer's root directory, for overlayfs.
    pub(crate) fn layer_path(&self, number: u32) -> PathBuf {
        self.path.join(format!("layers/{number}/fs"))
    }

    pub(crate) fn remove_layer(&self, number: u32) -> Result<(), Error> {
        let name = number.to_string();
        remove_tree(self.layers.as_fd(), name.as_bytes())
            .map_err(|e| self.failed("layers", name.as_bytes(), e))
    }

    /// Everything that was written so far is on the disk when this returns.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        rustix::fs::syncfs(&self.layers).map_err(|e| Error::kernel("syncfs(layers)", e))
    }

    /// Keeps a manifest or configuration.
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let name = digest.hex();
        vaquita_sys::fs::write_atomic(&self.blobs, &name, bytes, 0o600, true)
            .map_err(|e| Error::kernel(format!("write(blobs/sha256/{name})"), e.errno()))?;
        Ok(digest)
    }

    /// Reads a manifest or configuration that was kept, and verifies it once more.
    pub(crate) fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        let bytes = std::fs::read(self.path.join("blobs/sha256").join(digest.hex())).ok()?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }

    pub(crate) fn remove_blob(&self, digest: &Digest) {
        // One that stays is swept at the next start.
        let _ = rustix::fs::unlinkat(&self.blobs, digest.hex(), AtFlags::empty());
    }

    /// A name in `tmp` that nobody else uses.
    pub(crate) fn tmp_name(&self) -> String {
        format!("{}", self.next_tmp.fetch_add(1, Ordering::Relaxed))
    }

    /// Gives directories that a layer uses without describing them the owner, mode and time that they have in the
    /// layers below: overlayfs shows those of the topmost one.
    pub(crate) fn inherit(&self, number: u32, implicit: &[String], below: &[u32]) -> Result<(), Error> {
        if below.is_empty() || implicit.is_empty() {
            return Ok(());
        }
        let layer = self.layer(number)?;
        let below: Vec<OwnedFd> = below.iter().rev().map(|n| self.layer(*n)).collect::<Result<_, _>>()?;
        for path in implicit.iter().filter_map(|hex| unhex(hex)) {
            let found = below.iter().find_map(|lower| match open_beneath(lower.as_fd(), &path) {
                Ok(dir) => Some(Some(dir)),
                Err(Errno::NOENT) => None,
                // A file, a link or a whiteout is in the way: what is further down is hidden.
                Err(_) => Some(None),
            });
            if let (Some(Some(from)), Ok(to)) = (found, open_beneath(layer.as_fd(), &path)) {
                copy_meta(&from, &to).map_err(|e| Error::kernel(format!("fchown(layers/{number}/…)"), e))?;
            }
        }
        Ok(())
    }

    fn failed(&self, dir: &str, name: &[u8], errno: Errno) -> Error {
        let path = self.path.join(dir);
        Error::kernel(format!("remove({}/{})", path.display(), name.escape_ascii()), errno)
    }
}

/// A layer that is being filled.
#[derive(Debug)]
pub(crate) struct Staged {
    layout: Option<std::sync::Arc<Layout>>,
    pub(crate) number: u32,
}

impl Staged {
    /// It is recorded now and stays.
    pub(crate) fn keep(mut self) {
        self.layout = None;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(layout) = self.layout.take()
            && let Err(error) = layout.remove_layer(self.number)
        {
            tracing::warn!("an unfinished layer stays until the next start: {error}");
        }
    }
}

pub(crate) fn names(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Error> {
    let failed = |e| Error::kernel("getdents64(image store)", e);
    let mut out = Vec::new();
    for entry in Dir::read_from(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            out.push(name);
        }
    }
    Ok(out)
}

fn make_parents(path: &Path) -> Result<(), Error> {
    let Some(parent) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|e| Error::io(format!("mkdir({})", parent.display()), &e))
}

fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    vaquita_sys::root::openat2(root, path, flags, Mode::empty(), resolve)
}

fn copy_meta(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(from)?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = rustix::fs::Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
    };
    rustix::fs::futimens(to, &Timestamps { last_access: time, last_modification: time })
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
