//! A sandbox that dies takes the pod with it; a new one starts the pod over.

use jiff::Timestamp;

use super::member::{Role, State};
use super::{Action, Exit, Sandbox, Slot, Worker};
use crate::api::RestartPolicy;
use crate::event::EventKind;

impl Worker {
    pub(super) fn sandbox_lost(&mut self, id: &str) {
        let current = matches!(&self.sandbox, Sandbox::Ready { id: ready } if ready == id);
        // A pod that has ended needs none; it was stopped for that.
        if !current || (self.kept && self.finished()) {
            return;
        }
        self.tell(EventKind::SandboxLost { id: id.to_owned() });
        self.sandbox = Sandbox::Lost { id: id.to_owned(), stopped: false };
        self.actions.push(Action::StopSandbox { id: id.to_owned() });
        for index in 0..self.members.len() {
            if matches!(self.members[index].state, State::Pulling) {
                self.members[index].state = State::Waiting;
                self.actions.push(Action::AbandonPull { slot: Slot(index) });
            }
        }
    }

    /// Nothing of the old sandbox runs any more. What was not seen to end is said to have been killed with it.
    pub(super) fn sandbox_stopped(&mut self, now: Timestamp, id: &str) {
        match &mut self.sandbox {
            Sandbox::Lost { id: lost, stopped } if lost == id => *stopped = true,
            _ => return,
        }
        for index in 0..self.members.len() {
            let current = match &self.members[index].state {
                State::Running(running) => Some((running.id.clone(), Some(running.started_at))),
                State::Starting { id } => Some((id.clone(), None)),
                _ => None,
            };
            if let Some((id, started_at)) = current {
                self.exited(now, Slot(index), &id, Exit::unknown(started_at, now));
            }
        }
        if !self.kept {
            self.ips.clear();
        }
    }

    /// Starts over once nothing is under way in the old sandbox any more.
    pub(super) fn settle_loss(&mut self, now: Timestamp) {
        let stopped = matches!(self.sandbox, Sandbox::Lost { stopped: true, .. });
        if stopped && !self.members.iter().any(super::Member::busy) {
            self.sandbox = self.after_loss(now);
        }
    }

    /// Whether the pod starts over in a new sandbox, as the kubelet decides it.
    fn after_loss(&mut self, now: Timestamp) -> Sandbox {
        if self.ending.is_some() {
            return Sandbox::Gone;
        }
        let policy = self.pod.spec.restart_policy;
        let ran = self.members.iter().any(|member| member.last.is_some());
        if policy == RestartPolicy::Never && ran {
            return Sandbox::Gone;
        }
        let done =
            |member: &super::Member| policy == RestartPolicy::OnFailure && member.exit_code() == Some(0);
        if self.members.iter().filter(|member| member.role == Role::App).all(done) {
            return Sandbox::Gone;
        }
        for member in &mut self.members {
            let keep =
                matches!(member.role, Role::App | Role::Ephemeral) && matches!(member.state, State::Ended);
            member.passed = false;
            if keep {
                continue;
            }
            let until = member.last.as_ref().map_or(now, |last| member.crashes.until(last.exit.finished_at));
            // Init containers that did their work run again at once; they did not crash.
            member.state = match until > now && member.role != Role::Init {
                true => State::BackOff { until },
                false => State::Waiting,
            };
        }
        Sandbox::Absent { retry_at: now }
    }
}

impl Exit {
    /// The end of a container that nobody saw.
    pub(crate) fn unknown(started_at: Option<Timestamp>, finished_at: Timestamp) -> Self {
        Self {
            code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            message: "the container could not be found when the pod's sandbox was gone".to_owned(),
            started_at,
            finished_at,
        }
    }
}
