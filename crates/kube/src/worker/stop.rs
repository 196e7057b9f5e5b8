//! Ending containers, and the pod: preStop hook, signal, grace period, kill; sidecars last, in reverse order.

use jiff::{SignedDuration, Timestamp};

use super::member::{Role, State};
use super::{Action, Slot, Worker};
use crate::api::RestartPolicy;
use crate::event::{EventKind, HookKind, StopCause};

/// Why and how the pod ends.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(crate) cause: Cause,
    /// One word and a sentence, where the cause alone does not say enough.
    pub(crate) reason: String,
    pub(crate) message: String,
    grace: i64,
    /// When the grace period is over; set when the ending begins.
    deadline: Timestamp,
}

/// Why a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its containers have ended.
    Completed,
    /// activeDeadlineSeconds.
    Deadline,
    /// The sandbox died and nothing is to be started again.
    SandboxLost,
    /// It takes more of the node than it may.
    Evicted,
    /// The user wants it.
    Stopped,
    /// The user wants it now.
    Killed,
    /// It had ended before this agent knew it.
    Before,
}

impl Ending {
    fn new(cause: Cause, grace: i64) -> Self {
        Self { cause, reason: String::new(), message: String::new(), grace, deadline: Timestamp::MAX }
    }

    pub(super) fn completed(grace: i64) -> Self {
        Self::new(Cause::Completed, grace)
    }

    pub(super) fn deadline(grace: i64) -> Self {
        Self::new(Cause::Deadline, grace)
    }

    pub(super) fn sandbox_lost(grace: i64) -> Self {
        Self::new(Cause::SandboxLost, grace)
    }

    pub(super) fn evicted(reason: String, message: String) -> Self {
        Self { reason, message, ..Self::new(Cause::Evicted, EVICTION_GRACE) }
    }

    pub(super) fn stopped(grace: i64) -> Self {
        Self::new(Cause::Stopped, grace)
    }

    /// A pod that had ended already.
    pub(super) fn before(reason: &str, message: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.to_owned(),
            ..Self::new(Cause::Before, EVICTION_GRACE)
        }
    }

    fn describe(&self) -> &'static str {
        match self.cause {
            Cause::Completed => "Completed",
            Cause::Deadline => "DeadlineExceeded",
            Cause::SandboxLost => "SandboxLost",
            Cause::Evicted => "Evicted",
            Cause::Stopped => "Stopped",
            Cause::Killed => "Killed",
            Cause::Before => "Ended",
        }
    }
}

/// A container that is being stopped.
#[derive(Debug)]
pub(super) struct Stopping {
    /// When the grace period is over.
    deadline: Timestamp,
    stage: Stage,
}

#[derive(Debug, PartialEq)]
enum Stage {
    /// The preStop hook is under way.
    Hook,
    /// The stop signal was sent, and the kill will follow.
    Signalled,
}

impl Stopping {
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        (self.stage == Stage::Hook).then_some(self.deadline)
    }
}

impl Worker {
    /// Begins the end, unless it has begun for good reason already. Someone who stops a pod that is ending by
    /// itself wants what is happening anyway.
    pub(super) fn end(&mut self, now: Timestamp, mut ending: Ending) {
        ending.deadline = now + SignedDuration::from_secs(ending.grace.max(0));
        if self.ending.is_some() {
            return self.hasten(now, ending.deadline);
        }
        let event = EventKind::Terminating { reason: ending.describe().to_owned(), grace: ending.grace };
        self.ending = Some(ending);
        let alive = self.members.iter().any(super::Member::busy);
        if alive {
            self.tell(event);
        }
        for index in 0..self.members.len() {
            self.abandon(Slot(index));
        }
    }

    /// An end that is under way shall be over sooner.
    fn hasten(&mut self, now: Timestamp, deadline: Timestamp) {
        let Some(ending) = self.ending.as_mut().filter(|ending| deadline < ending.deadline) else { return };
        ending.deadline = deadline;
        let grace = seconds_until(now, deadline).max(MIN_GRACE);
        for index in 0..self.members.len() {
            let State::Running(running) = &mut self.members[index].state else { continue };
            let Some(stopping) = running.stopping.as_mut().filter(|it| deadline < it.deadline) else {
                continue;
            };
            stopping.deadline = deadline;
            if stopping.stage == Stage::Signalled {
                let id = running.id.clone();
                self.actions.push(Action::Stop { slot: Slot(index), id, grace });
            }
        }
    }

    /// What has not got as far as a container will not.
    fn abandon(&mut self, slot: Slot) {
        let member = self.member(slot);
        if matches!(member.state, State::Pulling) {
            member.state = State::Ended;
            self.actions.push(Action::AbandonPull { slot });
        } else if !member.busy() {
            member.state = State::Ended;
        }
    }

    /// Everything dies now.
    pub(super) fn kill(&mut self, now: Timestamp) {
        self.end(now, Ending::new(Cause::Killed, 0));
        if let Some(ending) = &mut self.ending {
            ending.cause = Cause::Killed;
            ending.deadline = now;
        }
        for index in 0..self.members.len() {
            if let State::Running(running) = &mut self.members[index].state {
                running.probes.none();
                running.stopping = Some(Stopping { deadline: now, stage: Stage::Signalled });
                let id = running.id.clone();
                self.actions.push(Action::Stop { slot: Slot(index), id, grace: 0 });
            }
        }
    }

