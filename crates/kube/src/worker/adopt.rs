//! A pod that lived before: in an earlier process of the agent, or before the machine was started again.

use jiff::Timestamp;

use super::member::{Ended, Member, Role, Running, State};
use super::probe::Probes;
use super::stop::Ending;
use super::{Action, Exit, Sandbox, Slot, Worker};
use crate::api::{ConditionStatus, ContainerStatus, Pod, PodPhase};

/// What there is of a pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Past {
    /// The last sandbox.
    pub(crate) sandbox: Option<PastSandbox>,
    /// Runs of containers, the oldest first.
    pub(crate) runs: Vec<Run>,
}

/// A sandbox that was made before.
#[derive(Debug, Clone)]
pub(crate) struct PastSandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) ips: Vec<String>,
}

/// A container that was made before.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) attempt: u32,
    /// What it was made from, as [`crate::api::Container::fingerprint`] says it; empty where nobody knows.
    pub(crate) fingerprint: String,
    pub(crate) identity: super::Identity,
    pub(crate) stage: Stage,
}

/// How far it has come.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    Created,
    Running { started_at: Timestamp },
    Exited(Exit),
}

impl Worker {
    /// The pod as it is found: what runs goes on, what has ended meanwhile is told as ended, and what is gone with its
    /// sandbox is made anew. `pod.status` is what was known of it before.
    pub(crate) fn adopt(pod: Pod, host_ip: String, now: Timestamp, past: &Past) -> Self {
        let before = pod.status.clone();
        let mut worker = Self::new(pod, host_ip, now);
        worker.kept = true;
        worker.started = before.start_time.unwrap_or(now);
        worker.conditions = before
            .conditions
            .iter()
            .filter(|one| OWN_CONDITIONS.contains(&one.type_.as_str()))
            .cloned()
            .collect();
        worker.ready =
            worker.conditions.iter().any(|one| one.type_ == "Ready" && one.status == ConditionStatus::True);
        worker.phase = before.phase;
        worker.ips = before.pod_ips.iter().map(|ip| ip.ip.clone()).collect();
        let current =
            past.sandbox.as_ref().filter(|sandbox| sandbox.ready).map(|sandbox| sandbox.id.as_str());
        let apps: Vec<&str> = worker.pod.spec.containers.iter().map(|spec| spec.name.as_str()).collect();
        let initialized = past
            .runs
            .iter()
            .any(|run| apps.contains(&run.name.as_str()) && Some(run.sandbox.as_str()) == current);
        for index in 0..worker.members.len() {
            let name = &worker.members[index].spec.name;
            let runs: Vec<&Run> = past.runs.iter().filter(|run| run.name == *name).collect();
            let old = before.containers().find(|status| status.name == *name);
            worker.members[index].remember(old, now);
            worker.resume(Slot(index), &runs, old, current, now);
            worker.settle_init(Slot(index), &runs, current, initialized, now);
        }
        worker.resume_sandbox(past, now);
        if matches!(before.phase, PodPhase::Succeeded | PodPhase::Failed) {
            worker.remain_ended(&before.reason, &before.message, now);
        }
        worker
    }

    /// Takes up one container where it is.
    fn resume(
        &mut self,
        slot: Slot,
        runs: &[&Run],
        old: Option<&ContainerStatus>,
        current: Option<&str>,
        now: Timestamp,
    ) {
        let Some((last, earlier)) = runs.split_last() else { return self.resume_unseen(slot, old, now) };
        let member = &mut self.members[slot.0];
        member.attempt = last.attempt;
        member.used = true;
        member.identity = last.identity.clone();
        member.made_from.clone_from(&last.fingerprint);
        let granted = old.and_then(|old| old.resources.clone());
        member.granted = granted.unwrap_or_else(|| member.spec.resources.clone());
        let ended = |run: &&&Run| match &run.stage {
            Stage::Exited(exit) => {
                Some(Ended { id: run.id.clone(), attempt: run.attempt, exit: exit.clone() })
            }
            _ => None,
        };
        let mut dead = earlier.iter().filter_map(|run| ended(&run)).rev();
        if let Some(newest) = dead.next() {
            member.last = Some(newest);
        }
        member.crashes.recall(last.attempt, member.last.as_ref().map(|last| last.exit.finished_at));
        let here = Some(last.sandbox.as_str()) == current;
        match &last.stage {
            Stage::Exited(exit) => {
                if member.last.as_ref().is_some_and(|known| known.id == last.id) {
                    member.last = None;
                }
                // As if it ended now, with the machine in the state it is in.
                self.sandbox = Sandbox::Ready { id: last.sandbox.clone() };
                self.ended(now, slot, &last.id, exit.clone());
            }
            Stage::Running { started_at } => self.go_on(slot, last, *started_at, old, now),
            Stage::Created if here => {
                let id = last.id.clone();
                member.state = State::Starting { id: id.clone() };
                self.actions.push(Action::Start { slot, id });
            }
            Stage::Created => {}
        }
    }

