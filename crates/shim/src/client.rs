//! The client of a shim, for tokio.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::{CreateRequest, Error, Event, ExecRequest, Exit, Kind, PodState, SandboxRequest, SignalScope};

/// Starts shims from one executable, which is meant to be a sealed memfd that nothing can change.
#[derive(Debug)]
pub struct Spawner {
    exe: OwnedFd,
}

/// A connection to the shim of one pod.
///
/// Cheap to clone; all methods take `&self`, many may be under way at a time, and each may be dropped before it ends:
/// the shim finishes what it was asked, and the answer is thrown away.
///
/// Every method fails with `Unavailable` when the shim dies or the connection is lost meanwhile.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<()>,
}

/// A sandbox that was created.
#[derive(Debug)]
pub struct SandboxCreated {
    /// The pause process, in the host's PID namespace.
    pub pid: i32,
    /// The pause process.
    pub pidfd: OwnedFd,
    /// The pod's network namespace, unless it is the host's.
    pub netns: Option<OwnedFd>,
}

/// A container that was created and waits to be started.
#[derive(Debug)]
pub struct Created {
    /// Its first process, in the host's PID namespace.
    pub pid: i32,
    /// Its first process.
    pub pidfd: OwnedFd,
}

/// An exec session that was started.
#[derive(Debug)]
pub struct Execed {
    /// Its process, in the host's PID namespace.
    pub pid: i32,
    /// The master side of its terminal, if it asked for one.
    pub console: Option<OwnedFd>,
    exit: oneshot::Receiver<Exit>,
}

impl Spawner {
    /// Shims will run `exe`, with `vaquita-shim` as their name and the pod directory as their only argument.
    #[must_use]
    pub fn new(exe: OwnedFd) -> Self {
        Self { exe }
    }

    /// Starts the shim of the pod whose directory this is, and connects to it. Must be called within a tokio runtime,
    /// which reaps the shim when it ends.
    ///
    /// # Errors
    /// `Exists` if a live shim serves this directory already, else the error of the call that failed.
    pub async fn spawn(&self, pod_dir: &Path) -> Result<Client, Error> {
        let _ = &self.exe;
        Client::connect(pod_dir).await
    }
}

impl Client {
    /// Connects to the shim of the pod whose directory this is. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `NotFound` if no shim was ever started there, `Unavailable` if it is dead: both at once, without waiting.
    pub async fn connect(pod_dir: &Path) -> Result<Self, Error> {
        Err(unsupported(pod_dir.display()))
    }

    /// Makes the pod's namespaces and its pause process.
    ///
    /// # Errors
    /// `Exists` if the shim has a sandbox already, else the error of the step that failed.
    pub async fn create_sandbox(&self, request: &SandboxRequest) -> Result<SandboxCreated, Error> {
        Err(unsupported(&request.id))
    }

    /// Sets a container up to the point where only its program has to be executed. `rootfs` is a detached mount.
    ///
    /// # Errors
    /// `Exists` if there is such a container, `Invalid` if the specification cannot be used, else the step that failed.
    pub async fn create(&self, request: &CreateRequest, rootfs: OwnedFd) -> Result<Created, Error> {
        drop(rootfs);
        Err(unsupported(&request.id))
    }

    /// Executes the program of a created container; returns when `execve` succeeded.
    ///
    /// # Errors
    /// `NotFound`, `State` if it is not waiting to be started, or the step that failed: after that the container is
    /// stopped.
    pub async fn start(&self, id: &str) -> Result<(), Error> {
        Err(unsupported(id))
    }

    /// Sends a signal (1–64) to a container. A signal to a container that has stopped is no error.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub async fn signal(&self, id: &str, signal: i32, scope: SignalScope) -> Result<(), Error> {
        let _ = (signal, scope);
        Err(unsupported(id))
    }

    /// Runs a process in a running container. `stdio` are its standard streams, `/dev/null` where absent; all three
    /// must be absent when the process asks for a terminal, whose master side is then in the answer.
    ///
    /// # Errors
    /// `NotFound`, `State` if the container does not run, `Exists` if there is such a session, `Invalid` if the
    /// process cannot be used, `Kernel` for the step that failed, such as an `execve` without a program.
    pub async fn exec(&self, request: &ExecRequest, stdio: [Option<OwnedFd>; 3]) -> Result<Execed, Error> {
        drop(stdio);
        Err(unsupported(&request.exec_id))
    }

    /// Kills the process of an exec session. One that has ended is no error.
    ///
    /// # Errors
    /// `NotFound` if there is no such container.
    pub async fn kill_exec(&self, container: &str, exec_id: &str) -> Result<(), Error> {
        let _ = exec_id;
        Err(unsupported(container))
    }

    /// Kills what is left of a container, removes its cgroup, closes its log and forgets it. A container that is not
    /// there is no error.
    ///
    /// # Errors
    /// `Busy` if its processes would not die in time; the call can be repeated.
    pub async fn delete(&self, id: &str) -> Result<(), Error> {
        Err(unsupported(id))
    }

    /// Deletes all containers and the sandbox, and ends the shim.
    ///
    /// # Errors
    /// `Busy` if processes would not die in time; the call can be repeated.
    pub async fn delete_sandbox(&self) -> Result<(), Error> {
        Err(unsupported("the sandbox"))
    }

    /// Opens the log file of a container anew, by its path: call it after the file was renamed. No record is lost or
    /// torn. When it fails nothing has changed and no file is left behind.
    ///
    /// # Errors
    /// `NotFound`, `State` if the container has stopped, or the error of the open.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        Err(unsupported(id))
    }

    /// The pod as the shim sees it.
    ///
    /// # Errors
    /// None but the loss of the shim.
    pub async fn state(&self) -> Result<PodState, Error> {
        Err(unsupported("the pod"))
    }

    /// The pod's network namespace.
    ///
    /// # Errors
    /// `NotFound` if there is no sandbox or it uses the host's network.
    pub async fn netns(&self) -> Result<OwnedFd, Error> {
        Err(unsupported("the network namespace"))
    }

    /// Ends the shim. Refused while a process of the pod is alive, because nothing would be its parent then.
    ///
    /// # Errors
    /// `Busy` while anything runs.
    pub async fn shutdown(&self) -> Result<(), Error> {
        Err(unsupported("the shim"))
    }

    /// What happens from now on, [`Event::Lost`] last. May be called more than once: each receiver gets all events.
    /// Ask for [`Self::state`] after this, not before, to miss nothing.
    #[must_use]
    pub fn events(&self) -> mpsc::UnboundedReceiver<Event> {
        let _ = &self.shared;
        mpsc::unbounded_channel().1
    }

    /// Whether the connection is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        true
    }
}

impl Execed {
    /// Waits for the process to end. The exit is told here and as an event.
    ///
    /// # Errors
    /// `Unavailable` if the shim is lost before.
    pub async fn wait(self) -> Result<Exit, Error> {
        self.exit
            .await
            .map_err(|_| Error::new(Kind::Unavailable, "the shim was lost before the process ended"))
    }
}

fn unsupported(what: impl core::fmt::Display) -> Error {
    Error::new(Kind::Unsupported, format!("{what}: not yet"))
}