    /// Drives the end: containers together, then sidecars one after another from the last.
    pub(super) fn terminate(&mut self, now: Timestamp) {
        let Some(ending) = self.ending.clone() else { return };
        let left = seconds_until(now, ending.deadline);
        let overdue = now >= ending.deadline;
        let mut apps_done = true;
        for index in 0..self.members.len() {
            if self.members[index].role == Role::Sidecar {
                continue;
            }
            apps_done &= !self.members[index].busy();
            self.stop_ending(now, Slot(index), left, &ending);
        }
        let mut later_done = apps_done;
        for index in (0..self.members.len()).rev() {
            if self.members[index].role != Role::Sidecar {
                continue;
            }
            if later_done || overdue {
                self.stop_ending(now, Slot(index), left, &ending);
            }
            later_done &= !self.members[index].busy();
        }
        self.continue_stops(now);
    }

    /// When sidecars are stopped although those before them have not ended.
    pub(super) fn sidecars_due(&self, ending: &Ending) -> Option<Timestamp> {
        let waiting = |member: &super::Member| {
            member.role == Role::Sidecar && member.running().is_some_and(|running| running.stopping.is_none())
        };
        self.members.iter().any(waiting).then_some(ending.deadline)
    }

    fn stop_ending(&mut self, now: Timestamp, slot: Slot, grace: i64, ending: &Ending) {
        let idle = self.members[slot.0].running().is_some_and(|running| running.stopping.is_none());
        if !idle {
            return;
        }
        if ending.cause == Cause::Killed {
            if let State::Running(running) = &mut self.member(slot).state {
                running.stopping = Some(Stopping { deadline: now, stage: Stage::Signalled });
                let id = running.id.clone();
                self.actions.push(Action::Stop { slot, id, grace: 0 });
            }
            return;
        }
        let cause = match ending.cause {
            Cause::Deadline => StopCause::Deadline,
            Cause::Evicted => StopCause::Evicted,
            _ => StopCause::PodEnds,
        };
        self.stop_member(now, slot, cause, grace);
    }

    /// Stops one container: hook, signal, kill.
    pub(super) fn stop_member(&mut self, now: Timestamp, slot: Slot, cause: StopCause, grace: i64) {
        let member = &mut self.members[slot.0];
        let has_hook = member.spec.lifecycle.as_ref().is_some_and(|hooks| hooks.pre_stop.is_some());
        let container = member.spec.name.clone();
        let State::Running(running) = &mut member.state else { return };
        if running.stopping.is_some() {
            return;
        }
        running.probes.only_readiness();
        let restarted = !matches!(member.role, Role::Ephemeral)
            && (member.again
                || member.role == Role::Sidecar
                || self.pod.spec.restart_policy != RestartPolicy::Never);
        let id = running.id.clone();
        let hooked = has_hook && grace > 0;
        let deadline = now + SignedDuration::from_secs(grace);
        let stage = if hooked { Stage::Hook } else { Stage::Signalled };
        running.stopping = Some(Stopping { deadline, stage });
        let reason = cause.text().to_owned();
        self.tell(EventKind::Stopping { container, reason, grace, cause, restarted });
        self.actions.push(match hooked {
            true => {
                let timeout = Some(SignedDuration::from_secs(grace));
                Action::Hook { slot, id, hook: HookKind::PreStop, timeout }
            }
            false => Action::Stop { slot, id, grace: grace.max(MIN_GRACE) },
        });
    }

    /// Signals containers whose hook has had all the time there is.
    pub(super) fn continue_stops(&mut self, now: Timestamp) {
        for index in 0..self.members.len() {
            if let State::Running(running) = &self.members[index].state
                && let Some(stopping) = &running.stopping
                && stopping.stage == Stage::Hook
                && now >= stopping.deadline
            {
                self.signal(now, Slot(index));
            }
        }
    }

    fn signal(&mut self, now: Timestamp, slot: Slot) {
        let State::Running(running) = &mut self.member(slot).state else { return };
        let Some(stopping) = &mut running.stopping else { return };
        stopping.stage = Stage::Signalled;
        let grace = seconds_until(now, stopping.deadline).max(MIN_GRACE);
        let id = running.id.clone();
        self.actions.push(Action::Stop { slot, id, grace });
    }

    pub(super) fn hook_done(
        &mut self,
        now: Timestamp,
        slot: Slot,
        id: &str,
        hook: HookKind,
        result: Result<(), String>,
    ) {
        let grace = self.grace();
        let container = self.members[slot.0].spec.name.clone();
        let Some(running) = self.member(slot).running_as(id) else { return };
        let stopping = running.stopping.as_ref().map(|stopping| stopping.stage == Stage::Hook);
        let failed = result.is_err();
        if let Err(message) = result {
            self.tell(EventKind::HookFailed { container, hook, message });
        }
        match (hook, stopping) {
            (HookKind::PreStop, Some(true)) => self.signal(now, slot),
            (HookKind::PostStart, None) if failed => self.stop_member(now, slot, StopCause::PostStart, grace),
            (HookKind::PostStart, None) => self.begin_probes(now, slot),
            _ => {}
        }
    }
}

/// How long the containers of an evicted pod have, in seconds (`immediateEvictionGracePeriodSeconds`).
const EVICTION_GRACE: i64 = 1;

/// The shortest grace that is given, in seconds, unless a user wants the pod killed (the kubelet's).
const MIN_GRACE: i64 = 2;

/// Whole seconds until then, rounded up.
fn seconds_until(now: Timestamp, then: Timestamp) -> i64 {
    let left = then.duration_since(now);
    (left.as_secs() + i64::from(left.subsec_nanos() > 0)).max(0)
}
