//! The life of one pod as a pure state machine.
//!
//! What happened goes in ([`Worker::handle`]), what must be done comes out ([`Worker::step`]); time is an argument and
//! nothing here performs I/O. The rules are the kubelet's: init containers strictly in order, sidecars as soon as
//! those before them have started, containers in parallel, restarts with back-off, probes, hooks, and an orderly end.
//!
//! Differences, all deliberate: containers start in parallel and not one after another; the first probe is made
//! `initialDelaySeconds` after the start and not up to a period later; results show at once, not at the next sync.

mod adopt;
mod backoff;
mod lose;
mod member;
mod probe;
mod run;
mod status;
mod stop;
mod update;

use jiff::{SignedDuration, Timestamp};

pub(crate) use self::adopt::{Past, PastSandbox, Run, Stage};
use self::backoff::Backoff;
use self::member::{Member, Role, State};
pub(crate) use self::stop::Cause;
use self::stop::Ending;
use crate::api::{ContainerStateTerminated, LinuxContainerUser, Pod, PodCondition, PodPhase};
use crate::event::{EventKind, HookKind, ProbeKind};

/// Which container: its place among init containers and containers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(crate) usize);

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Input {
    /// RunPodSandbox worked.
    SandboxReady { id: String, ips: Vec<String> },
    /// RunPodSandbox did not, or a volume of the pod could not be made before.
    SandboxFailed { message: String, volume: Option<String> },
    /// The sandbox is gone or no longer ready, unasked.
    SandboxLost { id: String },
    /// What was lost is stopped for good.
    SandboxStopped { id: String },
    /// The image is there.
    Pulled { slot: Slot, image: String },
    /// It is not.
    PullFailed { slot: Slot, reason: String, message: String },
    /// The container was created.
    Created { slot: Slot, id: String, image: String },
    /// It was not.
    CreateFailed { slot: Slot, reason: String, message: String },
    /// The container runs.
    Started { slot: Slot, id: String, at: Timestamp, identity: Identity },
    /// It could not be started; it counts as a run that failed.
    StartFailed { slot: Slot, id: String, exit: Exit },
    /// The container ended.
    Exited { slot: Slot, id: String, exit: Exit },
    /// A hook ended.
    HookDone { slot: Slot, id: String, hook: HookKind, result: Result<(), String> },
    /// A probe ended.
    Probed { slot: Slot, id: String, probe: ProbeKind, outcome: Outcome },
    /// Requests and limits of a container were changed, or could not be.
    Resized { slot: Slot, id: String, result: Result<(), String> },
    /// The pod is another one now.
    Update(Box<Pod>),
    /// The pod takes more of the node than it may.
    Evict { reason: String, message: String },
    /// The user wants the pod to end, within so many seconds or the pod's grace period.
    Stop { grace: Option<i64> },
    /// The user wants it to end now.
    Kill,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Timestamp,
}

impl Exit {
    /// As a status told it.
    fn from_status(ended: &ContainerStateTerminated, now: Timestamp) -> Self {
        Self {
            code: ended.exit_code,
            reason: ended.reason.clone(),
            message: ended.message.clone(),
            started_at: ended.started_at,
            finished_at: ended.finished_at.unwrap_or(now),
        }
    }
}

/// What a container is made of, as the server tells it once it runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Identity {
    /// What people call the image.
    pub(crate) image: String,
    /// The image itself, by digest.
    pub(crate) image_id: String,
    pub(crate) user: Option<LinuxContainerUser>,
}

/// What a probe saw.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Success(String),
    Failure(String),
    /// The probe itself could not be made; it counts neither way.
    Error(String),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Make the sandbox; answer with `SandboxReady` or `SandboxFailed`.
    RunSandbox { attempt: u32 },
    /// Stop a sandbox that was lost; answer with `SandboxStopped`.
    StopSandbox { id: String },
    /// See that the image is there; answer with `Pulled` or `PullFailed`.
    Pull { slot: Slot },
    /// Nobody waits for that image any more.
    AbandonPull { slot: Slot },
    /// Create the container; answer with `Created` or `CreateFailed`.
    Create { slot: Slot, attempt: u32, sandbox: String, image: String, target: Option<String> },
    /// Give a running container the requests and limits of its specification; answer with `Resized`.
    Resize { slot: Slot, id: String },
    /// Start it; answer with `Started` or `StartFailed`, and with `Exited` when it has ended.
    Start { slot: Slot, id: String },
    /// Run a hook; answer with `HookDone` within the time.
    Hook { slot: Slot, id: String, hook: HookKind, timeout: Option<SignedDuration> },
    /// Probe; answer with `Probed`.
    Probe { slot: Slot, id: String, probe: ProbeKind },
    /// Signal the container, kill it after the time. Again with a shorter time is possible. The answer is `Exited`.
    Stop { slot: Slot, id: String, grace: i64 },
    /// Forget a dead container and its log.
    Remove { slot: Slot, id: String, attempt: u32 },
    /// Tell.
    Event(EventKind),
}

