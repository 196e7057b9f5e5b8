//! Pods that nobody will ever end: those of a node that is no more, and those that were to be deleted before they had one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use vaquita_apiserver::kinds::{NODE, POD};
use vaquita_apiserver::{Cluster, DeleteOptions, ListOptions, Status, Subresource, Write};

use super::changes::{Change, Observer};
use super::queue::Queue;
use super::{gone_is_fine, work};

/// A node that is made anew in this time keeps its pods.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    namespace: Box<str>,
    name: Box<str>,
}

pub(super) struct Pods {
    cluster: Cluster,
    queue: Arc<Queue<Key>>,
    quarantine: Duration,
    /// Those whose node is not there, until they are looked at.
    lost: HashSet<Key>,
}

pub(super) fn start(cluster: &Cluster, tasks: &mut JoinSet<()>) -> Pods {
    let queue = Arc::new(Queue::new());
    let worker = cluster.clone();
    tasks.spawn(work("pods", Arc::clone(&queue), move |key: Key| {
        let cluster = worker.clone();
        async move { collect(&cluster, &key.namespace, &key.name).await }
    }));
    Pods { cluster: cluster.clone(), queue, quarantine: QUARANTINE, lost: HashSet::new() }
}

impl Observer for Pods {
    fn observe(&mut self, change: &Change) {
        if *change.kind() == NODE && change.gone {
            let Ok(list) = self.cluster.list(&POD, None, &ListOptions::default()) else { return };
            for pod in list.items {
                if pod.value()["spec"]["nodeName"] == change.object.name() {
                    self.lost.insert(Key { namespace: pod.namespace().into(), name: pod.name().into() });
                }
            }
        } else if *change.kind() == POD && !change.gone {
            let node = change.value()["spec"]["nodeName"].as_str().unwrap_or_default();
            let lost = if node.is_empty() {
                change.value()["metadata"]["deletionTimestamp"].is_string()
            } else {
                self.cluster.get(&NODE, "", node).is_err()
            };
            if lost {
                let (namespace, name) = (change.object.namespace().into(), change.object.name().into());
                self.lost.insert(Key { namespace, name });
            }
        }
    }

    fn caught_up(&mut self) {
        for key in self.lost.drain() {
            self.queue.later(key, self.quarantine);
        }
    }
}

async fn collect(cluster: &Cluster, namespace: &str, name: &str) -> Result<(), Status> {
    let Ok(object) = cluster.get(&POD, namespace, name) else { return Ok(()) };
    let pod = object.value();
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let unplaced = node.is_empty() && pod["metadata"]["deletionTimestamp"].is_string();
    let orphaned = !node.is_empty() && cluster.get(&NODE, "", node).is_err();
    if !unplaced && !orphaned {
        return Ok(());
    }
    let write = Write::system("pod-garbage-collector");
    if orphaned && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        let failed = cluster.modify(&POD, namespace, name, Some(Subresource::Status), &write, |pod| {
            if pod["metadata"]["uid"] != object.uid() {
                return Ok(false);
            }
            fail(&mut pod["status"]);
            Ok(true)
        });
        gone_is_fine(failed.await)?;
    }
    let options = DeleteOptions { grace: Some(0), uid: Some(object.uid()), ..DeleteOptions::default() };
    gone_is_fine(cluster.delete(&POD, namespace, name, &options, &write).await)
}

/// A pod of a node that is no more has failed.
fn fail(status: &mut serde_json::Value) {
    status["phase"] = "Failed".into();
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "lastTransitionTime": vaquita_apiserver::time::now(),
        "reason": "DeletionByPodGC",
        "message": "PodGC: node no longer exists",
    });
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    if let Some(conditions) = status["conditions"].as_array_mut() {
        conditions.retain(|one| one["type"] != "DisruptionTarget");
        conditions.push(condition);
    }
}

#[cfg(test)]
mod tests {
    use vaquita_apiserver::Options;
    use vaquita_store::Store;

    use super::*;

    #[tokio::test]
    async fn pods_of_a_node_that_is_no_more_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb"), vaquita_store::Options::default()).unwrap();
        let cluster = Cluster::new(store, Options::default());
        cluster.bootstrap().await.unwrap();
        let write = Write::system("test");
        for node in ["stays", "goes"] {
            cluster.create(&NODE, "", json!({ "metadata": { "name": node } }), &write).await.unwrap();
        }
        let account = json!({ "metadata": { "name": "default" } });
        cluster.create(&vaquita_apiserver::kinds::SERVICE_ACCOUNT, "default", account, &write).await.unwrap();
        for (pod, node) in [("a", "stays"), ("b", "goes")] {
            let spec = json!({ "nodeName": node, "containers": [{ "name": "c", "image": "i" }] });
            let pod =
                json!({ "metadata": { "name": pod, "finalizers": ["example.com/keep"] }, "spec": spec });
            cluster.create(&POD, "default", pod, &write).await.unwrap();
        }
        cluster.delete(&NODE, "", "goes", &DeleteOptions::default(), &write).await.unwrap();
        for pod in ["a", "b", "none"] {
            collect(&cluster, "default", pod).await.unwrap();
        }
        let pod = |name| cluster.get(&POD, "default", name).unwrap().value();
        assert!(pod("a")["metadata"]["deletionTimestamp"].is_null());
        let lost = pod("b");
        assert!(lost["metadata"]["deletionTimestamp"].is_string());
        assert_eq!(lost["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(lost["status"]["phase"], "Failed");
        assert_eq!(lost["status"]["conditions"][0]["reason"], "DeletionByPodGC");
    }
}
