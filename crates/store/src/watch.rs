//! Changes as they come.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::memory::Memory;
use crate::{Change, Error, Kind};

/// The changes of a resource after a revision, in their order, each once. Made by [`Store::watch`](crate::Store::watch).
///
/// It is a number in the history that all share: one that nobody reads holds nothing and costs nothing.
pub struct Watcher {
    memory: Arc<Memory>,
    bell: Arc<Notify>,
    resource: Box<str>,
    namespace: Option<Box<str>>,
    /// Everything up to here was delivered.
    cursor: u64,
}

impl Watcher {
    pub(crate) fn new(memory: Arc<Memory>, resource: &str, namespace: Option<&str>, after: u64) -> Self {
        let bell = memory.bell(resource);
        Self { memory, bell, resource: resource.into(), namespace: namespace.map(Into::into), cursor: after }
    }

    /// The next change, when it comes. A future that is dropped loses nothing.
    ///
    /// # Errors
    /// [`Kind::Compacted`] when changes were forgotten before they were read here, again at each call; [`Kind::Closed`] when the
    /// store was closed and all is read.
    pub async fn next(&mut self) -> Result<Change, Error> {
        let bell = Arc::clone(&self.bell);
        loop {
            // Listens before it looks, so that nothing slips through in between.
            let mut rung = pin!(bell.notified());
            rung.as_mut().enable();
            let is_closed = self.memory.is_closed();
            if let Some(change) = self.try_next()? {
                return Ok(change);
            }
            if is_closed {
                return Err(Error::new(Kind::Closed, "the store is closed"));
            }
            rung.await;
        }
    }

    /// The next change if there is one already.
    ///
    /// # Errors
    /// [`Kind::Compacted`] as with [`Watcher::next`].
    pub fn try_next(&mut self) -> Result<Option<Change>, Error> {
        let state = self.memory.read();
        Ok(state.next(&mut self.cursor, &self.resource, self.namespace.as_deref())?.cloned())
    }

    /// The revision up to which everything was delivered: what a bookmark says, and where another watcher may go on.
    pub fn revision(&mut self) -> u64 {
        let mut ahead = self.cursor;
        let state = self.memory.read();
        // It stays where it is if there is a change to deliver, or one was missed.
        if let Ok(None) = state.next(&mut ahead, &self.resource, self.namespace.as_deref()) {
            self.cursor = ahead;
        }
        self.cursor
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, namespace, cursor, .. } = self;
        f.debug_struct("Watcher")
            .field("resource", resource)
            .field("namespace", namespace)
            .field("cursor", cursor)
            .finish_non_exhaustive()
    }
}
