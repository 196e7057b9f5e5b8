//! The loop around the state machine: inputs in, actions out, a clock.

mod perform;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::Instant;

use super::actions::Hands;
use super::context::Context;
use super::cri::Cri;
use super::handle::{self, Order};
use super::watch::Seen;
use super::{End, Known, Objects, Outcome, logs, teardown, usage, volumes};
use crate::api::{Pod, PodStatus};
use crate::client::Client;
use crate::event::{Event, EventKind};
use crate::worker::{Cause, Input, Past, Slot, Worker};

/// How long a pod that is to be killed is waited for.
const KILL: Duration = Duration::from_secs(10);
/// How long a log is read before its container's end is told.
const DRAIN: Duration = Duration::from_secs(1);
/// Between attempts to find out what there is of a pod, at first and at most.
const ADOPT_RETRY: Duration = Duration::from_millis(200);
const ADOPT_RETRY_MAX: Duration = Duration::from_secs(5);
/// Between looks at the length of logs (kubelet's).
const ROTATION: Duration = Duration::from_secs(10);
/// How long the end of the logs is waited for when all is over.
const LAST_LINES: Duration = Duration::from_secs(5);

/// How a pod lives: for itself, or as one of a cluster.
pub(super) struct Life {
    /// Where the status goes of a pod of a cluster, which stays after its end until it is told to go.
    pub(super) status: Option<watch::Sender<PodStatus>>,
    /// What there is of it already.
    pub(super) known: Known,
}

/// Runs a pod from nothing, or from what is known of it, to nothing.
pub(super) async fn run(
    client: Client,
    context: Context,
    objects: Arc<dyn Objects>,
    events: mpsc::Sender<Event>,
    orders: mpsc::UnboundedReceiver<Order>,
    life: Life,
) -> Outcome {
    let (inputs, received) = mpsc::unbounded_channel();
    let (told, telling) = mpsc::unbounded_channel();
    let clock = Clock::new();
    let pod = pod_name(&context);
    let teller = tokio::spawn(tell_all(telling, pod.clone(), clock, events.clone()));
    let cri = Cri::new(client, told.clone());
    let hands = Hands { cri, context: Arc::new(context), objects, volumes: Arc::default() };
    let worker = begin(&hands, &life, clock.now()).await;
    let mut driver = Driver {
        hands,
        worker,
        clock,
        inputs,
        told,
        log: life.status.is_none().then(|| logs::Target { pod, container: String::new(), events }),
        status: life.status,
        tasks: JoinSet::new(),
        pulls: BTreeMap::new(),
        since: BTreeMap::new(),
        ending: BTreeSet::new(),
        garbage: BTreeSet::new(),
        logs: BTreeMap::new(),
        kill_by: None,
        unwanted: false,
        look: Arc::default(),
        kept: None,
    };
    driver.recognise();
    driver.live(received, orders).await;
    let outcome = driver.finish().await;
    let _ = teller.await;
    outcome
}

/// The state machine: of a new pod, or of one that is found.
async fn begin(hands: &Hands, life: &Life, now: Timestamp) -> Worker {
    let (pod, host_ip) = (hands.context.pod.clone(), hands.context.host.ip.clone());
    if life.status.is_none() {
        return Worker::new(pod, host_ip, now);
    }
    // A server that does not answer now is asked again: without it nothing could be done for the pod anyway.
    let mut delay = ADOPT_RETRY;
    let past = loop {
        if life.known.is_empty() {
            break Past::default();
        }
        match hands.past(now).await {
            Ok(past) => break past,
            Err(_) => tokio::time::sleep(delay).await,
        }
        delay = (delay * 2).min(ADOPT_RETRY_MAX);
    };
    Worker::adopt(pod, host_ip, now, &past)
}

/// Time as the state machine knows it: the wall clock's at the beginning, and steady from then on.
#[derive(Debug, Clone, Copy)]
struct Clock {
    wall: Timestamp,
    steady: Instant,
}

