//! Deleting: kill, see it die, remove its cgroup, forget it. Nothing waits; each step is looked at when it may be done.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, kill_process_group};
use vaquita_cgroup::{Cgroup, Driver, Location};
use vaquita_sys::signal::{self, Signal};

use super::connection::Asker;
use super::container::{Phase, SandboxPhase};
use super::creator::Purpose;
use super::requests::send;
use super::{Server, monotonic_ms};
use crate::{Error, Kind};

/// A deletion under way.
#[derive(Debug)]
pub(super) struct Deletion {
    pub(super) askers: Vec<Asker>,
    deadline_ms: i64,
    next_ms: i64,
    delay_ms: i64,
    attempts: u32,
}

/// What a look at a deletion has shown.
enum Step {
    Done,
    Wait,
    Failed(Error),
}

/// How long killed processes may take to be gone. Those in uninterruptible sleep can take for ever.
const PATIENCE_MS: i64 = 10_000;
/// The longest time between two looks.
const MAX_DELAY_MS: i64 = 50;
/// How many looks go by before processes that survive are frozen to be killed.
const PATIENT_ATTEMPTS: u32 = 10;

impl Deletion {
    fn new(asker: Option<Asker>) -> Self {
        let now = monotonic_ms();
        Self {
            askers: asker.into_iter().collect(),
            deadline_ms: now + PATIENCE_MS,
            next_ms: now,
            delay_ms: 1,
            attempts: 0,
        }
    }

    /// Others have to end first, which may take as long as they say.
    pub(super) fn prolong(&mut self) {
        self.deadline_ms = i64::MAX;
    }

    /// Something has changed.
    pub(super) fn look_again(&mut self) {
        self.next_ms = 0;
    }

    /// Whether it is time for a look; the next is due later then.
    fn is_due(&mut self, now: i64) -> bool {
        let due = now >= self.next_ms;
        if due {
            self.next_ms = now + self.delay_ms;
            self.attempts += 1;
            self.delay_ms = (self.delay_ms * 2).min(MAX_DELAY_MS);
        }
        due
    }
}

impl Server {
    /// Begins to delete a container, or joins a deletion that is under way.
    pub(super) fn delete(&mut self, asker: Asker, id: &str) {
        let Ok(at) = self.find(id) else { return self.reply_done(asker) };
        match &mut self.containers[at].deletion {
            Some(deletion) => deletion.askers.push(asker),
            None => self.begin_deletion(at, Some(asker)),
        }
    }

    /// Begins to delete everything, after which the shim ends.
    pub(super) fn delete_sandbox(&mut self, asker: Asker) {
        for at in 0..self.containers.len() {
            if self.containers[at].deletion.is_none() {
                self.begin_deletion(at, None);
            }
        }
        if let Some(sandbox) = &self.sandbox {
            match &sandbox.phase {
                SandboxPhase::Creating => {}
                SandboxPhase::Made { pidfd, .. } => drop(signal::send(pidfd, Signal::KILL)),
            }
        }
        match &mut self.farewell {
            Some(deletion) => deletion.askers.push(asker),
            None => self.farewell = Some(Deletion::new(Some(asker))),
        }
    }

    /// Looks at what is being deleted, and finishes what can be.
    pub(super) fn continue_deletions(&mut self) {
        let now = monotonic_ms();
        for at in (0..self.containers.len()).rev() {
            let container = &mut self.containers[at];
            let Some(deletion) = &mut container.deletion else { continue };
            if !deletion.is_due(now) {
                continue;
            }
            let expired = now >= deletion.deadline_ms;
            let result = match self.deletion_step(at) {
                Step::Done => Ok(()),
                Step::Wait if !expired => continue,
                Step::Wait => Err(self.give_up_deletion(at)),
                Step::Failed(error) => Err(error),
            };
            let deletion = self.containers[at].deletion.take();
            if result.is_ok() {
                self.close_outputs(at);
                self.containers.remove(at);
            }
            self.answer_deletion(deletion, &result);
        }
        self.continue_farewell(now);
    }

    /// How many milliseconds until the next look at a deletion.
    pub(super) fn next_deletion_check(&self) -> Option<i64> {
        let containers = self.containers.iter().filter_map(|container| container.deletion.as_ref());
        let next = containers.chain(&self.farewell).map(|deletion| deletion.next_ms).min()?;
        Some((next - monotonic_ms()).max(0))
    }

    fn begin_deletion(&mut self, at: usize, asker: Option<Asker>) {
        let container = &mut self.containers[at];
        container.deletion = Some(Deletion::new(asker));
        let _ = send(container.process.as_ref(), Signal::KILL);
        for exec in &container.execs {
            let _ = send(exec.process.as_ref(), Signal::KILL);
        }
    }

    /// Too long. If it is the making of the container or of an exec session that hangs, the next attempt may go better.
    fn give_up_deletion(&self, at: usize) -> Error {
        let id = &self.containers[at].id;
        self.kill_workers(|purpose| purpose.container() == Some(id));
        Error::new(Kind::Busy, format!("processes of container {id} do not die"))
    }

