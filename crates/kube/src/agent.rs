//! Runs pods: performs what the state machine decides, through the CRI client and on the host's files.

mod actions;
mod adopt;
mod check;
mod context;
mod cri;
mod driver;
mod env;
mod fields;
mod handle;
mod host;
mod keyring;
mod known;
mod logs;
mod names;
mod objects;
mod pull;
mod references;
mod requests;
mod security;
mod shares;
mod teardown;
mod usage;
mod volumes;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use self::driver::Life;
pub use self::handle::{Handle, Known};
pub use self::keyring::Keyring;
pub use self::objects::{Fixed, Objects, Token, TokenRequest};
use crate::Result;
use crate::api::{Pod, PodPhase, PodStatus};
use crate::client::Client;
use crate::event::Event;

/// Settings of the agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// The agent's own directory, such as `/var/lib/vaquita/agent`: volumes, logs, hosts files of the pods.
    pub root: PathBuf,
    /// Prefix of the pods' cgroups. Pods are put in `<prefix>/kubepods[/burstable|/besteffort]/pod<uid>`, or, where the prefix is a
    /// slice of systemd like `/vaquita.slice`, in the slice `vaquita-kubepods[-burstable|-besteffort]-pod<uid>.slice`.
    pub cgroup_root: String,
    /// Directory of `Localhost` seccomp profiles.
    pub seccomp_root: PathBuf,
    /// Directories that the host's mount helpers (`mount.nfs`) are looked for in.
    pub helpers: Vec<PathBuf>,
    /// Name of this machine.
    pub node_name: String,
    /// Where credentials are for images that none of a pod's pull secrets fits.
    pub keyring: Option<Keyring>,
}

impl Config {
    /// The defaults: cgroups below `/vaquita`, profiles in `<root>/seccomp`, the kernel's host name.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            cgroup_root: "/vaquita".to_owned(),
            seccomp_root: root.join("seccomp"),
            helpers: ["/sbin", "/usr/sbin", "/usr/local/sbin"].map(PathBuf::from).to_vec(),
            node_name: rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
            keyring: None,
            root,
        }
    }
}

/// What the user wants of a running pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// End it gracefully: preStop hooks, stop signal, grace period, kill.
    Stop,
    /// Kill it now.
    Kill,
}

/// How a pod's run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What ended it.
    pub end: End,
    /// The last status, with the state of every container.
    pub status: PodStatus,
    /// What could not be removed.
    pub errors: Vec<String>,
}

/// What ended a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its containers ended, or its deadline passed.
    Completed,
    /// The user asked for it, and every container ended within its grace period or was killed after it.
    Stopped,
    /// The user had it killed.
    Killed,
}

impl Outcome {
    /// The exit status for a command that ran the pod.
    ///
    /// | pod | status |
    /// |---|---|
    /// | Succeeded | 0 |
    /// | Failed | the exit code of the container that failed first, 1 where there is none (deadline, no start) |
    /// | stopped by the user | 0 |
    /// | killed by the user | 130 |
    /// | anything could not be removed, and the status would be 0 | 1 |
    pub fn exit_code(&self) -> u8 {
        let code = match self.end {
            End::Killed => 130,
            End::Stopped => 0,
            End::Completed if self.status.phase == PodPhase::Succeeded => 0,
            End::Completed => self.first_failure().unwrap_or(1),
        };
        if code == 0 && !self.errors.is_empty() { 1 } else { code }
    }

    /// The exit code of the container that failed first.
    fn first_failure(&self) -> Option<u8> {
        let all = self.status.init_container_statuses.iter().chain(&self.status.container_statuses);
        let failed =
            all.filter_map(|container| container.state.terminated.as_ref()).filter(|end| end.exit_code != 0);
        let first = failed.min_by_key(|end| end.finished_at)?;
        Some(u8::try_from(first.exit_code).unwrap_or(1))
    }
}

/// Runs pods on one CRI server. Cheap to clone; pods run side by side, one [`Agent::run`] or [`Agent::start`] each.
#[derive(Debug, Clone)]
pub struct Agent {
    client: Client,
    config: Arc<Config>,
}

