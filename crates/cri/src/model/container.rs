//! A container and its life.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use vaquita_proto::cri;
use vaquita_shim::Exit;

use super::Events;
use crate::nri::{Stage, Told};
use crate::{Error, Kind, Result};

/// Where a container is in its life.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ContainerPhase {
    /// The intent is recorded; parts may exist. Not listed. A server that starts takes it down.
    Creating,
    /// Set up, waiting to be started.
    Created,
    /// Its program was executed.
    Running,
    /// It ended, or never began.
    Exited(Ended),
}

/// Why a container is not running any more.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Reason {
    /// Exit code 0.
    Completed,
    /// Another exit code, or a signal.
    Error,
    /// The kernel killed it for want of memory.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// Its program could not be executed.
    StartError,
    /// Nobody saw how it ended: its shim was gone.
    Unknown,
}

impl Reason {
    /// The word that clients compare with.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }
}

/// How a container ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Ended {
    /// 0–255.
    pub(crate) code: i32,
    /// The word for it.
    pub(crate) reason: Reason,
    /// A sentence, or empty.
    pub(crate) message: String,
    /// Nanoseconds since 1970.
    pub(crate) finished_at: i64,
}

impl Ended {
    /// What the shim saw.
    pub(crate) fn seen(exit: &Exit) -> Self {
        let (reason, message) = match exit {
            // A child that was killed while the container itself succeeded is the container's own affair.
            Exit { code: 0, .. } => (Reason::Completed, String::new()),
            Exit { oom: true, .. } => (Reason::OomKilled, String::new()),
            Exit { signal: Some(signal), .. } => (Reason::Error, format!("ended by signal {signal}")),
            _ => (Reason::Error, String::new()),
        };
        Self { code: exit.code, reason, message, finished_at: exit.finished_at_ns }
    }

    /// Its program could not be executed.
    pub(crate) fn not_started(message: String, now: i64) -> Self {
        Self { code: 128, reason: Reason::StartError, message, finished_at: now }
    }

    /// Nobody saw it.
    pub(crate) fn unseen(message: impl Into<String>, now: i64) -> Self {
        Self { code: 255, reason: Reason::Unknown, message: message.into(), finished_at: now }
    }
}

/// The part of a container that changes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Life {
    /// Where it is.
    pub(crate) phase: ContainerPhase,
    /// Its first process, while there is one.
    pub(crate) pid: Option<i32>,
    /// Nanoseconds since 1970; 0 while it was not started.
    pub(crate) started_at: i64,
    /// A client asked for the removal; it goes on until it is done, across restarts.
    pub(crate) removing: bool,
}

impl Life {
    /// The life of a container that is only meant yet.
    pub(crate) const INTENT: Self =
        Self { phase: ContainerPhase::Creating, pid: None, started_at: 0, removing: false };

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, ContainerPhase::Exited(_))
    }

    /// What the CRI calls it.
    pub(crate) fn state(&self) -> cri::ContainerState {
        match self.phase {
            ContainerPhase::Creating | ContainerPhase::Created => cri::ContainerState::ContainerCreated,
            ContainerPhase::Running => cri::ContainerState::ContainerRunning,
            ContainerPhase::Exited(_) => cri::ContainerState::ContainerExited,
        }
    }

    /// The set-up is complete.
    fn created(self, pid: i32) -> Option<Self> {
        (self.phase == ContainerPhase::Creating).then_some(Self {
            phase: ContainerPhase::Created,
            pid: Some(pid),
            ..self
        })
    }

    /// The program was executed. Nothing changes when its end was seen first.
    fn started(self, at: i64) -> Option<Self> {
        (self.phase == ContainerPhase::Created).then_some(Self {
            phase: ContainerPhase::Running,
            started_at: at,
            ..self
        })
    }

    /// It ended. Only the first end counts.
    fn ended(self, ended: Ended, started_at: i64) -> Option<Self> {
        (!self.is_over()).then_some(Self {
            phase: ContainerPhase::Exited(ended),
            pid: None,
            started_at: if started_at > 0 { started_at } else { self.started_at },
            ..self
        })
    }
}

