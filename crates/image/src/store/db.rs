//! The transaction log: what images and layers there are, on disk.

use std::path::Path;
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

pub(crate) struct Db(Database);

/// A process that was killed while it spawned another leaves its lock with that one until it has executed its program.
const LET_GO: Duration = Duration::from_secs(2);

impl Db {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let deadline = Instant::now() + LET_GO;
        let database = loop {
            match Database::builder().set_cache_size(CACHE).create(path) {
                Ok(database) => break database,
                Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                    std::thread::sleep(LET_GO / 100);
                }
                Err(DatabaseError::DatabaseAlreadyOpen) => {
                    let message = format!("image store {}: another process has it open", path.display());
                    return Err(Error::new(Kind::Busy, message));
                }
                Err(e) => return Err(failed(&e)),
            }
        };
        let db = Self(database);
        let write = db.0.begin_write().map_err(|e| failed(&e))?;
        write.open_table(IMAGES).map_err(|e| failed(&e))?;
        write.open_table(LAYERS).map_err(|e| failed(&e))?;
        write.commit().map_err(|e| failed(&e))?;
        Ok(db)
    }

    pub(crate) fn images(&self) -> Result<Vec<ImageRecord>, Error> {
        Ok(self.read(IMAGES)?.into_iter().map(|(_, record)| record).collect())
    }

    pub(crate) fn layers(&self) -> Result<Vec<(Digest, LayerRecord)>, Error> {
        self.read(LAYERS)?.into_iter().map(|(key, record)| Ok((Digest::parse(&key)?, record))).collect()
    }

    /// Makes a change durable: when this returns, it survives a power cut.
    pub(crate) fn apply(&self, change: &Change) -> Result<(), Error> {
        let write = self.0.begin_write().map_err(|e| failed(&e))?;
        {
            let mut images = write.open_table(IMAGES).map_err(|e| failed(&e))?;
            for id in &change.drop_images {
                images.remove(id.to_string().as_str()).map_err(|e| failed(&e))?;
            }
            for record in &change.put_images {
                let key = record.image.id.to_string();
                images.insert(key.as_str(), encode(record)?.as_slice()).map_err(|e| failed(&e))?;
            }
            let mut layers = write.open_table(LAYERS).map_err(|e| failed(&e))?;
            for id in &change.drop_layers {
                layers.remove(id.to_string().as_str()).map_err(|e| failed(&e))?;
            }
            for (chain, record) in &change.put_layers {
                layers
                    .insert(chain.to_string().as_str(), encode(record)?.as_slice())
                    .map_err(|e| failed(&e))?;
            }
        }
        write.commit().map_err(|e| failed(&e))
    }

    fn read<T: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, &'static str, &'static [u8]>,
    ) -> Result<Vec<(String, T)>, Error> {
        let read = self.0.begin_read().map_err(|e| failed(&e))?;
        let table = read.open_table(table).map_err(|e| failed(&e))?;
        let mut out = Vec::new();
        for row in table.iter().map_err(|e| failed(&e))? {
            let (key, value) = row.map_err(|e| failed(&e))?;
            let record = serde_json::from_slice(value.value())
                .map_err(|e| Error::corrupt(format!("image store: record {}: {e}", key.value())))?;
            out.push((key.value().to_owned(), record));
        }
        Ok(out)
    }
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(record).map_err(|e| Error::corrupt(format!("image store: {e}")))
}

/// A failure of the log: the disk's, where there is an error number, else damage.
fn failed(error: &impl std::error::Error) -> Error {
    let mut cause: Option<&dyn std::error::Error> = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return Error::io("image store", io);
        }
        cause = inner.source();
    }
    Error::corrupt(format!("image store: {error}"))
}
