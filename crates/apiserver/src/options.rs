use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use vaquita_schema::decode::Strictness;

use crate::{FieldSelector, LabelSelector, User};

/// Who writes, and how.
#[derive(Clone, Debug)]
pub struct Write {
    /// Who writes.
    pub user: User,
    /// Do everything but store.
    pub dry_run: bool,
    /// Name of the writer as it calls itself.
    pub field_manager: String,
    /// What unknown and duplicate fields of a patched object are.
    pub validation: Strictness,
    /// Where warnings go.
    pub warnings: Warnings,
}

impl Write {
    /// A write by a part of this process.
    #[must_use]
    pub fn system(part: &str) -> Self {
        Self::by(User::system(part))
    }

    /// A write by a user, with defaults for all else.
    #[must_use]
    pub fn by(user: User) -> Self {
        Self {
            user,
            dry_run: false,
            field_manager: String::new(),
            validation: Strictness::Ignore,
            warnings: Warnings::default(),
        }
    }
}

/// Collects what users should be told though their request is done. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds some; each text is told once.
    pub fn extend(&self, texts: impl IntoIterator<Item = String>) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for text in texts {
            if !list.contains(&text) {
                list.push(text);
            }
        }
    }

    /// What was collected so far; it is forgotten here.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which objects to list, and from which version.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Only objects with these labels.
    pub labels: LabelSelector,
    /// Only objects with these fields.
    pub fields: FieldSelector,
    /// At most so many; zero for all.
    pub limit: usize,
    /// Where an earlier list ended; empty for the beginning.
    pub continued: String,
    /// The version asked for; None for the newest.
    pub version: Option<u64>,
    /// How the version is meant.
    pub version_match: Option<VersionMatch>,
}

/// How a version is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    /// The state at that very version.
    Exact,
    /// Any state that is not older.
    NotOlderThan,
}

/// Which changes to follow, and from when.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Only objects with these labels.
    pub labels: LabelSelector,
    /// Only objects with these fields.
    pub fields: FieldSelector,
    /// Changes after this version; None or zero: the present state first, as Added.
    pub version: Option<u64>,
    /// Whether bookmarks are wanted.
    pub bookmarks: bool,
    /// Whether the present state shall come first and, with bookmarks, one that ends it.
    pub initial: Option<bool>,
    /// When to end; None for never.
    pub timeout: Option<Duration>,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds to end by itself; None for the kind's own.
    pub grace: Option<i64>,
    /// Only if the object has this uid.
    pub uid: Option<String>,
    /// Only if the object has this version.
    pub version: Option<u64>,
    /// What becomes of what the object owns.
    pub propagation: Option<Propagation>,
}

/// What becomes of what a deleted object owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Deleted afterwards.
    Background,
    /// Deleted first.
    Foreground,
    /// Left alone.
    Orphan,
}

/// A change to part of an object.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902, as text or value.
    Json(Value),
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes' strategic merge.
    Strategic(Value),
    /// Server-side apply, which is refused; kept to say so in one place.
    Apply(Bytes),
}
