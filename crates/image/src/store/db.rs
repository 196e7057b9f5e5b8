//! The transaction log: what images and layers there are, on disk.
//!
//! The file survives power cuts: a transaction is on the disk when its commit returns, and one that is not whole is not there.
//! After an I/O error (a full disk) the database refuses all work until it is opened again, so it is.

#![expect(clippy::disallowed_methods, reason = "the store's own files, by names that it gave")]

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Digest, Error, Image, Kind};

const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images");
const LAYERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("layers");
/// Pages kept in memory. The default is 1 GiB; everything is answered from our own maps, so little is enough.
const CACHE: usize = 256 << 10;

/// An image as it is recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) image: Image,
    /// Chain ids of its layers, lowest first.
    pub(crate) chain: Vec<Digest>,
    /// Manifests and configuration in the blob directory.
    pub(crate) blobs: Vec<Digest>,
}

/// An unpacked layer as it is recorded, by chain id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Its directory: `layers/<number>`.
    pub(crate) number: u32,
    pub(crate) diff_id: Digest,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// One change, made whole or not at all.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) put_images: Vec<ImageRecord>,
    pub(crate) put_layers: Vec<(Digest, LayerRecord)>,
    pub(crate) drop_images: Vec<Digest>,
    pub(crate) drop_layers: Vec<Digest>,
}

/// What the log has.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) images: Vec<ImageRecord>,
    /// By chain id.
    pub(crate) layers: Vec<(Digest, LayerRecord)>,
    /// It was damaged: what it had is not known.
    pub(crate) is_lost: bool,
}

pub(crate) struct Db {
    path: PathBuf,
    /// None after an error, until it is opened again.
    database: Mutex<Option<Database>>,
}

/// A process that was killed while it spawned another leaves its lock with that one until it has executed its program.
const LET_GO: Duration = Duration::from_secs(2);
/// Room for the log to say that something is gone, on a disk that is full.
const RESERVE: u64 = 1 << 20;

impl Db {
    /// Opens the log, or begins it. One that is damaged is moved to `<name>.damaged`, and a new one begun.
    pub(crate) fn open(path: &Path) -> Result<(Self, Content), Error> {
        let first = match load(path) {
            // What was not closed is repaired, which takes room.
            Err(error) if error.is_no_space() && std::fs::remove_file(reserve(path)).is_ok() => load(path),
            other => other,
        };
        let (database, content) = match first {
            Err(error) if error.kind() == Kind::Corrupt => {
                let aside = path.with_extension("redb.damaged");
                std::fs::rename(path, &aside)
                    .map_err(|e| Error::io(format!("rename({}, {})", path.display(), aside.display()), &e))?;
                tracing::error!(
                    "{error}: it is kept as {} and begun anew; containers go on, images have to be pulled again, of which the \
                     layers are still there",
                    aside.display()
                );
                let (database, content) = load(path)?;
                (database, Content { is_lost: true, ..content })
            }
            other => other?,
        };
        let db = Self { path: path.to_owned(), database: Mutex::new(Some(database)) };
        db.keep_reserve();
        Ok((db, content))
    }

    /// Makes a change durable: when this returns, it survives a power cut. With an error nothing has changed.
    pub(crate) fn apply(&self, change: &Change) -> Result<(), Error> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        match self.attempt(&mut database, change) {
            // What is there becomes less, so this must be possible.
            Err(error)
                if error.is_no_space()
                    && change.is_removal()
                    && std::fs::remove_file(reserve(&self.path)).is_ok() =>
            {
                self.attempt(&mut database, change)
            }
            other => other,
        }
    }

    fn attempt(&self, database: &mut Option<Database>, change: &Change) -> Result<(), Error> {
        let open = match database.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        match with(&self.path, open, |open| write(open, change)) {
            Ok((open, ())) => {
                *database = Some(open);
                Ok(())
            }
            Err((open, error)) => {
                // Closed before it is opened again: there is one lock.
                drop(open);
                let again = self::open(&self.path)?;
                let (again, is_done) =
                    with(&self.path, again, |again| has(again, change)).map_err(|(_, e)| e)?;
                *database = Some(again);
                if is_done { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Takes the room that a removal may need, where there is so much.
    pub(crate) fn keep_reserve(&self) {
        let path = reserve(&self.path);
        if path.metadata().is_ok_and(|meta| meta.len() == RESERVE) {
            return;
        }
        let made = File::create(&path).and_then(|file| {
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&file, flags, 0, RESERVE).map_err(std::io::Error::from)
        });
        if made.is_err() {
            let _ = std::fs::remove_file(&path);
        }
    }
}

fn reserve(path: &Path) -> PathBuf {
    path.with_file_name("reserve")
}

impl Change {
    fn is_removal(&self) -> bool {
        self.put_images.is_empty() && self.put_layers.is_empty()
    }
}

/// Opens the file and reads all of it.
fn load(path: &Path) -> Result<(Database, Content), Error> {
    let loaded = with(path, open(path)?, |database| {
        // Otherwise checksums are looked at after a power cut only.
        if !database.check_integrity().map_err(failed)? {
            tracing::warn!("image store {}: the log had to be repaired", path.display());
        }
        let layers = read(database, LAYERS)?;
        let layers = layers.into_iter().map(|(key, record)| Ok((Digest::parse(&key)?, record)));
        Ok(Content {
            images: read(database, IMAGES)?.into_iter().map(|(_, record)| record).collect(),
            layers: layers.collect::<Result<_, Error>>()?,
            is_lost: false,
        })
    });
    loaded.map_err(|(_, error)| error)
}

fn open(path: &Path) -> Result<Database, Error> {
    let deadline = Instant::now() + LET_GO;
    let create = || loop {
        match Database::builder().set_cache_size(CACHE).create(path) {
            Ok(database) => return Ok(database),
            Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                std::thread::sleep(LET_GO / 100);
            }
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(Error::new(Kind::Busy, "another process has it open"));
            }
            Err(e) => return Err(failed(e)),
        }
    };
    let database =
        catch_unwind(create).unwrap_or_else(|_| Err(damaged())).map_err(|error| named(path, error))?;
    let made = with(path, database, |database| {
        let read = database.begin_read().map_err(failed)?;
        // Nothing is written where nothing has to be: the disk may be full.
        if read.open_table(IMAGES).is_ok() && read.open_table(LAYERS).is_ok() {
            return Ok(());
        }
        let write = database.begin_write().map_err(failed)?;
        write.open_table(IMAGES).map_err(failed)?;
        write.open_table(LAYERS).map_err(failed)?;
        write.commit().map_err(failed)
    });
    made.map(|(database, ())| database).map_err(|(_, error)| error)
}

