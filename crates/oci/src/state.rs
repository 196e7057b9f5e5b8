//! What is known of a container, and how it stands.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::{Hooks, Process, Spec};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vaquita_cgroup::{Cgroup, Layout, Location};
use vaquita_runtime::hook::About;
use vaquita_sys::process::{Look, look, open_pidfd};

use crate::store::Directory;
use crate::{Error, Host, Id, Kind, SPEC_VERSION};

/// A container, as it is written down. How it stands is not in it: see [`Container::status`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// The directory with its `config.json`, absolute.
    pub bundle: PathBuf,
    /// Its root filesystem, absolute.
    pub rootfs: PathBuf,
    /// When it was made: RFC 3339, UTC, nanoseconds.
    pub created: String,
    /// The user who made it.
    pub owner: u32,
    /// Those of its configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Its cgroup, which is there or was about to be made.
    pub cgroup: Location,
    /// Its first process; none while it is about to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Whether it shares the PID namespace of others, so that its first process's end is not that of all.
    #[serde(default)]
    pub shares_pids: bool,
    /// Whether its start needs its configuration.
    #[serde(default)]
    pub has_start_work: bool,
    /// Whether its configuration names no process: it can be created, and not started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_no_process: bool,
    /// Those that run at its end and after its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
}

/// The first process of a container.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Init {
    /// Its pid in the PID namespace of who made it.
    pub pid: i32,
    /// When it started, in clock ticks since boot: another process that has its pid has another time.
    pub start_time: u64,
}

/// How a container stands (runtime-spec, "State", and `paused` as runc says).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// It is being made.
    Creating,
    /// It waits to be started.
    Created,
    /// Its program runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its first process has ended, or never came to be.
    Stopped,
}

impl Status {
    /// As the state says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A container that was found.
#[derive(Debug)]
pub struct Container {
    pub(crate) directory: Directory,
    /// What is written down.
    pub record: Record,
    is_ours: bool,
}

/// What was asked for.
pub(crate) const CONFIG: &str = "config.json";
/// What was made of it.
pub(crate) const STATE: &str = "state.json";
/// Where a created container waits.
pub(crate) const START: &str = "start.sock";
/// All files of a container.
pub(crate) const FILES: &[&str] = &[START, CONFIG, STATE];

impl Container {
    /// Finds a container, to look at it.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`].
    pub fn open(host: &Host, id: &Id) -> Result<Self, Error> {
        Self::load(Directory::open(host, id)?)
    }

    /// Finds a container, to change it: waits until nobody else does.
    ///
    /// # Errors
    /// As [`Container::open`].
    pub fn lock(host: &Host, id: &Id) -> Result<Self, Error> {
        let directory = Directory::open(host, id)?;
        directory.lock()?;
        Self::load_locked(directory).map_err(|(_, error)| error)
    }

    fn load(directory: Directory) -> Result<Self, Error> {
        let record = Record::read(&directory)?;
        Ok(Self { directory, record, is_ours: false })
    }

    /// Of a directory that this process has locked.
    pub(crate) fn load_locked(directory: Directory) -> Result<Self, (Directory, Error)> {
        match Record::read(&directory) {
            Ok(record) => Ok(Self::locked(directory, record)),
            Err(error) => Err((directory, error)),
        }
    }

    /// A new one.
    pub(crate) fn locked(directory: Directory, record: Record) -> Self {
        Self { directory, record, is_ours: true }
    }

    /// Lets others change it.
    pub(crate) fn unlock(&mut self) -> Result<(), Error> {
        self.is_ours = false;
        self.directory.unlock()
    }

