//! One pod: its agent, its status in the store, its end.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use vaquita_apiserver::kinds::{POD, RUNTIME_CLASS};
use vaquita_apiserver::{DeleteOptions, Reason, Status, Subresource, Write};
use vaquita_kube::agent::{Agent, Handle, Known, Objects, Outcome};
use vaquita_kube::api::{Pod, PodStatus};
use vaquita_kube::event::Event;

use super::status;
use crate::control::Shared;
use crate::events::{KUBELET, Reference, seconds};

/// Between attempts to write, or to remove, what could not be.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// What becomes of a pod.
#[derive(Debug)]
pub(crate) enum Order {
    /// Its object is this now.
    Set(Box<Value>),
    /// Its object is gone.
    Gone,
    /// A pod of a manifest: it is wanted no more, and is given its own grace period.
    Unwanted,
    /// The mirror of a pod of a manifest is there: it wants the status.
    Mirrored,
}

/// A pod that the node runs.
pub(crate) struct Keeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) agent: Agent,
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// It comes from a manifest; the API has a mirror of it.
    pub(crate) is_static: bool,
}

/// How far the end of a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is wanted.
    Not,
    /// It is being ended with this many seconds.
    Asked(i64),
    /// Its object is gone: it is killed, and nobody is told of it any more.
    Gone,
}

impl Keeper {
    /// Runs the pod until it is gone, or until nobody gives orders any more, which leaves it running.
    pub(crate) async fn run(self, pod: Value, mut known: Known, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut latest = pod;
        loop {
            let typed = match self.typed(&latest) {
                Ok(typed) => typed,
                Err(error) => {
                    tracing::warn!(error, pod = self.name, "a pod cannot be run as it is");
                    if self.wait(&mut latest, &mut orders).await {
                        continue;
                    }
                    return;
                }
            };
            let handle = self.agent.start(typed.clone(), Arc::clone(&self.objects), known);
            match self.live(handle, typed, &mut latest, &mut orders).await {
                Some((end, outcome)) => return self.finish(end, outcome, &latest, &mut orders).await,
                None if orders.is_closed() => return,
                None => {
                    tracing::error!(pod = self.name, "the agent of a pod has died: it is started again");
                    tokio::time::sleep(RETRY).await;
                    let all = self.agent.known().await.unwrap_or_default();
                    known = { all }.remove(&self.uid).unwrap_or_default();
                }
            }
        }
    }

    /// Waits for a change of a pod that cannot be run as it is. Whether to try again; if not, nothing of it is left.
    async fn wait(&self, latest: &mut Value, orders: &mut mpsc::UnboundedReceiver<Order>) -> bool {
        let deleting = !self.is_static && !latest["metadata"]["deletionTimestamp"].is_null();
        if !deleting {
            match tokio::time::timeout(LONGEST_RETRY, orders.recv()).await {
                Ok(Some(Order::Set(pod))) => *latest = *pod,
                Ok(None) => return false,
                Ok(Some(Order::Gone | Order::Unwanted)) => {
                    self.remove().await;
                    return false;
                }
                Ok(Some(Order::Mirrored)) | Err(_) => {}
            }
            return true;
        }
        self.remove().await;
        delete(&self.shared, &self.namespace, &self.name, &self.uid).await;
        false
    }

