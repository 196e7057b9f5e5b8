//! A sandbox and its life.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::{RwLock, watch};
use vaquita_proto::cri;
use vaquita_shim::client::Client;

use super::Events;
use crate::nri::{Stage, Told};
use crate::spec::selinux::Labels;
use crate::{Error, Kind, Result};

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SandboxPhase {
    /// The intent is recorded; parts may exist. Not listed. A server that starts takes it down.
    Creating,
    /// pause runs and the network is attached.
    Ready,
    /// Not usable any more, but something may still have to be given back.
    Dead,
    /// Everything but the record, the logs' owners and the exit codes was given back.
    Stopped,
    /// A client asked for the removal; it goes on until it is done, across restarts.
    Removing,
}

impl SandboxPhase {
    /// Whether the life may go on like this.
    fn may_become(self, next: Self) -> bool {
        use SandboxPhase::{Creating, Dead, Ready, Removing, Stopped};
        matches!(
            (self, next),
            (Creating, Ready | Dead)
                | (Ready, Dead)
                | (Dead, Stopped)
                | (Ready | Dead | Stopped | Removing, Removing)
        )
    }
}

/// The part of a sandbox that changes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct SandboxLife {
    /// Where it is.
    pub(crate) phase: SandboxPhase,
    /// Its addresses in the pod network, the primary one first; none with the network of the host. Older records
    /// have one or null, as `ip`.
    #[serde(default, alias = "ip", deserialize_with = "one_or_many")]
    pub(crate) ips: Vec<IpAddr>,
    /// The pause process, while there is one.
    pub(crate) pid: Option<i32>,
    /// The limits of the pod as a client told them last, after it was made.
    #[serde(default)]
    pub(crate) resources: Option<PodResources>,
}

/// Limits of a pod.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct PodResources {
    /// What the pod needs beside its containers.
    pub(crate) overhead: Option<cri::LinuxContainerResources>,
    /// What its containers have together.
    pub(crate) resources: Option<cri::LinuxContainerResources>,
}

impl SandboxLife {
    /// The life of a sandbox that is only meant yet.
    pub(crate) const INTENT: Self =
        Self { phase: SandboxPhase::Creating, ips: Vec::new(), pid: None, resources: None };

    /// The same sandbox one step on.
    pub(crate) fn advance(self, next: SandboxPhase) -> Result<Self> {
        if !self.phase.may_become(next) {
            return Err(Error::new(
                Kind::Precondition,
                format!("a sandbox that is {:?} cannot become {next:?}", self.phase),
            ));
        }
        Ok(Self {
            phase: next,
            ips: if next == SandboxPhase::Stopped { Vec::new() } else { self.ips },
            pid: self.pid.filter(|_| next == SandboxPhase::Ready),
            resources: self.resources,
        })
    }

    /// What the CRI calls it.
    pub(crate) fn state(&self) -> cri::PodSandboxState {
        match self.phase {
            SandboxPhase::Ready => cri::PodSandboxState::SandboxReady,
            _ => cri::PodSandboxState::SandboxNotready,
        }
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Many(Vec<IpAddr>),
        One(Option<IpAddr>),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Many(ips) => ips,
        Written::One(ip) => ip.into_iter().collect(),
    })
}

/// `sandbox.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct SandboxRecord {
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    /// What the client asked for.
    pub(crate) config: cri::PodSandboxConfig,
    /// Tells a retry from another pod that goes by the same name.
    pub(crate) fingerprint: u64,
    /// The handler that the client named.
    pub(crate) runtime_handler: String,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// The cgroup of the pod, in cgroupfs syntax.
    pub(crate) cgroup: PathBuf,
    /// Its SELinux labels, if it has any.
    #[serde(default)]
    pub(crate) selinux: Option<Labels>,
    /// Whether we made that cgroup, and so have to remove it.
    pub(crate) cgroup_is_ours: bool,
    /// The part that changes, as it was last written.
    pub(crate) life: SandboxLife,
}

impl SandboxRecord {
    /// The identity that a retry has in common with the first call.
    pub(crate) fn key(&self) -> SandboxKey {
        SandboxKey::of(&self.config)
    }
}

/// Who a sandbox is to its client.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct SandboxKey {
    namespace: String,
    name: String,
    uid: String,
    attempt: u32,
}

impl SandboxKey {
    /// The key of a configuration; an absent part is empty.
    pub(crate) fn of(config: &cri::PodSandboxConfig) -> Self {
        let cri::PodSandboxMetadata { namespace, name, uid, attempt } =
            config.metadata.clone().unwrap_or_default();
        Self { namespace, name, uid, attempt }
    }
}

/// A sandbox in memory.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// As it was recorded first; `life` in it is not kept up to date.
    pub(crate) record: SandboxRecord,
    life: watch::Sender<SandboxLife>,
    /// What lists tell of it, encoded, but for its state. Once somebody has asked.
    pub(crate) listed: OnceLock<Bytes>,
    /// Who is told of changes, once it is in the tables.
    pub(super) events: OnceLock<Arc<Events>>,
    /// The supervisor, once it was started.
    pub(crate) shim: OnceLock<Client>,
    /// Held for reading while a container is created or started, for writing while the pod is taken down.
    pub(crate) lane: RwLock<()>,
    /// Set when the pod is being taken down: nothing new may begin.
    closing: AtomicBool,
    /// What plugins were told of it.
    pub(crate) told: Told,
}