impl Clock {
    fn new() -> Self {
        Self { wall: Timestamp::now(), steady: Instant::now() }
    }

    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.steady.elapsed()).unwrap_or(SignedDuration::MAX);
        self.wall.checked_add(elapsed).unwrap_or(Timestamp::MAX)
    }

    fn instant(&self, at: Timestamp) -> Instant {
        self.steady + Duration::try_from(at.duration_since(self.wall)).unwrap_or_default()
    }
}

struct Driver {
    hands: Hands,
    worker: Worker,
    clock: Clock,
    inputs: mpsc::UnboundedSender<Input>,
    told: mpsc::UnboundedSender<EventKind>,
    /// Where log lines go, if anybody wants them as they come.
    log: Option<logs::Target>,
    status: Option<watch::Sender<PodStatus>>,
    tasks: JoinSet<()>,
    pulls: BTreeMap<Slot, AbortHandle>,
    /// Since when sandboxes and containers are known: a look from before says nothing about them.
    since: BTreeMap<String, Instant>,
    /// Containers whose end is being looked into.
    ending: BTreeSet<String>,
    /// Containers and sandboxes that are being removed.
    garbage: BTreeSet<String>,
    /// Logs that are followed, by container id.
    logs: BTreeMap<String, (watch::Sender<bool>, JoinHandle<()>)>,
    kill_by: Option<Instant>,
    /// The owner wants it to be gone.
    unwanted: bool,
    /// Asks for a look at the server.
    look: Arc<Notify>,
    /// Tells who keeps the volumes up to date what the pod is, as long as that is needed.
    kept: Option<watch::Sender<Hands>>,
}

impl Driver {
    /// What was there before this agent is looked at from now on.
    fn recognise(&mut self) {
        let now = Instant::now();
        let found = self.worker.sandbox_id().map(str::to_owned);
        let ids = found.into_iter().chain(self.worker.live().map(|(_, id)| id.to_owned()));
        self.since.extend(ids.map(|id| (id, now)));
        self.look.notify_one();
    }

    /// Says what is accepted, but does not work out as people may expect.
    fn warn(&self) {
        let gates = &self.hands.context.pod.spec.readiness_gates;
        if !gates.is_empty() && !self.hands.context.kept {
            let gates: Vec<&str> = gates.iter().map(|gate| gate.condition_type.as_str()).collect();
            let message = format!(
                "nobody here sets the readiness gates {}: the pod will not be ready",
                gates.join(", ")
            );
            let _ = self.told.send(EventKind::Warning { message });
        }
    }

    async fn live(
        &mut self,
        mut inputs: mpsc::UnboundedReceiver<Input>,
        mut orders: mpsc::UnboundedReceiver<Order>,
    ) {
        self.warn();
        let (looks, mut seen) = mpsc::channel(1);
        let watcher = tokio::spawn(super::watch::watch(self.hands.clone(), looks, Arc::clone(&self.look)));
        let measured = tokio::spawn(usage::watch(Arc::clone(&self.hands.context), self.inputs.clone()));
        // Whatever becomes of this task, those two end with it.
        let _guards = [AbortOnDrop(watcher.abort_handle()), AbortOnDrop(measured.abort_handle())];
        let (kept, current) = watch::channel(self.hands.clone());
        self.kept = Some(kept);
        let keeper = tokio::spawn(volumes::keep(current, self.told.clone()));
        let _keeper = AbortOnDrop(keeper.abort_handle());
        let mut released = false;
        let mut rotation = tokio::time::interval(ROTATION);
        loop {
            for action in self.worker.step(self.clock.now()) {
                self.perform(action);
            }
            self.publish();
            if self.worker.finished() {
                if self.status.is_none() || self.unwanted {
                    break;
                }
                if !std::mem::replace(&mut released, true) {
                    self.release();
                }
            }
            let wake = self.worker.wake_at().map(|at| self.clock.instant(at));
            tokio::select! {
                Some(input) = inputs.recv() => self.input(input),
                Some(order) = orders.recv() => self.order(order),
                Some(look) = seen.recv() => self.compare(&look),
                Some(_) = self.tasks.join_next() => {}
                () = sleep_until(wake) => {}
                _ = rotation.tick(), if self.status.is_some() && !released => self.rotate(),
                () = sleep_until(self.kill_by) => {
                    let message = "the pod did not die in time: the CRI server does not answer".to_owned();
                    let _ = self.told.send(EventKind::Warning { message });
                    break;
                }
            }
        }
    }

