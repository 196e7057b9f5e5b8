//! The store's directories, and what is done in them.
//!
//! `blobs/sha256/<hex>` manifests and configurations, `layers/<n>/fs` unpacked layers, beside each the `recipe` from which its tar
//! stream can be made again, with what the layer itself `replaced`, `snapshots/<id>/{upper,work}` writable layers, `partial/<hex>`
//! beginnings of compressed layers, `tmp/` what is being written, `empty/` a layer of nothing, `store.redb` the transaction log,
//! `reserve` room for it.
//!
//! `notes/<n>` is written when a layer is whole and verified, and made read-only when the log has it: not beside the layer,
//! where the unpacker can write. What is in `layers`, not in the log, and has no note of this boot, is left over from a
//! process that ended early, and so is all of `tmp`.

#![expect(clippy::disallowed_methods, reason = "the store's own directories, by names that it gave")]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, Stat, Timestamps};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vaquita_sys::root::Root;

use crate::unpack::remove_tree;
use crate::{Digest, Error};

use super::partial::Partials;
use super::space::allocated;

/// A note lists directories; the list is as long as what the unpacker may say.
const NOTE_LIMIT: usize = 64 << 20;

/// Open directories of a store.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) path: PathBuf,
    blobs: OwnedFd,
    pub(super) layers: OwnedFd,
    pub(super) notes: Root,
    pub(crate) snapshots: OwnedFd,
    pub(crate) tmp: OwnedFd,
    pub(crate) partials: Partials,
    /// Which start of the machine this is: what an earlier one left without a sync may be torn.
    boot: String,
    next_layer: AtomicU32,
    next_tmp: AtomicU64,
}

