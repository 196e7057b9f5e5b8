//! Processes beside a container's own.
//!
//! Most are cloned by the shim itself, and go their way without it: an exec, which probes make every few seconds, costs
//! one clone and no copy of the shim. What remains for a creator is what it has to wait for (a terminal, another runtime).

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::Pid;
use vaquita_cgroup::Cgroup;
use vaquita_runtime::{ExecArgs, ExecPlan, Execed, ParentOf, StartHandle, Stdio, document};
use vaquita_sys::process;
use vaquita_sys::procfs::Procfs;
use vaquita_sys::signal::{self, Signal};

use super::connection::Asker;
use super::container::{Exec, ExecPhase, Phase, Process, Start};
use super::creator::{self, Made, Purpose, or_null};
use super::requests::send;
use super::{Server, external, now_ns};
use crate::wire::MAX_INLINE;
use crate::{Error, Kind};

impl Server {
    pub(super) fn exec(
        &mut self,
        asker: Asker,
        (container, exec_id): (&str, &str),
        process: &[u8],
        stdio: [Option<OwnedFd>; 3],
    ) -> Result<(), Error> {
        let at = self.find(container)?;
        let found = &self.containers[at];
        let (Phase::Running, Some(init), None) = (&found.phase, &found.process, &found.deletion) else {
            return Err(Error::new(Kind::State, format!("container {container} does not run")));
        };
        if found.execs.iter().any(|exec| exec.id == exec_id) {
            let message = format!("container {container} has an exec session {exec_id} already");
            return Err(Error::new(Kind::Exists, message));
        }
        let init = init.pidfd.try_clone().map_err(|error| Error::io(error, "dup"))?;
        let begun = match self.plan_alone(at, process) {
            Ok(Some(plan)) => self.launch(asker, at, &plan, &init, stdio),
            Ok(None) => self.begin_exec(asker, (at, exec_id), process, init, stdio),
            Err(error) => Err(error),
        };
        let (process, phase) = begun.map_err(|error| self.failed_exec(container, error))?;
        let exec = Exec { id: exec_id.to_owned(), started_at_ns: now_ns(), process, phase };
        self.containers[at].execs.push(exec);
        Ok(())
    }

    /// A process that the shim can leave alone; none if it takes a creator.
    fn plan_alone(&mut self, at: usize, process: &[u8]) -> Result<Option<ExecPlan>, Error> {
        let container = &mut self.containers[at];
        // The heap of the shim shall not grow with what somebody asks for. And what is frozen as soon as it is born has
        // copies of all descriptors of its maker: with the shim's, clients would not see the shim die.
        let is_frozen = |cgroup: &Cgroup| cgroup.is_frozen().unwrap_or(true);
        let is_ours = container.target.runtime.is_none() && process.len() <= MAX_INLINE;
        if !is_ours || container.cgroup.as_ref().is_none_or(is_frozen) {
            return Ok(None);
        }
        let work = AssertUnwindSafe(|| {
            let context = container.target.context(&container.id);
            let surroundings = match &container.surroundings {
                Some(surroundings) => surroundings,
                None => {
                    let surroundings = creator::surroundings(&container.target, &context)?;
                    container.surroundings.insert(surroundings)
                }
            };
            let process = document::parse_own("process", process)?;
            Ok(ExecPlan::within(&process, surroundings, &context)?)
        });
        // A creator that panics is gone; the shim must stay.
        let plan = catch_unwind(work)
            .unwrap_or_else(|_| Err(Error::new(Kind::Invalid, "no plan can be made of this process")))?;
        Ok(Some(plan).filter(ExecPlan::goes_alone))
    }

    /// Clones the process.
    fn launch(
        &mut self,
        asker: Asker,
        at: usize,
        plan: &ExecPlan,
        init: &OwnedFd,
        stdio: [Option<OwnedFd>; 3],
    ) -> Result<(Option<Process>, ExecPhase), Error> {
        let container = &self.containers[at];
        let [stdin, stdout, stderr] = stdio;
        let fds = [or_null(stdin)?, or_null(stdout)?, or_null(stderr)?];
        creator::give(&fds, plan.uid(), &container.target.uid_maps)?;
        let procfs = match &mut self.procfs {
            Some(procfs) => procfs,
            none => none.insert(Procfs::open()?),
        };
        let args = ExecArgs {
            init: init.as_fd(),
            stdio: Stdio::Fds(fds),
            created: false,
            cgroup: container.cgroup.as_ref(),
            extra_fds: Vec::new(),
            new_keyring: true,
            parent: ParentOf::Caller,
        };
        let Execed { pid, pidfd, started, .. } = vaquita_runtime::launch(plan, args, procfs)?;
        let phase = self.starting(asker, started, None).inspect_err(|_| {
            // Nobody would hear of it.
            let _ = signal::send(&pidfd, Signal::KILL);
        })?;
        Ok((Some(Process { pid: pid.as_raw_nonzero().get(), pidfd }), phase))
    }

