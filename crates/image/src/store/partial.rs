//! The beginning of a layer that has come in: its compressed bytes, so that a pull that was cancelled or killed goes on where
//! it ended.
//!
//! Nothing here is synced, and nothing is believed: whoever takes a beginning up hashes it with the rest. It is a help only,
//! so what cannot be written is given up, and a layer comes in without it.

#![expect(clippy::disallowed_methods, reason = "the store's own directories, by names that it gave")]

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::manifest::Blob;
use crate::{Digest, Error};

use super::layout::{Layout, names};
use super::space::allocated;

/// Bytes that are read at once.
const CHUNK: usize = 128 << 10;

/// The directory of beginnings, and which of them somebody works with.
#[derive(Debug)]
pub(crate) struct Partials {
    pub(super) dir: OwnedFd,
    taken: Mutex<HashSet<Digest>>,
}

/// A beginning that nobody works with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    pub(crate) digest: Digest,
    /// When its last bytes came; none where the clock says otherwise.
    pub(crate) age: Option<std::time::Duration>,
}

/// The beginning of one layer. It is one's own as long as this is held, and stays when this is dropped.
#[derive(Debug)]
pub(crate) struct Partial {
    layout: Arc<Layout>,
    digest: Digest,
    /// None when it was given up.
    file: Option<File>,
    kept: u64,
}

impl Partials {
    pub(super) fn new(dir: OwnedFd) -> Self {
        Self { dir, taken: Mutex::default() }
    }

    /// The beginning of this layer, be it empty, for the one who calls alone. `None` where another has it, or where it cannot be made.
    pub(crate) fn take(layout: &Arc<Layout>, blob: &Blob) -> Option<Partial> {
        let partials = &layout.partials;
        let mut taken = partials.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.contains(&blob.digest) {
            return None;
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = File::from(rustix::fs::openat(&partials.dir, blob.digest.hex(), flags, mode).ok()?);
        let mut kept = file.metadata().ok()?.len();
        if kept > blob.size {
            file.set_len(0).ok()?;
            kept = 0;
        }
        taken.insert(blob.digest);
        Some(Partial { layout: Arc::clone(layout), digest: blob.digest, file: Some(file), kept })
    }

    /// Those that nobody works with.
    pub(crate) fn idle(&self) -> Result<Vec<Idle>, Error> {
        let mut idle = Vec::new();
        let now = SystemTime::now();
        for name in names(self.dir.as_fd())? {
            let digest = std::str::from_utf8(&name).ok().and_then(Digest::from_hex);
            let stat = rustix::fs::statat(&self.dir, &name[..], AtFlags::SYMLINK_NOFOLLOW);
            let (Some(digest), Ok(stat)) = (digest, stat) else { continue };
            if self.taken.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest) {
                continue;
            }
            idle.push(Idle { digest, age: super::layout::age(&stat, now) });
        }
        Ok(idle)
    }

    /// Removes one, unless somebody works with it. How much that frees.
    pub(crate) fn remove_idle(&self, digest: &Digest) -> u64 {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.contains(digest) { 0 } else { self.unlink(digest) }
    }

    fn unlink(&self, digest: &Digest) -> u64 {
        let name = digest.hex();
        let stat = rustix::fs::statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW);
        match (stat, rustix::fs::unlinkat(&self.dir, &name, AtFlags::empty())) {
            (Ok(stat), Ok(())) => allocated(&stat),
            _ => 0,
        }
    }
}

impl Partial {
    /// Bytes that were there when it was taken.
    pub(crate) fn kept(&self) -> u64 {
        self.kept
    }

    /// Reads what was kept from its beginning, until `each` has enough (`false`). Call it once, before [`Self::append`].
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::Kind::Corrupt) where less can be read than is there.
    pub(crate) fn replay(&mut self, mut each: impl FnMut(&[u8]) -> bool) -> Result<(), Error> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut buffer = vec![0; if self.kept == 0 { 0 } else { CHUNK }];
        let mut left = self.kept;
        while left > 0 {
            let length = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
            file.read_exact(&mut buffer[..length])
                .map_err(|e| Error::corrupt(format!("read(partial/{}): {e}", self.digest.hex())))?;
            left -= length as u64;
            if !each(&buffer[..length]) {
                break;
            }
        }
        Ok(())
    }

    /// Adds what came next. Without room for it the whole beginning is given up, for that room is wanted elsewhere.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_err()
        {
            self.file = None;
            self.layout.partials.unlink(&self.digest);
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let partials = &self.layout.partials;
        let mut taken = partials.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = self.file.take()
            && file.metadata().is_ok_and(|meta| meta.len() == 0)
        {
            partials.unlink(&self.digest);
        }
        taken.remove(&self.digest);
    }
}
