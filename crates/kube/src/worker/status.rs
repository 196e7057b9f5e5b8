//! What the state machine looks like from outside: v1 PodStatus, and the events of its changes.

use jiff::{SignedDuration, Timestamp};

use super::member::{Ended, Member, Role, State};
use super::stop::Cause;
use super::{Sandbox, Worker};
use std::collections::BTreeMap;

use crate::api::{
    ConditionStatus, Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, PodCondition, PodIP, PodPhase, PodStatus,
    RecursiveReadOnly, RestartPolicy, VolumeMount, VolumeMountStatus,
};
use crate::event::{EventKind, full_name, go_duration};
use crate::qos;

impl Worker {
    /// The status at this moment.
    pub(crate) fn status(&self, now: Timestamp) -> PodStatus {
        let addresses = |ips: &[String]| -> Vec<PodIP> {
            ips.iter().filter(|ip| !ip.is_empty()).map(|ip| PodIP { ip: ip.clone() }).collect()
        };
        let host_ips = addresses(std::slice::from_ref(&self.host_ip));
        let pod_ips = match (self.sandbox_is_ready(), self.pod.spec.host_network) {
            // With a cluster addresses stay until there are others.
            (false, _) if !self.kept => Vec::new(),
            (_, true) => host_ips.clone(),
            (_, false) => addresses(&self.ips),
        };
        let (reason, message) = self.reason();
        let statuses = |wanted: fn(Role) -> bool| -> Vec<ContainerStatus> {
            let members = self.members.iter().filter(|member| wanted(member.role));
            members.map(|member| self.container_status(member, now)).collect()
        };
        let mut container_statuses = statuses(|role| role == Role::App);
        if self.kept {
            // As kubelet does it, for containers alone.
            container_statuses.sort_by(|a, b| a.name.cmp(&b.name));
        }
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
            init_container_statuses: statuses(Role::is_init),
            container_statuses,
            ephemeral_container_statuses: statuses(|role| role == Role::Ephemeral),
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
            // Whoever binds pods to nodes writes that one.
            if !(self.kept && type_ == "PodScheduled") {
                self.set_condition(now, type_, ok, reason, message);
            }
        }
        self.tell_of_resizes(now);
        if self.ready && !was_ready {
            self.tell(EventKind::PodReady {});
        } else if was_ready && !self.ready && !matches!(phase, PodPhase::Succeeded | PodPhase::Failed) {
            // That a pod which has ended is not ready goes without saying.
            let containers = self.unready().iter().map(|name| (*name).to_owned()).collect();
            self.tell(EventKind::PodNotReady { containers });
        }
    }

    /// A change of what containers may take shows as long as it is not done.
    fn tell_of_resizes(&mut self, now: Timestamp) {
        const IN_PROGRESS: &str = "PodResizeInProgress";
        let resizing: Vec<&Option<String>> =
            self.members.iter().filter_map(|member| member.resizing.as_ref()).collect();
        match (resizing.is_empty(), resizing.into_iter().flatten().next().cloned()) {
            (true, _) => self.conditions.retain(|condition| condition.type_ != IN_PROGRESS),
            (false, None) => self.set_condition(now, IN_PROGRESS, true, "", String::new()),
            (false, Some(error)) => self.set_condition(now, IN_PROGRESS, true, "Error", error),
        }
    }

    fn set_condition(&mut self, now: Timestamp, type_: &str, ok: bool, reason: &str, message: String) {
        let status = if ok { ConditionStatus::True } else { ConditionStatus::False };
        let reason = reason.to_owned();
        let observed_generation = self.pod.metadata.generation;
        if let Some(condition) = self.conditions.iter_mut().find(|condition| condition.type_ == type_) {
            if condition.status != status {
                condition.last_transition_time = Some(now);
            }
            (condition.status, condition.reason, condition.message) = (status, reason, message);
            condition.observed_generation = observed_generation;
        } else {
            let last_transition_time = Some(now);
            self.conditions.push(PodCondition {
                type_: type_.to_owned(),
                status,
                last_transition_time,
                reason,
                message,
                observed_generation,
            });
        }
    }

    fn sandbox_is_ready(&self) -> bool {
        matches!(self.sandbox, Sandbox::Ready { .. })
    }

    fn initialized(&self) -> bool {
        self.members.iter().all(|member| !member.role.is_init() || member.passed)
    }

    /// Sidecars and containers that are not ready.
    fn unready(&self) -> Vec<&str> {
        let unready = |member: &&Member| {
            matches!(member.role, Role::App | Role::Sidecar)
                && !member.running().is_some_and(|running| running.ready)
        };
        self.members.iter().filter(unready).map(|member| member.spec.name.as_str()).collect()
    }

    fn current_conditions(&self) -> [(&'static str, bool, &'static str, String); 5] {
        let initialized = self.initialized();
        let incomplete = || {
            let names = self.members.iter().filter(|member| member.role.is_init() && !member.passed);
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
        let gate_message = if ready { self.closed_gates() } else { None };
        let none = String::new;
        [
            (
                "PodReadyToStartContainers",
                self.sandbox_is_ready() && !(self.kept && self.finished()),
                "",
                none(),
            ),
            match initialized {
                _ if self.kept && self.phase == PodPhase::Succeeded => {
                    ("Initialized", true, "PodCompleted", none())
                }
                // A sidecar that is started again does not take it back.
                _ if self.kept && self.any_app_ran() => ("Initialized", true, "", none()),
                true => ("Initialized", true, "", none()),
                false => ("Initialized", false, "ContainersNotInitialized", incomplete()),
            },
            match gate_message {
                Some(message) => ("Ready", false, "ReadinessGatesNotReady", message),
                None => ("Ready", ready, ready_reason, ready_message.clone()),
            },
            ("ContainersReady", ready, ready_reason, ready_message),
            ("PodScheduled", true, "", none()),
        ]
    }

    fn any_app_ran(&self) -> bool {
        let ran = |member: &Member| member.running().is_some() || member.last.is_some();
        self.members.iter().any(|member| member.role == Role::App && ran(member))
    }

    /// Why readiness gates keep the pod from being ready, if they do.
    fn closed_gates(&self) -> Option<String> {
        let gates = self.pod.spec.readiness_gates.iter().map(|gate| gate.condition_type.as_str());
        if !self.kept {
            // Nobody can set their conditions, so a pod that has some is never ready.
            let gates: Vec<&str> = gates.collect();
            let message = format!("conditions of readiness gates are not True: [{}]", gates.join(" "));
            return (!gates.is_empty()).then_some(message);
        }
        let conditions = &self.pod.status.conditions;
        let closed = gates.filter_map(|gate| match conditions.iter().find(|one| one.type_ == gate) {
            None => Some(format!("corresponding condition of pod readiness gate {gate:?} does not exist.")),
            Some(one) if one.status != ConditionStatus::True => Some(format!(
                "the status of pod readiness gate {gate:?} is not \"True\", but {:?}",
                one.status
            )),
            Some(_) => None,
        });
        let closed: Vec<String> = closed.collect();
        (!closed.is_empty()).then(|| closed.join(", "))
    }

    fn reason(&self) -> (&str, &str) {
        let ending = self.ending.as_ref();
        match ending.map(|ending| ending.cause) {
            Some(Cause::Evicted | Cause::Before) => {
                ending.map_or(("", ""), |ending| (ending.reason.as_str(), ending.message.as_str()))
            }
            Some(Cause::Deadline) => {
                ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
            }
            Some(Cause::SandboxLost) if !self.kept && self.phase == PodPhase::Failed => {
                ("SandboxLost", "The pod's sandbox died, and its restart policy does not start it again")
            }
            _ => ("", ""),
        }
    }

    /// `getPhase` of the kubelet, with the end of the pod as the machine sees it.
    fn current_phase(&self) -> PodPhase {
        let apps = || self.members.iter().filter(|member| member.role == Role::App);
        if self.kept && matches!(self.phase, PodPhase::Succeeded | PodPhase::Failed) {
            return self.phase;
        }
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
            restart_count: match &member.last {
                // The next run counts when there is a container of it.
                Some(_) if self.kept && !member.used => member.attempt.saturating_sub(1),
                _ => member.attempt,
            },
            image: match member.identity.image.as_str() {
                "" => member.spec.image.clone(),
                image => image.to_owned(),
            },
            image_id: member.identity.image_id.clone(),
            container_id: id.map_or_else(String::new, |id| container_id(id)),
            started: Some(member.running().is_some_and(|running| running.started)),
            allocated_resources: if self.kept {
                member.spec.resources.requests.clone()
            } else {
                BTreeMap::new()
            },
            resources: self.kept.then(|| match member.running() {
                Some(_) => member.granted.clone(),
                None => member.spec.resources.clone(),
            }),
            volume_mounts: if self.kept { volume_mounts(&member.spec) } else { Vec::new() },
            user: member
                .running()
                .and_then(|_| member.identity.user.clone())
                .filter(|_| self.kept)
                .map(|linux| ContainerUser { linux: Some(linux) }),
        }
    }

    /// Whether a container has ended, and there is none of its next run yet.
    fn between_runs(&self, member: &Member) -> bool {
        let next = matches!(member.state, State::Waiting | State::Pulling | State::Creating);
        self.kept && next && member.last.is_some()
    }

    /// Why a container could not be started, as long as that is what it shows.
    fn start_error<'a>(&self, member: &'a Member, now: Timestamp) -> Option<&'a str> {
        let last = member.last.as_ref().filter(|last| self.kept && last.exit.reason == START_ERROR)?;
        (now < last.exit.finished_at + START_ERROR_SHOWS).then_some(last.exit.message.as_str())
    }

    /// When a container that could not be started reads as one that waits to be.
    pub(super) fn start_error_ends(&self, member: &Member) -> Option<Timestamp> {
        let last = member.last.as_ref().filter(|last| self.kept && last.exit.reason == START_ERROR)?;
        Some(last.exit.finished_at + START_ERROR_SHOWS)
    }

    fn back_off_message(&self, member: &Member, until: Timestamp, now: Timestamp) -> String {
        if !self.kept {
            let seconds = until.duration_since(now).as_secs().max(0);
            return format!("back-off: {} is restarted in {seconds} s", member.spec.name);
        }
        let ended = member.last.as_ref().map_or(now, |last| last.exit.finished_at);
        // Times of exits are finer than delays.
        let delay = go_duration(until.duration_since(ended).as_secs_f64().round());
        format!(
            "back-off {delay} restarting failed container={} pod={}",
            member.spec.name,
            full_name(&self.pod)
        )
    }

    /// What a container is doing, and how its last run before that ended.
    fn states<'a>(&self, member: &'a Member, now: Timestamp) -> (ContainerState, Option<&'a Ended>) {
        let waiting = |reason: &str, message: String| ContainerState {
            waiting: Some(ContainerStateWaiting { reason: reason.to_owned(), message }),
            ..ContainerState::default()
        };
        let last = member.last.as_ref();
        let initializing = match self.kept {
            true => !self.pod.spec.init_containers.is_empty(),
            false => !self.initialized(),
        };
        let creating = if initializing { "PodInitializing" } else { "ContainerCreating" };
        match &member.state {
            State::Running(running) => {
                let running = ContainerStateRunning { started_at: Some(running.started_at) };
                (ContainerState { running: Some(running), ..ContainerState::default() }, last)
            }
            State::Waiting | State::BackOff { .. } if self.start_error(member, now).is_some() => {
                let message = self.start_error(member, now).unwrap_or_default().to_owned();
                (waiting("RunContainerError", message), last)
            }
            State::Ended if last.is_some() => {
                let state = ContainerState { terminated: last.map(terminated), ..ContainerState::default() };
                (state, member.previous.as_ref())
            }
            _ if self.between_runs(member) => {
                let state = ContainerState { terminated: last.map(terminated), ..ContainerState::default() };
                (state, member.previous.as_ref())
            }
            State::Ended if self.kept && member.role == Role::App && self.finished() => {
                let unknown = ContainerStateTerminated {
                    exit_code: 137,
                    reason: "ContainerStatusUnknown".to_owned(),
                    message: "The container could not be located when the pod was terminated".to_owned(),
                    ..ContainerStateTerminated::default()
                };
                (ContainerState { terminated: Some(unknown), ..ContainerState::default() }, last)
            }
            State::BackOff { until } => {
                (waiting("CrashLoopBackOff", self.back_off_message(member, *until, now)), last)
            }
            State::PullBackOff { settles, reason, message, .. } if now < *settles => {
                (waiting(reason, message.clone()), last)
            }
            State::PullBackOff { reason, message, .. } if reason == "ErrImagePull" => {
                let cause = if self.kept { "ErrImagePull: " } else { "" };
                let message = format!("Back-off pulling image {:?}: {cause}{message}", member.spec.image);
                (waiting("ImagePullBackOff", message), last)
            }
            State::PullBackOff { reason, message, .. } | State::CreateBackOff { reason, message, .. } => {
                (waiting(reason, message.clone()), last)
            }
            _ => (waiting(creating, String::new()), last),
        }
    }
}

/// The reason of a run that did not begin.
const START_ERROR: &str = "StartError";

/// How long a container that could not be started reads RunContainerError: until kubelet would look again.
const START_ERROR_SHOWS: SignedDuration = SignedDuration::from_secs(10);

/// Mounts of volumes as they were asked for; whether submounts are read-only is told where that was asked for, too.
fn volume_mounts(spec: &Container) -> Vec<VolumeMountStatus> {
    let status = |mount: &VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only,
        recursive_read_only: mount.read_only.then_some(match mount.recursive_read_only {
            Some(RecursiveReadOnly::Enabled) => RecursiveReadOnly::Enabled,
            _ => RecursiveReadOnly::Disabled,
        }),
    };
    spec.volume_mounts.iter().map(status).collect()
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
