//! Directories of snapshots and their records.
//!
//! The directory itself is the intent: it is made first and removed last, so whatever is in `snapshots` is ours and
//! listed. After a power cut a record may be torn; its containers are dead then, and the caller's sweep removes it.

#![expect(clippy::disallowed_methods, reason = "the store's own directories, by names that it gave")]

use std::sync::Arc;

use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vaquita_sys::root::Root;

use crate::{Digest, Error, Kind, Snapshot, SnapshotInfo};

use super::space::allocated;
use super::state::{Held, Layer};
use super::{Freed, Inner, State, Usage, layout};

const RECORD: &str = "snapshot.json";
const RECORD_LIMIT: usize = 1 << 20;
const ID_LIMIT: usize = 128;

#[derive(Serialize, Deserialize)]
struct Record {
    image: Digest,
    chain: Vec<Digest>,
}

impl Inner {
    /// Reads the records of all snapshots. A torn one is kept by name, for the sweep.
    pub(super) fn recover_snapshots(&self, state: &mut State) -> Result<(), Error> {
        for name in layout::names(self.layout.snapshots.as_fd())? {
            let Ok(id) = String::from_utf8(name) else { continue };
            let root = Root::open_host(self.layout.path.join("snapshots").join(&id));
            let bytes = root.and_then(|root| root.read_bounded(RECORD, RECORD_LIMIT));
            let record = bytes.ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            let held = record.and_then(|record| {
                state.stack(&record.chain).map(|layers| Held { image: Some(record.image), layers })
            });
            state.snapshots.insert(id, held.unwrap_or(Held { image: None, layers: Vec::new() }));
        }
        Ok(())
    }

    pub(super) fn make_snapshot(&self, id: &str, image: &Digest) -> Result<Snapshot, Error> {
        check_id(id)?;
        let layers = {
            let mut state = self.state();
            if let Some(held) = state.snapshots.get(id) {
                return match &held.image {
                    Some(known) if known == image => Ok(self.describe(id, image, &held.layers)),
                    _ => Err(Error::new(
                        Kind::Exists,
                        format!("snapshot {id} exists with another image than {image}"),
                    )),
                };
            }
            let stored = state.images.get(image);
            let stored = stored.ok_or_else(|| {
                Error::not_found(format!("snapshot {id}: image {image} is not in the store"))
            })?;
            let layers = stored.layers.clone();
            // From here on the layers are held, before anything is made on disk.
            state.snapshots.insert(id.to_owned(), Held { image: Some(*image), layers: layers.clone() });
            layers
        };
        match self.make_directories(id, image, &layers) {
            Ok(()) => Ok(self.describe(id, image, &layers)),
            Err(error) => {
                if let Err(left) = self.remove_snapshot(id) {
                    tracing::warn!("snapshot {id} could not be made and stays until the next sweep: {left}");
                }
                Err(error)
            }
        }
    }

    fn make_directories(&self, id: &str, image: &Digest, layers: &[Arc<Layer>]) -> Result<(), Error> {
        let failed = |what: &str, e: Errno| Error::kernel(format!("{what}(snapshots/{id})"), e);
        let private = Mode::from_raw_mode(0o700);
        match rustix::fs::mkdirat(&self.layout.snapshots, id, private) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed("mkdir", e)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir =
            rustix::fs::openat(&self.layout.snapshots, id, flags, private).map_err(|e| failed("open", e))?;
        let record = Record { image: *image, chain: layers.iter().map(|layer| layer.chain).collect() };
        let text = serde_json::to_vec(&record).map_err(|e| Error::corrupt(e.to_string()))?;
        vaquita_sys::fs::write_atomic(&dir, RECORD, &text, 0o600, false)
            .map_err(|e| failed("write", e.errno()))?;
        for name in ["upper", "work"] {
            rustix::fs::mkdirat(&dir, name, private).map_err(|e| failed("mkdir", e))?;
        }
        // The root of an overlay shows owner and mode of the writable layer.
        let upper = rustix::fs::openat(&dir, "upper", flags, private).map_err(|e| failed("open", e))?;
        let (mode, uid, gid) = match layers.last() {
            Some(top) => {
                let stat = rustix::fs::fstat(self.layout.layer(top.record.number)?)
                    .map_err(|e| failed("fstat", e))?;
                (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)
            }
            None => (0o755, 0, 0),
        };
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(&upper, Some(uid), Some(gid)).map_err(|e| failed("fchown", e))?;
        rustix::fs::fchmod(&upper, Mode::from_raw_mode(mode)).map_err(|e| failed("fchmod", e))
    }