impl Sandbox {
    /// A sandbox as its record has it.
    pub(crate) fn new(record: SandboxRecord) -> Self {
        Self {
            life: watch::Sender::new(record.life.clone()),
            listed: OnceLock::new(),
            events: OnceLock::new(),
            shim: OnceLock::new(),
            lane: RwLock::new(()),
            closing: AtomicBool::new(false),
            told: Told::new(match record.life.phase {
                SandboxPhase::Creating => Stage::Unknown,
                SandboxPhase::Ready | SandboxPhase::Dead => Stage::Made,
                SandboxPhase::Stopped | SandboxPhase::Removing => Stage::Stopped,
            }),
            record,
        }
    }

    /// Its id.
    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    /// Where it is in its life; never waits.
    pub(crate) fn life(&self) -> SandboxLife {
        self.life.borrow().clone()
    }

    /// Its state; never waits.
    pub(crate) fn state(&self) -> cri::PodSandboxState {
        self.life.borrow().state()
    }

    /// Whether a client is told about it: not before it is complete.
    pub(crate) fn is_listed(&self) -> bool {
        self.life.borrow().phase != SandboxPhase::Creating
    }

    /// Whether it is ready; never waits.
    pub(crate) fn is_ready(&self) -> bool {
        self.life.borrow().phase == SandboxPhase::Ready
    }

    /// Goes one step on and returns the record to be written.
    pub(crate) fn advance(
        &self,
        next: SandboxPhase,
        change: impl FnOnce(&mut SandboxLife),
    ) -> Result<SandboxRecord> {
        let mut result = Ok(());
        self.life.send_if_modified(|life| match life.clone().advance(next) {
            Ok(mut after) => {
                change(&mut after);
                let before = std::mem::replace(life, after);
                self.tell(before.phase, life.phase);
                true
            }
            Err(error) => {
                result = Err(error);
                false
            }
        });
        result.map(|()| self.record())
    }

    fn tell(&self, before: SandboxPhase, after: SandboxPhase) {
        use cri::ContainerEventType::{ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent};
        let Some(events) = self.events.get() else { return };
        let kinds: &[_] = match (before == SandboxPhase::Ready, after == SandboxPhase::Ready) {
            (false, true) => &[ContainerCreatedEvent, ContainerStartedEvent],
            (true, false) => &[ContainerStoppedEvent],
            _ => &[],
        };
        for kind in kinds {
            events.tell(self.id(), self.id(), *kind);
        }
    }

    /// Other limits were set; returns the record to be written.
    pub(crate) fn resources_changed(&self, resources: PodResources) -> SandboxRecord {
        self.life.send_modify(|life| life.resources = Some(resources));
        self.record()
    }

    /// The record as it would be written now.
    pub(crate) fn record(&self) -> SandboxRecord {
        SandboxRecord { life: self.life(), ..self.record.clone() }
    }

    /// From now on no container begins here.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// The shim of a sandbox in which something may begin.
    pub(crate) fn open(&self) -> Result<&Client> {
        let life = self.life();
        let shim = self.shim.get();
        match shim {
            Some(shim) if life.phase == SandboxPhase::Ready && !self.closing.load(Ordering::SeqCst) => {
                Ok(shim)
            }
            _ => Err(Error::new(
                Kind::Precondition,
                format!("sandbox {} is not ready: it is {:?} or being stopped", self.id(), life.phase),
            )),
        }
    }

    /// The namespace options, defaults where none were given.
    pub(crate) fn namespaces(&self) -> cri::NamespaceOption {
        namespaces(&self.record.config)
    }
}

/// The namespace options of a sandbox's configuration, defaults where none were given.
pub(crate) fn namespaces(config: &cri::PodSandboxConfig) -> cri::NamespaceOption {
    config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|context| context.namespace_options.clone())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn phase() -> impl Strategy<Value = SandboxPhase> {
        prop::sample::select(vec![
            SandboxPhase::Creating,
            SandboxPhase::Ready,
            SandboxPhase::Dead,
            SandboxPhase::Stopped,
            SandboxPhase::Removing,
        ])
    }

    #[test]
    fn a_life_that_an_older_version_wrote_is_read() {
        let read = |text: &str| serde_json::from_str::<SandboxLife>(text).unwrap();
        let old = read(r#"{"phase":"ready","ip":"10.210.0.2","pid":7}"#);
        assert_eq!((old.phase, old.pid), (SandboxPhase::Ready, Some(7)));
        assert_eq!(old.ips, ["10.210.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(read(r#"{"phase":"ready","ip":null,"pid":7}"#).ips, Vec::<IpAddr>::new());
        assert_eq!(read(r#"{"phase":"creating","pid":null}"#), SandboxLife::INTENT);
        let both = SandboxLife {
            ips: vec!["10.210.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            ..SandboxLife::INTENT
        };
        assert_eq!(read(&serde_json::to_string(&both).unwrap()), both);
    }

    proptest! {
        /// Whatever is asked in whatever order: a sandbox that stopped being ready never is again, and one without
        /// a pause process never claims a pid.
        #[test]
        fn a_life_only_goes_forward(steps in prop::collection::vec(phase(), 0..12)) {
            let ips = vec!["10.0.0.2".parse().unwrap()];
            let mut life = SandboxLife { pid: Some(7), ips, ..SandboxLife::INTENT };
            let mut was_down = false;
            for step in steps {
                if let Ok(next) = life.clone().advance(step) {
                    prop_assert!(!(was_down && next.phase == SandboxPhase::Ready));
                    was_down |= !matches!(next.phase, SandboxPhase::Creating | SandboxPhase::Ready);
                    life = next;
                }
                prop_assert!(!(was_down && life.pid.is_some()));
                prop_assert!(life.phase != SandboxPhase::Stopped || life.ips.is_empty());
            }
        }
    }
}
