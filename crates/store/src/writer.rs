//! The one thread that changes things.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::file::{Batch, Log, Meta, corrupt};
use crate::load::encode;
use crate::memory::Memory;
use crate::state::{Cut, Event, Limits, change};
use crate::{Entry, Error, Expect, Key, Kind, What};

/// A change that somebody waits for.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) key: Key,
    pub(crate) expect: Expect,
    pub(crate) body: Bytes,
    pub(crate) is_deletion: bool,
    pub(crate) answer: oneshot::Sender<Result<Entry, Error>>,
}

/// Waiting changes that one commit takes at most.
pub(crate) const BATCH_JOBS: usize = 256;
/// Bytes of bodies after which a commit takes no more.
const BATCH_BYTES: usize = 1 << 20;
/// Changes that leave the history with one commit, at most.
const CUT_EVENTS: usize = 1024;

/// Owns the file.
#[derive(Debug)]
pub(crate) struct Writer {
    log: Log,
    memory: Arc<Memory>,
    limits: Limits,
    jobs: mpsc::Receiver<Job>,
    /// A commit that failed, and may be on the disk nevertheless.
    unsettled: Option<Commit>,
}

#[derive(Debug)]
struct Commit {
    events: Vec<Event>,
    cut: Cut,
}

impl Writer {
    pub(crate) fn new(log: Log, memory: Arc<Memory>, limits: Limits, jobs: mpsc::Receiver<Job>) -> Self {
        Self { log, memory, limits, jobs, unsettled: None }
    }

    /// Works until nobody can ask any more.
    pub(crate) fn run(mut self) {
        while let Some(first) = self.jobs.blocking_recv() {
            let mut bytes = first.body.len();
            let mut jobs = vec![first];
            while jobs.len() < BATCH_JOBS && bytes < BATCH_BYTES {
                let Ok(job) = self.jobs.try_recv() else { break };
                bytes += job.body.len();
                jobs.push(job);
            }
            // Nobody waits for these any more.
            jobs.retain(|job| !job.answer.is_closed());
            self.work(jobs);
        }
    }

    fn work(&mut self, jobs: Vec<Job>) {
        let decided = self.settle().map(|()| self.decide(&jobs));
        let outcome = decided.and_then(|(answers, events)| {
            if !events.is_empty() {
                self.commit(events)?;
            }
            Ok(answers)
        });
        match outcome {
            Ok(answers) => {
                for (job, answer) in jobs.into_iter().zip(answers) {
                    let _ = job.answer.send(answer);
                }
            }
            // What was refused because of a change that came to nothing is told so too.
            Err(error) => {
                tracing::warn!("{error}");
                for job in jobs {
                    let what = if job.is_deletion { "delete" } else { "write" };
                    let _ = job.answer.send(Err(error.clone().context(format!("{what} {}", job.key))));
                }
            }
        }
    }

    /// What each job amounts to, one after another.
    fn decide(&self, jobs: &[Job]) -> (Vec<Result<Entry, Error>>, Vec<Event>) {
        let time = now();
        let state = self.memory.read();
        let mut revision = state.revision;
        let mut events: Vec<Event> = Vec::with_capacity(jobs.len());
        // What this batch has changed so far.
        let mut changed: HashMap<&str, Option<Entry>> = HashMap::new();
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            let before = match changed.get(job.key.text()) {
                Some(entry) => entry.clone(),
                None => state.entry(&job.key).cloned(),
            };
            if let Err(error) = check(job, before.as_ref()) {
                answers.push(Err(error));
                continue;
            }
            revision += 1;
            // Copied, so that nothing but the body stays in memory.
            let body = Bytes::copy_from_slice(&job.body);
            let entry = Entry { key: Arc::new(job.key.clone()), revision, body };
            let change = change(entry, before, job.is_deletion);
            changed.insert(job.key.text(), (change.what != What::Deleted).then(|| change.entry.clone()));
            answers.push(Ok(change.entry.clone()));
            events.push(Event { change, time });
        }
        (answers, events)
    }

    /// Makes changes durable, then visible.
    fn commit(&mut self, events: Vec<Event>) -> Result<(), Error> {
        let batch = {
            let state = self.memory.read();
            let cut = state.cut(self.limits, now(), events.len(), CUT_EVENTS);
            let compacted = state.compacted + cut.events as u64;
            let revision = state.revision + events.len() as u64;
            self.unsettled = Some(Commit { events, cut });
            let Some(Commit { events, cut }) = &self.unsettled else { return Ok(()) };
            let rows = events.iter().map(|event| (event.change.entry.revision, encode(event))).collect();
            Batch { rows, drop: cut.rows.clone(), meta: Meta { revision, compacted } }
        };
        match self.log.write(&batch) {
            Ok(()) => {
                self.publish();
                Ok(())
            }
            Err(error) => {
                self.settle()?;
                // Settled: it was made all the same, or never will be.
                if self.memory.read().revision == batch.meta.revision { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Finds out what became of a commit that failed.
    fn settle(&mut self) -> Result<(), Error> {
        let Some(Commit { events, .. }) = &self.unsettled else { return Ok(()) };
        let made = events.last().map(|event| event.change.entry.revision);
        let found = self.log.meta()?.revision;
        if Some(found) == made {
            self.publish();
            return Ok(());
        }
        let known = self.memory.read().revision;
        if found != known {
            return Err(corrupt(format!("the file is at revision {found}, and was at {known} before")));
        }
        self.unsettled = None;
        Ok(())
    }

    fn publish(&mut self) {
        if let Some(Commit { events, cut }) = self.unsettled.take() {
            self.memory.advance(&events, cut.events);
        }
    }
}

/// Whether a job finds what it expects.
fn check(job: &Job, found: Option<&Entry>) -> Result<(), Error> {
    let key = &job.key;
    let kind_text = match (job.expect, found) {
        (Expect::Absent, Some(_)) => (Kind::Exists, format!("{key} exists already")),
        (Expect::Revision(wanted), Some(found)) if found.revision != wanted => {
            (Kind::Conflict, format!("{key} is at revision {}, and {wanted} was expected", found.revision))
        }
        (Expect::Revision(_), None) => (Kind::Absent, format!("{key} does not exist")),
        (_, None) if job.is_deletion => (Kind::Absent, format!("{key} does not exist")),
        _ => return Ok(()),
    };
    Err(Error::new(kind_text.0, kind_text.1))
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
