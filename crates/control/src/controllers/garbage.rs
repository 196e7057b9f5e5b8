//! What becomes of objects by their owners.
//!
//! * None of the owners is there any more: the object is deleted.
//! * An owner is deleted in the foreground (it has the finalizer `foregroundDeletion`): the objects that block it are deleted,
//!   and when none is left the finalizer is taken away.
//! * An owner shall leave its objects alone (it has the finalizer `orphan`): the objects lose their reference to it, then it loses
//!   the finalizer.
//!
//! An owner is the object of the uid that the reference names, not another of its name.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::task::JoinSet;
use vaquita_apiserver::{Cluster, DeleteOptions, Kind, Propagation, Status, Write};

use super::changes::{Change, Observer};
use super::graph::{Graph, Owner, Place, owners};
use super::queue::Queue;
use super::{gone_is_fine, work};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// How many objects are worked on at a time: their writes share a commit.
const WORKERS: usize = 8;

pub(super) struct Garbage {
    shared: Arc<Shared>,
    seen: HashSet<Place>,
}

struct Shared {
    cluster: Cluster,
    graph: Mutex<Graph>,
    queue: Arc<Queue<Place>>,
    write: Write,
}

pub(super) fn start(cluster: &Cluster, tasks: &mut JoinSet<()>) -> Garbage {
    let shared = Arc::new(Shared {
        cluster: cluster.clone(),
        graph: Mutex::default(),
        queue: Arc::new(Queue::new()),
        write: Write::system("generic-garbage-collector"),
    });
    for _ in 0..WORKERS {
        let worker = Arc::clone(&shared);
        tasks.spawn(work("garbage", Arc::clone(&shared.queue), move |place: Place| {
            let worker = Arc::clone(&worker);
            async move { worker.look_at(&place).await }
        }));
    }
    Garbage { shared, seen: HashSet::new() }
}

impl Observer for Garbage {
    fn observe(&mut self, change: &Change) {
        let (place, value) = (Place::of(&change.object), change.value());
        let mut graph = self.shared.graph();
        if change.gone {
            let uid = value["metadata"]["uid"].as_str().unwrap_or_default();
            self.seen.extend(graph.dependents(uid));
            graph.set(&place, Vec::new());
            let waiting = owners(&self.shared.cluster, value).into_iter().filter_map(|owner| owner.place);
            self.seen.extend(waiting);
            return;
        }
        let owners = owners(&self.shared.cluster, value);
        let has_owners = !owners.is_empty();
        let before = graph.set(&place, owners);
        // Those that it does not name any more may have waited for it.
        self.seen.extend(before.into_iter().filter_map(|owner| owner.place));
        if has_owners || deletes(value, ORPHAN) || deletes(value, FOREGROUND) {
            self.seen.insert(place);
        }
    }

    fn reset(&mut self, _: &'static Kind) {
        // Deletions may have gone unseen.
        self.seen.extend(self.shared.graph().all());
    }

    fn caught_up(&mut self) {
        self.seen.drain().for_each(|place| self.shared.queue.add(place));
    }
}

/// Whether an object is being deleted and has this finalizer.
fn deletes(object: &Value, finalizer: &str) -> bool {
    let metadata = &object["metadata"];
    let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
    metadata["deletionTimestamp"].is_string() && finalizers.into_iter().any(|one| one == finalizer)
}

/// What an owner is to the object that names it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is there, or nobody can tell.
    There,
    /// It is not there.
    Gone,
    /// It waits for the object to go.
    Waits,
}

