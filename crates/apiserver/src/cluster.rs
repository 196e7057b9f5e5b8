//! The verbs, for all kinds, in the process.

mod bootstrap;
mod create;
mod delete;
mod list;
mod matching;
mod metadata;
mod pods;
mod strategy;
mod update;
mod watch;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use vaquita_store::{Key, Store};

pub use list::List;
pub use watch::{Watch, WatchEvent};

use crate::{
    DeleteOptions, Draft, Kind, ListOptions, Object, Patch, Status, Subresource, WatchOptions, Write,
};

/// The API in the process: the same path that requests over HTTP take. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    store: Store,
    options: Options,
    /// Held from admission to the store by creations where a quota counts.
    counting: tokio::sync::Mutex<()>,
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

impl Cluster {
    /// The API over what a store holds.
    #[must_use]
    pub fn new(store: Store, options: Options) -> Self {
        Self(Arc::new(Inner { store, options, counting: tokio::sync::Mutex::new(()) }))
    }

    /// Makes what is there from the beginning, where it is missing: four namespaces and the priority classes of the system.
    ///
    /// # Errors
    /// What the store refused.
    pub async fn bootstrap(&self) -> Result<(), Status> {
        bootstrap::bootstrap(self).await
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The kind that is served under these names.
    #[must_use]
    pub fn kind(&self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        self.kinds().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
    }

    /// Every kind that is served.
    pub fn kinds(&self) -> impl Iterator<Item = &'static Kind> + use<> {
        let more = if self.0.options.all_kinds { crate::kinds::PLAIN } else { crate::kinds::EMPTY };
        crate::kinds::KINDS.iter().copied().chain(more)
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
        create::create(self, kind, namespace, object.into(), write).await
    }

    /// Reads an object. Never waits.
    ///
    /// # Errors
    /// That there is none.
    pub fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Object, Status> {
        let entry = self.0.store.get(&key(kind, namespace, name));
        entry.map(|entry| Object::stored(kind, entry)).ok_or_else(|| Status::not_found(kind, name))
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
        list::list(self, kind, namespace, options)
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
        Watch::start(self, kind, namespace, options)
    }

    /// Replaces an object, or what the subresource stands for. Without metadata.resourceVersion whatever is there is replaced.
    /// Through [`Subresource::Binding`] a pod gets the node that a `Binding` names.
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
        if subresource == Some(Subresource::Binding) {
            return pods::bind(self, namespace, name, &object.into().value, write).await;
        }
        let target = update::Target { cluster: self, kind, namespace, name, subresource, write };
        target.update(object.into()).await
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
        let target = update::Target { cluster: self, kind, namespace, name, subresource, write };
        target.patch(patch).await
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
        mut change: impl FnMut(&mut Value) -> Result<bool, Status> + Send,
    ) -> Result<Object, Status> {
        let target = update::Target { cluster: self, kind, namespace, name, subresource, write };
        target.modify(&mut change).await
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
        delete::delete(self, kind, namespace, name, options, write).await
    }

    /// Deletes what matches; what was deleted.
    ///
    /// # Errors
    /// One of the failures; what was deleted stays deleted.
    pub async fn delete_collection(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        list: &ListOptions,
        options: &DeleteOptions,
        write: &Write,
    ) -> Result<Vec<Object>, Status> {
        delete::collection(self, self.list(kind, namespace, list)?.items, options, write).await
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cluster").field(&self.0.options).finish()
    }
}

/// Where an object is in the store.
fn key(kind: &'static Kind, namespace: &str, name: &str) -> Key {
    let stored = kind.storage();
    Key::new(&stored.resource(), if stored.namespaced() { namespace } else { "" }, name)
}

/// What the store's failure is to the client.
fn failed(kind: &Kind, name: &str, error: &vaquita_store::Error) -> Status {
    match error.kind() {
        vaquita_store::Kind::Absent => Status::not_found(kind, name),
        vaquita_store::Kind::Conflict => Status::modified(kind, name),
        vaquita_store::Kind::Exists => Status::already_exists(kind, name),
        vaquita_store::Kind::Closed => Status::unavailable("the server is shutting down"),
        _ => Status::internal(error),
    }
}
