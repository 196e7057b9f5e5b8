//! The store itself.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::file::{self, AtPath, Open};
use crate::load::load;
use crate::memory::Memory;
use crate::state::Limits;
use crate::writer::{BATCH_JOBS, Job, Writer};
use crate::{Entry, Error, Expect, Key, Kind, List, Watcher, backup};

/// Most bytes of a body.
pub const BODY_BYTES: usize = 4 << 20;

/// How much history a store keeps: within each of these bounds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Changes.
    pub history_events: usize,
    /// Bytes of memory, bodies that are current not counted. A burst may pass it by 1 MiB, or the largest body, for a moment.
    pub history_bytes: usize,
    /// How long ago. What is older goes with the next change.
    pub history_age: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { history_events: 10_000, history_bytes: 4 << 20, history_age: Duration::from_secs(300) }
    }
}

/// What a store holds at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Entries.
    pub entries: usize,
    /// Bytes of their bodies.
    pub bytes: usize,
    /// The last revision.
    pub revision: u64,
    /// The revision after which history begins.
    pub compacted: u64,
    /// Bytes of memory that history takes beside the entries.
    pub history_bytes: usize,
}

/// Entries by key, on disk and in memory. Cheap to clone: clones are the same store, closed with the last of them.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    path: PathBuf,
    memory: Arc<Memory>,
    /// None while it is closed.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the store in the file `path`, mode 0600, making it, in a directory of mode 0700, where it is not there. Reads and checks
    /// all of it; blocks meanwhile.
    ///
    /// # Errors
    /// [`Kind::Busy`] when another process, or this one, has it open; [`Kind::Corrupt`] for a file that is damaged or something else,
    /// which is left as it is; [`Kind::Full`] and [`Kind::Io`] for what the disk refuses.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        let path = std::path::absolute(path)
            .map_err(|e| Error::io(format!("absolute path of {}", path.display()), &e))?;
        file::make(&path).map_err(|error| error.context("open the store"))?;
        Self::open_at(Box::new(AtPath(path.clone())), path, &options)
    }

    pub(crate) fn open_at(open: Box<dyn Open>, path: PathBuf, options: &Options) -> Result<Self, Error> {
        let (log, state) = load(open)?;
        let memory = Arc::new(Memory::new(state));
        let (jobs, queue) = mpsc::channel(BATCH_JOBS);
        let limits = Limits {
            events: options.history_events,
            bytes: options.history_bytes,
            age: options.history_age.as_secs(),
        };
        let writer = Writer::new(log, Arc::clone(&memory), limits, queue);
        let writer = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run())
            .map_err(|e| Error::io("spawn(store)", &e))?;
        Ok(Self(Arc::new(Inner { path, memory, jobs: Some(jobs), writer: Some(writer) })))
    }

    /// The last revision. Never waits.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.memory.read().revision
    }

    /// What there is of a name. Never waits.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.0.memory.read().entry(key).cloned()
    }

    /// Entries of a resource, sorted by namespace and name: of one namespace or of all (`None`), those after a namespace and name,
    /// `limit` of them at most, as they are now or were at revision `at`. Never waits.
    ///
    /// # Errors
    /// [`Kind::Compacted`] when history does not reach back to `at`, [`Kind::Future`] when that has not come yet.
    pub fn list(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: Option<(&str, &str)>,
        limit: Option<usize>,
        at: Option<u64>,
    ) -> Result<List, Error> {
        self.0
            .memory
            .read()
            .list(resource, namespace, after, limit, at)
            .map_err(|error| error.context(format!("list {resource}")))
    }

    /// Makes or replaces an entry, and returns when that is durable.
    ///
    /// A future that is dropped before has written all or nothing.
    ///
    /// # Errors
    /// [`Kind::Exists`], [`Kind::Conflict`] and [`Kind::Absent`] when there is something else than was expected; [`Kind::Invalid`] for
    /// a name or a body ([`BODY_BYTES`]) that is too large; [`Kind::Full`] and [`Kind::Io`] for what the disk refuses: then, as a rule,
    /// nothing has changed, but if the disk did not answer afterwards either, the change may turn up with a later one.
    pub async fn put(&self, key: Key, expect: Expect, body: Bytes) -> Result<Entry, Error> {
        self.change(key, expect, body, false).await
    }

    /// Removes an entry, and returns when that is durable. `last` is the body that watchers see of it.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn delete(&self, key: Key, expect: Expect, last: Bytes) -> Result<Entry, Error> {
        self.change(key, expect, last, true).await
    }

    /// The changes of a resource, in one namespace or in all, that come after a revision.
    ///
    /// # Errors
    /// [`Kind::Compacted`] when history does not reach back so far, [`Kind::Future`] when the revision has not come yet.
    pub fn watch(&self, resource: &str, namespace: Option<&str>, after: u64) -> Result<Watcher, Error> {
        let reaches = self.0.memory.read().reaches(after);
        reaches.map_err(|error| error.context(format!("watch {resource}")))?;
        Ok(Watcher::new(Arc::clone(&self.0.memory), resource, namespace, after))
    }

    /// Writes all entries, as they are at this moment, into a new file of mode 0600 that [`Store::restore`] takes. The store goes on
    /// meanwhile; the caller is blocked.
    ///
    /// # Errors
    /// [`Kind::Exists`] for a file that is there, [`Kind::Full`] and [`Kind::Io`]; then nothing is left of it.
    pub fn backup(&self, path: &Path) -> Result<(), Error> {
        backup::backup(&self.0.memory, path).map_err(|error| {
            error.context(format!("back up {} to {}", self.0.path.display(), path.display()))
        })
    }

    /// Puts the content of a backup in the place of a store that nobody has open. What was there is kept as `<path>.replaced`.
    ///
    /// Revisions go on far above those of the backup and of what was there, and history begins anew: clients see
    /// [`Kind::Compacted`], and list again.
    ///
    /// # Errors
    /// [`Kind::Busy`] for a store in use, [`Kind::Corrupt`] for a backup that is damaged or none; then nothing has changed.
    pub fn restore(from: &Path, path: &Path) -> Result<(), Error> {
        backup::restore(from, path)
            .map_err(|error| error.context(format!("restore {} from {}", path.display(), from.display())))
    }

    /// What it holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.0.memory.read();
        Stats {
            entries: state.entries.len(),
            bytes: state.entries.iter().map(|slot| slot.0.body.len()).sum(),
            revision: state.revision,
            compacted: state.compacted,
            history_bytes: state.history_bytes,
        }
    }

    async fn change(&self, key: Key, expect: Expect, body: Bytes, is_deletion: bool) -> Result<Entry, Error> {
        key.check()?;
        if body.len() > BODY_BYTES {
            let text = format!("{key}: it has {} bytes, and {BODY_BYTES} are the most", body.len());
            return Err(Error::new(Kind::Invalid, text));
        }
        if is_deletion && expect == Expect::Absent {
            return Err(Error::new(Kind::Invalid, format!("delete {key}: nothing cannot be deleted")));
        }
        let (answer, answered) = oneshot::channel();
        let stopped = || Error::new(Kind::Closed, format!("{}: the store is closed", self.0.path.display()));
        let jobs = self.0.jobs.as_ref().ok_or_else(stopped)?;
        let job = Job { key, expect, body, is_deletion, answer };
        jobs.send(job).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // The file is free for the next one when this returns. It ends what it was given: no longer than a commit or two.
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("store {}: its writer panicked", self.path.display());
        }
        self.memory.close();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.0.path).finish_non_exhaustive()
    }
}
