//! What is kept, and what happens to it.

use std::sync::Arc;

use bytes::Bytes;

use crate::Key;

/// An object at one revision. Cheap to clone: key and body are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: Arc<Key>,
    /// The revision of the change that made it so.
    pub revision: u64,
    /// Its content.
    pub body: Bytes,
}

/// What a writer thinks is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing of that name.
    Absent,
    /// The entry that this revision made.
    Revision(u64),
    /// Whatever it is.
    Any,
}

/// A page of entries.
#[derive(Clone, Debug)]
pub struct List {
    /// Sorted by namespace and name.
    pub entries: Vec<Entry>,
    /// The revision at which there were exactly these.
    pub revision: u64,
    /// How many more come after them.
    pub remaining: usize,
}

/// What happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It was made.
    Added,
    /// It was replaced.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub what: What,
    /// What there is since; of a deletion the last body, and the revision of the deletion.
    pub entry: Entry,
    /// What there was before; none for what was added.
    pub before: Option<Entry>,
}
