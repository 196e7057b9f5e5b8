//! All sandboxes and containers, for whoever asks.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use vaquita_proto::cri::ContainerEventType::{ContainerCreatedEvent, ContainerDeletedEvent};

use super::sandbox::SandboxKey;
use super::{Container, Events, Sandbox, by_prefix};
use crate::telemetry::{about_container, about_sandbox};
use crate::{Error, Kind, Result};

/// The two tables. The lock is held for a look-up or a copy of pointers, never while anything waits.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    inner: RwLock<Inner>,
    /// Tells of all changes to what is in the tables.
    pub(crate) events: Arc<Events>,
}

#[derive(Debug, Default)]
struct Inner {
    sandboxes: BTreeMap<String, Arc<Sandbox>>,
    containers: BTreeMap<String, Arc<Container>>,
    /// The same by their sandboxes, in the order of their ids: lists of all sandboxes with their containers look up each.
    inside: BTreeMap<String, Vec<Arc<Container>>>,
}

impl Inner {
    fn insert_container(&mut self, container: Arc<Container>) {
        self.remove_container(container.id());
        let inside = self.inside.entry(container.record.sandbox.clone()).or_default();
        let at = inside.partition_point(|other| other.id() < container.id());
        inside.insert(at, Arc::clone(&container));
        self.containers.insert(container.id().to_owned(), container);
    }

    fn remove_container(&mut self, id: &str) -> Option<Arc<Container>> {
        let container = self.containers.remove(id)?;
        let sandbox = container.record.sandbox.as_str();
        if let Some(inside) = self.inside.get_mut(sandbox) {
            inside.retain(|other| other.id() != id);
            if inside.is_empty() {
                self.inside.remove(sandbox);
            }
        }
        Some(container)
    }
}

impl Tables {
    fn read<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// All sandboxes, in the order of their ids.
    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.read(|inner| inner.sandboxes.values().cloned().collect())
    }

    /// All containers, in the order of their ids.
    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.read(|inner| inner.containers.values().cloned().collect())
    }

    /// The containers of one sandbox.
    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.read(|inner| inner.inside.get(sandbox).cloned().unwrap_or_default())
    }

    /// The sandbox with this id, or with the only id that begins so.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        self.read(|inner| by_prefix(&inner.sandboxes, id).cloned())
            .inspect(|sandbox| about_sandbox(sandbox.id()))
            .ok_or_else(|| Error::new(Kind::NotFound, format!("there is no sandbox {id:?}")))
    }

    /// The container with this id, or with the only id that begins so.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.read(|inner| by_prefix(&inner.containers, id).cloned())
            .inspect(|container| {
                about_container(container.id());
                about_sandbox(&container.record.sandbox);
            })
            .ok_or_else(|| Error::new(Kind::NotFound, format!("there is no container {id:?}")))
    }

    /// The sandbox that its client knows by this key.
    pub(crate) fn sandbox_by_key(&self, key: &SandboxKey) -> Option<Arc<Sandbox>> {
        self.read(|inner| inner.sandboxes.values().find(|sandbox| sandbox.record.key() == *key).cloned())
    }

    /// The container of a sandbox that has this name and attempt.
    pub(crate) fn container_by_name(
        &self,
        sandbox: &str,
        name: &str,
        attempt: u32,
    ) -> Option<Arc<Container>> {
        self.read(|inner| {
            let is_it = |container: &&Arc<Container>| {
                let metadata = container.record.config.metadata.as_ref();
                metadata.is_some_and(|metadata| metadata.name == name && metadata.attempt == attempt)
            };
            inner.inside.get(sandbox)?.iter().find(is_it).cloned()
        })
    }

    /// Adds a sandbox.
    pub(crate) fn insert_sandbox(&self, sandbox: Arc<Sandbox>) {
        let _ = sandbox.events.set(Arc::clone(&self.events));
        self.write(|inner| inner.sandboxes.insert(sandbox.id().to_owned(), sandbox));
    }

    /// Adds a container.
    pub(crate) fn insert_container(&self, container: Arc<Container>) {
        self.write(|inner| {
            self.events.tell(container.id(), &container.record.sandbox, ContainerCreatedEvent);
            let _ = container.events.set(Arc::clone(&self.events));
            inner.insert_container(container);
        });
    }

    /// Forgets a sandbox.
    pub(crate) fn forget_sandbox(&self, id: &str) {
        self.write(|inner| {
            if let Some(sandbox) = inner.sandboxes.remove(id) {
                self.events.tell_end(sandbox);
            }
        });
    }

    /// Forgets a container.
    pub(crate) fn forget_container(&self, id: &str) {
        self.write(|inner| {
            if let Some(container) = inner.remove_container(id) {
                self.events.tell(id, &container.record.sandbox, ContainerDeletedEvent);
            }
        });
    }

    /// Whether there is no sandbox at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.read(|inner| inner.sandboxes.is_empty())
    }
}