/// `container.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ContainerRecord {
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    /// The sandbox that it belongs to.
    pub(crate) sandbox: String,
    /// What the client asked for, without the environment, which may hold secrets and is in `config.json`.
    pub(crate) config: cri::ContainerConfig,
    /// Tells a retry from another container that goes by the same name.
    pub(crate) fingerprint: u64,
    /// The id of the image.
    pub(crate) image: String,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// Where the volumes go that its image asks for.
    #[serde(default)]
    pub(crate) image_volumes: Vec<String>,
    /// The cgroup, in cgroupfs syntax.
    pub(crate) cgroup: PathBuf,
    /// The log file.
    pub(crate) log_path: Option<PathBuf>,
    /// The same without symbolic links, where that is another path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) real_log_path: Option<PathBuf>,
    /// Whom it runs as.
    pub(crate) user: cri::LinuxContainerUser,
    /// The kernel's number of the signal that asks it to end.
    pub(crate) stop_signal: i32,
    /// The limits as they were last set.
    pub(crate) resources: cri::LinuxContainerResources,
    /// The part that changes, as it was last written.
    pub(crate) life: Life,
}

/// A container in memory.
#[derive(Debug)]
pub(crate) struct Container {
    /// As it was recorded first; `life` and `resources` in it are not kept up to date.
    pub(crate) record: ContainerRecord,
    life: watch::Sender<Life>,
    resources: RwLock<cri::LinuxContainerResources>,
    /// What lists tell of it, encoded, but for its state. Once somebody has asked.
    pub(crate) listed: OnceLock<Bytes>,
    /// Who is told of changes, once it is listed.
    pub(super) events: OnceLock<Arc<Events>>,
    /// Held while it is started, changed or removed.
    pub(crate) lane: Mutex<()>,
    /// Held while it is written to an archive.
    pub(crate) checkpoint: Mutex<()>,
    /// What plugins were told of it.
    pub(crate) told: Told,
    stop_sent: AtomicBool,
    execs: AtomicU64,
}

impl Container {
    /// A container as its record has it.
    pub(crate) fn new(record: ContainerRecord) -> Self {
        Self {
            life: watch::Sender::new(record.life.clone()),
            resources: RwLock::new(record.resources.clone()),
            listed: OnceLock::new(),
            lane: Mutex::new(()),
            checkpoint: Mutex::new(()),
            told: Told::new(match record.life.phase {
                ContainerPhase::Creating => Stage::Unknown,
                ContainerPhase::Created => Stage::Made,
                ContainerPhase::Running => Stage::Started,
                ContainerPhase::Exited(_) => Stage::Stopped,
            }),
            stop_sent: AtomicBool::new(false),
            execs: AtomicU64::new(0),
            events: OnceLock::new(),
            record,
        }
    }

    /// Its id.
    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    /// Its name and attempt.
    pub(crate) fn metadata(&self) -> cri::ContainerMetadata {
        self.record.config.metadata.clone().unwrap_or_default()
    }

    /// Where it is in its life; never waits.
    pub(crate) fn life(&self) -> Life {
        self.life.borrow().clone()
    }

    /// Its state; never waits.
    pub(crate) fn state(&self) -> cri::ContainerState {
        self.life.borrow().state()
    }

    /// Whether its program runs, as far as is known; never waits.
    pub(crate) fn is_running(&self) -> bool {
        self.life.borrow().phase == ContainerPhase::Running
    }

    /// Waits until it has ended.
    pub(crate) async fn over(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.life.subscribe().wait_for(Life::is_over).await;
    }

    /// The set-up is complete.
    pub(crate) fn created(&self, pid: i32) -> bool {
        self.change(|life| life.created(pid))
    }

    /// The program was executed.
    pub(crate) fn started(&self, at: i64) -> bool {
        self.change(|life| life.started(at))
    }

    /// It ended. False when that was known.
    pub(crate) fn ended(&self, ended: Ended, started_at: i64) -> bool {
        self.change(|life| life.ended(ended, started_at))
    }

    /// A client asked for the removal.
    pub(crate) fn removing(&self) {
        self.change(|life| Some(Life { removing: true, ..life }));
    }

    fn change(&self, step: impl FnOnce(Life) -> Option<Life>) -> bool {
        self.life.send_if_modified(|life| match step(life.clone()) {
            Some(after) => {
                let before = std::mem::replace(life, after);
                self.tell(&before, life);
                true
            }
            None => false,
        })
    }

