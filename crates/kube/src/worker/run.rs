//! Starting what is to run, in order, and starting it again.

use jiff::{SignedDuration, Timestamp};

use super::member::{Ended, Role, Running, State};
use super::probe::Probes;
use super::stop::Ending;
use super::{Action, Exit, Identity, Sandbox, Slot, Worker};
use crate::api::{ContainerRestartPolicy, RestartPolicy};
use crate::event::{EventKind, HookKind};

impl Worker {
    /// Starts whatever may start now.
    pub(super) fn run(&mut self, now: Timestamp) {
        match &self.sandbox {
            Sandbox::Absent { retry_at } if now >= *retry_at => {
                self.sandbox = Sandbox::Creating;
                return self.actions.push(Action::RunSandbox { attempt: self.attempt });
            }
            Sandbox::Ready { .. } => {}
            Sandbox::Gone => return self.end(now, Ending::sandbox_lost(self.grace())),
            _ => return,
        }
        if let Some(ending) = self.complete() {
            return self.end(now, ending);
        }
        self.replace_changed(now);
        for index in 0..self.members.len() {
            if self.members[index].role == Role::Ephemeral {
                self.advance(now, Slot(index));
            }
        }
        for index in 0..self.members.len() {
            // Whoever has done its part blocks nobody, but is started again where it must be.
            self.advance(now, Slot(index));
            let member = &self.members[index];
            if member.role.is_init() && !member.passed {
                break;
            }
        }
    }

    /// Whether nothing will run any more: an init container failed for good, or every container has ended.
    fn complete(&self) -> Option<Ending> {
        let failed = |role| {
            self.members.iter().any(|member| {
                member.role == role && matches!(member.state, State::Ended) && member.exit_code() != Some(0)
            })
        };
        if failed(Role::Init) {
            return Some(Ending::completed(self.grace()));
        }
        let mut apps = self.members.iter().filter(|member| member.role == Role::App);
        let over = |member: &super::Member| matches!(member.state, State::Ended) && !member.again;
        apps.all(over).then(|| Ending::completed(self.grace()))
    }

    /// Moves a container on where it waits for nothing but its turn or the time.
    fn advance(&mut self, now: Timestamp, slot: Slot) {
        self.settle_pull(now, slot);
        let member = self.member(slot);
        match &member.state {
            State::Waiting => {}
            State::BackOff { until }
            | State::PullBackOff { until, .. }
            | State::CreateBackOff { until, .. }
                if now >= *until => {}
            _ => return,
        }
        if let (true, Some(last)) = (member.used, &member.last) {
            member.crashes.next(last.exit.finished_at, now);
            member.attempt += 1;
            member.used = false;
        }
        member.state = State::Pulling;
        self.actions.push(Action::Pull { slot });
    }

    /// A pull that failed reads as one that is waited with after a moment, and that is told.
    fn settle_pull(&mut self, now: Timestamp, slot: Slot) {
        let member = self.member(slot);
        let (container, image) = (member.spec.name.clone(), member.spec.image.clone());
        if let State::PullBackOff { settles, told, .. } = &mut member.state
            && now >= *settles
            && !std::mem::replace(told, true)
        {
            self.tell(EventKind::PullBackOff { container, image });
        }
    }

    pub(super) fn pulled(&mut self, slot: Slot, image: String) {
        let Sandbox::Ready { id: sandbox } = &self.sandbox else { return };
        let sandbox = sandbox.clone();
        let member = &mut self.members[slot.0];
        if !matches!(member.state, State::Pulling) {
            return;
        }
        member.pulls.reset();
        member.state = State::Creating;
        member.made_from = member.spec.fingerprint();
        member.granted = member.spec.resources.clone();
        member.resizing = None;
        let attempt = member.attempt;
        let target = self.target_of(slot);
        self.actions.push(Action::Create { slot, attempt, sandbox, image, target });
    }

    pub(super) fn pull_failed(&mut self, now: Timestamp, slot: Slot, reason: String, message: String) {
        let kept = self.kept;
        let member = self.member(slot);
        if !matches!(member.state, State::Pulling) {
            return;
        }
        let delay = member.pulls.failed(now);
        let (container, image) = (member.spec.name.clone(), member.spec.image.clone());
        member.state = State::PullBackOff {
            until: now + delay,
            settles: now + ERROR_SHOWS,
            told: !kept || reason != "ErrImagePull",
            reason: reason.clone(),
            message: message.clone(),
        };
        self.tell(EventKind::PullFailed { container, image, reason, message, retry_in: delay.as_secs_f64() });
    }