    /// Has a creator make the process.
    fn begin_exec(
        &mut self,
        asker: Asker,
        (at, exec_id): (usize, &str),
        process: &[u8],
        init: OwnedFd,
        stdio: [Option<OwnedFd>; 3],
    ) -> Result<(Option<Process>, ExecPhase), Error> {
        let container = self.containers[at].id.clone();
        let (target, layout) = (self.containers[at].target.clone(), self.layout.clone());
        let purpose = Purpose::Exec { container: container.clone(), exec_id: exec_id.to_owned() };
        let present = stdio.each_ref().map(Option::is_some);
        let mut fds = vec![init];
        fds.extend(stdio.into_iter().flatten());
        self.begin_job(asker, purpose, fds, |fds| {
            let mut fds = fds.into_iter();
            let init = fds.next().ok_or_else(|| Error::new(Kind::Corrupt, "a descriptor got lost"))?;
            let stdio = present.map(|present| if present { fds.next() } else { None });
            match &target.runtime {
                Some(how) => external::make_exec(&target, how, &container, process, stdio),
                None => creator::make_exec((&container, &target), &layout, process, init, stdio),
            }
            .map(Some)
        })?;
        Ok((None, ExecPhase::Creating))
    }

    /// The phase of a process that says by this handle how it went.
    fn starting(
        &mut self,
        asker: Asker,
        handle: StartHandle,
        console: Option<OwnedFd>,
    ) -> Result<ExecPhase, Error> {
        let token = self.new_token();
        self.watch(&handle, token)?;
        Ok(ExecPhase::Starting { start: Start { token, handle, asker }, console })
    }

    /// Why no process came to be in a container: because that has ended meanwhile, or is about to, if so. Whatever step it
    /// was that failed then is of no interest.
    pub(super) fn failed_exec(&self, container: &str, error: Error) -> Error {
        let init = self.find(container).ok().and_then(|at| self.containers[at].process.as_ref());
        let pid = init.and_then(|init| Pid::from_raw(init.pid));
        let look = pid.and_then(|pid| process::look(pid).ok().flatten());
        let runs = look.is_some_and(|look| !look.exiting && !matches!(look.state, 'Z' | 'X'));
        match error.kind() {
            Kind::Exec(_) | Kind::Invalid | Kind::Unsupported => error,
            _ if runs => error,
            _ => Error::new(Kind::State, format!("container {container} does not run any more: {error}"))
                .with_source(error),
        }
    }

    pub(super) fn exec_made(
        &mut self,
        asker: Asker,
        container: &str,
        exec_id: &str,
        made: Result<Made, Error>,
    ) {
        if let Some((at, exec)) = self.find_exec(container, exec_id)
            && self.containers[at].target.runtime.is_some()
        {
            return self.exec_made_elsewhere(asker, (at, exec), made);
        }
        let result = made.and_then(|made| {
            let mut others = made.others.into_iter();
            let handle = others.next().ok_or_else(|| Error::new(Kind::Corrupt, "a descriptor got lost"))?;
            let phase = self.starting(asker, StartHandle::from_fd(handle), others.next())?;
            Ok((Process { pid: made.pid, pidfd: made.pidfd }, phase))
        });
        // When the container is gone, so is the process, or about to be.
        let Some((at, exec)) = self.find_exec(container, exec_id) else {
            let error = Error::new(Kind::NotFound, format!("container {container} is gone"));
            return self.reply_error(asker, &error);
        };
        match result {
            Ok((process, phase)) => {
                self.containers[at].execs[exec].process = Some(process);
                self.containers[at].execs[exec].phase = phase;
            }
            Err(error) => {
                self.containers[at].execs.swap_remove(exec);
                let error = self.failed_exec(container, error);
                self.reply_error(asker, &error);
            }
        }
    }

    pub(super) fn kill_exec(&self, container: &str, exec_id: &str) -> Result<(), Error> {
        let container = &self.containers[self.find(container)?];
        let exec = container.execs.iter().find(|exec| exec.id == exec_id);
        send(exec.and_then(|exec| exec.process.as_ref()), Signal::KILL)
    }
}