    /// Looks after logs that have grown too long.
    fn rotate(&mut self) {
        let running: Vec<(Slot, String)> =
            self.worker.live().map(|(slot, id)| (slot, id.to_owned())).collect();
        for (slot, id) in running {
            let (name, attempt) = (self.worker.container(slot).name.clone(), self.worker.restarts(slot));
            // What fails is tried again the next time; a container that ends has no log to open.
            self.tasks.spawn({
                let hands = self.hands.clone();
                async move {
                    if let Err(error) = hands.rotate(&name, attempt, &id).await {
                        tracing::debug!(%error, container = name, "a log could not be rotated");
                    }
                }
            });
        }
    }

    /// Tells the owner of a pod of a cluster what has changed.
    fn publish(&self) {
        let Some(status) = &self.status else { return };
        let now = handle::in_seconds(self.worker.status(self.clock.now()));
        status.send_if_modified(|last| {
            let changed = *last != now;
            *last = now;
            changed
        });
    }

    /// A pod that has ended needs its network no more.
    fn release(&mut self) {
        self.kept = None;
        if let Some(id) = self.worker.sandbox_id().map(str::to_owned) {
            self.quietly(move |hands| async move { hands.stop_sandbox(&id).await });
        }
    }

    fn input(&mut self, input: Input) {
        match &input {
            Input::SandboxReady { id, .. } | Input::Started { id, .. } => {
                self.since.insert(id.clone(), Instant::now());
                // It may have ended by now, and its end have been announced before this.
                self.look.notify_one();
            }
            Input::Exited { id, .. } | Input::StartFailed { id, .. } => {
                self.ending.remove(id);
                self.since.remove(id);
            }
            Input::Created { slot, id, .. } => self.follow(*slot, id),
            _ => {}
        }
        self.worker.handle(self.clock.now(), input);
    }

    fn order(&mut self, order: Order) {
        if !matches!(order, Order::Update(_)) {
            self.hands.volumes.give_up();
        }
        let input = match order {
            Order::Update(pod) => return self.update(*pod),
            Order::Evict { reason, message } => Input::Evict { reason, message },
            Order::Stop(grace) => {
                self.unwanted = true;
                Input::Stop { grace }
            }
            Order::Kill => {
                self.unwanted = true;
                self.hands.cri.give_up_in(KILL / 2);
                self.kill_by.get_or_insert_with(|| Instant::now() + KILL);
                Input::Kill
            }
        };
        self.worker.handle(self.clock.now(), input);
    }

    /// The pod is another one now.
    fn update(&mut self, pod: Pod) {
        let context = Context { pod: pod.clone(), ..Context::clone(&self.hands.context) };
        self.hands.context = Arc::new(context);
        if let Some(kept) = &self.kept {
            kept.send_replace(self.hands.clone());
        }
        self.worker.handle(self.clock.now(), Input::Update(Box::new(pod)));
    }

    /// Finds out what has ended since.
    fn compare(&mut self, look: &Seen) {
        let known = |id: &str| self.since.get(id).is_some_and(|since| *since < look.at);
        if let Some(id) = self.worker.sandbox_id()
            && known(id)
            && look.sandboxes.get(id) != Some(&true)
        {
            let id = id.to_owned();
            self.worker.handle(self.clock.now(), Input::SandboxLost { id });
        }
        let ended =
            self.worker.live().filter(|(_, id)| known(id) && look.containers.get(*id) != Some(&false));
        let ended: Vec<(Slot, String)> = ended.map(|(slot, id)| (slot, id.to_owned())).collect();
        for (slot, id) in ended {
            if self.ending.insert(id.clone()) {
                self.examine(slot, id);
            }
        }
        if self.status.is_some() {
            self.collect(look);
        }
    }

