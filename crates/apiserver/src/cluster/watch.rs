use std::vec;

use tokio::time::{Duration, Instant, sleep_until};
use vaquita_store::{Change, Entry, Watcher, What};

use super::{Cluster, matching::Wanted};
use crate::{Kind, Object, Status, WatchOptions};

/// Follows changes. Holds a place in the store's history, not the changes.
#[derive(Debug)]
pub struct Watch {
    cluster: Cluster,
    wanted: Wanted,
    namespace: Option<Box<str>>,
    watcher: Watcher,
    start: Start,
    bookmarks: bool,
    /// The version that was told last.
    told: u64,
    bookmark_at: Instant,
    deadline: Option<Instant>,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// An object is new, or matches now.
    Added(Object),
    /// An object was changed.
    Modified(Object),
    /// An object is gone, or matches no longer: its last state, with the version of the deletion.
    Deleted(Object),
    /// Everything up to this version was told.
    Bookmark {
        /// The version.
        revision: u64,
        /// Whether this ends the present state at the beginning.
        initial_end: bool,
    },
    /// The watch failed and ends, as `410 Expired`: list and watch again.
    Failed(Status),
}

/// How far the present state was told.
#[derive(Debug)]
enum Start {
    /// These, and what comes after a place; at a revision.
    Telling {
        page: vec::IntoIter<Entry>,
        more: bool,
        after: Option<(String, String)>,
        revision: u64,
        end: bool,
    },
    /// All of it, but for the bookmark that says so.
    Told { revision: u64 },
    /// Changes come now.
    Done,
    /// Nothing comes any more.
    Over,
}

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Entries held while the present state is told: a reader that stops costs no more than these.
const PAGE: usize = 100;
const TOO_OLD: &str = "The resourceVersion for the provided watch is too old.";

impl Watch {
    pub(super) fn start(
        cluster: &Cluster,
        kind: &'static Kind,
        namespace: Option<&str>,
        options: &WatchOptions,
    ) -> Result<Self, Status> {
        options.fields.check(kind)?;
        let namespace = if kind.storage().namespaced() { namespace } else { None };
        let current = cluster.store().revision();
        let version = options.version.filter(|version| *version > 0);
        if let Some(asked) = version.filter(|asked| *asked > current) {
            return Err(Status::too_new(asked, current));
        }
        let initial = options.initial.unwrap_or(version.is_none());
        // Who takes bookmarks and asked for no version is told where the present state ends, too, as by Kubernetes.
        let end =
            initial && options.bookmarks && (options.initial == Some(true) || options.version.is_none());
        let after = if initial { current } else { version.unwrap_or(current) };
        let watcher = cluster.store().watch(&kind.storage().resource(), namespace, after);
        let watcher = watcher.map_err(|error| match error.kind() {
            vaquita_store::Kind::Compacted => Status::expired(TOO_OLD),
            _ => Status::internal(error),
        })?;
        let telling =
            Start::Telling { page: Vec::new().into_iter(), more: true, after: None, revision: current, end };
        let now = Instant::now();
        Ok(Self {
            cluster: cluster.clone(),
            wanted: Wanted { kind, labels: options.labels.clone(), fields: options.fields.clone() },
            namespace: namespace.map(Into::into),
            watcher,
            start: if initial { telling } else { Start::Done },
            bookmarks: options.bookmarks,
            told: after,
            bookmark_at: now + BOOKMARK_EVERY,
            deadline: options.timeout.map(|timeout| now + timeout),
        })
    }

