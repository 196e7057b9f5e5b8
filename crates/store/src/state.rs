//! All entries and the last changes, in memory. Knows no disk and no time of its own.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::{Change, Entry, Error, Key, Kind, What};

/// What the store knows at [`State::revision`].
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) entries: BTreeSet<Slot>,
    /// The changes after [`State::compacted`], one for each revision.
    pub(crate) history: VecDeque<Event>,
    pub(crate) revision: u64,
    /// Changes up to this one are not in the history any more.
    pub(crate) compacted: u64,
    /// Bytes that history alone keeps in memory.
    pub(crate) history_bytes: usize,
    /// Of each resource the last change that compaction took away since the store was opened.
    dropped: HashMap<Box<str>, u64>,
}

/// A change, and when it was made.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) change: Change,
    /// Seconds since 1970.
    pub(crate) time: u64,
}

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    /// Seconds.
    pub(crate) age: u64,
}

/// What compaction is going to take away.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// How many changes, the oldest first.
    pub(crate) events: usize,
    /// Revisions whose rows nobody needs then.
    pub(crate) rows: Vec<u64>,
}

/// An entry that is sorted and found by its key.
#[derive(Debug)]
pub(crate) struct Slot(pub(crate) Entry);

/// Bytes of a change in the history apart from bodies.
const EVENT_BYTES: usize = 240;

impl State {
    /// A store without entries, of which nothing is known up to a revision. The first is 1: 0 means something else to clients of
    /// Kubernetes.
    pub(crate) fn at(compacted: u64) -> Self {
        Self {
            entries: BTreeSet::new(),
            history: VecDeque::new(),
            revision: compacted,
            compacted,
            history_bytes: 0,
            dropped: HashMap::new(),
        }
    }

    pub(crate) fn entry(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key.text()).map(|slot| &slot.0)
    }

    /// Takes in the change that comes next.
    pub(crate) fn apply(&mut self, event: Event) {
        let Event { change, .. } = &event;
        debug_assert_eq!(change.entry.revision, self.revision + 1);
        self.revision = change.entry.revision;
        // The old slot goes first: replacing would keep its key.
        self.entries.remove(change.entry.key.text());
        if change.what != What::Deleted {
            self.entries.insert(Slot(change.entry.clone()));
        }
        self.history_bytes += cost(change);
        self.history.push_back(event);
    }

    /// Takes in an entry that is older than the history.
    pub(crate) fn restore(&mut self, entry: Entry) {
        self.entries.replace(Slot(entry));
    }

    /// What has to go so that history stays within its limits when `coming` more changes come; at most `most` changes at a time.
    pub(crate) fn cut(&self, limits: Limits, now: u64, coming: usize, most: usize) -> Cut {
        let mut cut = Cut::default();
        let (mut events, mut bytes) = (self.history.len() + coming, self.history_bytes);
        for Event { change, time } in self.history.iter().take(most) {
            let is_old = time.saturating_add(limits.age) < now;
            if events <= limits.events && bytes <= limits.bytes && !is_old {
                break;
            }
            events -= 1;
            bytes -= cost(change);
            cut.events += 1;
            cut.rows.extend(change.before.as_ref().map(|before| before.revision));
            if change.what == What::Deleted {
                cut.rows.push(change.entry.revision);
            }
        }
        cut
    }

    /// Forgets the oldest changes.
    pub(crate) fn forget(&mut self, events: usize) {
        for Event { change, .. } in self.history.drain(..events) {
            self.history_bytes -= cost(&change);
            self.compacted = change.entry.revision;
            match self.dropped.get_mut(change.entry.key.resource()) {
                Some(last) => *last = change.entry.revision,
                None => drop(self.dropped.insert(change.entry.key.resource().into(), change.entry.revision)),
            }
        }
        // What a burst took is given back.
        if self.history.capacity() > 4 * self.history.len().max(256) {
            self.history.shrink_to(2 * self.history.len());
        }
    }

    /// Whether all changes after a revision are known.
    pub(crate) fn reaches(&self, revision: u64) -> Result<(), Error> {
        if revision > self.revision {
            let text = format!("revision {revision} is not there yet: the store is at {}", self.revision);
            return Err(Error::new(Kind::Future, text));
        }
        if revision < self.compacted {
            let text = format!(
                "changes since revision {revision} are no longer known: history begins after {}",
                self.compacted
            );
            return Err(Error::new(Kind::Compacted, text));
        }
        Ok(())
    }

    /// The first change after `cursor` of a resource in a namespace, or in all; moves the cursor to it, or to the end if there is none.
    ///
    /// Who was overtaken by compaction gets an error only if that took a change of this resource away.
    pub(crate) fn next(
        &self,
        cursor: &mut u64,
        resource: &str,
        namespace: Option<&str>,
    ) -> Result<Option<&Change>, Error> {
        if *cursor < self.compacted {
            if self.dropped.get(resource).is_some_and(|last| last > cursor) {
                self.reaches(*cursor)?;
            }
            *cursor = self.compacted;
        }
        let seen = usize::try_from(*cursor - self.compacted).unwrap_or(usize::MAX).min(self.history.len());
        for Event { change, .. } in self.history.range(seen..) {
            let key = &change.entry.key;
            if key.resource() == resource && namespace.is_none_or(|namespace| key.namespace() == namespace) {
                *cursor = change.entry.revision;
                return Ok(Some(change));
            }
        }
        *cursor = self.revision;
        Ok(None)
    }
}

/// Bytes that only the history holds because of a change: what was replaced, and what a deletion left.
fn cost(change: &Change) -> usize {
    let last = if change.what == What::Deleted { change.entry.body.len() } else { 0 };
    EVENT_BYTES + last + change.before.as_ref().map_or(0, |before| before.body.len())
}

impl Slot {
    fn text(&self) -> &str {
        self.0.key.text()
    }
}

impl Borrow<str> for Slot {
    fn borrow(&self) -> &str {
        self.text()
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Slot {}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text().cmp(other.text())
    }
}

/// The change that an entry makes.
pub(crate) fn change(entry: Entry, before: Option<Entry>, is_deletion: bool) -> Change {
    let what = match (is_deletion, &before) {
        (true, _) => What::Deleted,
        (false, Some(_)) => What::Modified,
        (false, None) => What::Added,
    };
    // One key in memory for all revisions of an entry.
    let key = before.as_ref().map_or_else(|| Arc::clone(&entry.key), |before| Arc::clone(&before.key));
    Change { what, entry: Entry { key, ..entry }, before }
}
