//! What is used of each quota, in its status.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use vaquita_apiserver::admission::quota;
use vaquita_apiserver::kinds::RESOURCE_QUOTA;
use vaquita_apiserver::{Cluster, Kind, Status, Subresource, Write};

use super::changes::{Change, Observer};
use super::queue::Queue;
use super::{gone_is_fine, work};

/// Counting lists a namespace: many changes at once are counted once.
const PAUSE: Duration = Duration::from_millis(50);

/// Which quota.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    namespace: Box<str>,
    name: Box<str>,
}

pub(super) struct Quotas {
    queue: Arc<Queue<Key>>,
    quotas: HashMap<Box<str>, HashSet<Box<str>>>,
    seen: HashSet<Key>,
}

pub(super) fn start(cluster: &Cluster, tasks: &mut JoinSet<()>) -> Quotas {
    let queue = Arc::new(Queue::new());
    let cluster = cluster.clone();
    tasks.spawn(work("quotas", Arc::clone(&queue), move |key: Key| {
        let cluster = cluster.clone();
        async move {
            count(&cluster, &key.namespace, &key.name).await?;
            tokio::time::sleep(PAUSE).await;
            Ok(())
        }
    }));
    Quotas { queue, quotas: HashMap::new(), seen: HashSet::new() }
}

impl Observer for Quotas {
    fn observe(&mut self, change: &Change) {
        let namespace = change.object.namespace();
        if *change.kind() == RESOURCE_QUOTA {
            let name: Box<str> = change.object.name().into();
            let quotas = self.quotas.entry(namespace.into()).or_default();
            if change.gone {
                quotas.remove(&name);
                if quotas.is_empty() {
                    self.quotas.remove(namespace);
                }
            } else {
                quotas.insert(name);
            }
        }
        // Quotas may count each other, so a change of one concerns all.
        for name in self.quotas.get(namespace).into_iter().flatten() {
            self.seen.insert(Key { namespace: namespace.into(), name: name.clone() });
        }
    }

    fn reset(&mut self, kind: &'static Kind) {
        if *kind == RESOURCE_QUOTA {
            self.quotas.clear();
        }
        // Something may have gone unseen.
        for (namespace, names) in &self.quotas {
            let keys = names.iter().map(|name| Key { namespace: namespace.clone(), name: name.clone() });
            self.seen.extend(keys);
        }
    }

    fn caught_up(&mut self) {
        self.seen.drain().for_each(|key| self.queue.add(key));
    }
}

async fn count(cluster: &Cluster, namespace: &str, name: &str) -> Result<(), Status> {
    let Ok(object) = cluster.get(&RESOURCE_QUOTA, namespace, name) else { return Ok(()) };
    let used = quota::used(cluster, namespace, &object.value())?;
    let write = Write::system("resourcequota-controller");
    let status = Some(Subresource::Status);
    let written = cluster.modify(&RESOURCE_QUOTA, namespace, name, status, &write, |quota| {
        let new =
            json!({ "hard": quota["spec"].get("hard").cloned().unwrap_or_else(|| json!({})), "used": used });
        if quota["status"] == new {
            return Ok(false);
        }
        quota["status"] = new;
        Ok(true)
    });
    gone_is_fine(written.await)
}