    /// The kind that is watched.
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        self.wanted.kind
    }

    /// The next event; None at the end of the time that was asked for, or after a failure. May be dropped at any point
    /// without losing one.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            match self.start {
                Start::Over => return None,
                Start::Done => break,
                Start::Told { revision } => {
                    self.start = Start::Done;
                    return Some(WatchEvent::Bookmark { revision, initial_end: true });
                }
                Start::Telling { .. } => {
                    if let Some(event) = self.tell() {
                        return Some(event);
                    }
                }
            }
        }
        loop {
            let wake = self.deadline.map_or(self.bookmark_at, |deadline| deadline.min(self.bookmark_at));
            let change = tokio::select! {
                biased;
                change = self.watcher.next() => Some(change),
                () = sleep_until(wake) => None,
            };
            match change {
                Some(Ok(change)) => {
                    if let Some(event) = self.event(change) {
                        return Some(event);
                    }
                }
                Some(Err(error)) => return self.fail(&error),
                None => {
                    let over = self.deadline.is_some_and(|deadline| deadline <= wake);
                    if over {
                        self.start = Start::Over;
                    }
                    if let Some(bookmark) = self.bookmark() {
                        return Some(bookmark);
                    }
                    if over {
                        return None;
                    }
                }
            }
        }
    }

    /// The next event if it is there already.
    pub fn ready(&mut self) -> Option<WatchEvent> {
        loop {
            match self.start {
                Start::Telling { .. } => {
                    if let Some(event) = self.tell() {
                        return Some(event);
                    }
                }
                Start::Done => {
                    // What failed is told by the next call that waits.
                    let change = self.watcher.try_next().ok()??;
                    if let Some(event) = self.event(change) {
                        return Some(event);
                    }
                }
                Start::Told { .. } | Start::Over => return None,
            }
        }
    }

    /// The next object of the present state, or the step to what follows it.
    fn tell(&mut self) -> Option<WatchEvent> {
        let Start::Telling { page, more, after, revision, end } = &mut self.start else { return None };
        for entry in page.by_ref() {
            if self.wanted.matches(&entry) {
                return Some(WatchEvent::Added(Object::stored(self.wanted.kind, entry)));
            }
        }
        let (at, end) = (*revision, *end);
        if !*more {
            self.start = if end { Start::Told { revision: at } } else { Start::Done };
            return None;
        }
        let resource = self.wanted.kind.storage().resource();
        let from = after.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        match self.cluster.store().list(&resource, self.namespace.as_deref(), from, Some(PAGE), Some(at)) {
            Ok(list) => {
                *more = list.remaining > 0;
                *after = list
                    .entries
                    .last()
                    .map(|last| (last.key.namespace().to_owned(), last.key.name().to_owned()));
                *page = list.entries.into_iter();
                None
            }
            Err(error) => self.fail(&error),
        }
    }

    fn event(&mut self, change: Change) -> Option<WatchEvent> {
        let kind = self.wanted.kind;
        let revision = change.entry.revision;
        let now = change.what != What::Deleted && self.wanted.matches(&change.entry);
        let before = match (&change.before, change.what) {
            (Some(before), _) => self.wanted.matches(before),
            (None, What::Deleted) => self.wanted.matches(&change.entry),
            (None, _) => false,
        };
        let event = match (before, now) {
            (false, false) => return None,
            (false, true) => WatchEvent::Added(Object::stored(kind, change.entry)),
            (true, true) => WatchEvent::Modified(Object::stored(kind, change.entry)),
            (true, false) if change.what == What::Deleted => {
                WatchEvent::Deleted(Object::stored(kind, change.entry))
            }
            (true, false) => {
                let last = change.before.unwrap_or(change.entry);
                WatchEvent::Deleted(Object::stored(kind, Entry { revision, ..last }))
            }
        };
        self.told = revision;
        Some(event)
    }

    fn bookmark(&mut self) -> Option<WatchEvent> {
        self.bookmark_at = Instant::now() + BOOKMARK_EVERY;
        let revision = self.watcher.revision();
        if !self.bookmarks || revision < self.told {
            return None;
        }
        self.told = revision;
        Some(WatchEvent::Bookmark { revision, initial_end: false })
    }

    fn fail(&mut self, error: &vaquita_store::Error) -> Option<WatchEvent> {
        self.start = Start::Over;
        match error.kind() {
            vaquita_store::Kind::Closed => None,
            vaquita_store::Kind::Compacted => Some(WatchEvent::Failed(Status::expired(TOO_OLD))),
            _ => Some(WatchEvent::Failed(Status::internal(error))),
        }
    }
}