impl Shared {
    async fn look_at(&self, place: &Place) -> Result<(), Status> {
        let Ok(object) = self.cluster.get(place.kind(), place.namespace(), place.name()) else {
            self.graph().set(place, Vec::new());
            return Ok(());
        };
        let object = object.value();
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        if deletes(&object, ORPHAN) {
            return self.orphan(place, uid).await;
        }
        if deletes(&object, FOREGROUND) {
            return self.foreground(place, uid).await;
        }
        if object["metadata"]["deletionTimestamp"].is_string() {
            return Ok(());
        }
        let owners = owners(&self.cluster, &object);
        let states: Vec<(&Owner, State)> = owners.iter().map(|owner| (owner, self.state(owner))).collect();
        if states.is_empty() {
            return Ok(());
        }
        if states.iter().any(|(_, state)| *state == State::There) {
            let gone =
                states.iter().filter(|(_, state)| *state != State::There).map(|(owner, _)| &*owner.uid);
            return self.forget(place, &gone.collect()).await;
        }
        let waited_for = states.iter().any(|(_, state)| *state == State::Waits);
        let propagation = if waited_for && !self.graph().dependents(uid).is_empty() {
            self.break_circles(place, uid).await?;
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        let options = DeleteOptions {
            uid: Some(uid.to_owned()),
            propagation: Some(propagation),
            ..DeleteOptions::default()
        };
        let deleted =
            self.cluster.delete(place.kind(), place.namespace(), place.name(), &options, &self.write);
        gone_is_fine(deleted.await)
    }

    fn state(&self, owner: &Owner) -> State {
        let Some(place) = &owner.place else { return State::There };
        match self.cluster.get(place.kind(), place.namespace(), place.name()) {
            Ok(object) if object.uid() == *owner.uid => {
                if deletes(&object.value(), FOREGROUND) {
                    State::Waits
                } else {
                    State::There
                }
            }
            _ => State::Gone,
        }
    }

    /// Takes these owners out of an object's references.
    async fn forget(&self, place: &Place, uids: &HashSet<&str>) -> Result<(), Status> {
        if uids.is_empty() {
            return Ok(());
        }
        let forgotten = self.change(place, |object| {
            let Some(references) = object["metadata"]["ownerReferences"].as_array_mut() else { return false };
            let before = references.len();
            references.retain(|reference| !uids.contains(reference["uid"].as_str().unwrap_or_default()));
            references.len() != before
        });
        forgotten.await
    }

    /// The owner leaves its objects alone.
    async fn orphan(&self, place: &Place, uid: &str) -> Result<(), Status> {
        for dependent in self.dependents(uid) {
            self.forget(&dependent, &HashSet::from([uid])).await?;
        }
        self.release(place, ORPHAN).await
    }

    /// The owner goes when all have gone that block it.
    async fn foreground(&self, place: &Place, uid: &str) -> Result<(), Status> {
        let mut blocked = false;
        for dependent in self.dependents(uid) {
            let Ok(object) = self.cluster.get(dependent.kind(), dependent.namespace(), dependent.name())
            else {
                continue;
            };
            let object = object.value();
            let blocks =
                owners(&self.cluster, &object).iter().any(|owner| &*owner.uid == uid && owner.blocks);
            blocked |= blocks;
            if blocks && !deletes(&object, FOREGROUND) {
                self.queue.add(dependent);
            }
        }
        if blocked { Ok(()) } else { self.release(place, FOREGROUND).await }
    }

    /// Where an object waits for one that in the end waits for it, neither would ever go: it blocks its owners no longer.
    async fn break_circles(&self, place: &Place, uid: &str) -> Result<(), Status> {
        let waits = |dependent: &Place| {
            let object = self.cluster.get(dependent.kind(), dependent.namespace(), dependent.name());
            object.is_ok_and(|object| deletes(&object.value(), FOREGROUND))
        };
        if !self.dependents(uid).iter().any(waits) {
            return Ok(());
        }
        let unblocked = self.change(place, |object| {
            let mut changed = false;
            for reference in object["metadata"]["ownerReferences"].as_array_mut().into_iter().flatten() {
                if reference["blockOwnerDeletion"] == true {
                    reference["blockOwnerDeletion"] = false.into();
                    changed = true;
                }
            }
            changed
        });
        unblocked.await
    }

    async fn release(&self, place: &Place, finalizer: &str) -> Result<(), Status> {
        let released = self.change(place, |object| {
            let Some(finalizers) = object["metadata"]["finalizers"].as_array_mut() else { return false };
            let before = finalizers.len();
            finalizers.retain(|one| one != finalizer);
            finalizers.len() != before
        });
        released.await
    }

    async fn change(
        &self,
        place: &Place,
        mut change: impl FnMut(&mut Value) -> bool + Send,
    ) -> Result<(), Status> {
        let (kind, namespace, name) = (place.kind(), place.namespace(), place.name());
        let changed =
            self.cluster.modify(kind, namespace, name, None, &self.write, |object| Ok(change(object)));
        gone_is_fine(changed.await)
    }

    fn dependents(&self, uid: &str) -> Vec<Place> {
        self.graph().dependents(uid)
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
