//! The client of a shim, for tokio.
//!
//! Requests are sent as they come and answered in any order. A task reads what the shim sends, wakes who waits for an
//! answer, and passes events on. It ends with the connection, or with the last [`Client`].

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};

use crate::wire::{Request, Response};
use crate::{
    AttachRequest, CreateRequest, Error, Event, ExecRequest, Exit, Kind, PodState, SandboxRequest,
    SignalScope, transport,
};

mod shared;
mod spawn;

use shared::{Answer, Owner, Shared};
pub use spawn::Spawner;

/// A connection to the shim of one pod.
///
/// Cheap to clone; all methods take `&self`, many may be under way at a time, and each may be dropped before it ends:
/// the shim finishes what it was asked, and the answer is thrown away.
///
/// Every method fails with `Unavailable` when the shim dies or the connection is lost meanwhile.
#[derive(Clone, Debug)]
pub struct Client {
    owner: Arc<Owner>,
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

/// The streams of a container that somebody has attached to. What was asked for and is not there is absent: the standard
/// input of a container that was created without or has given it away, the standard error of a terminal.
#[derive(Debug)]
pub struct Attached {
    /// Where to write what the container shall read, not blocking. It may be the master side of a terminal, which must not
    /// be read from.
    pub stdin: Option<OwnedFd>,
    /// The container's output from now on, not blocking, until an end when the stream or the container ends. Whoever is
    /// more than 1 MiB behind loses some, and finds a note there.
    pub stdout: Option<OwnedFd>,
    /// The same of its standard error.
    pub stderr: Option<OwnedFd>,
}

impl Client {
    /// Connects to the shim of the pod whose directory this is. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `NotFound` if no shim was ever started there, `Unavailable` if it is dead: both at once, without waiting.
    pub async fn connect(pod_dir: &Path) -> Result<Self, Error> {
        let socket = transport::connect(pod_dir).map_err(|errno| {
            let at = pod_dir.display();
            match errno {
                Errno::NOENT => Error::new(Kind::NotFound, format!("no shim was started in {at}")),
                Errno::CONNREFUSED => Error::new(Kind::Unavailable, format!("the shim of {at} is dead")),
                Errno::AGAIN => Error::new(Kind::Unavailable, format!("the shim of {at} accepts nobody")),
                errno => Error::kernel(errno, format_args!("connect to the shim of {at}")),
            }
        })?;
        Self::from_socket(pod_dir, socket)
    }

    /// Makes the pod's namespaces and its pause process. `netns` is the pod's network namespace where that has been made
    /// already; it must have one of its own then, and no users.
    ///
    /// # Errors
    /// `Exists` if the shim has a sandbox already, else the error of the step that failed.
    pub async fn create_sandbox(
        &self,
        request: &SandboxRequest,
        netns: Option<OwnedFd>,
    ) -> Result<SandboxCreated, Error> {
        let fds = netns.into_iter().collect();
        let answer = self.call(&Request::CreateSandbox(request.clone()), fds).await?;
        let (pid, mut fds) = process(answer)?;
        Ok(SandboxCreated { pid, pidfd: fds.next().ok_or_else(nonsense)?, netns: fds.next() })
    }

    /// Sets a container up to the point where only its program has to be executed. `rootfs` is a detached mount.
    ///
    /// # Errors
    /// `Exists` if there is such a container, `Invalid` if the specification cannot be used, else the step that failed.
    pub async fn create(&self, request: &CreateRequest, rootfs: OwnedFd) -> Result<Created, Error> {
        let answer = self.call(&Request::Create(request.clone()), vec![rootfs]).await?;
        let (pid, mut fds) = process(answer)?;
        Ok(Created { pid, pidfd: fds.next().ok_or_else(nonsense)? })
    }

    /// Executes the program of a created container; returns when `execve` succeeded.
    ///
    /// # Errors
    /// `NotFound`, `State` if it is not waiting to be started, or the step that failed: after that the container is
    /// stopped.
    pub async fn start(&self, id: &str) -> Result<(), Error> {
        self.done(&Request::Start(id)).await
    }

    /// Sends a signal (1–64) to a container. A signal to a container that has stopped is no error.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub async fn signal(&self, id: &str, signal: i32, scope: SignalScope) -> Result<(), Error> {
        self.done(&Request::Signal { id, signal, scope }).await
    }

    /// Runs a process in a running container. `stdio` are its standard streams, `/dev/null` where absent; all three
    /// must be absent when the process asks for a terminal, whose master side is then in the answer.
    ///
    /// # Errors
    /// `NotFound`, `State` if the container does not run, `Exists` if there is such a session, `Invalid` if the
    /// process cannot be used, `Kernel` for the step that failed, such as an `execve` without a program.
    pub async fn exec(&self, request: &ExecRequest, stdio: [Option<OwnedFd>; 3]) -> Result<Execed, Error> {
        let ExecRequest { container, exec_id, process: json } = request;
        let present = stdio.each_ref().map(Option::is_some);
        let fds = stdio.into_iter().flatten().collect();
        let exit = self.shared().expect_exit(container, exec_id)?;
        let asked = Request::Exec { container, exec_id, stdio: present, process: json };
        let (pid, mut fds) = process(self.call(&asked, fds).await?)?;
        Ok(Execed { pid, console: fds.next(), exit })
    }

    /// Kills the process of an exec session. One that has ended is no error.
    ///
    /// # Errors
    /// `NotFound` if there is no such container.
    pub async fn kill_exec(&self, container: &str, exec_id: &str) -> Result<(), Error> {
        self.done(&Request::KillExec { container, exec_id }).await
    }

