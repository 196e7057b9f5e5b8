//! One container of the pod, over all its runs.

use jiff::Timestamp;

use super::backoff::Backoff;
use super::probe::Probes;
use super::stop::Stopping;
use super::{Exit, Identity};
use crate::api::{Container, ResourceRequirements};

/// What a container is for the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Ends with 0 before the next one starts.
    Init,
    /// Runs as long as the pod.
    Sidecar,
    /// What the pod is for.
    App,
    /// Added to look into the pod; nothing depends on it.
    Ephemeral,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) role: Role,
    pub(super) spec: Container,
    pub(super) state: State,
    /// How often it was started again; the number of the current run.
    pub(super) attempt: u32,
    /// A container was created in a run with this number or before, so the next gets another.
    pub(super) used: bool,
    /// It has done its part for those after it: an init container ended with 0, a sidecar has started once.
    pub(super) passed: bool,
    /// How the last run ended, and the one before.
    pub(super) last: Option<Ended>,
    pub(super) previous: Option<Ended>,
    pub(super) crashes: Backoff,
    pub(super) pulls: Backoff,
    pub(super) identity: Identity,
    /// What the current container was made from; empty before, and where nobody knows.
    pub(super) made_from: String,
    /// Requests and limits that the current container has.
    pub(super) granted: ResourceRequirements,
    /// A change of them is under way, or has failed with a message.
    pub(super) resizing: Option<Option<String>>,
    /// It is started again whatever the policy says: it was ended for that.
    pub(super) again: bool,
}

/// A run that ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) id: String,
    pub(super) attempt: u32,
    pub(super) exit: Exit,
}

#[derive(Debug)]
pub(super) enum State {
    /// To be started when its turn comes.
    Waiting,
    /// To be started at a time.
    BackOff {
        until: Timestamp,
    },
    Pulling,
    /// The image could not be had. It reads ErrImagePull first and ImagePullBackOff after a moment.
    PullBackOff {
        until: Timestamp,
        settles: Timestamp,
        /// That it waits was told.
        told: bool,
        reason: String,
        message: String,
    },
    Creating,
    CreateBackOff {
        until: Timestamp,
        reason: String,
        message: String,
    },
    Starting {
        id: String,
    },
    Running(Box<Running>),
    /// Ended, or never started, and not to be started again.
    Ended,
}

/// A container that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) id: String,
    pub(super) started_at: Timestamp,
    /// The postStart hook is under way; nothing is probed before it has ended.
    pub(super) hooking: bool,
    pub(super) started: bool,
    pub(super) ready: bool,
    pub(super) probes: Probes,
    pub(super) stopping: Option<Stopping>,
}

impl Member {
    pub(super) fn new(role: Role, spec: Container) -> Self {
        Self {
            role,
            spec,
            state: State::Waiting,
            attempt: 0,
            used: false,
            passed: false,
            last: None,
            previous: None,
            crashes: Backoff::kubelet(),
            pulls: Backoff::kubelet(),
            identity: Identity::default(),
            made_from: String::new(),
            granted: ResourceRequirements::default(),
            resizing: None,
            again: false,
        }
    }

    /// Whether a container exists that may run, or one is being made.
    pub(super) fn busy(&self) -> bool {
        matches!(self.state, State::Creating | State::Starting { .. } | State::Running(_))
    }

    pub(super) fn running(&self) -> Option<&Running> {
        match &self.state {
            State::Running(running) => Some(running),
            _ => None,
        }
    }

    /// The current run, if it is the one with this id.
    pub(super) fn running_as(&mut self, id: &str) -> Option<&mut Running> {
        match &mut self.state {
            State::Running(running) if running.id == id => Some(running),
            _ => None,
        }
    }

    pub(super) fn exit_code(&self) -> Option<i32> {
        self.last.as_ref().map(|ended| ended.exit.code)
    }
}