impl Agent {
    /// An agent on this CRI server. Touches nothing yet.
    pub fn new(client: Client, config: Config) -> Self {
        Self { client, config: Arc::new(config) }
    }

    /// Runs a pod until it ends or is ended by a command, and removes everything of it.
    ///
    /// Events are told in order. A receiver that is slow delays log lines, never the pod; one that is gone is
    /// ignored. When the sender of commands is dropped, the pod goes on.
    pub async fn run(
        &self,
        mut pod: Pod,
        objects: impl Objects + 'static,
        events: mpsc::Sender<Event>,
        commands: mpsc::Receiver<Command>,
    ) -> Outcome {
        pod.metadata.uid = host::uuid();
        pod.metadata.creation_timestamp = Some(jiff::Timestamp::now());
        let (orders, received) = mpsc::unbounded_channel();
        let forward = tokio::spawn(handle::forward(commands, orders));
        let context = self.context(pod, false).await;
        let life = Life { status: None, known: Known::default() };
        let outcome =
            driver::run(self.client.clone(), context, Arc::new(objects), events, received, life).await;
        forward.abort();
        outcome
    }

    /// Takes a pod of a cluster into care: runs it, or goes on with what the CRI server has of it already, and keeps it,
    /// dead if it comes to that, until it is stopped or killed. The uid of the pod must be set; its status says what was
    /// known of it before (start time, conditions, restart counts).
    pub fn start(&self, pod: Pod, objects: Arc<dyn Objects>, known: Known) -> Handle {
        let (orders, received) = mpsc::unbounded_channel();
        let (tell_status, status) = tokio::sync::watch::channel(handle::in_seconds(pod.status.clone()));
        let (tell, events) = mpsc::channel(256);
        let (finish, outcome) = oneshot::channel();
        let agent = self.clone();
        let task = tokio::spawn(async move {
            let context = agent.context(pod, true).await;
            let life = Life { status: Some(tell_status), known };
            let _ = finish.send(driver::run(agent.client, context, objects, tell, received, life).await);
        });
        Handle { orders, status, events, outcome, task: task.abort_handle() }
    }

    /// What the CRI server has of pods that this agent (by its directory) started with [`Agent::start`], by uid.
    ///
    /// # Errors
    /// The server cannot be reached or does not answer.
    pub async fn known(&self) -> Result<BTreeMap<String, Known>> {
        known::all(&self.quiet_cri(), &self.config.root).await
    }

    /// Removes everything of a pod that nobody wants any more: kills what runs, and removes its files.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest is removed all the same.
    pub async fn remove(&self, uid: &str, known: Known) -> Result<()> {
        known::remove(&self.quiet_cri(), &self.config.root, uid, known).await
    }

    /// Uids of pods that have a directory here, whether the CRI server knows them or not.
    pub fn directories(&self) -> Vec<String> {
        known::directories(&self.config.root)
    }

    async fn context(&self, pod: Pod, kept: bool) -> context::Context {
        let node_name = self.config.node_name.clone();
        let host = tokio::task::spawn_blocking(move || host::Host::look(&node_name));
        let host = host.await.unwrap_or_else(|_| host::Host::look(&self.config.node_name));
        let config = Arc::clone(&self.config);
        context::Context { pod, objects: Fixed::default(), config, host, owner: host::Owner::this(), kept }
    }

    /// A server whose losses and returns nobody is told of.
    fn quiet_cri(&self) -> cri::Cri {
        cri::Cri::new(self.client.clone(), mpsc::unbounded_channel().0)
    }

    /// Removes what earlier runs left that died before they could: sandboxes, mounts, directories.
    /// Runs of processes that are still alive are left alone. Returns what was removed.
    ///
    /// # Errors
    /// The first thing that could not be removed; the others are removed all the same.
    pub async fn clean_leftovers(&self) -> Result<Vec<String>> {
        teardown::clean(&self.quiet_cri(), &self.config.root).await
    }
}
