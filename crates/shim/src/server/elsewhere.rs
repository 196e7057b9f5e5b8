//! What is asked of containers that another runtime makes: begun here, done by copies (`external`). To be told of their
//! ends is also for the hooks of those that the shim makes.

use vaquita_sys::signal::Signal;

use super::connection::Asker;
use super::container::{Elsewhere, ExecPhase, Phase, Process};
use super::creator::{Made, Purpose, Target};
use super::requests::send;
use super::{Server, complain, external, hooks, now_ns};
use crate::wire::Response;
use crate::{Error, Kind, OciRuntime};

impl Server {
    pub(super) fn start_elsewhere(&mut self, asker: Asker, at: usize) -> Result<(), Error> {
        let id = self.containers[at].id.clone();
        let begun = self.begin_call(asker, at, Purpose::Start { id }, external::start);
        let container = &mut self.containers[at];
        container.phase = if begun.is_ok() { Phase::Launching } else { Phase::Created(None) };
        container.started_at_ns = now_ns();
        begun
    }

    pub(super) fn started_elsewhere(&mut self, asker: Asker, id: &str, result: Result<(), Error>) {
        if let Ok(at) = self.find(id) {
            let container = &mut self.containers[at];
            if let Phase::Launching = container.phase {
                container.phase = Phase::Running;
            }
            if result.is_err() {
                // It stops, as one does that could not execute its program.
                container.started_at_ns = 0;
                let _ = send(container.process.as_ref(), Signal::KILL);
            }
        }
        self.reply_result(asker, result);
    }

    pub(super) fn signal_elsewhere(&mut self, asker: Asker, at: usize, signal: i32) -> Result<(), Error> {
        let id = self.containers[at].id.clone();
        self.begin_call(asker, at, Purpose::Signal { id }, move |target, how, id| {
            external::kill(target, how, id, signal)
        })
    }

    pub(super) fn signalled_elsewhere(&mut self, asker: Asker, id: &str, result: Result<(), Error>) {
        let has_ended = self.find(id).is_ok_and(|at| self.containers[at].process.is_none());
        self.reply_result(asker, if has_ended { Ok(()) } else { result });
    }

    pub(super) fn exec_made_elsewhere(
        &mut self,
        asker: Asker,
        (at, exec): (usize, usize),
        made: Result<Made, Error>,
    ) {
        match made {
            Ok(made) => {
                let session = &mut self.containers[at].execs[exec];
                session.process = Some(Process { pid: made.pid, pidfd: made.pidfd });
                session.phase = ExecPhase::Running;
                self.reply(asker, &Response::Process { pid: made.pid }, made.others);
            }
            Err(error) => {
                self.containers[at].execs.swap_remove(exec);
                self.reply_error(asker, &error);
            }
        }
    }

    /// Whether no other runtime has anything of a container any more, and no hook has to hear of its end; they are told, if
    /// they were not yet.
    pub(super) fn erase_elsewhere(&mut self, at: usize) -> Result<bool, Error> {
        match self.containers[at].elsewhere {
            Elsewhere::Nothing => return Ok(true),
            Elsewhere::Leaving => return Ok(false),
            Elsewhere::Something => {}
        }
        let id = self.containers[at].id.clone();
        let target = self.containers[at].target.clone();
        let purpose = Purpose::Erase { id: id.clone() };
        self.begin_job(Asker::NOBODY, purpose, Vec::new(), move |_| {
            match &target.runtime {
                Some(how) => external::delete(&target, how, &id),
                None => hooks::at_the_end(&id, &target),
            }
            .map(|()| None)
        })?;
        let container = &mut self.containers[at];
        container.elsewhere = Elsewhere::Leaving;
        if let Some(deletion) = container.deletion.as_mut().filter(|_| container.target.runtime.is_none()) {
            // As long as its hooks are allowed to take.
            deletion.prolong();
        }
        Ok(false)
    }

    /// Its processes are gone, and its cgroup goes in any case: a runtime that is not there any more, or in trouble, is no
    /// reason to keep the rest.
    pub(super) fn erased_elsewhere(&mut self, id: &str, result: Result<(), Error>) {
        if let Err(error) = result {
            complain(format_args!("container {id} is deleted without its runtime or hooks: {error}"));
        }
        if let Ok(at) = self.find(id) {
            let container = &mut self.containers[at];
            container.elsewhere = Elsewhere::Nothing;
            if let Some(deletion) = &mut container.deletion {
                deletion.look_again();
            }
        }
    }

    /// Has a copy call the runtime of a container.
    fn begin_call(
        &mut self,
        asker: Asker,
        at: usize,
        purpose: Purpose,
        call: impl FnOnce(&Target, &OciRuntime, &str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let container = &self.containers[at];
        let (id, target) = (container.id.clone(), container.target.clone());
        self.begin_job(asker, purpose, Vec::new(), move |_| match &target.runtime {
            Some(how) => call(&target, how, &id).map(|()| None),
            None => Err(Error::new(Kind::State, format!("container {id} has no other runtime"))),
        })
    }
}