    fn tell(&self, before: &Life, after: &Life) {
        use cri::ContainerEventType::{ContainerStartedEvent, ContainerStoppedEvent};
        let Some(events) = self.events.get() else { return };
        let kind = match after.phase {
            ContainerPhase::Running if before.phase != ContainerPhase::Running => ContainerStartedEvent,
            ContainerPhase::Exited(_) if !before.is_over() => ContainerStoppedEvent,
            _ => return,
        };
        events.tell(self.id(), &self.record.sandbox, kind);
    }

    /// The limits as they are set.
    pub(crate) fn resources(&self) -> cri::LinuxContainerResources {
        self.resources.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Other limits were set.
    pub(crate) fn resources_changed(&self, resources: cri::LinuxContainerResources) {
        *self.resources.write().unwrap_or_else(PoisonError::into_inner) = resources;
    }

    /// The record as it would be written now.
    pub(crate) fn record(&self) -> ContainerRecord {
        ContainerRecord { life: self.life(), resources: self.resources(), ..self.record.clone() }
    }

    /// True for the first caller: the stop signal is sent once, however often a client asks.
    pub(crate) fn first_stop(&self) -> bool {
        !self.stop_sent.swap(true, Ordering::SeqCst)
    }

    /// The next name of an exec session. Unlike those that a former server gave.
    pub(crate) fn next_exec(&self) -> String {
        let number = self.execs.fetch_add(1, Ordering::Relaxed);
        format!("{:x}-{number:x}", std::process::id())
    }

    /// Fails unless it runs.
    pub(crate) fn expect_running(&self, what: &str) -> Result<()> {
        let life = self.life();
        if life.phase == ContainerPhase::Running {
            return Ok(());
        }
        Err(Error::new(
            Kind::Precondition,
            format!("{what} needs a running container; {} is {}", self.id(), life.state().as_str_name()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exit(code: i32, signal: Option<i32>, oom: bool) -> Exit {
        Exit { code, signal, oom, started_at_ns: 1, finished_at_ns: 2 }
    }

    #[test]
    fn reasons_as_clients_know_them() {
        for (exit, reason) in [
            (exit(0, None, false), "Completed"),
            (exit(0, None, true), "Completed"),
            (exit(1, None, false), "Error"),
            (exit(143, Some(15), false), "Error"),
            (exit(137, Some(9), true), "OOMKilled"),
            (exit(1, None, true), "OOMKilled"),
        ] {
            assert_eq!(Ended::seen(&exit).reason.as_str(), reason, "{exit:?}");
        }
        assert_eq!(Ended::not_started("no such file".into(), 1).code, 128);
        assert_eq!(Ended::unseen("the shim died", 1).code, 255);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Created,
        Started,
        Ended(i32),
        Removing,
    }

    proptest! {
        /// Events may come in any order, twice or not at all: the first end stays, and nothing follows it.
        #[test]
        fn the_first_end_is_the_end(steps in prop::collection::vec(prop_oneof![
            Just(Step::Created),
            Just(Step::Started),
            (0..3_i32).prop_map(Step::Ended),
            Just(Step::Removing),
        ], 0..12)) {
            let container = Container::new(ContainerRecord {
                id: String::new(),
                sandbox: String::new(),
                config: cri::ContainerConfig::default(),
                fingerprint: 0,
                image: String::new(),
                created_at: 0,
                image_volumes: Vec::new(),
                cgroup: PathBuf::new(),
                log_path: None,
                real_log_path: None,
                user: cri::LinuxContainerUser::default(),
                stop_signal: 15,
                resources: cri::LinuxContainerResources::default(),
                life: Life::INTENT,
            });
            let mut first = None;
            for step in steps {
                match step {
                    Step::Created => { container.created(5); }
                    Step::Started => { container.started(9); }
                    Step::Ended(code) => {
                        let news = container.ended(Ended::seen(&exit(code, None, false)), 0);
                        prop_assert_eq!(news, first.is_none());
                        first.get_or_insert(code);
                    }
                    Step::Removing => container.removing(),
                }
                let life = container.life();
                match (&life.phase, first) {
                    (ContainerPhase::Exited(ended), Some(code)) => prop_assert_eq!(ended.code, code),
                    (_, None) => {}
                    other => prop_assert!(false, "{other:?}"),
                }
                prop_assert!(!(life.is_over() && life.pid.is_some()));
            }
        }
    }
}
