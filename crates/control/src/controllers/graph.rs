//! Which objects name which as their owners.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;
use vaquita_apiserver::{Cluster, Kind, Object};

/// Where an object is. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Place(Arc<Inner>);

struct Inner {
    kind: &'static Kind,
    namespace: Box<str>,
    name: Box<str>,
}

impl Place {
    pub(super) fn new(kind: &'static Kind, namespace: &str, name: &str) -> Self {
        Self(Arc::new(Inner { kind, namespace: namespace.into(), name: name.into() }))
    }

    pub(super) fn of(object: &Object) -> Self {
        Self::new(object.kind, object.namespace(), object.name())
    }

    pub(super) fn kind(&self) -> &'static Kind {
        self.0.kind
    }

    pub(super) fn namespace(&self) -> &str {
        &self.0.namespace
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }
}

impl PartialEq for Inner {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.namespace == other.namespace && self.kind == other.kind
    }
}

impl Eq for Inner {}

impl Hash for Inner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.kind.group, self.kind.plural, &self.namespace, &self.name).hash(state);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.0.kind.resource(), self.0.namespace, self.0.name)
    }
}

/// One of `metadata.ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: Box<str>,
    /// Where it should be. None: the kind is not served, or is one of a namespace and the object that names it has none; then
    /// nobody can tell whether the owner is there.
    pub(super) place: Option<Place>,
    /// Whether the owner may not go before.
    pub(super) blocks: bool,
}

/// The owners that an object names.
pub(super) fn owners(cluster: &Cluster, object: &Value) -> Vec<Owner> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let references = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let owner = |reference: &Value| {
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
        let kind = cluster.kinds().find(|kind| kind.group == group && kind.name == text("kind"));
        let place = kind.filter(|kind| !kind.namespaced() || !namespace.is_empty()).map(|kind| {
            Place::new(kind.storage(), if kind.namespaced() { namespace } else { "" }, text("name"))
        });
        Owner { uid: text("uid").into(), place, blocks: reference["blockOwnerDeletion"] == true }
    };
    references.map(owner).collect()
}

/// The objects that have owners. Only what was told is known here: whoever acts on it looks at the objects first.
#[derive(Debug, Default)]
pub(super) struct Graph {
    owners: HashMap<Place, Vec<Owner>>,
    dependents: HashMap<Box<str>, HashSet<Place>>,
}

impl Graph {
    /// An object has these owners now; answers those that it had before.
    pub(super) fn set(&mut self, place: &Place, owners: Vec<Owner>) -> Vec<Owner> {
        let before = self.owners.remove(place).unwrap_or_default();
        for owner in &before {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(place);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        for owner in &owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(place.clone());
        }
        if !owners.is_empty() {
            self.owners.insert(place.clone(), owners);
        }
        before
    }

    /// The objects that name this uid as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Place> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// All objects with owners.
    pub(super) fn all(&self) -> Vec<Place> {
        self.owners.keys().cloned().collect()
    }
}