    /// A container that runs goes on running.
    fn go_on(
        &mut self,
        slot: Slot,
        run: &Run,
        started_at: Timestamp,
        old: Option<&ContainerStatus>,
        now: Timestamp,
    ) {
        let member = &mut self.members[slot.0];
        let same = old.filter(|old| old.container_id.ends_with(&run.id));
        let started = same.and_then(|old| old.started).unwrap_or(false);
        let ready = same.is_some_and(|old| old.ready);
        member.state = State::Running(Box::new(Running {
            id: run.id.clone(),
            started_at,
            hooking: false,
            started: false,
            ready: false,
            probes: Probes::new(&member.spec),
            stopping: None,
        }));
        if !started {
            return self.begin_probes(now, slot);
        }
        // It had passed its startup probe, and its readiness stays what it was until it is probed again.
        self.startup_succeeded(now, slot);
        if let State::Running(running) = &mut self.members[slot.0].state {
            running.ready |= ready;
        }
    }

    /// A container of which only the old status tells.
    fn resume_unseen(&mut self, slot: Slot, old: Option<&ContainerStatus>, now: Timestamp) {
        let Some(old) = old.filter(|old| !old.container_id.is_empty()) else { return };
        let member = &mut self.members[slot.0];
        member.attempt = old.restart_count;
        let id = plain_id(&old.container_id);
        let exit = match (&old.state.running, &old.state.terminated) {
            (Some(running), _) => Exit::unknown(running.started_at, now),
            (None, Some(ended)) => Exit::from_status(ended, now),
            // It waits: how it ended before is known already.
            (None, None) => {
                member.used = member.last.is_some();
                if let Some(last) = member.last.take() {
                    self.ended(now, slot, &last.id, last.exit);
                }
                return;
            }
        };
        member.used = true;
        member.last = None;
        self.sandbox = Sandbox::Ready { id: String::new() };
        self.ended(now, slot, &id, exit);
    }

    /// Whether an init container has done its part for the sandbox that there is.
    fn settle_init(
        &mut self,
        slot: Slot,
        runs: &[&Run],
        current: Option<&str>,
        initialized: bool,
        now: Timestamp,
    ) {
        let member = &mut self.members[slot.0];
        if !member.role.is_init() {
            return;
        }
        let here = runs.last().is_some_and(|run| Some(run.sandbox.as_str()) == current);
        if initialized {
            member.passed = true;
        } else if !here {
            member.passed = false;
            member.state = State::Waiting;
        }
        // A container of the pod runs or ran: this one must have ended well, though nothing of it is left to say so.
        if initialized && member.role == Role::Init && member.exit_code() != Some(0) && !member.busy() {
            let message = "the container is gone; what comes after it has been started, so it had ended well";
            let exit = Exit {
                code: 0,
                reason: "Completed".to_owned(),
                message: message.to_owned(),
                started_at: None,
                finished_at: now,
            };
            member.last = Some(Ended { id: String::new(), attempt: member.attempt, exit });
            member.state = State::Ended;
        }
    }

    fn resume_sandbox(&mut self, past: &Past, now: Timestamp) {
        let ran = self.members.iter().any(|member| member.used);
        self.sandbox = match &past.sandbox {
            Some(sandbox) if sandbox.ready => {
                self.ips.clone_from(&sandbox.ips);
                Sandbox::Ready { id: sandbox.id.clone() }
            }
            Some(sandbox) => {
                self.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
                Sandbox::Lost { id: sandbox.id.clone(), stopped: false }
            }
            None if ran => Sandbox::Lost { id: String::new(), stopped: true },
            None => Sandbox::Absent { retry_at: now },
        };
        self.attempt = past.sandbox.as_ref().map_or(0, |sandbox| sandbox.attempt + 1);
    }

    /// A pod that had ended stays so. What still runs of it is stopped.
    fn remain_ended(&mut self, reason: &str, message: &str, now: Timestamp) {
        if matches!(&self.sandbox, Sandbox::Lost { id, .. } if id.is_empty()) {
            self.sandbox = Sandbox::Gone;
        }
        self.actions.retain(|action| !matches!(action, Action::Start { .. }));
        for member in &mut self.members {
            if matches!(member.state, State::Starting { .. }) {
                member.state = State::Ended;
            }
        }
        self.end(now, Ending::before(reason, message));
    }
}

impl Member {
    /// What an old status tells of runs whose containers may be gone.
    fn remember(&mut self, old: Option<&ContainerStatus>, now: Timestamp) {
        let Some(old) = old else { return };
        self.attempt = old.restart_count;
        self.identity.image.clone_from(&old.image);
        self.identity.image_id.clone_from(&old.image_id);
        self.last = old.last_state.terminated.as_ref().map(|ended| Ended {
            id: plain_id(&ended.container_id),
            attempt: old.restart_count.saturating_sub(1),
            exit: Exit::from_status(ended, now),
        });
    }
}

impl Role {
    /// Whether it comes before the containers of the pod.
    pub(super) fn is_init(self) -> bool {
        matches!(self, Self::Init | Self::Sidecar)
    }
}

/// Conditions that the agent writes.
const OWN_CONDITIONS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

/// A container's id without the runtime's name in front.
fn plain_id(id: &str) -> String {
    id.rsplit_once("://").map_or(id, |(_, id)| id).to_owned()
}
