//! Taints with the effect NoExecute: pods that do not tolerate them have to go, at once or after the time that they do.
//! This is what Kubernetes' taint eviction controller does, for this node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use vaquita_apiserver::kinds::{NODE, POD};
use vaquita_apiserver::{DeleteOptions, Reason, Status, Subresource, Write};

use crate::control::Shared;
use crate::events::{Reference, seconds};
use crate::follow::{Follow, Told};
use crate::scheduler::condition;
use crate::scheduler::machines::Facts;
use crate::scheduler::wants::{Taint, Wants};

/// Who tells of it.
const CONTROLLER: &str = "taint-eviction-controller";
/// Between attempts to delete a pod.
const RETRY: SignedDuration = SignedDuration::from_secs(1);

/// Ends pods that the node's taints do not let stay.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut nodes = Follow::new(shared.cluster.clone(), &NODE);
    let mut evictor = Evictor { shared, taints: Vec::new(), pods: BTreeMap::new() };
    // Pods are followed only while there is a reason to.
    let mut pods: Option<Follow> = None;
    loop {
        let wake = evictor.wake();
        tokio::select! {
            told = nodes.next() => {
                evictor.nodes(told);
                if evictor.taints.is_empty() {
                    pods = None;
                    evictor.pods.clear();
                } else if pods.is_none() {
                    pods = Some(Follow::new(evictor.shared.cluster.clone(), &POD));
                }
            }
            told = next(&mut pods) => evictor.pods(told),
            () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => evictor.evict().await,
        }
    }
}

async fn next(pods: &mut Option<Follow>) -> Told {
    match pods {
        Some(pods) => pods.next().await,
        None => std::future::pending().await,
    }
}

struct Evictor {
    shared: Arc<Shared>,
    /// Taints of this node that matter, and since when.
    taints: Vec<(Taint, Timestamp)>,
    pods: BTreeMap<String, Wants>,
}

impl Evictor {
    fn nodes(&mut self, told: Told) {
        let nodes = match told {
            Told::All(nodes) => nodes,
            Told::Set(node) => vec![node],
            Told::Gone(_) => return,
        };
        for node in nodes.iter().filter(|node| node.name() == self.shared.name) {
            let Ok(facts) = Facts::of(&node.value()) else { continue };
            let before = std::mem::take(&mut self.taints);
            let since = |taint: &Taint| {
                let known = before.iter().find(|(other, _)| other == taint).map(|(_, since)| *since);
                taint.time_added.or(known).unwrap_or_else(Timestamp::now)
            };
            let hard = facts.taints.iter().filter(|taint| taint.effect == "NoExecute");
            self.taints = hard.map(|taint| (taint.clone(), since(taint))).collect();
        }
    }

    fn pods(&mut self, told: Told) {
        let objects = match told {
            Told::All(objects) => {
                self.pods.clear();
                objects
            }
            Told::Set(object) => vec![object],
            Told::Gone(object) => {
                self.pods.remove(&object.uid());
                return;
            }
        };
        for object in objects {
            let value = object.value();
            // Those of manifests are not the API's to end.
            let mirror = !value["metadata"]["annotations"][crate::feed::MIRROR].is_null();
            let Ok(pod) = Wants::of(&value) else { continue };
            let here = pod.spec.node_name == self.shared.name && !mirror;
            if here && !pod.finished && !pod.deleting {
                self.pods.insert(pod.uid.clone(), pod);
            } else {
                self.pods.remove(&pod.uid);
            }
        }
    }

    /// How long until the next pod has to go.
    fn wake(&self) -> Option<Duration> {
        let first = self.pods.values().filter_map(|pod| deadline(pod, &self.taints)).min()?;
        Some(Duration::try_from(first.duration_since(Timestamp::now())).unwrap_or_default())
    }

    async fn evict(&mut self) {
        let now = Timestamp::now();
        let due = |pod: &&Wants| deadline(pod, &self.taints).is_some_and(|at| at <= now);
        let due: Vec<Wants> = self.pods.values().filter(due).cloned().collect();
        for pod in due {
            self.pods.remove(&pod.uid);
            let about = Reference::pod(&pod.namespace, &pod.name, &pod.uid);
            let message = format!("Marking for deletion Pod {}/{}", pod.namespace, pod.name);
            self.shared.recorder.normal(CONTROLLER, about, "TaintManagerEviction", message);
            match end(&self.shared, &pod).await {
                Err(error) if error.reason != Reason::NotFound => {
                    tracing::warn!(error = %error.message, pod = pod.name, "a pod cannot be evicted");
                    self.pods.insert(pod.uid.clone(), pod);
                    tokio::time::sleep(Duration::try_from(RETRY).unwrap_or_default()).await;
                }
                _ => {}
            }
        }
    }
}

/// When a pod has to go because of these taints; never, where it tolerates all of them for good.
fn deadline(pod: &Wants, taints: &[(Taint, Timestamp)]) -> Option<Timestamp> {
    let times = taints.iter().filter_map(|(taint, since)| {
        let covers = pod.spec.tolerations.iter().filter(|toleration| toleration.covers(taint));
        let times: Vec<Option<i64>> = covers.map(|toleration| toleration.toleration_seconds).collect();
        if times.is_empty() {
            return Some(*since);
        }
        let seconds = times.into_iter().flatten().min()?;
        Some(*since + SignedDuration::from_secs(seconds.max(0)))
    });
    times.min()
}

async fn end(shared: &Shared, pod: &Wants) -> Result<(), Status> {
    let (write, now) = (Write::system(CONTROLLER), seconds(Timestamp::now()));
    let change = |object: &mut Value| {
        let target = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
        });
        Ok(condition(&mut object["status"], target, &now))
    };
    let sub = Some(Subresource::Status);
    shared.cluster.modify(&POD, &pod.namespace, &pod.name, sub, &write, change).await?;
    let options = DeleteOptions { uid: Some(pod.uid.clone()), ..DeleteOptions::default() };
    shared.cluster.delete(&POD, &pod.namespace, &pod.name, &options, &write).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_time_counts() {
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let taint = |key: &str, since| {
            (Taint { key: key.into(), effect: "NoExecute".into(), ..Taint::default() }, at(since))
        };
        let pod = |tolerations: Value| {
            Wants::of(&json!({"metadata": {}, "spec": {"tolerations": tolerations}})).unwrap()
        };
        let both = [taint("a", 0), taint("b", 100)];
        let tolerates = |key: &str, seconds: Value| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        assert_eq!(deadline(&pod(json!([])), &[]), None);
        assert_eq!(deadline(&pod(json!([])), &both), Some(at(0)));
        assert_eq!(deadline(&pod(json!([tolerates("a", Value::Null)])), &both), Some(at(100)));
        let some = pod(json!([tolerates("a", json!(300)), tolerates("b", json!(60))]));
        assert_eq!(deadline(&some, &both), Some(at(160)));
        assert_eq!(deadline(&pod(json!([{"operator": "Exists"}])), &both), None);
    }
}