/// The state machine of one pod.
#[derive(Debug)]
pub(crate) struct Worker {
    pod: Pod,
    started: Timestamp,
    /// When `step` was called last.
    stepped: Timestamp,
    members: Vec<Member>,
    sandbox: Sandbox,
    /// Attempts to make a sandbox that worked, so far.
    attempt: u32,
    sandbox_backoff: Backoff,
    ips: Vec<String>,
    ending: Option<Ending>,
    actions: Vec<Action>,
    conditions: Vec<PodCondition>,
    phase: PodPhase,
    ready: bool,
    host_ip: String,
    /// It is a pod of a cluster.
    kept: bool,
}

#[derive(Debug)]
enum Sandbox {
    /// None, and none being made until the time.
    Absent {
        retry_at: Timestamp,
    },
    Creating,
    Ready {
        id: String,
    },
    /// Being stopped after it was lost.
    Lost {
        id: String,
        stopped: bool,
    },
    /// Lost, and nothing in the pod is to run again.
    Gone,
}

impl Worker {
    /// The pod before anything has happened.
    pub(crate) fn new(pod: Pod, host_ip: String, now: Timestamp) -> Self {
        let inits = pod.spec.init_containers.iter().map(|spec| {
            let role = if spec.is_sidecar() { Role::Sidecar } else { Role::Init };
            Member::new(role, spec.clone())
        });
        let apps = pod.spec.containers.iter().map(|spec| Member::new(Role::App, spec.clone()));
        let ephemeral =
            pod.spec.ephemeral_containers.iter().map(|spec| Member::new(Role::Ephemeral, spec.clone()));
        let members = inits.chain(apps).chain(ephemeral).collect();
        Self {
            members,
            pod,
            started: now,
            stepped: Timestamp::MIN,
            sandbox: Sandbox::Absent { retry_at: now },
            attempt: 0,
            sandbox_backoff: Backoff::new(SANDBOX_RETRY, SANDBOX_RETRY_MAX),
            ips: Vec::new(),
            ending: None,
            actions: Vec::new(),
            conditions: Vec::new(),
            phase: PodPhase::Pending,
            ready: false,
            host_ip,
            kept: false,
        }
    }

