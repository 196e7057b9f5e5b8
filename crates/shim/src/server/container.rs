//! What the shim holds of a pod.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use vaquita_cgroup::Cgroup;
use vaquita_runtime::{StartHandle, Surroundings};
use vaquita_sys::ns;

use super::attach::Stdin;
use super::connection::Asker;
use super::creator::Target;
use super::deletion::Deletion;
use super::output::Output;
use crate::log::LogFile;
use crate::{ContainerState, Exit, IdMap, Namespaces, SandboxState, Status};

/// The pod itself: its namespaces, and the process that stands for them.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    /// Which of its namespaces are not the host's.
    pub(super) new: Namespaces,
    /// Whom the users of its user namespace are on the host, if that is new.
    pub(super) uid_maps: Vec<IdMap>,
    pub(super) cgroup_path: PathBuf,
    pub(super) cgroup: Option<Cgroup>,
    /// Kills for want of memory in the pod's group that are accounted for: of containers that have ended, and older ones.
    pub(super) ooms: u64,
    pub(super) created_at_ns: i64,
    pub(super) phase: SandboxPhase,
}

/// Where the sandbox is in its life.
#[derive(Debug)]
pub(super) enum SandboxPhase {
    /// A creator is at work.
    Creating,
    /// The pause process runs, or has ended: the namespaces stay.
    Made { pid: i32, pidfd: OwnedFd, running: bool, namespaces: Vec<(ns::Kind, OwnedFd)> },
}

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) target: Target,
    /// Worked out with the first exec.
    pub(super) surroundings: Option<Surroundings>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) created_at_ns: i64,
    pub(super) started_at_ns: i64,
    pub(super) phase: Phase,
    pub(super) process: Option<Process>,
    pub(super) log: Option<LogFile>,
    pub(super) outputs: Vec<Output>,
    pub(super) stdin: Stdin,
    /// Standard input was asked for: of use until there is a terminal.
    pub(super) open_stdin: bool,
    pub(super) execs: Vec<Exec>,
    pub(super) deletion: Option<Deletion>,
    pub(super) elsewhere: Elsewhere,
}

/// What there is of a container beside its processes, its cgroup and what the shim holds: with another runtime, or with
/// whom the hooks of its end will tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Elsewhere {
    Nothing,
    Something,
    /// It is being told to forget it.
    Leaving,
}

/// Where a container is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// A creator is at work.
    Creating,
    /// Waits to be started: by another runtime, if there is no handle.
    Created(Option<StartHandle>),
    /// Another runtime is starting it.
    Launching,
    /// Hooks run before it is started.
    Preparing(StartHandle),
    /// Was released, and has not executed its program yet.
    Starting(Start),
    /// Its program runs.
    Running,
    /// It has ended.
    Stopped(Exit),
}

/// A child of ours that has not been reaped. Its pid cannot have a new owner before that.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
}

/// A process that is about to execute its program, and who wants to know.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) token: u64,
    pub(super) handle: StartHandle,
    pub(super) asker: Asker,
}

/// A process run in a container beside its own.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) id: String,
    pub(super) started_at_ns: i64,
    pub(super) process: Option<Process>,
    pub(super) phase: ExecPhase,
}

/// Where an exec session is in its life. When it has ended it is forgotten.
#[derive(Debug)]
pub(super) enum ExecPhase {
    /// A creator is at work.
    Creating,
    /// Was made, and has not executed its program yet.
    Starting { start: Start, console: Option<OwnedFd> },
    /// Its program runs.
    Running,
}

impl Sandbox {
    pub(super) fn state(&self) -> Option<SandboxState> {
        let SandboxPhase::Made { pid, running, .. } = &self.phase else { return None };
        Some(SandboxState {
            id: self.id.clone(),
            pid: *pid,
            running: *running,
            created_at_ns: self.created_at_ns,
        })
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, SandboxPhase::Made { running: true, .. })
    }

    /// The namespaces that the pod has of its own, among those wanted.
    pub(super) fn namespaces(&self, wanted: Namespaces) -> Vec<(ns::Kind, &OwnedFd)> {
        let SandboxPhase::Made { namespaces, .. } = &self.phase else { return Vec::new() };
        let wanted = kinds(wanted);
        namespaces.iter().filter(|(kind, _)| wanted.contains(kind)).map(|(kind, fd)| (*kind, fd)).collect()
    }
}

impl Container {
    pub(super) fn state(&self) -> Option<ContainerState> {
        let (status, exit) = match &self.phase {
            Phase::Creating => return None,
            Phase::Created(_) | Phase::Preparing(_) => (Status::Created, None),
            Phase::Launching | Phase::Starting(_) | Phase::Running => (Status::Running, None),
            Phase::Stopped(exit) => (Status::Stopped, Some(exit.clone())),
        };
        Some(ContainerState {
            id: self.id.clone(),
            status,
            pid: self.process.as_ref().map_or(0, |process| process.pid),
            created_at_ns: self.created_at_ns,
            started_at_ns: self.started_at_ns,
            exit,
            execs: self
                .execs
                .iter()
                .filter(|exec| matches!(exec.phase, ExecPhase::Running))
                .map(|exec| exec.id.clone())
                .collect(),
            log_lost_bytes: self.log.as_ref().map_or(0, LogFile::lost),
        })
    }
}

/// A set of namespaces as a list, in the order in which descriptors of them travel.
pub(super) fn kinds(set: Namespaces) -> Vec<ns::Kind> {
    let Namespaces { ipc, net, pid, user, uts } = set;
    [
        (user, ns::Kind::User),
        (ipc, ns::Kind::Ipc),
        (net, ns::Kind::Net),
        (pid, ns::Kind::Pid),
        (uts, ns::Kind::Uts),
    ]
    .into_iter()
    .filter_map(|(wanted, kind)| wanted.then_some(kind))
    .collect()
}
