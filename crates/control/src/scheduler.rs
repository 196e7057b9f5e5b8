//! Gives pods their machine: reads all pods and nodes by watches, decides, and writes it down through `pods/binding`.

mod decide;
pub(crate) mod filters;
pub(crate) mod machines;
mod queue;
mod resources;
mod scores;
mod select;
pub(crate) mod wants;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use vaquita_apiserver::{DeleteOptions, Object, Reason, Status, Subresource, Write};

use self::decide::{Decision, Preempt, decide};
use self::machines::{Facts, Machines};
use self::queue::Queue;
use self::wants::Wants;
use crate::control::Shared;
use crate::events::{Reference, SCHEDULER, seconds};
use crate::follow::{Follow, Told};
use vaquita_apiserver::kinds::{NAMESPACE, NODE, POD};

/// The scheduler's name in pods that want this one.
const NAME: &str = "default-scheduler";

/// Schedules pods.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut pods = Follow::new(shared.cluster.clone(), &POD);
    let mut nodes = Follow::new(shared.cluster.clone(), &NODE);
    let mut namespaces = Follow::new(shared.cluster.clone(), &NAMESPACE);
    let (bound, mut outcomes) = mpsc::unbounded_channel();
    let mut scheduler = Scheduler { shared, machines: Machines::default(), queue: Queue::default(), bound };
    // Nothing is decided before all is known.
    scheduler.namespaces(namespaces.next().await);
    scheduler.nodes(nodes.next().await);
    scheduler.pods(pods.next().await);
    loop {
        while let Some(pod) = scheduler.queue.next(Instant::now()) {
            scheduler.schedule(pod).await;
        }
        let due = scheduler.queue.due();
        tokio::select! {
            told = pods.next() => scheduler.pods(told),
            told = nodes.next() => scheduler.nodes(told),
            told = namespaces.next() => scheduler.namespaces(told),
            Some(outcome) = outcomes.recv() => scheduler.settle(outcome),
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

struct Scheduler {
    shared: Arc<Shared>,
    machines: Machines,
    queue: Queue,
    bound: mpsc::UnboundedSender<Outcome>,
}

/// How the binding of a pod went.
struct Outcome {
    pod: Arc<Wants>,
    error: Option<Status>,
}

impl Scheduler {
    fn pods(&mut self, told: Told) {
        match told {
            Told::All(objects) => {
                let known = self.machines.pods().map(|(_, pod)| pod.uid.clone()).chain(self.queue.uids());
                for uid in known.collect::<Vec<_>>() {
                    self.machines.forget(&uid);
                    self.queue.remove(&uid);
                }
                objects.iter().for_each(|object| self.pod(object));
                self.queue.wake(Instant::now(), |_| true);
            }
            Told::Set(object) => self.pod(&object),
            Told::Gone(object) => {
                self.queue.remove(&object.uid());
                if self.machines.forget(&object.uid()) {
                    self.queue.wake(Instant::now(), |_| true);
                }
            }
        }
    }

    fn pod(&mut self, object: &Object) {
        let Ok(pod) = Wants::of(&object.value()) else {
            tracing::warn!(pod = object.name(), "a pod cannot be read");
            return;
        };
        let (pod, now) = (Arc::new(pod), Instant::now());
        if !pod.spec.node_name.is_empty() {
            self.queue.remove(&pod.uid);
            let there = self.machines.pods().find(|(_, other)| other.uid == pod.uid);
            let same = there.is_some_and(|(_, other)| {
                other.digest == pod.digest && other.finished == pod.finished && other.deleting == pod.deleting
            });
            let new = there.is_none();
            self.machines.place(Arc::clone(&pod));
            if new && !pod.finished {
                // A pod more is good news only for those that want to be near it.
                let near = |waiting: &Wants| !waiting.spec.affinity.pod_affinity.required.is_empty();
                self.queue.wake(now, near);
            } else if !same {
                self.queue.wake(now, |_| true);
            }
        } else if pod.finished || pod.deleting || !self.concerns(&pod) {
            self.queue.remove(&pod.uid);
        } else {
            self.queue.set(pod, now);
        }
    }

    /// Whether the pod is for this scheduler, and for now.
    fn concerns(&self, pod: &Wants) -> bool {
        let name = &pod.spec.scheduler_name;
        (name.is_empty() || name == NAME) && pod.spec.scheduling_gates.is_empty()
    }

    fn nodes(&mut self, told: Told) {
        let mut changed = false;
        match told {
            Told::All(objects) => {
                let names: Vec<String> = self.machines.nodes.keys().cloned().collect();
                names.iter().for_each(|name| self.machines.lose(name));
                objects.iter().for_each(|object| changed |= self.node(object));
            }
            Told::Set(object) => changed = self.node(&object),
            Told::Gone(object) => self.machines.lose(object.name()),
        }
        if changed {
            self.queue.wake(Instant::now(), |_| true);
        }
    }

    fn node(&mut self, object: &Object) -> bool {
        match Facts::of(&object.value()) {
            Ok(facts) => self.machines.know(facts),
            Err(error) => {
                tracing::warn!(%error, node = object.name(), "a node cannot be read");
                false
            }
        }
    }

    fn namespaces(&mut self, told: Told) {
        let mut set = |object: &Object| {
            let value = object.value();
            let labels = serde_json::from_value(value["metadata"]["labels"].clone()).unwrap_or_default();
            self.machines.namespaces.insert(object.name().to_owned(), labels);
        };
        match told {
            Told::All(objects) => objects.iter().for_each(set),
            Told::Set(object) => set(&object),
            Told::Gone(object) => {
                self.machines.namespaces.remove(object.name());
            }
        }
    }

    async fn schedule(&mut self, pod: Arc<Wants>) {
        match decide(&pod, &self.machines) {
            Decision::Place(node) => {
                // It takes its room from now on, so that the next pod cannot have it too.
                let mut assumed = Wants::clone(&pod);
                assumed.spec.node_name.clone_from(&node);
                self.machines.place(Arc::new(assumed));
                let (shared, bound) = (Arc::clone(&self.shared), self.bound.clone());
                tokio::spawn(async move {
                    let error = bind(&shared, &pod, &node).await.err();
                    let _ = bound.send(Outcome { pod, error });
                });
            }
            Decision::Wait { message, preempt } => {
                self.queue.wait(&pod.uid);
                self.refuse(&pod, &message, preempt).await;
            }
        }
    }

    /// A binding was written, or was not.
    fn settle(&mut self, outcome: Outcome) {
        let Outcome { pod, error: Some(error) } = outcome else { return };
        // What is there by now says the watch; until then nothing was taken.
        self.machines.forget(&pod.uid);
        match error.reason {
            Reason::NotFound => self.queue.remove(&pod.uid),
            _ => {
                tracing::warn!(error = %error.message, pod = pod.name, "a pod cannot be bound");
                self.queue.again(&pod.uid, Instant::now());
            }
        }
    }

    /// Tells why a pod waits, and ends those that have to make room for it.
    async fn refuse(&self, pod: &Arc<Wants>, message: &str, preempt: Option<Preempt>) {
        let recorder = &self.shared.recorder;
        recorder.warning(SCHEDULER, reference(pod), "FailedScheduling", message);
        let nominated = preempt.as_ref().map(|preempt| preempt.node.clone());
        let result = tell(&self.shared, pod, message, nominated.as_deref()).await;
        if let Err(error) = result
            && error.reason != Reason::NotFound
        {
            tracing::warn!(error = %error.message, pod = pod.name, "why a pod waits cannot be written");
        }
        for victim in preempt.into_iter().flat_map(|preempt| preempt.victims) {
            if let Err(error) = end(&self.shared, &victim).await {
                tracing::warn!(error = %error.message, pod = victim.name, "a pod cannot be preempted");
                continue;
            }
            let node = nominated.as_deref().unwrap_or_default();
            let message = format!("Preempted by pod {} on node {node}", pod.uid);
            recorder.normal(SCHEDULER, reference(&victim), "Preempted", message);
        }
    }
}

fn reference(pod: &Wants) -> Reference {
    Reference::pod(&pod.namespace, &pod.name, &pod.uid)
}

async fn bind(shared: &Shared, pod: &Wants, node: &str) -> Result<(), Status> {
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let write = Write::system("scheduler");
    let sub = Some(Subresource::Binding);
    shared.cluster.update(&POD, &pod.namespace, &pod.name, sub, binding, &write).await?;
    let message = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
    shared.recorder.normal(SCHEDULER, reference(pod), "Scheduled", message);
    Ok(())
}

/// Writes down why a pod waits.
async fn tell(shared: &Shared, pod: &Wants, message: &str, nominated: Option<&str>) -> Result<(), Status> {
    let now = seconds(Timestamp::now());
    let change = |object: &mut Value| {
        if object["metadata"]["uid"] != pod.uid {
            return Ok(false);
        }
        let waits = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        });
        let mut changed = condition(&mut object["status"], waits, &now);
        if let Some(node) = nominated
            && object["status"]["nominatedNodeName"] != node
        {
            object["status"]["nominatedNodeName"] = node.into();
            changed = true;
        }
        Ok(changed)
    };
    let (write, sub) = (Write::system("scheduler"), Some(Subresource::Status));
    shared.cluster.modify(&POD, &pod.namespace, &pod.name, sub, &write, change).await.map(drop)
}