/// Works with a database, which panics over what it has not written: then it is not returned, because to drop it would be no better.
fn with<T>(
    path: &Path,
    mut database: Database,
    work: impl FnOnce(&mut Database) -> Result<T, Error>,
) -> Result<(Database, T), (Option<Database>, Error)> {
    match catch_unwind(AssertUnwindSafe(|| work(&mut database))) {
        Ok(Ok(value)) => Ok((database, value)),
        Ok(Err(error)) => Err((Some(database), named(path, error))),
        Err(_) => {
            std::mem::forget(database);
            Err((None, named(path, damaged())))
        }
    }
}

fn named(path: &Path, error: Error) -> Error {
    error.context(format!("image store {}", path.display()))
}

fn damaged() -> Error {
    Error::corrupt("the log is damaged")
}

fn write(database: &Database, change: &Change) -> Result<(), Error> {
    let write = database.begin_write().map_err(failed)?;
    {
        let mut images = write.open_table(IMAGES).map_err(failed)?;
        for id in &change.drop_images {
            images.remove(id.to_string().as_str()).map_err(failed)?;
        }
        for record in &change.put_images {
            let key = record.image.id.to_string();
            images.insert(key.as_str(), encode(record)?.as_slice()).map_err(failed)?;
        }
        let mut layers = write.open_table(LAYERS).map_err(failed)?;
        for id in &change.drop_layers {
            layers.remove(id.to_string().as_str()).map_err(failed)?;
        }
        for (chain, record) in &change.put_layers {
            layers.insert(chain.to_string().as_str(), encode(record)?.as_slice()).map_err(failed)?;
        }
    }
    write.commit().map_err(failed)
}

/// Whether a change that failed was made all the same.
fn has(database: &Database, change: &Change) -> Result<bool, Error> {
    let read = database.begin_read().map_err(failed)?;
    let (images, layers) =
        (read.open_table(IMAGES).map_err(failed)?, read.open_table(LAYERS).map_err(failed)?);
    for id in &change.drop_images {
        if images.get(id.to_string().as_str()).map_err(failed)?.is_some() {
            return Ok(false);
        }
    }
    for record in &change.put_images {
        let found = images.get(record.image.id.to_string().as_str()).map_err(failed)?;
        if found.is_none_or(|found| encode(record).is_ok_and(|wanted| found.value() != wanted)) {
            return Ok(false);
        }
    }
    for chain in &change.drop_layers {
        if layers.get(chain.to_string().as_str()).map_err(failed)?.is_some() {
            return Ok(false);
        }
    }
    // Layers that are put come with an image.
    Ok(true)
}

fn read<T: DeserializeOwned>(
    database: &Database,
    table: TableDefinition<'_, &'static str, &'static [u8]>,
) -> Result<Vec<(String, T)>, Error> {
    let read = database.begin_read().map_err(failed)?;
    let table = read.open_table(table).map_err(failed)?;
    let mut out = Vec::new();
    for row in table.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        let record = serde_json::from_slice(value.value())
            .map_err(|e| Error::corrupt(format!("record {}: {e}", key.value())))?;
        out.push((key.value().to_owned(), record));
    }
    Ok(out)
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(record).map_err(|e| Error::corrupt(e.to_string()))
}

/// A failure of the log: the disk's, where there is an error number, else damage.
fn failed(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(io) => match rustix::io::Errno::from_io_error(&io) {
            Some(errno) => Error::new(Kind::Kernel(errno), io.to_string()),
            None => Error::corrupt(io.to_string()),
        },
        error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_)) => {
            Error::new(Kind::Kernel(rustix::io::Errno::IO), error.to_string())
        }
        error => Error::corrupt(error.to_string()),
    }
}