    /// Removes whatever there is of the pod; tried until that has succeeded.
    async fn remove(&self) {
        let mut pause = RETRY;
        loop {
            let known = self.agent.known().await.map(|mut all| all.remove(&self.uid).unwrap_or_default());
            let removed = match known {
                Ok(known) => self.agent.remove(&self.uid, known).await,
                Err(error) => Err(error),
            };
            let Err(error) = removed else { return };
            tracing::warn!(%error, pod = self.name, "something of a pod cannot be removed: it is tried again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RETRY);
        }
    }

    /// The pod as the agent wants it.
    fn typed(&self, pod: &Value) -> Result<Pod, String> {
        let mut pod = pod.clone();
        // The agent knows handlers of the CRI server, not classes.
        if let Some(class) = pod["spec"]["runtimeClassName"].as_str().filter(|class| !class.is_empty()) {
            let class = self.shared.cluster.get(&RUNTIME_CLASS, "", class).map_err(|error| error.message)?;
            pod["spec"]["runtimeClassName"] = class.value()["handler"].clone();
        }
        Pod::from_value(pod).map_err(|error| error.to_string())
    }

    /// Until the agent is done. Nothing where it has died, or nobody gives orders any more.
    async fn live(
        &self,
        mut handle: Handle,
        mut typed: Pod,
        latest: &mut Value,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) -> Option<(End, Outcome)> {
        let mut events = handle.take_events();
        let mut status = handle.status();
        let mut end = End::Not;
        // What the agent begins with is written at once: the pod has been taken up.
        let mut write_at = Some(tokio::time::Instant::now());
        self.end(&handle, latest, &mut end);
        let outcome = loop {
            tokio::select! {
                order = orders.recv() => match order? {
                    Order::Set(pod) => {
                        *latest = *pod;
                        match self.typed(latest) {
                            Ok(pod) => {
                                typed = pod;
                                handle.update(typed.clone());
                            }
                            Err(error) => tracing::warn!(error, pod = self.name, "a pod cannot be read"),
                        }
                        self.end(&handle, latest, &mut end);
                        // Others may have written conditions that readiness depends on.
                        write_at = Some(tokio::time::Instant::now());
                    }
                    Order::Mirrored => write_at = Some(tokio::time::Instant::now()),
                    Order::Unwanted => {
                        let grace = latest["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
                        end = End::Asked(grace);
                        handle.stop(grace);
                    }
                    Order::Gone => {
                        end = End::Gone;
                        handle.kill();
                    }
                },
                Ok(()) = status.changed() => write_at = Some(tokio::time::Instant::now()),
                Some(event) = events.recv() => self.tell(&typed, &event),
                () = until(write_at) => {
                    let now = status.borrow_and_update().clone();
                    write_at = match self.write(end, &now).await {
                        Ok(()) => None,
                        Err(error) => {
                            tracing::warn!(error = %error.message, pod = self.name, "a status cannot be written");
                            Some(tokio::time::Instant::now() + RETRY)
                        }
                    };
                }
                outcome = handle.outcome() => break outcome?,
            }
        };
        while let Ok(event) = events.try_recv() {
            self.tell(&typed, &event);
        }
        Some((end, outcome))
    }

    /// Ends the pod, or does so sooner, where its object says so.
    fn end(&self, handle: &Handle, pod: &Value, end: &mut End) {
        if self.is_static || pod["metadata"]["deletionTimestamp"].is_null() {
            return;
        }
        let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        let sooner = match *end {
            End::Not => true,
            End::Asked(before) => grace < before,
            End::Gone => false,
        };
        if sooner {
            *end = End::Asked(grace);
            handle.stop(grace);
        }
    }

    /// Records what happened, in Kubernetes' words.
    fn tell(&self, pod: &Pod, event: &Event) {
        for record in event.kind.records(pod) {
            let about = Reference {
                field_path: record.field_path,
                ..Reference::pod(&self.namespace, &self.name, &self.uid)
            };
            self.shared.recorder.note(KUBELET, about, record.type_, &record.reason, record.message);
        }
    }

    /// Writes the status, if it is another.
    async fn write(&self, end: End, agent: &PodStatus) -> Result<(), Status> {
        if end == End::Gone {
            return Ok(());
        }
        write(&self.shared, &self.target(), |pod, now| status::merge(pod, agent, now)).await
    }

    fn target(&self) -> Target<'_> {
        Target { namespace: &self.namespace, name: &self.name, uid: &self.uid, is_static: self.is_static }
    }

    /// The pod has ended: what is left of it is removed, then its object.
    async fn finish(
        &self,
        mut end: End,
        outcome: Outcome,
        latest: &Value,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) {
        if let Err(error) = self.write(end, &outcome.status).await {
            tracing::warn!(error = %error.message, pod = self.name, "the last status cannot be written");
        }
        let mut errors = outcome.errors;
        let mut pause = RETRY;
        while let Some(error) = errors.first() {
            tracing::warn!(error, pod = self.name, "something of a pod cannot be removed: it is tried again");
            if end != End::Gone {
                let about = Reference::pod(&self.namespace, &self.name, &self.uid);
                self.shared.recorder.warning(
                    KUBELET,
                    about,
                    "FailedKillPod",
                    format!("error killing pod: {error}"),
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RETRY);
            while let Ok(order) = orders.try_recv() {
                if matches!(order, Order::Gone) {
                    end = End::Gone;
                }
            }
            if orders.is_closed() {
                return;
            }
            let known = self.agent.known().await.map(|mut all| all.remove(&self.uid).unwrap_or_default());
            let removed = match known {
                Ok(known) => self.agent.remove(&self.uid, known).await,
                Err(error) => Err(error),
            };
            errors = removed.err().map(|error| error.to_string()).into_iter().collect();
        }
        let asked = !latest["metadata"]["deletionTimestamp"].is_null();
        if end != End::Gone && asked && !self.is_static {
            delete(&self.shared, &self.namespace, &self.name, &self.uid).await;
        }
    }
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// An object that a status goes to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) uid: &'a str,
    pub(super) is_static: bool,
}

/// Annotation of a mirror pod: the uid of the pod of the manifest.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// Changes the status of a pod's object, if it is still that pod's.
pub(super) async fn write(
    shared: &Shared,
    target: &Target<'_>,
    mut change: impl FnMut(&mut Value, &str) -> bool + Send,
) -> Result<(), Status> {
    let now = seconds(Timestamp::now());
    let change = |pod: &mut Value| {
        let id = match target.is_static {
            true => &pod["metadata"]["annotations"][MIRROR],
            false => &pod["metadata"]["uid"],
        };
        Ok(*id == target.uid && change(pod, &now))
    };
    let (writer, sub) = (Write::system("node"), Some(Subresource::Status));
    match shared.cluster.modify(&POD, target.namespace, target.name, sub, &writer, change).await {
        Err(error) if error.reason == Reason::NotFound => Ok(()),
        result => result.map(drop),
    }
}

/// Removes a pod's object for good; tried until that has succeeded.
pub(super) async fn delete(shared: &Shared, namespace: &str, name: &str, uid: &str) {
    let options = DeleteOptions { grace: Some(0), uid: Some(uid.to_owned()), ..DeleteOptions::default() };
    let mut pause = RETRY / 10;
    loop {
        match shared.cluster.delete(&POD, namespace, name, &options, &Write::system("node")).await {
            Ok(_) => return,
            // It is gone, or another pod has its name.
            Err(error) if matches!(error.reason, Reason::NotFound | Reason::Conflict) => return,
            Err(error) => {
                tracing::warn!(error = %error.message, name, "a pod that has ended cannot be deleted");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_RETRY);
    }
}

/// Says of a pod that the node does not take it.
pub(super) fn rejection(pod: &mut Value, reason: &str, message: &str) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
        return false;
    }
    let class = pod["status"]["qosClass"].clone();
    let start = seconds(Timestamp::now());
    pod["status"] = json!({
        "phase": "Failed", "reason": reason, "message": format!("Pod was rejected: {message}"), "startTime": start,
    });
    if class.is_string() {
        pod["status"]["qosClass"] = class;
    }
    true
}