/// Sets a condition; its time only where its status changes. Whether anything changed.
pub(crate) fn condition(status: &mut Value, mut wanted: Value, now: &str) -> bool {
    wanted["lastProbeTime"] = Value::Null;
    let list = status["conditions"].as_array().cloned().unwrap_or_default();
    let index = list.iter().position(|one| one["type"] == wanted["type"]);
    let old = index.map(|index| &list[index]);
    let since =
        old.filter(|old| old["status"] == wanted["status"]).map(|old| old["lastTransitionTime"].clone());
    wanted["lastTransitionTime"] = since.unwrap_or_else(|| now.into());
    let fields = ["status", "reason", "message", "lastTransitionTime"];
    if old.is_some_and(|old| fields.iter().all(|field| old[*field] == wanted[*field])) {
        return false;
    }
    let mut list = list;
    match index {
        Some(index) => list[index] = wanted,
        None => list.push(wanted),
    }
    status["conditions"] = list.into();
    true
}

/// Ends a pod in favour of one that matters more.
async fn end(shared: &Shared, victim: &Wants) -> Result<(), Status> {
    if victim.deleting {
        return Ok(());
    }
    let (write, now) = (Write::system("scheduler"), seconds(Timestamp::now()));
    let change = |object: &mut Value| {
        let target = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": "default-scheduler: preempting to accommodate a higher priority pod",
        });
        Ok(condition(&mut object["status"], target, &now))
    };
    let sub = Some(Subresource::Status);
    shared.cluster.modify(&POD, &victim.namespace, &victim.name, sub, &write, change).await?;
    let options = DeleteOptions { uid: Some(victim.uid.clone()), ..DeleteOptions::default() };
    shared.cluster.delete(&POD, &victim.namespace, &victim.name, &options, &write).await.map(drop)
}
