//! Beginnings and ends of processes, as they are seen.

use rustix::event::epoll;
use vaquita_sys::process::{Exit as ProcessExit, reap_any};
use vaquita_sys::signal::Signal;

use super::attach::Stdin;
use super::container::{ExecPhase, Phase, SandboxPhase, Start};
use super::{Server, complain, now_ns};
use crate::wire::Response;
use crate::{Event, Exit, ExitRecord, Exited, disk};

impl Server {
    /// Children have ended: ours, what creators made, creators, and orphans that we were given.
    pub(super) fn reap(&mut self) {
        // One signal can stand for many ends.
        while let Ok(Some(_)) = self.signals.next() {}
        loop {
            match reap_any() {
                Ok(Some((pid, exit))) => self.process_ended(pid.as_raw_nonzero().get(), exit),
                Ok(None) => return,
                Err(error) => {
                    complain(format_args!("{error}"));
                    return;
                }
            }
        }
    }

    pub(super) fn process_ended(&mut self, pid: i32, exit: ProcessExit) {
        if let Some(sandbox) = &mut self.sandbox
            && let SandboxPhase::Made { pid: ours, running, .. } = &mut sandbox.phase
            && *running
            && *ours == pid
        {
            *running = false;
            let id = sandbox.id.clone();
            let exit = seen(exit, sandbox.created_at_ns, false);
            self.tell(Event::Exited(Exited { id, exec_id: None, exit }));
            return;
        }
        for at in 0..self.containers.len() {
            let container = &self.containers[at];
            if container.process.as_ref().is_some_and(|process| process.pid == pid) {
                return self.container_ended(at, exit);
            }
            let is_it = |process: &super::container::Process| process.pid == pid;
            if let Some(exec) =
                container.execs.iter().position(|exec| exec.process.as_ref().is_some_and(is_it))
            {
                return self.exec_ended(at, exec, exit);
            }
        }
        if let Some(job) = self.jobs.iter().find(|job| job.pid == pid) {
            // Its result is here by now, if there is one. That it died without may not show on the socket: what it was
            // making can have a copy of the other end.
            self.finish_job(job.token);
            return;
        }
        if !self.jobs.is_empty() {
            self.strays.push((pid, exit));
        }
    }

    /// The order matters: why it died, what it wrote, what it left running, the record, and only then the news.
    fn container_ended(&mut self, at: usize, exit: ProcessExit) {
        // At once: systemd removes a scope in which nobody is left.
        let oom = self.was_out_of_memory(at);
        self.resolve_start(at);
        self.drain(at);
        let container = &mut self.containers[at];
        if let Some(cgroup) = &container.cgroup
            && cgroup.is_populated().unwrap_or(false)
        {
            // Without a PID namespace of its own, its children outlive it: they end with it all the same.
            let _ = cgroup.signal_all(Signal::KILL);
        }
        let exit = seen(exit, container.started_at_ns, oom);
        let record = ExitRecord::from(&exit).to_json();
        let written = disk::write(&container.target.bundle, ExitRecord::FILE, record.as_bytes());
        if let Err(error) = written {
            complain(format_args!("the exit of container {} is not recorded: {error}", container.id));
        }
        container.phase = Phase::Stopped(exit.clone());
        container.process = None;
        container.stdin = Stdin::Closed;
        if let Some(deletion) = &mut container.deletion {
            deletion.look_again();
        }
        let id = container.id.clone();
        self.tell(Event::Exited(Exited { id, exec_id: None, exit }));
    }

    fn exec_ended(&mut self, at: usize, exec: usize, exit: ProcessExit) {
        let id = self.containers[at].execs[exec].id.clone();
        self.resolve_exec(at, exec);
        let container = &mut self.containers[at];
        // One that could not be started is forgotten by now.
        let Some(exec) = container.execs.iter().position(|exec| exec.id == id) else { return };
        let exec = container.execs.swap_remove(exec);
        if let Some(deletion) = &mut container.deletion {
            deletion.look_again();
        }
        let id = container.id.clone();
        let exit = seen(exit, exec.started_at_ns, false);
        self.tell(Event::Exited(Exited { id, exec_id: Some(exec.id), exit }));
    }

    /// The process whose start handle has that token, if there is one, has executed its program or failed to.
    pub(super) fn finish_start(&mut self, token: u64) -> bool {
        for at in 0..self.containers.len() {
            let container = &self.containers[at];
            if matches!(&container.phase, Phase::Starting(start) if start.token == token) {
                self.resolve_start(at);
                return true;
            }
            let exec = container.execs.iter().position(
                |exec| matches!(&exec.phase, ExecPhase::Starting { start, .. } if start.token == token),
            );
            if let Some(exec) = exec {
                self.resolve_exec(at, exec);
                return true;
            }
        }
        false
    }

    /// Answers who started the container. Does nothing unless it is being started; call it only when the result is known.
    fn resolve_start(&mut self, at: usize) {
        let container = &mut self.containers[at];
        let start = match std::mem::replace(&mut container.phase, Phase::Running) {
            Phase::Starting(start) => start,
            other => {
                container.phase = other;
                return;
            }
        };
        let (asker, result) = self.await_start(start);
        if result.is_err() {
            self.containers[at].started_at_ns = 0;
        } else if self.containers[at].target.has_late_work {
            return self.tell_after_hooks(asker, at);
        }
        self.reply_result(asker, result);
    }

    /// The same for an exec session. One that failed is forgotten.
    fn resolve_exec(&mut self, at: usize, exec: usize) {
        let session = &mut self.containers[at].execs[exec];
        let (start, console) = match std::mem::replace(&mut session.phase, ExecPhase::Running) {
            ExecPhase::Starting { start, console } => (start, console),
            other => {
                session.phase = other;
                return;
            }
        };
        let pid = session.process.as_ref().map_or(0, |process| process.pid);
        let (asker, result) = self.await_start(start);
        match result {
            Ok(()) => self.reply(asker, &Response::Process { pid }, console.into_iter().collect()),
            Err(error) => {
                // What is left of it is reaped as a stranger.
                self.containers[at].execs.swap_remove(exec);
                let error = self.failed_exec(&self.containers[at].id, error);
                self.reply_error(asker, &error);
            }
        }
    }

    fn await_start(&self, start: Start) -> (super::connection::Asker, Result<(), crate::Error>) {
        let Start { handle, asker, .. } = start;
        let _ = epoll::delete(&self.epoll, &handle);
        (asker, handle.wait().map_err(Into::into))
    }
}

fn seen(exit: ProcessExit, started_at_ns: i64, oom: bool) -> Exit {
    Exit { code: exit.code, signal: exit.signal, oom, started_at_ns, finished_at_ns: now_ns() }
}
