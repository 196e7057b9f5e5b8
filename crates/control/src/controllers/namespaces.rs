//! The end of namespaces: what is in them is deleted, pods first, and told of in conditions as long as something is left;
//! then the finalizer `kubernetes` is taken away, and with the last finalizer the namespace goes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use vaquita_apiserver::kinds::{NAMESPACE, POD};
use vaquita_apiserver::{
    Cluster, DeleteOptions, Kind, ListOptions, Propagation, Status, Subresource, Verb, Write, time,
};

use super::changes::{Change, Observer};
use super::queue::Queue;
use super::{gone_is_fine, work};

const FINALIZER: &str = "kubernetes";
/// How many namespaces are emptied at a time.
const WORKERS: usize = 4;
/// How many objects of a namespace are deleted at a time: their writes share a commit.
const AT_ONCE: usize = 32;

pub(super) struct Namespaces {
    queue: Arc<Queue<Box<str>>>,
    /// Those that end.
    ending: HashSet<Box<str>>,
    seen: HashSet<Box<str>>,
}

pub(super) fn start(cluster: &Cluster, tasks: &mut JoinSet<()>) -> Namespaces {
    let queue = Arc::new(Queue::new());
    for _ in 0..WORKERS {
        let cluster = cluster.clone();
        tasks.spawn(work("namespaces", Arc::clone(&queue), move |name: Box<str>| {
            let cluster = cluster.clone();
            async move { Ending { cluster, name, write: Write::system("namespace-controller") }.go_on().await }
        }));
    }
    Namespaces { queue, ending: HashSet::new(), seen: HashSet::new() }
}

impl Observer for Namespaces {
    fn observe(&mut self, change: &Change) {
        if *change.kind() == NAMESPACE {
            let name = change.object.name();
            if change.gone {
                self.ending.remove(name);
            } else if change.value()["metadata"]["deletionTimestamp"].is_string() {
                self.ending.insert(name.into());
                self.seen.insert(name.into());
            }
        } else if self.ending.contains(change.object.namespace()) {
            self.seen.insert(change.object.namespace().into());
        }
    }

    fn reset(&mut self, _: &'static Kind) {
        self.seen.extend(self.ending.iter().cloned());
    }

    fn caught_up(&mut self) {
        self.seen.drain().for_each(|name| self.queue.add(name));
    }
}

/// A namespace that ends.
struct Ending {
    cluster: Cluster,
    name: Box<str>,
    write: Write,
}

/// What is left in a namespace.
#[derive(Default)]
struct Rest {
    /// `pods.` (with the group after the dot) and how many.
    kinds: BTreeMap<String, usize>,
    /// Finalizers, and how many objects have them.
    finalizers: BTreeMap<String, usize>,
    errors: Vec<Status>,
}

impl Ending {
    /// Does what can be done now; what is left calls again by changing.
    async fn go_on(&self) -> Result<(), Status> {
        let Ok(namespace) = self.cluster.get(&NAMESPACE, "", &self.name) else { return Ok(()) };
        let namespace = namespace.value();
        if !namespace["metadata"]["deletionTimestamp"].is_string()
            || !has(&namespace["spec"]["finalizers"], FINALIZER)
        {
            return Ok(());
        }
        let mut rest = self.empty().await;
        self.tell(&rest).await?;
        if let Some(error) = rest.errors.pop() {
            return Err(error);
        }
        if !rest.kinds.is_empty() {
            return Ok(());
        }
        let finalize = Some(Subresource::Finalize);
        let done = self.cluster.modify(&NAMESPACE, "", &self.name, finalize, &self.write, |namespace| {
            let Some(finalizers) = namespace["spec"]["finalizers"].as_array_mut() else { return Ok(false) };
            let before = finalizers.len();
            finalizers.retain(|one| one != FINALIZER);
            Ok(finalizers.len() != before)
        });
        gone_is_fine(done.await)
    }

    /// Asks every object to go; answers what does not go at once.
    async fn empty(&self) -> Rest {
        let mut rest = Rest::default();
        self.empty_of(&POD, &mut rest).await;
        if !rest.kinds.is_empty() {
            return rest;
        }
        let kinds = self.cluster.kinds().filter(|kind| {
            kind.namespaced() && kind.stored.is_none() && **kind != POD && kind.verbs.contains(&Verb::Delete)
        });
        for kind in kinds {
            self.empty_of(kind, &mut rest).await;
        }
        rest
    }