    /// Takes in what happened. Answers that come too late (another run of the container) are dropped.
    pub(crate) fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::SandboxReady { id, ips } => self.sandbox_ready(id, ips),
            Input::SandboxFailed { message, volume } => self.sandbox_failed(now, message, volume),
            Input::SandboxLost { id } => self.sandbox_lost(&id),
            Input::SandboxStopped { id } => self.sandbox_stopped(now, &id),
            Input::Pulled { slot, image } => self.pulled(slot, image),
            Input::PullFailed { slot, reason, message } => self.pull_failed(now, slot, reason, message),
            Input::Created { slot, id, image } => self.created(slot, id, image),
            Input::CreateFailed { slot, reason, message } => self.create_failed(now, slot, reason, message),
            Input::Started { slot, id, at, identity } => {
                self.container_started(now, slot, &id, at, identity);
            }
            Input::StartFailed { slot, id, exit } => self.start_failed(now, slot, &id, exit),
            Input::Exited { slot, id, exit } => self.exited(now, slot, &id, exit),
            Input::HookDone { slot, id, hook, result } => self.hook_done(now, slot, &id, hook, result),
            Input::Probed { slot, id, probe, outcome } => self.probed(now, slot, &id, probe, outcome),
            Input::Resized { slot, id, result } => self.resized(slot, &id, result),
            Input::Update(pod) => self.update(now, *pod),
            Input::Evict { reason, message } => self.end(now, Ending::evicted(reason, message)),
            Input::Stop { grace } => self.end(now, Ending::stopped(grace.unwrap_or_else(|| self.grace()))),
            Input::Kill => self.kill(now),
        }
    }

    /// Decides what is due. Call after inputs and whenever [`Worker::wake_at`] has come.
    pub(crate) fn step(&mut self, now: Timestamp) -> Vec<Action> {
        if self.ending.is_none()
            && let Some(deadline) = self.active_deadline()
            && now >= deadline
        {
            if self.kept {
                self.tell(EventKind::DeadlineExceeded {});
            }
            self.end(now, Ending::deadline(self.grace()));
        }
        self.settle_loss(now);
        if self.ending.is_none() {
            self.run(now);
        }
        if self.ending.is_some() {
            self.terminate(now);
        }
        self.probe_all(now);
        self.update_status(now);
        self.stepped = now;
        std::mem::take(&mut self.actions)
    }

    /// When something is due that no input announces.
    pub(crate) fn wake_at(&self) -> Option<Timestamp> {
        let sandbox = match (&self.sandbox, &self.ending) {
            (Sandbox::Absent { retry_at }, None) => Some(*retry_at),
            _ => None,
        };
        let deadline = if self.ending.is_none() { self.active_deadline() } else { None };
        let ending = self.ending.as_ref().and_then(|ending| self.sidecars_due(ending));
        let members = self.members.iter().filter_map(|member| self.member_wake_at(member));
        // What was due at the last step and is still there waits for something that an input will announce.
        members.chain(sandbox).chain(deadline).chain(ending).filter(|at| *at > self.stepped).min()
    }

    /// Whether nothing of the pod runs any more, nothing is under way, and nothing will be started.
    pub(crate) fn finished(&self) -> bool {
        self.ending.is_some()
            && !matches!(self.sandbox, Sandbox::Creating | Sandbox::Lost { .. })
            && self.members.iter().all(|member| !member.busy())
    }

    /// What ends the pod, once something does.
    pub(crate) fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// The sandbox, where there is one.
    pub(crate) fn sandbox_id(&self) -> Option<&str> {
        match &self.sandbox {
            Sandbox::Ready { id } | Sandbox::Lost { id, .. } => Some(id),
            _ => None,
        }
    }

    /// The number of that sandbox among the pod's.
    pub(crate) fn sandbox_attempt(&self) -> u32 {
        self.attempt.saturating_sub(1)
    }

    /// The pod's primary address, once it has one of its own.
    pub(crate) fn ip(&self) -> Option<&str> {
        self.ips.first().map(String::as_str)
    }

    /// All of the pod's addresses, the primary one first.
    pub(crate) fn ips(&self) -> &[String] {
        &self.ips
    }

    /// The specification of a container.
    pub(crate) fn container(&self, slot: Slot) -> &crate::api::Container {
        &self.members[slot.0].spec
    }

    /// How often a container was started before.
    pub(crate) fn restarts(&self, slot: Slot) -> u32 {
        self.members[slot.0].attempt
    }

    /// Containers that exist at the moment, and whether they are expected to run.
    pub(crate) fn live(&self) -> impl Iterator<Item = (Slot, &str)> {
        self.members.iter().enumerate().filter_map(|(index, member)| match &member.state {
            State::Running(running) => Some((Slot(index), running.id.as_str())),
            _ => None,
        })
    }

    /// Whether a container is one that runs, is about to, or is the dead one that is kept.
    pub(crate) fn keeps(&self, id: &str) -> bool {
        self.members.iter().any(|member| {
            let current = match &member.state {
                State::Running(running) => running.id == id,
                State::Starting { id: starting } => starting == id,
                // Nobody knows its id yet.
                State::Creating => true,
                _ => false,
            };
            current || member.last.as_ref().is_some_and(|last| last.id == id)
        })
    }

    fn sandbox_ready(&mut self, id: String, ips: Vec<String>) {
        self.sandbox_backoff.reset();
        self.attempt += 1;
        self.tell(EventKind::SandboxReady { id: id.clone(), ip: ips.first().cloned() });
        self.ips = ips;
        self.sandbox = Sandbox::Ready { id };
    }

    /// `volume` is what failed before the sandbox, empty where it is about all volumes.
    fn sandbox_failed(&mut self, now: Timestamp, message: String, volume: Option<String>) {
        let delay = self.sandbox_backoff.failed(now);
        self.sandbox = Sandbox::Absent { retry_at: now + delay };
        let message = match volume {
            Some(volume) if self.kept => return self.tell(EventKind::VolumeFailed { volume, message }),
            Some(volume) if !volume.is_empty() => format!("volume {volume}: {message}"),
            _ => message,
        };
        self.tell(EventKind::SandboxFailed { message, retry_in: delay.as_secs_f64() });
    }

    fn active_deadline(&self) -> Option<Timestamp> {
        let seconds = self.pod.spec.active_deadline_seconds?;
        Some(self.started + SignedDuration::from_secs(seconds))
    }

    fn grace(&self) -> i64 {
        self.pod.spec.termination_grace_period_seconds.unwrap_or(30)
    }

    fn tell(&mut self, event: EventKind) {
        self.actions.push(Action::Event(event));
    }

    fn member(&mut self, slot: Slot) -> &mut Member {
        &mut self.members[slot.0]
    }
}

/// Between attempts to make a sandbox, at first and at most. The kubelet retries at its next sync.
const SANDBOX_RETRY: SignedDuration = SignedDuration::from_secs(1);
const SANDBOX_RETRY_MAX: SignedDuration = SignedDuration::from_secs(30);

#[cfg(test)]
mod tests;
