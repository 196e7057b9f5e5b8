//! A pod that the agent keeps: what its owner holds of it.

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use vaquita_proto::cri;

use super::{Command, Outcome};
use crate::api::{Pod, PodStatus};
use crate::event::Event;

/// What the CRI server has of a pod already: see [`super::Agent::known`].
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub(super) sandboxes: Vec<cri::PodSandbox>,
    pub(super) containers: Vec<cri::Container>,
}

impl Known {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }

    /// Namespace and name of the pod, as its sandbox has them.
    pub fn pod(&self) -> Option<(&str, &str)> {
        let metadata = self.sandboxes.iter().find_map(|sandbox| sandbox.metadata.as_ref())?;
        Some((&metadata.namespace, &metadata.name))
    }
}

/// What the owner of a pod wants.
#[derive(Debug)]
pub(super) enum Order {
    /// Another specification or other metadata.
    Update(Box<Pod>),
    /// End it within this many seconds; the pod's own grace period where none are given.
    Stop(Option<i64>),
    /// End it now.
    Kill,
    /// End it as failed, with a reason and a message.
    Evict { reason: String, message: String },
}

/// A pod in the care of the agent. Dropping the handle leaves the pod running, to be adopted later; only
/// [`Self::stop`] and [`Self::kill`] end it.
#[derive(Debug)]
pub struct Handle {
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) status: watch::Receiver<PodStatus>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) outcome: oneshot::Receiver<Outcome>,
    pub(super) task: AbortHandle,
}

impl Handle {
    /// Tells the agent what the pod is now: labels, annotations, images, `activeDeadlineSeconds`, ephemeral containers, resources,
    /// and the rest that may change. Of the status in it only conditions of readiness gates are looked at.
    pub fn update(&self, pod: Pod) {
        let _ = self.orders.send(Order::Update(Box::new(pod)));
    }

    /// Ends the pod within this many seconds (hooks, stop signal, kill) and then removes everything of it. Again with a
    /// shorter time is possible; 0 is the shortest that kubelet gives, 2 s.
    pub fn stop(&self, grace: i64) {
        let _ = self.orders.send(Order::Stop(Some(grace)));
    }

    /// Kills the pod now and removes everything of it.
    pub fn kill(&self) {
        let _ = self.orders.send(Order::Kill);
    }

    /// Ends the pod as `Failed` with this reason (such as `Evicted` or `Preempting`) and message. It stays, dead, until
    /// it is stopped.
    pub fn evict(&self, reason: &str, message: &str) {
        let _ = self.orders.send(Order::Evict { reason: reason.to_owned(), message: message.to_owned() });
    }

    /// The pod's status, whenever it changes. Times are whole seconds; `PodScheduled` is not in it.
    pub fn status(&self) -> watch::Receiver<PodStatus> {
        self.status.clone()
    }

    /// The next thing that happened; none when nothing more will. Log lines and pull progress are not told.
    pub async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Takes the events out, for a task of their own.
    pub fn take_events(&mut self) -> mpsc::Receiver<Event> {
        std::mem::replace(&mut self.events, mpsc::channel(1).1)
    }

    /// Waits until the pod has been stopped or killed, and everything of it is removed. None where the agent's task
    /// has died.
    pub async fn outcome(&mut self) -> Option<Outcome> {
        (&mut self.outcome).await.ok()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes on what the user of [`super::Agent::run`] wants.
pub(super) async fn forward(mut commands: mpsc::Receiver<Command>, orders: mpsc::UnboundedSender<Order>) {
    while let Some(command) = commands.recv().await {
        let order = match command {
            Command::Stop => Order::Stop(None),
            Command::Kill => Order::Kill,
        };
        if orders.send(order).is_err() {
            return;
        }
    }
    // Whoever wants nothing more wants no end either.
    std::future::pending().await
}

/// A status as the API has it: times are whole seconds.
pub(super) fn in_seconds(mut status: PodStatus) -> PodStatus {
    let cut = |at: &mut Option<Timestamp>| {
        if let Some(at) = at {
            *at = Timestamp::from_second(at.as_second()).unwrap_or(*at);
        }
    };
    cut(&mut status.start_time);
    for condition in &mut status.conditions {
        cut(&mut condition.last_transition_time);
    }
    for container in status.containers_mut() {
        for state in [&mut container.state, &mut container.last_state] {
            if let Some(running) = &mut state.running {
                cut(&mut running.started_at);
            }
            if let Some(ended) = &mut state.terminated {
                cut(&mut ended.started_at);
                cut(&mut ended.finished_at);
            }
        }
    }
    status
}