    async fn empty_of(&self, kind: &'static Kind, rest: &mut Rest) {
        if let Err(error) = self.delete_all(kind).await {
            rest.errors.push(error);
        }
        let Ok(list) = self.cluster.list(kind, Some(&self.name), &ListOptions::default()) else { return };
        if list.items.is_empty() {
            return;
        }
        rest.kinds.insert(format!("{}.{}", kind.plural, kind.group), list.items.len());
        for object in list.items {
            for finalizer in object.value()["metadata"]["finalizers"].as_array().into_iter().flatten() {
                let finalizer = finalizer.as_str().unwrap_or_default();
                *rest.finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
    }

    async fn delete_all(&self, kind: &'static Kind) -> Result<(), Status> {
        let mut running = JoinSet::new();
        let mut result = Ok(());
        for object in self.cluster.list(kind, Some(&self.name), &ListOptions::default())?.items {
            if object.value()["metadata"]["deletionTimestamp"].is_string() {
                continue;
            }
            if running.len() >= AT_ONCE {
                result = result.and(outcome(running.join_next().await));
            }
            let (cluster, write) = (self.cluster.clone(), self.write.clone());
            running.spawn(async move {
                let options =
                    DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
                gone_is_fine(cluster.delete(kind, object.namespace(), object.name(), &options, &write).await)
            });
        }
        while let Some(one) = running.join_next().await {
            result = result.and(outcome(Some(one)));
        }
        result
    }

    /// Writes the conditions by which people see what a namespace waits for.
    async fn tell(&self, rest: &Rest) -> Result<(), Status> {
        let status = Some(Subresource::Status);
        let told = self.cluster.modify(&NAMESPACE, "", &self.name, status, &self.write, |namespace| {
            Ok(update(&mut namespace["status"], &conditions(rest)))
        });
        gone_is_fine(told.await)
    }
}

fn outcome(joined: Option<Result<Result<(), Status>, tokio::task::JoinError>>) -> Result<(), Status> {
    match joined {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(Status::internal(error)),
        None => Ok(()),
    }
}

fn has(list: &Value, wanted: &str) -> bool {
    list.as_array().is_some_and(|list| list.iter().any(|one| one == wanted))
}

/// Type, whether it holds, reason and message of each condition.
fn conditions(rest: &Rest) -> [(&'static str, bool, &'static str, String); 5] {
    let listed = |rest: &BTreeMap<String, usize>, verb: &str| -> String {
        let each: Vec<String> =
            rest.iter().map(|(name, count)| format!("{name} {verb} {count} resource instances")).collect();
        each.join(", ")
    };
    let choose = |kind, holds: bool, bad: (&'static str, String), good: (&'static str, &str)| {
        let (reason, message) = if holds { bad } else { (good.0, good.1.to_owned()) };
        (kind, holds, reason, message)
    };
    let mut errors: Vec<&str> = rest.errors.iter().map(|error| error.message.as_str()).collect();
    errors.sort_unstable();
    let failed =
        format!("Failed to delete all resource types, {} remaining: {}", errors.len(), errors.join(", "));
    let remain = format!("Some resources are remaining: {}", listed(&rest.kinds, "has"));
    let kept =
        format!("Some content in the namespace has finalizers remaining: {}", listed(&rest.finalizers, "in"));
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        choose(
            "NamespaceDeletionContentFailure",
            !errors.is_empty(),
            ("ContentDeletionFailed", failed),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        choose(
            "NamespaceContentRemaining",
            !rest.kinds.is_empty(),
            ("SomeResourcesRemain", remain),
            ("ContentRemoved", "All content successfully removed"),
        ),
        choose(
            "NamespaceFinalizersRemaining",
            !rest.finalizers.is_empty(),
            ("SomeFinalizersRemain", kept),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]
}

/// Brings conditions into a status; whether any is another than before.
fn update(status: &mut Value, conditions: &[(&str, bool, &str, String)]) -> bool {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(list) = status["conditions"].as_array_mut() else { return false };
    let mut changed = false;
    for (kind, holds, reason, message) in conditions {
        let holds = if *holds { "True" } else { "False" };
        let new = |since: Value| json!({ "type": kind, "status": holds, "lastTransitionTime": since, "reason": reason, "message": message });
        let Some(old) = list.iter_mut().find(|old| old["type"] == *kind) else {
            list.push(new(time::now().into()));
            changed = true;
            continue;
        };
        let since =
            if old["status"] == holds { old["lastTransitionTime"].take() } else { time::now().into() };
        let new = new(since);
        changed |= ["status", "reason", "message"].iter().any(|field| old[*field] != new[*field]);
        *old = new;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_what_is_left_as_kubernetes_does() {
        let rest = Rest {
            kinds: [("pods.".to_owned(), 2), ("leases.coordination.k8s.io".to_owned(), 1)].into(),
            finalizers: [("a/b".to_owned(), 1)].into(),
            errors: vec![Status::internal("no")],
        };
        let mut status = json!({ "phase": "Terminating" });
        assert!(update(&mut status, &conditions(&rest)));
        let messages: Vec<_> = status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["message"].as_str().unwrap())
            .collect();
        assert_eq!(
            messages,
            [
                "All resources successfully discovered",
                "All legacy kube types successfully parsed",
                "Failed to delete all resource types, 1 remaining: Internal error occurred: no",
                "Some resources are remaining: leases.coordination.k8s.io has 1 resource instances, pods. has 2 resource instances",
                "Some content in the namespace has finalizers remaining: a/b in 1 resource instances",
            ]
        );
        assert!(!update(&mut status, &conditions(&rest)));
        status["conditions"][3]["lastTransitionTime"] = "2020-01-01T00:00:00Z".into();
        assert!(update(&mut status, &conditions(&Rest { finalizers: rest.finalizers, ..Rest::default() })));
        assert_eq!(status["conditions"][3]["status"], "False");
        assert_ne!(status["conditions"][3]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        assert_eq!(status["conditions"].as_array().unwrap().len(), 5);
    }
}