    fn deletion_step(&mut self, at: usize) -> Step {
        let container = &self.containers[at];
        if let Phase::Creating = container.phase {
            return Step::Wait;
        }
        let attempts = container.deletion.as_ref().map_or(0, |deletion| deletion.attempts);
        // Made after the deletion began.
        let _ = send(container.process.as_ref(), Signal::KILL);
        for exec in &container.execs {
            let _ = send(exec.process.as_ref(), Signal::KILL);
        }
        if let Some(cgroup) = &container.cgroup {
            match cgroup.is_populated() {
                Ok(true) => {
                    let _ = kill_all(cgroup, attempts);
                    return Step::Wait;
                }
                Ok(false) => {}
                Err(error) => return Step::Failed(error.into()),
            }
        }
        if container.process.is_some() || !container.execs.is_empty() {
            return Step::Wait;
        }
        // Hooks hear of what is gone; another runtime removes more than the cgroup.
        let hooks_are_last = container.target.runtime.is_none();
        if hooks_are_last {
            match self.remove_cgroup(at) {
                Step::Done => self.containers[at].cgroup = None,
                other => return other,
            }
        }
        match self.erase_elsewhere(at) {
            Ok(true) if hooks_are_last => Step::Done,
            Ok(true) => self.remove_cgroup(at),
            Ok(false) => Step::Wait,
            Err(error) => Step::Failed(error),
        }
    }

    fn remove_cgroup(&self, at: usize) -> Step {
        let container = &self.containers[at];
        remove(container.cgroup.as_ref(), &container.target.cgroup_path)
    }

    fn continue_farewell(&mut self, now: i64) {
        let Some(deletion) = &mut self.farewell else { return };
        let deadline = deletion.deadline_ms;
        if !self.containers.is_empty() {
            deletion.is_due(now);
            // Their deletions are under way, unless they have failed.
            if self.containers.iter().any(|container| container.deletion.is_none()) {
                let deletion = self.farewell.take();
                let error = Error::new(Kind::Busy, "a container of the pod could not be deleted");
                self.answer_deletion(deletion, &Err(error));
            }
            return;
        }
        let step = self.farewell_step();
        let result = match step {
            Step::Done => Ok(()),
            Step::Wait if now < deadline => {
                if let Some(deletion) = &mut self.farewell {
                    deletion.is_due(now);
                }
                return;
            }
            Step::Wait => {
                self.kill_workers(|purpose| *purpose == Purpose::Sandbox);
                Err(Error::new(Kind::Busy, "the pause process does not die"))
            }
            Step::Failed(error) => Err(error),
        };
        let deletion = self.farewell.take();
        if result.is_ok() {
            self.sandbox = None;
            self.end();
        }
        self.answer_deletion(deletion, &result);
    }

    fn farewell_step(&self) -> Step {
        let Some(sandbox) = &self.sandbox else { return Step::Done };
        match &sandbox.phase {
            SandboxPhase::Creating => return Step::Wait,
            SandboxPhase::Made { running: true, pidfd, .. } => {
                let _ = signal::send(pidfd, Signal::KILL);
                return Step::Wait;
            }
            SandboxPhase::Made { .. } => {}
        }
        remove(sandbox.cgroup.as_ref(), &sandbox.cgroup_path)
    }

    fn answer_deletion(&mut self, deletion: Option<Deletion>, result: &Result<(), Error>) {
        for asker in deletion.into_iter().flat_map(|deletion| deletion.askers) {
            match result {
                Ok(()) => self.reply_done(asker),
                Err(error) => self.reply_error(asker, error),
            }
        }
    }

    /// Kills copies of ours that make what nobody wants any more, and are stuck: one that is not will soon have made it,
    /// and what is known is easier to end than what is half made.
    fn kill_workers(&self, unwanted: impl Fn(&Purpose) -> bool) {
        for job in self.jobs.iter().filter(|job| unwanted(&job.purpose)) {
            let _ = signal::send(&job.worker, Signal::KILL);
            // With the runtime that it has called, if it has. It is in the list until it is reaped, so this is its group or none.
            if let Some(group) = Pid::from_raw(job.pid) {
                let _ = kill_process_group(group, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Sends SIGKILL to whatever is in the group. Where the kernel does not do that in one step, processes that make new
/// ones can escape it: then, later, they are frozen first, which can take long and is for the stubborn only.
fn kill_all(cgroup: &Cgroup, attempts: u32) -> Result<(), vaquita_cgroup::Error> {
    if attempts > PATIENT_ATTEMPTS { cgroup.kill() } else { cgroup.signal_all(Signal::KILL) }
}

/// Without waiting: if it is still in use we come again.
fn remove(cgroup: Option<&Cgroup>, path: &Path) -> Step {
    match cgroup.map(|cgroup| remove_empty(cgroup, path)) {
        None | Some(Ok(())) => Step::Done,
        Some(Err(error)) if error.kind() == vaquita_cgroup::Kind::Busy => Step::Wait,
        Some(Err(error)) => Step::Failed(error.into()),
    }
}

/// Removes a group that nobody is in. systemd removes its own by itself, and would not notice if somebody else did.
pub(super) fn remove_empty(cgroup: &Cgroup, path: &Path) -> Result<(), vaquita_cgroup::Error> {
    match Location::at(path).driver() {
        Driver::Cgroupfs => cgroup.remove_within(Duration::ZERO),
        Driver::Systemd => Ok(()),
    }
}