    /// Removes what is left of earlier times: dead containers that are not kept, and empty dead sandboxes.
    fn collect(&mut self, look: &Seen) {
        self.garbage.retain(|id| look.containers.contains_key(id) || look.sandboxes.contains_key(id));
        let dead = look.containers.iter().filter(|(_, ended)| **ended).map(|(id, _)| id);
        let containers: Vec<String> = dead
            .filter(|id| !self.worker.keeps(id) && !self.ending.contains(*id) && !self.garbage.contains(*id))
            .cloned()
            .collect();
        for id in containers {
            self.garbage.insert(id.clone());
            self.quietly(move |hands| async move { hands.remove_container(&id).await });
        }
        // Without one there is none to take its place, and the last one may still be told of.
        let Some(current) = self.worker.sandbox_id() else { return };
        let empty = look
            .sandboxes
            .iter()
            .filter(|(id, ready)| !**ready && current != id.as_str() && !look.occupied.contains(*id));
        let sandboxes: Vec<String> =
            empty.map(|(id, _)| id.clone()).filter(|id| !self.garbage.contains(id)).collect();
        for id in sandboxes {
            self.garbage.insert(id.clone());
            self.quietly(move |hands| async move { teardown::remove_sandbox(&hands.cri, &id).await });
        }
    }

    /// Finds out how a container ended, after the end of its log.
    fn examine(&mut self, slot: Slot, id: String) {
        let container = self.worker.container(slot).clone();
        let attempt = self.worker.restarts(slot);
        let log = self.logs.remove(&id);
        let now = self.clock.now();
        self.answer(move |hands| async move {
            if let Some((done, mut task)) = log {
                let _ = done.send(true);
                // A listener that is slow delays the log, not the pod.
                let _ = tokio::time::timeout(DRAIN, &mut task).await;
            }
            let exit = hands.exit(&container, attempt, &id, now).await;
            Input::Exited { slot, id, exit }
        });
    }

    fn follow(&mut self, slot: Slot, id: &str) {
        let Some(target) = self.log.clone() else { return };
        let container = self.worker.container(slot).name.clone();
        let path =
            self.hands.context.log_dir().join(Context::log_path(&container, self.worker.restarts(slot)));
        let (done, stop) = watch::channel(false);
        let task = tokio::spawn(logs::follow(path, logs::Target { container, ..target }, stop));
        self.logs.insert(id.to_owned(), (done, task));
    }

    /// Removes everything, tells the last things, and sums up.
    async fn finish(mut self) -> Outcome {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        let status = self.worker.status(self.clock.now());
        let end = match self.worker.ending().map(|ending| ending.cause) {
            Some(Cause::Killed) => End::Killed,
            Some(Cause::Stopped) => End::Stopped,
            _ => End::Completed,
        };
        let logs = std::mem::take(&mut self.logs);
        let tasks: Vec<JoinHandle<()>> = logs
            .into_values()
            .map(|(done, task)| {
                let _ = done.send(true);
                task
            })
            .collect();
        for task in tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout(LAST_LINES, task).await.is_err() {
                abort.abort();
            }
        }
        let errors = teardown::remove_pod(&self.hands).await;
        let _ = self.told.send(EventKind::Removed { errors: errors.clone() });
        Outcome { end, status, errors }
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Passes events on in order. They wait here where the listener is slow, so that the pod need not.
async fn tell_all(
    mut telling: mpsc::UnboundedReceiver<EventKind>,
    pod: String,
    clock: Clock,
    events: mpsc::Sender<Event>,
) {
    while let Some(kind) = telling.recv().await {
        let last = matches!(kind, EventKind::Removed { .. });
        let event = Event { time: clock.now(), pod: pod.clone(), kind };
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}

fn pod_name(context: &Context) -> String {
    let metadata = &context.pod.metadata;
    match metadata.namespace.as_str() {
        "default" => metadata.name.clone(),
        namespace => format!("{namespace}/{}", metadata.name),
    }
}