    /// Kills what is left of a container, removes its cgroup, closes its log and forgets it. A container that is not
    /// there is no error.
    ///
    /// # Errors
    /// `Busy` if its processes would not die in time; the call can be repeated.
    pub async fn delete(&self, id: &str) -> Result<(), Error> {
        self.done(&Request::Delete(id)).await
    }

    /// Deletes all containers and the sandbox, and ends the shim.
    ///
    /// # Errors
    /// `Busy` if processes would not die in time; the call can be repeated.
    pub async fn delete_sandbox(&self) -> Result<(), Error> {
        self.done(&Request::DeleteSandbox).await
    }

    /// Opens the log file of a container anew, by its path: call it after the file was renamed. No record is lost or
    /// torn. When it fails nothing has changed and no file is left behind.
    ///
    /// # Errors
    /// `NotFound`, `State` if the container has stopped, or the error of the open.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        self.done(&Request::ReopenLog(id)).await
    }

    /// Attaches to a container that was created and has not ended, by up to 16 clients at a time. Closing the descriptors
    /// detaches. With [`CreateRequest::stdin_once`] the first that asks for standard input gets it for good: when it
    /// closes it, or dies, the container reads an end. Later ones get none.
    ///
    /// # Errors
    /// `NotFound`, `State` if the container has ended, `Busy` if too many are attached, `Unsupported` if the shim is of
    /// an older version.
    pub async fn attach(&self, request: &AttachRequest) -> Result<Attached, Error> {
        let answer = self.call(&Request::Attach(request.clone()), Vec::new()).await?;
        let Response::Attached { present } = answer.response else { return Err(nonsense()) };
        if present.iter().filter(|present| **present).count() != answer.fds.len() {
            return Err(nonsense());
        }
        let mut fds = answer.fds.into_iter();
        let [stdin, stdout, stderr] = present.map(|present| if present { fds.next() } else { None });
        Ok(Attached { stdin, stdout, stderr })
    }

    /// Sets the size of a container's terminal, in columns and rows.
    ///
    /// # Errors
    /// `NotFound`, `State` if the container has ended, `Invalid` if it has no terminal, `Unsupported` if the shim is of
    /// an older version.
    pub async fn resize(&self, id: &str, width: u16, height: u16) -> Result<(), Error> {
        self.done(&Request::Resize { id, width, height }).await
    }

    /// The pod as the shim sees it.
    ///
    /// # Errors
    /// None but the loss of the shim.
    pub async fn state(&self) -> Result<PodState, Error> {
        match self.call(&Request::State, Vec::new()).await?.response {
            Response::State(state) => Ok(state),
            _ => Err(nonsense()),
        }
    }

    /// The pod's network namespace.
    ///
    /// # Errors
    /// `NotFound` if there is no sandbox or it uses the host's network.
    pub async fn netns(&self) -> Result<OwnedFd, Error> {
        let answer = self.call(&Request::Netns, Vec::new()).await?;
        answer.fds.into_iter().next().ok_or_else(nonsense)
    }

    /// The pod's user namespace.
    ///
    /// # Errors
    /// `NotFound` if there is no sandbox or its users are the host's.
    pub async fn userns(&self) -> Result<OwnedFd, Error> {
        let answer = self.call(&Request::Userns, Vec::new()).await?;
        answer.fds.into_iter().next().ok_or_else(nonsense)
    }

    /// Ends the shim. Refused while a process of the pod is alive, because nothing would be its parent then.
    ///
    /// # Errors
    /// `Busy` while anything runs.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.done(&Request::Shutdown).await
    }

    /// What happens from now on, [`Event::Lost`] last. May be called more than once: each receiver gets all events.
    /// Ask for [`Self::state`] after this, not before, to miss nothing.
    #[must_use]
    pub fn events(&self) -> mpsc::UnboundedReceiver<Event> {
        self.shared().subscribe()
    }

    /// Whether the connection is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.shared().is_lost()
    }

    fn from_socket(pod_dir: &Path, socket: OwnedFd) -> Result<Self, Error> {
        Ok(Self { owner: Arc::new(Owner::new(pod_dir, socket)?) })
    }

    fn shared(&self) -> &Shared {
        self.owner.shared()
    }

    async fn call(&self, request: &Request<'_>, fds: Vec<OwnedFd>) -> Result<Answer, Error> {
        let answer = self.shared().call(request, fds).await?;
        match answer.response {
            Response::Failed(failure) if failure.is_unknown_request() => Err(older()),
            Response::Failed(failure) => Err(failure.into()),
            response => Ok(Answer { response, fds: answer.fds }),
        }
    }

    async fn done(&self, request: &Request<'_>) -> Result<(), Error> {
        match self.call(request, Vec::new()).await?.response {
            Response::Done => Ok(()),
            _ => Err(nonsense()),
        }
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

fn process(answer: Answer) -> Result<(i32, std::vec::IntoIter<OwnedFd>), Error> {
    match answer.response {
        Response::Process { pid } => Ok((pid, answer.fds.into_iter())),
        _ => Err(nonsense()),
    }
}

fn older() -> Error {
    let message = "the pod was made by an older version that cannot do this: a new pod can";
    Error::new(Kind::Unsupported, message)
}

fn nonsense() -> Error {
    Error::new(Kind::Corrupt, "the shim gave an answer to another question")
}