/// What is said of a layer beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    boot: String,
    pub(crate) chain: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) implicit: Vec<String>,
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
            notes: Root::from_fd(dir("notes")?),
            snapshots: dir("snapshots")?,
            tmp: dir("tmp")?,
            partials: Partials::new(dir("partial")?),
            boot: boot_id(),
            next_layer: AtomicU32::new(1),
            next_tmp: AtomicU64::new(1),
        })
    }

    /// Removes what is not in use: unknown layers and blobs, all of `tmp`, and in `partial` what has no place there. Layers that
    /// are added later get numbers that no layer had.
    pub(crate) fn sweep(&self, layers: &[u32], blobs: &[Digest]) -> Result<(), Error> {
        let layers: HashSet<String> = layers.iter().map(u32::to_string).collect();
        let blobs: HashSet<String> = blobs.iter().map(Digest::hex).collect();
        let keep = |known: &HashSet<String>, name: &str| known.contains(name);
        self.sweep_dir("layers", self.layers.as_fd(), |name| keep(&layers, name))?;
        self.sweep_dir("notes", self.notes.as_fd(), |name| keep(&layers, name))?;
        self.sweep_dir("tmp", self.tmp.as_fd(), |_| false)?;
        self.sweep_dir("blobs/sha256", self.blobs.as_fd(), |name| keep(&blobs, name))?;
        self.sweep_dir("partial", self.partials.dir.as_fd(), |name| Digest::from_hex(name).is_some())
    }

    fn sweep_dir(&self, dir: &str, fd: BorrowedFd<'_>, keep: impl Fn(&str) -> bool) -> Result<(), Error> {
        for name in names(fd)? {
            if !std::str::from_utf8(&name).is_ok_and(&keep) {
                remove_tree(fd, &name).map_err(|e| self.failed(dir, &name, e))?;
            }
        }
        Ok(())
    }

    /// The numbers of all layers that have a directory. From now on new ones get higher numbers.
    pub(crate) fn numbers(&self) -> Result<Vec<u32>, Error> {
        let number =
            |name: Vec<u8>| std::str::from_utf8(&name).ok().and_then(|name| name.parse::<u32>().ok());
        let numbers: Vec<u32> = names(self.layers.as_fd())?.into_iter().filter_map(number).collect();
        let next = numbers.iter().max().map_or(1, |highest| highest.saturating_add(1));
        self.next_layer.fetch_max(next, Ordering::Relaxed);
        Ok(numbers)
    }

    /// Says of a layer that it is whole and verified.
    pub(crate) fn note(
        &self,
        number: u32,
        chain: Digest,
        diff_id: Digest,
        implicit: &[String],
    ) -> Result<(), Error> {
        let implicit = implicit.to_vec();
        let note = Note { boot: self.boot.clone(), chain, diff_id, implicit };
        let text = serde_json::to_vec(&note).map_err(|e| Error::corrupt(e.to_string()))?;
        vaquita_sys::fs::write_atomic(&self.notes, &number.to_string(), &text, 0o600, false)
            .map_err(|e| Error::kernel(format!("write({}/notes/{number})", self.path.display()), e.errno()))
    }

    /// Says of a layer that the log has it.
    pub(crate) fn seal(&self, number: u32) {
        // Wanted only when the log is lost; and then the layer is pulled again.
        let mode = Mode::from_raw_mode(0o400);
        let _ = rustix::fs::chmodat(&self.notes, number.to_string(), mode, AtFlags::empty());
    }

    /// What is said of a layer that the log does not have, where it can be relied on. What was written before the machine started may be
    /// torn; what the log has had is whole, but on its way out, unless the log is lost.
    pub(crate) fn read_note(&self, number: u32, is_log_lost: bool) -> Option<Note> {
        let name = number.to_string();
        let note: Note = serde_json::from_slice(&self.notes.read_bounded(&name, NOTE_LIMIT).ok()?).ok()?;
        let is_sealed = self.notes.stat(&name).ok()?.st_mode & 0o200 == 0;
        let is_whole = if is_sealed { is_log_lost } else { !self.boot.is_empty() && note.boot == self.boot };
        if is_whole && is_sealed {
            // From now on it is a layer that no image has.
            self.note(number, note.chain, note.diff_id, &note.implicit).ok()?;
        }
        is_whole.then_some(note)
    }

    /// How long a layer has been whole; none where the clock says otherwise.
    pub(crate) fn layer_age(&self, number: u32) -> Option<Duration> {
        age(&self.notes.stat(number.to_string()).ok()?, SystemTime::now())
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
        // First: a layer with a note is whole.
        match rustix::fs::unlinkat(&self.notes, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(self.failed("notes", name.as_bytes(), e)),
        }
        remove_tree(self.layers.as_fd(), name.as_bytes())
            .map_err(|e| self.failed("layers", name.as_bytes(), e))
    }

    /// Everything that was written so far is on the disk when this returns.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        rustix::fs::syncfs(&self.layers).map_err(|e| Error::kernel("syncfs(layers)", e))
    }

    /// Keeps a manifest or configuration. `durable`: it is on the disk when this returns.
    pub(crate) fn put_blob(&self, bytes: &[u8], durable: bool) -> Result<(), Error> {
        let name = Digest::of(bytes).hex();
        vaquita_sys::fs::write_atomic(&self.blobs, &name, bytes, 0o600, durable).map_err(|e| {
            Error::kernel(format!("write({}/blobs/sha256/{name})", self.path.display()), e.errno())
        })
    }

    /// Reads a manifest or configuration that was kept, and verifies it once more.
    pub(crate) fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        let bytes = std::fs::read(self.path.join("blobs/sha256").join(digest.hex())).ok()?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }

    /// Removes a manifest or configuration. How much that frees.
    pub(crate) fn remove_blob(&self, digest: &Digest) -> u64 {
        let name = digest.hex();
        let stat = rustix::fs::statat(&self.blobs, &name, AtFlags::SYMLINK_NOFOLLOW);
        // One that stays is swept at the next start.
        match (stat, rustix::fs::unlinkat(&self.blobs, &name, AtFlags::empty())) {
            (Ok(stat), Ok(())) => allocated(&stat),
            _ => 0,
        }
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

/// How long ago a file was written; none where that is in the future.
pub(crate) fn age(stat: &Stat, now: SystemTime) -> Option<Duration> {
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).ok()?);
    now.duration_since(written).ok()
}

/// Empty where the kernel does not say.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
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