    pub(super) fn created(&mut self, slot: Slot, id: String, image: String) {
        let ending = self.ending.is_some();
        let lost = !matches!(self.sandbox, Sandbox::Ready { .. });
        let member = self.member(slot);
        if !matches!(member.state, State::Creating) {
            return;
        }
        member.identity = Identity { image: member.spec.image.clone(), image_id: image, user: None };
        member.used = true;
        if ending || lost {
            // It has not run and will not: it goes with the sandbox.
            member.state = if ending { State::Ended } else { State::Waiting };
            return;
        }
        member.state = State::Starting { id: id.clone() };
        let container = member.spec.name.clone();
        self.tell(EventKind::ContainerCreated { container, id: id.clone() });
        self.actions.push(Action::Start { slot, id });
    }

    pub(super) fn create_failed(&mut self, now: Timestamp, slot: Slot, reason: String, message: String) {
        let ending = self.ending.is_some();
        let lost = !matches!(self.sandbox, Sandbox::Ready { .. });
        let member = self.member(slot);
        if !matches!(member.state, State::Creating) {
            return;
        }
        if lost && !ending {
            // It failed because the sandbox died under it.
            member.state = State::Waiting;
            return;
        }
        let container = member.spec.name.clone();
        member.state = match ending {
            true => State::Ended,
            false => State::CreateBackOff {
                until: now + CREATE_RETRY,
                reason: reason.clone(),
                message: message.clone(),
            },
        };
        let retry_in = (!ending).then_some(CREATE_RETRY.as_secs_f64());
        self.tell(EventKind::ContainerFailed { container, reason, message, retry_in });
    }

    pub(super) fn container_started(
        &mut self,
        now: Timestamp,
        slot: Slot,
        id: &str,
        at: Timestamp,
        identity: Identity,
    ) {
        let inits = self.members.iter().filter(|member| member.role.is_init()).count();
        let member = &mut self.members[slot.0];
        if !matches!(&member.state, State::Starting { id: starting } if starting == id) {
            return;
        }
        let hook = member.spec.lifecycle.as_ref().is_some_and(|hooks| hooks.post_start.is_some());
        if !identity.image_id.is_empty() {
            member.identity = identity;
        }
        member.state = State::Running(Box::new(Running {
            id: id.to_owned(),
            started_at: at,
            hooking: hook,
            started: false,
            ready: false,
            probes: Probes::new(&member.spec),
            stopping: None,
        }));
        let container = member.spec.name.clone();
        let event = match member.role {
            Role::Init => EventKind::InitStarted { container, index: slot.0 + 1, of: inits },
            role => EventKind::ContainerStarted {
                container,
                id: id.to_owned(),
                restart_count: member.attempt,
                sidecar: role == Role::Sidecar,
            },
        };
        self.tell(event);
        if self.ending.is_some() {
            // It was on its way when the end was decided; terminate() stops it.
            return;
        }
        if hook {
            let hook = HookKind::PostStart;
            self.actions.push(Action::Hook { slot, id: id.to_owned(), hook, timeout: None });
        } else {
            self.begin_probes(now, slot);
        }
    }

    pub(super) fn start_failed(&mut self, now: Timestamp, slot: Slot, id: &str, exit: Exit) {
        let member = self.member(slot);
        if !matches!(&member.state, State::Starting { id: starting } if starting == id) {
            return;
        }
        let container = member.spec.name.clone();
        let message = exit.message.clone();
        let reason = "RunContainerError".to_owned();
        self.tell(EventKind::ContainerFailed { container, reason, message, retry_in: None });
        self.ended(now, slot, id, exit);
    }

