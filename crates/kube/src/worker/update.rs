//! What may change while a pod runs: images, resources, containers to look into it, its own deadline.

use jiff::Timestamp;

use super::member::{Member, Role, State};
use super::{Action, Slot, Worker};
use crate::api::{Container, Pod};
use crate::event::{EventKind, StopCause};

impl Worker {
    /// The pod is this one from now on. Of its status only the conditions of readiness gates are looked at.
    pub(super) fn update(&mut self, now: Timestamp, pod: Pod) {
        let spec = &pod.spec;
        for container in spec.init_containers.iter().chain(&spec.containers) {
            let found = self.members.iter().position(|member| member.spec.name == container.name);
            if let Some(index) = found {
                self.respecify(now, Slot(index), container);
            }
        }
        for container in &spec.ephemeral_containers {
            if self.members.iter().all(|member| member.spec.name != container.name) {
                let mut member = Member::new(Role::Ephemeral, container.clone());
                if self.ending.is_some() {
                    member.state = State::Ended;
                }
                self.members.push(member);
            }
        }
        self.pod = pod;
    }

    fn respecify(&mut self, now: Timestamp, slot: Slot, container: &Container) {
        let member = &mut self.members[slot.0];
        let image = member.spec.image != container.image;
        member.spec = container.clone();
        if !image || self.ending.is_some() {
            return;
        }
        // What failed or waited for the old image need not wait for the new one.
        member.pulls.reset();
        match &member.state {
            State::Pulling => {
                member.state = State::Waiting;
                self.actions.push(Action::AbandonPull { slot });
            }
            State::PullBackOff { .. } | State::CreateBackOff { .. } => member.state = State::Waiting,
            State::BackOff { .. } => {
                member.crashes.reset();
                member.state = State::BackOff { until: now };
            }
            _ => {}
        }
    }

    /// Ends containers that are not what they shall be any more, and changes what can be changed while they run.
    pub(super) fn replace_changed(&mut self, now: Timestamp) {
        let grace = self.grace();
        for index in 0..self.members.len() {
            let member = &self.members[index];
            let State::Running(running) = &member.state else { continue };
            if running.stopping.is_some() {
                continue;
            }
            let slot = Slot(index);
            if !member.made_from.is_empty() && member.made_from != member.spec.fingerprint() {
                self.members[index].again = true;
                self.stop_member(now, slot, StopCause::Changed, grace);
            } else if member.granted != member.spec.resources {
                self.resize(now, slot);
            }
        }
    }

    fn resize(&mut self, now: Timestamp, slot: Slot) {
        let grace = self.grace();
        let member = &mut self.members[slot.0];
        let (old, new) = (&member.granted, &member.spec.resources);
        let changed = |name: &str| {
            old.limits.get(name) != new.limits.get(name) || old.requests.get(name) != new.requests.get(name)
        };
        let restart = member
            .spec
            .resize_policy
            .iter()
            .any(|policy| policy.restart_policy == "RestartContainer" && changed(&policy.resource_name));
        if restart {
            member.again = true;
            return self.stop_member(now, slot, StopCause::Resize, grace);
        }
        let Some(id) = member.running().map(|running| running.id.clone()) else { return };
        // What is asked for next is compared with this, whether it works or not: the answer says.
        member.granted = member.spec.resources.clone();
        let first = self.members.iter().all(|member| member.resizing.is_none());
        self.members[slot.0].resizing = Some(None);
        if first {
            self.tell(EventKind::ResizeStarted {});
        }
        self.actions.push(Action::Resize { slot, id });
    }

    /// The server has changed what a container may take, or has not.
    pub(super) fn resized(&mut self, slot: Slot, id: &str, result: Result<(), String>) {
        let member = &mut self.members[slot.0];
        if member.running_as(id).is_none() {
            return;
        }
        match result {
            Ok(()) => {
                member.resizing = None;
                if self.members.iter().all(|member| member.resizing.is_none()) {
                    self.tell(EventKind::Resized {});
                }
            }
            Err(message) => {
                member.resizing = Some(Some(message.clone()));
                self.tell(EventKind::ResizeFailed { message });
            }
        }
    }

    /// The running container that an ephemeral one looks into.
    pub(super) fn target_of(&self, slot: Slot) -> Option<String> {
        let name = &self.members[slot.0].spec.target_container_name;
        let target = self.members.iter().find(|member| !name.is_empty() && member.spec.name == *name)?;
        target.running().map(|running| running.id.clone())
    }
}
