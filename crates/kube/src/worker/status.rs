//! What the state machine looks like from outside: v1 PodStatus, and the events of its changes.

use jiff::Timestamp;

use super::member::{Ended, Member, Role, State};
use super::stop::Cause;
use super::{Sandbox, Worker};
use crate::api::{
    ConditionStatus, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, PodCondition, PodIP, PodPhase, PodStatus, RestartPolicy,
};
use crate::event::EventKind;
use crate::qos;

impl Worker {
    /// The status at this moment.
    pub(crate) fn status(&self, now: Timestamp) -> PodStatus {
        let addresses = |ips: &[String]| -> Vec<PodIP> {
            ips.iter().filter(|ip| !ip.is_empty()).map(|ip| PodIP { ip: ip.clone() }).collect()
        };
        let host_ips = addresses(std::slice::from_ref(&self.host_ip));
        let pod_ips = match (self.sandbox_is_ready(), self.pod.spec.host_network) {
            (false, _) => Vec::new(),
            (true, true) => host_ips.clone(),
            (true, false) => addresses(&self.ips),
        };
        let (reason, message) = self.reason();
        let (inits, apps): (Vec<&Member>, Vec<&Member>) =
            self.members.iter().partition(|member| member.role != Role::App);
        let statuses = |members: Vec<&Member>| {
            members.into_iter().map(|member| self.container_status(member, now)).collect()
        };
        PodStatus {
            phase: self.phase,
            conditions: self.conditions.clone(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            host_ips,
            host_ip: self.host_ip.clone(),
            pod_ip: pod_ips.first().map(|first| first.ip.clone()).unwrap_or_default(),
            pod_ips,
            start_time: Some(self.started),
            init_container_statuses: statuses(inits),
            container_statuses: statuses(apps),
            ephemeral_container_statuses: Vec::new(),
            observed_generation: self.pod.metadata.generation,
            qos_class: qos::class(&self.pod.spec),
        }
    }

    /// Takes note of what changed since the last step, and tells it.
    pub(super) fn update_status(&mut self, now: Timestamp) {
        let phase = self.current_phase();
        if phase != self.phase {
            self.phase = phase;
            let (reason, message) = self.reason();
            let event = EventKind::PodPhase { phase, reason: reason.to_owned(), message: message.to_owned() };
            self.tell(event);
        }
        let conditions = self.current_conditions();
        let was_ready = self.ready;
        self.ready = conditions.iter().any(|(type_, ok, ..)| *type_ == "Ready" && *ok);
        for (type_, ok, reason, message) in conditions {
            self.set_condition(now, type_, ok, reason, message);
        }
        if self.ready && !was_ready {
            self.tell(EventKind::PodReady {});
        } else if was_ready && !self.ready && !matches!(phase, PodPhase::Succeeded | PodPhase::Failed) {
            // That a pod which has ended is not ready goes without saying.
            let containers = self.unready().iter().map(|name| (*name).to_owned()).collect();
            self.tell(EventKind::PodNotReady { containers });
        }
    }

    fn set_condition(&mut self, now: Timestamp, type_: &str, ok: bool, reason: &str, message: String) {
        let status = if ok { ConditionStatus::True } else { ConditionStatus::False };
        let reason = reason.to_owned();
        if let Some(condition) = self.conditions.iter_mut().find(|condition| condition.type_ == type_) {
            if condition.status != status {
                condition.last_transition_time = Some(now);
            }
            (condition.status, condition.reason, condition.message) = (status, reason, message);
        } else {
            let last_transition_time = Some(now);
            self.conditions.push(PodCondition {
                type_: type_.to_owned(),
                status,
                last_transition_time,
                reason,
                message,
                observed_generation: None,
            });
        }
    }

    fn sandbox_is_ready(&self) -> bool {
        matches!(self.sandbox, Sandbox::Ready { .. })
    }

    fn initialized(&self) -> bool {
        self.members.iter().all(|member| member.role == Role::App || member.passed)
    }

    /// Sidecars and containers that are not ready.
    fn unready(&self) -> Vec<&str> {
        let unready = |member: &&Member| {
            member.role != Role::Init && !member.running().is_some_and(|running| running.ready)
        };
        self.members.iter().filter(unready).map(|member| member.spec.name.as_str()).collect()
    }

    fn current_conditions(&self) -> [(&'static str, bool, &'static str, String); 5] {
        let initialized = self.initialized();
        let incomplete = || {
            let names = self.members.iter().filter(|member| member.role != Role::App && !member.passed);
            let names: Vec<&str> = names.map(|member| member.spec.name.as_str()).collect();
            format!("containers with incomplete status: [{}]", names.join(" "))
        };
        let unready = self.unready();
        let (ready, ready_reason, ready_message) = match self.phase {
            PodPhase::Succeeded => (false, "PodCompleted", String::new()),
            PodPhase::Failed => (false, "PodFailed", String::new()),
            _ if unready.is_empty() && initialized => (true, "", String::new()),
            _ => (
                false,
                "ContainersNotReady",
                format!("containers with unready status: [{}]", unready.join(" ")),
            ),
        };
        // Nobody can set the conditions of readiness gates yet, so a pod that has some is never ready.
        let gates: Vec<String> =
            self.pod.spec.readiness_gates.iter().map(|gate| gate.condition_type.clone()).collect();
        let gated = ready && !gates.is_empty();
        let gate_message = || format!("conditions of readiness gates are not True: [{}]", gates.join(" "));
        let none = String::new;
        [
            ("PodReadyToStartContainers", self.sandbox_is_ready(), "", none()),
            match initialized {
                true => ("Initialized", true, "", none()),
                false => ("Initialized", false, "ContainersNotInitialized", incomplete()),
            },
            match gated {
                true => ("Ready", false, "ReadinessGatesNotReady", gate_message()),
                false => ("Ready", ready, ready_reason, ready_message.clone()),
            },
            ("ContainersReady", ready, ready_reason, ready_message),
            ("PodScheduled", true, "", none()),
        ]
    }

    fn reason(&self) -> (&str, &str) {
        let ending = self.ending.as_ref();
        match ending.map(|ending| ending.cause) {
            Some(Cause::Evicted) => {
                ending.map_or(("", ""), |ending| (ending.reason.as_str(), ending.message.as_str()))
            }
            Some(Cause::Deadline) => {
                ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
            }
            Some(Cause::SandboxLost) if self.phase == PodPhase::Failed => {
                ("SandboxLost", "The pod's sandbox died, and its restart policy does not start it again")
            }
            _ => ("", ""),
        }
    }

    /// `getPhase` of the kubelet, with the end of the pod as the machine sees it.
    fn current_phase(&self) -> PodPhase {
        let apps = || self.members.iter().filter(|member| member.role == Role::App);
        if self.finished() {
            let cause = self.ending.as_ref().map(|ending| ending.cause);
            let good = !matches!(cause, Some(Cause::Deadline | Cause::Evicted))
                && apps().all(|member| matches!(member.state, State::Ended) && member.exit_code() == Some(0));
            return if good { PodPhase::Succeeded } else { PodPhase::Failed };
        }
        if self.ending.is_some() {
            // The end shows when it is complete.
            return self.phase;
        }
        let ran = |member: &Member| member.running().is_some() || member.last.is_some();
        let waits = apps().any(|member| !ran(member));
        let always = self.pod.spec.restart_policy == RestartPolicy::Always;
        if waits {
            PodPhase::Pending
        } else if always || apps().any(|member| !matches!(member.state, State::Ended)) {
            PodPhase::Running
        } else {
            self.phase
        }
    }

    fn container_status(&self, member: &Member, now: Timestamp) -> ContainerStatus {
        let ready = match (&member.state, member.role) {
            (_, Role::Init) => member.passed,
            (State::Running(running), _) => running.ready,
            _ => false,
        };
        let (state, last) = self.states(member, now);
        let id = match &member.state {
            State::Running(running) => Some(&running.id),
            State::Starting { id } => Some(id),
            _ => member.last.as_ref().map(|ended| &ended.id),
        };
        ContainerStatus {
            name: member.spec.name.clone(),
            last_state: ContainerState { terminated: last.map(terminated), ..ContainerState::default() },
            state,
            ready,
            restart_count: member.attempt,
            image: member.spec.image.clone(),
            image_id: member.image.clone(),
            container_id: id.map_or_else(String::new, |id| container_id(id)),
            started: Some(member.running().is_some_and(|running| running.started)),
            ..ContainerStatus::default()
        }
    }

    /// What a container is doing, and how its last run before that ended.
    fn states<'a>(&self, member: &'a Member, now: Timestamp) -> (ContainerState, Option<&'a Ended>) {
        let waiting = |reason: &str, message: String| ContainerState {
            waiting: Some(ContainerStateWaiting { reason: reason.to_owned(), message }),
            ..ContainerState::default()
        };
        let last = member.last.as_ref();
        let creating = if self.initialized() { "ContainerCreating" } else { "PodInitializing" };
        match &member.state {
            State::Running(running) => {
                let running = ContainerStateRunning { started_at: Some(running.started_at) };
                (ContainerState { running: Some(running), ..ContainerState::default() }, last)
            }
            State::Ended if last.is_some() => {
                let state = ContainerState { terminated: last.map(terminated), ..ContainerState::default() };
                (state, member.previous.as_ref())
            }
            State::BackOff { until } => {
                let seconds = until.duration_since(now).as_secs().max(0);
                let message = format!("back-off: {} is restarted in {seconds} s", member.spec.name);
                (waiting("CrashLoopBackOff", message), last)
            }
            State::PullBackOff { settles, reason, message, .. } if now < *settles => {
                (waiting(reason, message.clone()), last)
            }
            State::PullBackOff { reason, message, .. } if reason == "ErrImagePull" => {
                let message = format!("Back-off pulling image {:?}: {message}", member.spec.image);
                (waiting("ImagePullBackOff", message), last)
            }
            State::PullBackOff { reason, message, .. } | State::CreateBackOff { reason, message, .. } => {
                (waiting(reason, message.clone()), last)
            }
            _ => (waiting(creating, String::new()), last),
        }
    }
}

fn terminated(ended: &Ended) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: ended.exit.code,
        reason: ended.exit.reason.clone(),
        message: ended.exit.message.clone(),
        started_at: ended.exit.started_at,
        finished_at: Some(ended.exit.finished_at),
        container_id: container_id(&ended.id),
    }
}

/// The form that the Kubernetes API uses.
fn container_id(id: &str) -> String {
    format!("vaquita://{id}")
}