    pub(super) fn exited(&mut self, now: Timestamp, slot: Slot, id: &str, exit: Exit) {
        let member = self.member(slot);
        let current = match &member.state {
            State::Running(running) => running.id == id,
            State::Starting { id: starting } => starting == id,
            _ => false,
        };
        if !current {
            return;
        }
        let started = exit.started_at.unwrap_or(exit.finished_at);
        let duration = exit.finished_at.duration_since(started).as_secs_f64();
        let Exit { code, reason, message, .. } = exit.clone();
        let container = member.spec.name.clone();
        let restart_count = member.attempt;
        let event = match member.role {
            Role::Init => EventKind::InitExited { container, code, reason, message, duration },
            _ => EventKind::ContainerExited { container, code, reason, message, duration, restart_count },
        };
        self.tell(event);
        self.ended(now, slot, id, exit);
    }

    /// A run has ended: again, later, or never.
    pub(super) fn ended(&mut self, now: Timestamp, slot: Slot, id: &str, exit: Exit) {
        let again = std::mem::take(&mut self.member(slot).again);
        let restarts = again || self.restarts_after(slot, &exit);
        let kept = self.kept;
        let lost = !matches!(self.sandbox, Sandbox::Ready { .. });
        let ending = self.ending.is_some();
        let member = self.member(slot);
        let (code, finished) = (exit.code, exit.finished_at);
        let attempt = member.attempt;
        let dead = Ended { id: id.to_owned(), attempt, exit };
        let last = member.last.replace(dead);
        let before = std::mem::replace(&mut member.previous, last.clone());
        // With a cluster one dead container is left of each, as kubelet does it; of the one before it remains the status.
        let older = if kept { last } else { before };
        if member.role == Role::Init && code == 0 {
            member.passed = true;
        }
        let until = if again { now } else { member.crashes.until(finished) };
        member.state = match restarts && !ending {
            false => State::Ended,
            // The sandbox decides when: a new one is needed first.
            true if lost || until <= now => State::Waiting,
            true => State::BackOff { until },
        };
        if let State::BackOff { until } = member.state {
            let container = member.spec.name.clone();
            let seconds = until.duration_since(now).as_secs_f64();
            self.tell(EventKind::BackOff { container, reason: "CrashLoopBackOff".to_owned(), seconds });
        }
        // Otherwise the last two runs are kept: their logs are what people look for.
        if let Some(older) = older {
            self.actions.push(Action::Remove { slot, id: older.id, attempt: older.attempt });
        }
    }

    fn restarts_after(&self, slot: Slot, exit: &Exit) -> bool {
        let member = &self.members[slot.0];
        if member.spec.rule_restarts(exit.code) && member.role != Role::Ephemeral {
            return true;
        }
        let policy = match member.spec.restart_policy {
            Some(ContainerRestartPolicy::Always) => RestartPolicy::Always,
            Some(ContainerRestartPolicy::OnFailure) => RestartPolicy::OnFailure,
            Some(ContainerRestartPolicy::Never) => RestartPolicy::Never,
            None => self.pod.spec.restart_policy,
        };
        match member.role {
            Role::Ephemeral => false,
            Role::Sidecar => true,
            Role::Init => exit.code != 0 && policy != RestartPolicy::Never,
            Role::App => match policy {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => exit.code != 0,
                RestartPolicy::Never => false,
            },
        }
    }

    /// When a container that waits is due, or what its probes and its end are waiting for.
    pub(super) fn member_wake_at(&self, member: &super::Member) -> Option<Timestamp> {
        if let State::Running(running) = &member.state {
            let stop = running.stopping.as_ref().and_then(|stopping| stopping.wake_at());
            return stop.into_iter().chain(self.probes_wake_at(running)).min();
        }
        if self.ending.is_some() || !matches!(self.sandbox, Sandbox::Ready { .. }) {
            return None;
        }
        match &member.state {
            State::BackOff { until } => {
                let shown = self.start_error_ends(member).filter(|at| *at > self.stepped && at < until);
                Some(shown.unwrap_or(*until))
            }
            State::CreateBackOff { until, .. } => Some(*until),
            // First the reason changes.
            State::PullBackOff { settles, told: false, .. } => Some(*settles),
            State::PullBackOff { until, .. } => Some(*until),
            _ => None,
        }
    }
}

/// How long a failed pull reads ErrImagePull before it reads ImagePullBackOff.
const ERROR_SHOWS: SignedDuration = SignedDuration::from_secs(2);
/// Between attempts to create a container; the kubelet retries at its next sync, about every 10 s.
const CREATE_RETRY: SignedDuration = SignedDuration::from_secs(10);
