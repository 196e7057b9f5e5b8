//! `start`: lets a created container's process execute its program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{ContainerProcessState, Spec, State};
use vaquita_cgroup::Cgroup;
use vaquita_runtime::StartHandle;
use vaquita_runtime::seccomp::Agent;
use vaquita_sys::signal::{self, Signal};

use crate::state::START;
use crate::{Container, Error, Host, Id, Kind, Status, hooks};

/// Starts a created container; returns when its program has been executed.
///
/// # Errors
/// [`Kind::Status`] for a container that was started before; [`Kind::Exec`] and others when the start failed: the
/// container has stopped then.
pub fn start(host: &Host, id: &Id) -> Result<(), Error> {
    let container = Container::lock(host, id)?;
    match container.progress()? {
        Status::Created => {}
        Status::Stopped => {
            return Err(Error::new(
                Kind::Status,
                "cannot start a container that has stopped: delete it and create it anew",
            ));
        }
        _ => return Err(Error::new(Kind::Status, "cannot start an already running container")),
    }
    if container.record.has_no_process {
        return Err(no_process());
    }
    let init = container.init()?.ok_or_else(Error::not_running)?;
    let spec = if container.record.has_start_work { Some(container.spec()?) } else { None };
    let cgroup = if spec.is_some() { container.cgroup()? } else { None };
    let socket = vaquita_sys::socket::connect(container.directory.file(START))?;
    go(host, &container, spec.as_ref(), (init.as_fd(), cgroup.as_ref()), StartHandle::from_fd(socket))?;
    container.directory.forget(START)
}

/// What the specification wants of start then (runtime.md, "Start").
pub(crate) fn no_process() -> Error {
    Error::invalid("process is not set in config.json: there is no program to start")
}

/// Runs what comes before the word, gives it, and runs what comes after. A process that cannot be started is ended.
pub(crate) fn go(
    host: &Host,
    container: &Container,
    spec: Option<&Spec>,
    (init, cgroup): (BorrowedFd<'_>, Option<&Cgroup>),
    handle: StartHandle,
) -> Result<(), Error> {
    if let Err(error) = try_go(container, spec, (init, cgroup), handle) {
        let _ = signal::send(init, Signal::KILL);
        return Err(error);
    }
    hooks::poststart(host, &container.record, container.id());
    Ok(())
}

fn try_go(
    container: &Container,
    spec: Option<&Spec>,
    (init, cgroup): (BorrowedFd<'_>, Option<&Cgroup>),
    handle: StartHandle,
) -> Result<(), Error> {
    let Some(spec) = spec.filter(|_| container.record.has_start_work) else { return Ok(handle.start()?) };
    let agent = SeccompAgent::of(spec)?;
    hooks::start_container(spec, &container.record, container.id(), init, cgroup)?;
    let pid = container.record.init.map_or(0, |init| init.pid);
    handle.start_with(|listener: OwnedFd| match agent {
        Some(agent) => agent.send(listener, container, pid),
        None => Ok(()),
    })?;
    Ok(())
}

/// The agent of a seccomp profile, before the process is there that it answers for.
pub(crate) struct SeccompAgent {
    agent: Agent,
    metadata: Option<String>,
}

impl SeccompAgent {
    /// Connects to it. None for a profile that tells nobody of calls.
    pub(crate) fn of(spec: &Spec) -> Result<Option<Self>, Error> {
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let Some(profile) = profile.filter(|profile| vaquita_runtime::seccomp::notifies(profile)) else {
            return Ok(None);
        };
        let Some(path) = profile.listener_path() else { return Ok(None) };
        Ok(Some(Self { agent: Agent::connect(path)?, metadata: profile.listener_metadata().clone() }))
    }

    /// Gives it the listener of a process of the container.
    pub(crate) fn send(
        self,
        listener: OwnedFd,
        container: &Container,
        pid: i32,
    ) -> Result<(), vaquita_runtime::Error> {
        self.agent.send(listener, &process_state(container, pid, self.metadata))
    }
}

/// What the agent of a seccomp profile is told.
fn process_state(container: &Container, pid: i32, metadata: Option<String>) -> ContainerProcessState {
    let state = container.record.state(container.id(), Status::Running, pid);
    let mut told = ContainerProcessState::default();
    told.set_version(crate::SPEC_VERSION.to_owned());
    told.set_fds(vec![oci_spec::runtime::SECCOMP_FD_NAME.to_owned()]);
    told.set_pid(pid);
    told.set_metadata(metadata);
    if let Ok(state) = serde_json::from_value::<State>(state) {
        told.set_state(state);
    }
    told
}
