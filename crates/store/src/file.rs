//! The file: a row for each revision that is still of use.
//!
//! It survives power cuts: a transaction is on the disk when its commit returns, and one that is not whole is not there. After an I/O
//! error (a full disk) the database refuses all work until it is opened again, so it is.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::{Error, Kind};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// What this version reads and writes.
const FORMAT: u64 = 1;
/// Pages kept in memory. The default is 1 GiB; everything is answered from our own maps, so little is enough.
const CACHE: usize = 256 << 10;
/// A process that was killed while it spawned another leaves its lock with that one until it has executed its program.
const LET_GO: Duration = Duration::from_secs(2);

/// How the database is opened: in a file, or on what a test puts in its place.
pub(crate) trait Open: Send + Sync {
    fn open(&self) -> Result<Database, DatabaseError>;
    fn name(&self) -> String;
}

/// A file by its path.
#[derive(Debug)]
pub(crate) struct AtPath(pub(crate) PathBuf);

/// The counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) revision: u64,
    pub(crate) compacted: u64,
}

/// One transaction.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Rows that come, by revision.
    pub(crate) rows: Vec<(u64, Vec<u8>)>,
    /// Rows that go.
    pub(crate) drop: Vec<u64>,
    pub(crate) meta: Meta,
}

/// The open database.
pub(crate) struct Log {
    open: Box<dyn Open>,
    /// None after an error, until it is opened again.
    database: Option<Database>,
    /// It panicked: what it has is not to be touched.
    is_damaged: bool,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("path", &self.open.name()).finish_non_exhaustive()
    }
}

impl Log {
    /// Opens it, checks all of it, and gives every row in the order of revisions to `row`.
    pub(crate) fn open(
        open: Box<dyn Open>,
        mut row: impl FnMut(u64, &[u8]) -> Result<(), Error>,
    ) -> Result<(Self, Meta), Error> {
        let name = open.name();
        let database = opened(open.as_ref())?;
        let mut log = Self { open, database: Some(database), is_damaged: false };
        let meta = log.with(|database| {
            // Otherwise checksums are looked at after a power cut only.
            if !database.check_integrity().map_err(failed)? {
                tracing::warn!("store {name}: it had to be repaired");
            }
            begin(database)?;
            let read = database.begin_read().map_err(failed)?;
            let table = read.open_table(LOG).map_err(failed)?;
            for found in table.iter().map_err(failed)? {
                let (revision, bytes) = found.map_err(failed)?;
                row(revision.value(), bytes.value())?;
            }
            meta(database)
        })?;
        Ok((log, meta))
    }

    /// Makes a transaction durable: when this returns, it survives a power cut. With an error it may be durable all the same:
    /// [`Log::meta`] tells.
    pub(crate) fn write(&mut self, batch: &Batch) -> Result<(), Error> {
        self.with(|database| write(database, batch))
    }

    /// What the disk has.
    pub(crate) fn meta(&mut self) -> Result<Meta, Error> {
        self.with(|database| meta(database))
    }

    /// Works with the database, opened again where that is needed; it panics over what it has not written.
    fn with<T>(&mut self, work: impl FnOnce(&mut Database) -> Result<T, Error>) -> Result<T, Error> {
        let name = || format!("store {}", self.open.name());
        if self.is_damaged {
            return Err(damaged().context(name()));
        }
        let mut database = match self.database.take() {
            Some(database) => database,
            None => opened(self.open.as_ref())?,
        };
        match catch_unwind(AssertUnwindSafe(|| work(&mut database))) {
            Ok(Ok(value)) => {
                self.database = Some(database);
                Ok(value)
            }
            // Dropped: it would refuse everything from now on.
            Ok(Err(error)) => Err(error.context(name())),
            Err(_) => {
                // To drop it would be no better.
                std::mem::forget(database);
                self.is_damaged = true;
                Err(damaged().context(name()))
            }
        }
    }
}

impl Open for AtPath {
    fn open(&self) -> Result<Database, DatabaseError> {
        Database::builder().set_cache_size(CACHE).create(&self.0)
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }
}

