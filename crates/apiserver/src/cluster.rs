//! The verbs, for all kinds, in the process.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    DeleteOptions, Draft, Kind, ListOptions, Object, Patch, Status, Subresource, WatchOptions, Write,
};

/// The API in the process: the same path that requests over HTTP take. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
}

/// How a cluster is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Serve every built-in kind of Kubernetes, those that nothing here acts on as plain storage.
    pub all_kinds: bool,
}

/// What a deletion did.
#[derive(Clone, Debug)]
pub enum Deletion {
    /// The object is gone; this is what it was.
    Gone(Object),
    /// The object ends by and by; this is what it is now.
    Pending(Object),
}

/// A list of objects.
#[derive(Debug)]
pub struct List {
    /// In the order of namespace and name.
    pub items: Vec<Object>,
    /// The version of the whole.
    pub revision: u64,
    /// Where to go on; empty at the end.
    pub continued: String,
    /// How many more there are, where that is known.
    pub remaining: Option<usize>,
}

/// Follows changes.
#[derive(Debug)]
pub struct Watch {
    _kind: &'static Kind,
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

impl Watch {
    /// The next event; None at the end of the time that was asked for. May be dropped at any point without losing one.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        None
    }
}

fn not_yet() -> Status {
    Status::internal("not there yet")
}

impl Cluster {
    /// The kind that is served under these names.
    #[must_use]
    pub fn kind(&self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        self.kinds().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
    }

    /// Every kind that is served.
    pub fn kinds(&self) -> impl Iterator<Item = &'static Kind> + use<> {
        crate::kinds::KINDS.iter().copied()
    }

    /// Makes an object.
    ///
    /// # Errors
    /// Why it was not made.
    pub async fn create(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: impl Into<Draft>,
        write: &Write,
    ) -> Result<Object, Status> {
        let _ = (kind, namespace, object.into(), write, &self.0.options);
        Err(not_yet())
    }

    /// Reads an object. Never waits.
    ///
    /// # Errors
    /// That there is none.
    pub fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Object, Status> {
        let _ = namespace;
        Err(Status::not_found(kind, name))
    }

    /// Reads what matches. Never waits.
    ///
    /// # Errors
    /// A selector that the kind does not have, a version that history does not reach.
    pub fn list(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<List, Status> {
        let _ = (kind, namespace, options);
        Err(not_yet())
    }

    /// Follows changes.
    ///
    /// # Errors
    /// A selector that the kind does not have, a version that history does not reach.
    pub fn watch(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        options: &WatchOptions,
    ) -> Result<Watch, Status> {
        let _ = (kind, namespace, options);
        Err(not_yet())
    }

    /// Replaces an object, or what the subresource stands for. Without metadata.resourceVersion whatever is there is replaced.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn update(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        subresource: Option<Subresource>,
        object: impl Into<Draft>,
        write: &Write,
    ) -> Result<Object, Status> {
        let _ = (kind, namespace, name, subresource, object.into(), write);
        Err(not_yet())
    }

    /// Changes part of an object; again on conflicts, if the patch names no version.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn patch(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        subresource: Option<Subresource>,
        patch: &Patch,
        write: &Write,
    ) -> Result<Object, Status> {
        let _ = (kind, namespace, name, subresource, patch, write);
        Err(not_yet())
    }

    /// Changes an object by a function that says whether it changed anything; called again on conflicts. For controllers.
    ///
    /// # Errors
    /// The function's, or why the object was not written.
    pub async fn modify(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        subresource: Option<Subresource>,
        write: &Write,
        change: impl FnMut(&mut Value) -> Result<bool, Status> + Send,
    ) -> Result<Object, Status> {
        let _ = (kind, namespace, name, subresource, write, change);
        Err(not_yet())
    }

    /// Deletes an object, or begins to.
    ///
    /// # Errors
    /// Why not.
    pub async fn delete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
        write: &Write,
    ) -> Result<Deletion, Status> {
        let _ = (kind, namespace, name, options, write);
        Err(not_yet())
    }

    /// Deletes what matches; what was deleted.
    ///
    /// # Errors
    /// The first failure; what was deleted before stays deleted.
    pub async fn delete_collection(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        list: &ListOptions,
        options: &DeleteOptions,
        write: &Write,
    ) -> Result<Vec<Object>, Status> {
        let _ = (kind, namespace, list, options, write);
        Err(not_yet())
    }
}