    pub(crate) fn save(&self) -> Result<(), Error> {
        self.directory.replace(STATE, &self.record.encode()?)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &Id {
        self.directory.id()
    }

    /// How it stands now.
    ///
    /// # Errors
    /// Those of asking the kernel.
    pub fn status(&self) -> Result<Status, Error> {
        match self.progress()? {
            Status::Running if self.is_frozen()? => Ok(Status::Paused),
            other => Ok(other),
        }
    }

    /// As [`Self::status`], but a paused container counts as running.
    pub(crate) fn progress(&self) -> Result<Status, Error> {
        let Some(init) = self.record.init else {
            // Whose maker has ended, never came to be.
            let is_made = !self.is_ours && self.directory.is_locked()?;
            return Ok(if is_made { Status::Creating } else { Status::Stopped });
        };
        // The process holds the socket until it executes its program, or dies: which of them is asked afterwards.
        let waits = vaquita_sys::socket::is_bound(self.directory.file(START))?;
        Ok(match init.look()? {
            Some(look) if !look.exiting => {
                if waits {
                    Status::Created
                } else {
                    Status::Running
                }
            }
            _ => Status::Stopped,
        })
    }

    fn is_frozen(&self) -> Result<bool, Error> {
        Ok(match self.cgroup()? {
            Some(cgroup) => cgroup.is_frozen()?,
            None => false,
        })
    }

    /// Its cgroup; none when it has none, or none any more.
    ///
    /// # Errors
    /// Those of asking the kernel.
    pub fn cgroup(&self) -> Result<Option<Cgroup>, Error> {
        if self.record.cgroup.path().is_none() {
            return Ok(None);
        }
        match self.record.cgroup.open(&Layout::detect()?) {
            Err(error) if error.kind() == vaquita_cgroup::Kind::NotFound => Ok(None),
            other => Ok(other?),
        }
    }

    /// Its first process, if that lives.
    ///
    /// # Errors
    /// Those of asking the kernel.
    pub fn init(&self) -> Result<Option<OwnedFd>, Error> {
        match self.record.init {
            None => Ok(None),
            Some(init) => init.open(),
        }
    }

    /// What was asked for.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn spec(&self) -> Result<Spec, Error> {
        let path = self.directory.file(CONFIG);
        let mut spec = vaquita_runtime::document::read_spec(&path)?;
        self.record.complete(&mut spec);
        Ok(spec)
    }

    /// Its state, as the specification and `runc state` have it.
    #[must_use]
    pub fn state(&self, status: Status) -> Value {
        let pid = match status {
            Status::Stopped => 0,
            _ => self.record.init.map_or(0, |init| init.pid),
        };
        let mut state = self.record.state(self.id(), status, pid);
        if let Some(state) = state.as_object_mut() {
            state.insert("rootfs".to_owned(), json!(self.record.rootfs));
            state.insert("created".to_owned(), json!(self.record.created));
            state.insert("owner".to_owned(), json!(crate::list::owner_name(self.record.owner)));
        }
        state
    }
}

impl Record {
    fn read(directory: &Directory) -> Result<Self, Error> {
        // Empty while its maker is about to write it, before it makes anything.
        let Some(bytes) = directory.read(STATE)?.filter(|bytes| !bytes.is_empty()) else {
            let id = directory.id().as_str();
            let message = format!("container {id:?} does not exist, but was begun: delete --force clears it");
            return Err(Error::new(Kind::NotFound, message));
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            let path = directory.file(STATE);
            Error::new(Kind::Other, format!("{path:?} was not written by this version: {error}"))
        })
    }

    /// A configuration without a process gets one that waits in its place, and is nothing to be executed.
    pub(crate) fn complete(&self, spec: &mut Spec) {
        if self.has_no_process && spec.process().is_none() {
            spec.set_process(Some(stand_in()));
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self).map_err(|error| Error::new(Kind::Other, format!("state.json: {error}")))
    }

    /// The state as the specification has it, which hooks and agents get.
    pub(crate) fn state(&self, id: &Id, status: Status, pid: i32) -> Value {
        self.about(id).state(status.as_str(), pid)
    }

    /// What hooks are told.
    pub(crate) fn about<'a>(&'a self, id: &'a Id) -> About<'a> {
        About { version: SPEC_VERSION, id: id.as_str(), bundle: &self.bundle, annotations: &self.annotations }
    }
}

/// The process of a container that has none: it has no rights, and its program is a directory.
pub(crate) fn stand_in() -> Process {
    let mut process = Process::default();
    process.set_args(Some(vec!["/".to_owned()])).set_cwd("/".into()).set_env(None);
    process.set_capabilities(None).set_rlimits(None).set_no_new_privileges(Some(true));
    process
}

impl Init {
    /// The process, now that it has been made.
    pub(crate) fn new(pid: Pid) -> Result<Self, Error> {
        let start_time = vaquita_sys::process::start_time(pid)?;
        Ok(Self { pid: pid.as_raw_nonzero().get(), start_time })
    }

    /// Whether it is there and has not ended.
    pub(crate) fn lives(self) -> Result<bool, Error> {
        Ok(self.look()?.is_some())
    }

    /// How it is, if it lives.
    fn look(self) -> Result<Option<Look>, Error> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let lives = |look: &Look| look.start_time == self.start_time && !matches!(look.state, 'Z' | 'X');
        Ok(look(pid)?.filter(lives))
    }

    /// A pidfd of it, if it lives.
    pub(crate) fn open(self) -> Result<Option<OwnedFd>, Error> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let pidfd = match open_pidfd(pid) {
            Err(error) if error.kind() == vaquita_sys::Kind::NotFound => return Ok(None),
            other => other?,
        };
        // It is of the process that has the pid now: compared after that, the time cannot be another's.
        Ok(if self.lives()? { Some(pidfd) } else { None })
    }
}