    pub(super) fn open_snapshot(&self, id: &str) -> Result<Snapshot, Error> {
        let state = self.state();
        let held = state.snapshots.get(id).ok_or_else(|| missing(id))?;
        match &held.image {
            Some(image) => Ok(self.describe(id, image, &held.layers)),
            None => Err(Error::corrupt(format!("snapshot {id} has lost its record: remove it"))),
        }
    }

    pub(super) fn list_snapshots(&self) -> Vec<SnapshotInfo> {
        let dir = self.layout.path.join("snapshots");
        let info = |(id, held): (&String, &Held)| SnapshotInfo {
            id: id.clone(),
            image: held.image,
            dir: dir.join(id),
        };
        self.state().snapshots.iter().map(info).collect()
    }

    pub(super) fn remove_snapshot(&self, id: &str) -> Result<Freed, Error> {
        self.remove_by(id, |all| all.remove_tree(id).map(|()| 0))
    }

    pub(super) fn free_snapshot(&self, id: &str) -> Result<Freed, Error> {
        self.remove_by(id, |all| all.free_tree(id))
    }

    fn remove_by(
        &self,
        id: &str,
        remove: impl FnOnce(&Root) -> Result<u64, vaquita_sys::Error>,
    ) -> Result<Freed, Error> {
        if !self.state().snapshots.contains_key(id) {
            return Ok(Freed::default());
        }
        let all = self.layout.snapshots.try_clone().map_err(|e| Error::io("dup", &e))?;
        let bytes = remove(&Root::from_fd(all))
            .map_err(|e| Error::kernel(format!("remove(snapshots/{id})"), e.errno()))?;
        let held = self.state().snapshots.remove(id);
        // Mostly the image is still there, and nothing is to be freed.
        let Some(held) = held else { return Ok(Freed { bytes }) };
        let image_there = held.image.is_some_and(|image| self.state().images.contains_key(&image));
        drop(held);
        if image_there {
            return Ok(Freed { bytes });
        }
        let freed = self.free_unused()?;
        Ok(Freed { bytes: bytes + freed.bytes })
    }

    pub(super) fn snapshot_usage(&self, id: &str) -> Result<Usage, Error> {
        if !self.state().snapshots.contains_key(id) {
            return Err(missing(id));
        }
        let upper = format!("{id}/upper");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.layout.snapshots, &upper, flags, Mode::empty())
            .map_err(|e| Error::kernel(format!("open(snapshots/{upper})"), e))?;
        let (bytes, inodes) = vaquita_sys::fs::disk_usage(&dir)
            .map_err(|e| Error::kernel(format!("disk usage of snapshots/{upper}"), e.errno()))?;
        let own =
            rustix::fs::fstat(&dir).map_err(|e| Error::kernel(format!("fstat(snapshots/{upper})"), e))?;
        Ok(Usage { bytes: bytes + allocated(&own), inodes })
    }

    fn describe(&self, id: &str, image: &Digest, layers: &[Arc<Layer>]) -> Snapshot {
        Snapshot::new(
            id,
            *image,
            &self.layout.path,
            layers.iter().map(|layer| self.layout.layer_path(layer.record.number)).collect(),
            layers.to_vec(),
        )
    }
}

fn check_id(id: &str) -> Result<(), Error> {
    let right = (1..=ID_LIMIT).contains(&id.len())
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if right {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "snapshot id {id:?} is not 1 to {ID_LIMIT} letters, digits, '-', '_', '.'"
        )))
    }
}

fn missing(id: &str) -> Error {
    Error::not_found(format!("snapshot {id:?} does not exist"))
}