/// Makes the directory and a store without entries where there is none, for the owner alone. Also when the power is cut meanwhile
/// there is a whole store or none.
pub(crate) fn make(path: &Path) -> Result<(), Error> {
    let dir = directory(path);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Error::io(format!("mkdir({})", dir.display()), &e))?;
    let stat = |e: &std::io::Error| Error::io(format!("stat({})", path.display()), e);
    match path.metadata() {
        Ok(meta) if meta.len() == 0 => return Err(corrupt(format!("store {}: it is empty", path.display()))),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            return std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
                .map_err(|e| Error::io(format!("chmod({}, 0600)", path.display()), &e));
        }
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(stat(&e)),
    }
    let new = path.with_added_extension(format!("new-{}", std::process::id()));
    let made = make_at(&new).and_then(|()| match std::fs::hard_link(&new, path) {
        // Somebody else was faster.
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io(format!("link({}, {})", new.display(), path.display()), &e))
        }
        _ => Ok(()),
    });
    let _ = std::fs::remove_file(&new);
    made.and_then(|()| sync_directory(dir))
}

fn make_at(path: &Path) -> Result<(), Error> {
    let _ = std::fs::remove_file(path);
    drop(create(path, OpenOptions::new().write(true).create_new(true))?);
    Log::open(Box::new(AtPath(path.to_owned())), |_, _| Ok(())).map(drop)
}

/// Opens a file that belongs to the owner alone if it is made now.
pub(crate) fn create(path: &Path, options: &mut OpenOptions) -> Result<File, Error> {
    options.mode(0o600).open(path).map_err(|e| {
        if e.kind() == std::io::ErrorKind::AlreadyExists {
            return Error::new(Kind::Exists, format!("{} is there already", path.display()));
        }
        Error::io(format!("open({})", path.display()), &e)
    })
}

/// The directory that a file is in.
pub(crate) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io(format!("fsync({})", dir.display()), &e))
}

fn opened(open: &dyn Open) -> Result<Database, Error> {
    let deadline = Instant::now() + LET_GO;
    let attempt = || loop {
        match open.open() {
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
    catch_unwind(AssertUnwindSafe(attempt))
        .unwrap_or_else(|_| Err(damaged()))
        .map_err(|error| error.context(format!("store {}", open.name())))
}

/// Makes the tables of a new file, and refuses one of another format.
fn begin(database: &Database) -> Result<(), Error> {
    let read = database.begin_read().map_err(failed)?;
    let is_new = read.list_tables().map_err(failed)?.next().is_none();
    if is_new {
        let write = database.begin_write().map_err(failed)?;
        write.open_table(LOG).map_err(failed)?;
        {
            let mut meta = write.open_table(META).map_err(failed)?;
            for (name, value) in [("format", FORMAT), ("revision", 1), ("compacted", 1)] {
                meta.insert(name, value).map_err(failed)?;
            }
        }
        return write.commit().map_err(failed);
    }
    let table = read.open_table(META).map_err(failed)?;
    match number(&table, "format")? {
        FORMAT => Ok(()),
        other => Err(Error::new(
            Kind::Corrupt,
            format!("its format is {other}, and this version reads {FORMAT} only"),
        )),
    }
}

fn meta(database: &Database) -> Result<Meta, Error> {
    let read = database.begin_read().map_err(failed)?;
    let table = read.open_table(META).map_err(failed)?;
    Ok(Meta { revision: number(&table, "revision")?, compacted: number(&table, "compacted")? })
}

fn number(table: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, Error> {
    match table.get(name).map_err(failed)? {
        Some(value) => Ok(value.value()),
        None => Err(Error::new(Kind::Corrupt, format!("it has no {name}"))),
    }
}

fn write(database: &Database, batch: &Batch) -> Result<(), Error> {
    let write = database.begin_write().map_err(failed)?;
    {
        let mut log = write.open_table(LOG).map_err(failed)?;
        for revision in &batch.drop {
            log.remove(revision).map_err(failed)?;
        }
        for (revision, row) in &batch.rows {
            log.insert(revision, row.as_slice()).map_err(failed)?;
        }
        let mut meta = write.open_table(META).map_err(failed)?;
        meta.insert("revision", batch.meta.revision).map_err(failed)?;
        meta.insert("compacted", batch.meta.compacted).map_err(failed)?;
    }
    write.commit().map_err(failed)
}

pub(crate) fn damaged() -> Error {
    corrupt("the file is damaged")
}

/// Damage, and the way out of it.
pub(crate) fn corrupt(what: impl fmt::Display) -> Error {
    Error::new(
        Kind::Corrupt,
        format!("{what}; restore a backup, or move the file away to begin with nothing"),
    )
}

/// A failure of the database: the disk's, where there is an error number, else damage.
fn failed(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(io) if io.raw_os_error().is_some() => Error::io("the disk", &io),
        error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_)) => {
            Error::new(Kind::Io, error.to_string())
        }
        error => corrupt(error),
    }
}
