//! Starting shims.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use super::Client;
use crate::server::template::NAME;
use crate::transport::{self, Outgoing, RECEIVE_BUFFER, Stop};
use crate::{Error, Kind, disk};

/// Starts shims from one executable, which is meant to be one that nothing can change.
///
/// The first one takes longer than the others: it executes a process that all of them are copies of, and that ends with this.
#[derive(Debug)]
pub struct Spawner {
    exe: OwnedFd,
    /// Held while a shim is made.
    template: Mutex<Option<Template>>,
}

/// The process that shims are copies of.
#[derive(Debug)]
struct Template {
    socket: AsyncFd<OwnedFd>,
    /// Of the last question: whoever asked may have gone away before the answer came.
    number: u32,
}

/// Why there is no shim.
#[derive(Debug)]
enum Failure {
    /// There was nobody to hear the question.
    Gone,
    Other(Error),
}

impl Spawner {
    /// Shims will run `exe`, with `vaquita-shim` as their name and the pod directory as their only argument.
    #[must_use]
    pub fn new(exe: OwnedFd) -> Self {
        Self { exe, template: Mutex::new(None) }
    }

    /// Starts the shim of the pod whose directory this is, and connects to it. Must be called within a tokio runtime.
    ///
    /// The socket listens before the shim is there, and is closed if that dies at once.
    ///
    /// # Errors
    /// `Exists` if a live shim serves this directory already, else the error of the call that failed.
    pub async fn spawn(&self, pod_dir: &Path) -> Result<Client, Error> {
        let pod_dir = std::path::absolute(pod_dir)
            .map_err(|error| Error::io(error, format_args!("find {}", pod_dir.display())))?;
        let at = pod_dir.display();
        if let Ok(_connection) = transport::connect(&pod_dir) {
            return Err(Error::new(Kind::Exists, format!("a shim serves {at} already")));
        }
        let listener = transport::listen(&pod_dir)
            .map_err(|errno| Error::kernel(errno, format_args!("listen in {at}")))?;
        let socket = transport::connect(&pod_dir)
            .map_err(|errno| Error::kernel(errno, format_args!("connect in {at}")))?;
        self.copy(&pod_dir, listener)
            .await
            .inspect_err(|_| disk::remove(&pod_dir.join(transport::SOCKET)))?;
        Client::from_socket(&pod_dir, socket)
    }

    /// Has a shim made.
    async fn copy(&self, pod_dir: &Path, listener: OwnedFd) -> Result<(), Error> {
        let mut template = self.template.lock().await;
        let question = vec![listener];
        let mut question = Outgoing::new(0, 0, pod_dir.as_os_str().as_bytes(), question)
            .map_err(|errno| Error::kernel(errno, format_args!("name {}", pod_dir.display())))?;
        // One that somebody has killed is replaced.
        let mut is_new = template.is_none();
        loop {
            let there = match &mut *template {
                Some(there) => there,
                None => template.insert(Template::start(&self.exe)?),
            };
            let result = there.copy(&mut question).await;
            match result {
                Ok(()) => return Ok(()),
                Err(Failure::Gone) if !is_new => is_new = true,
                Err(Failure::Gone) => return Err(ended()),
                Err(Failure::Other(error)) if error.kind() != Kind::Unavailable => return Err(error),
                Err(Failure::Other(error)) => {
                    *template = None;
                    return Err(error);
                }
            }
            *template = None;
        }
    }
}

impl Template {
    fn start(exe: &OwnedFd) -> Result<Self, Error> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| Error::kernel(errno, "socketpair"))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| Error::kernel(errno, "ioctl(FIONBIO)"))?;
        let child = Command::new(format!("/proc/self/fd/{}", exe.as_raw_fd()))
            .arg0(NAME)
            .arg(format!("template{:ROOM$}", ""))
            .env_clear()
            .env("GLIBC_TUNABLES", TUNABLES)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Error::io(error, "execute the shim"))?;
        reap_later(child)?;
        let socket = super::shared::watch(ours, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { socket, number: 0 })
    }

    /// Asks, and waits for the answer to this question.
    async fn copy(&mut self, question: &mut Outgoing) -> Result<(), Failure> {
        self.number = self.number.wrapping_add(1);
        question.renumber(self.number);
        let sent = self.socket.async_io(Interest::WRITABLE, |socket| Ok(question.send(socket)?)).await;
        sent.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::PIPE | Errno::CONNRESET) => Failure::Gone,
            _ => Failure::Other(Error::io(error, "ask for a shim")),
        })?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            let mut ready = self.socket.readable().await.map_err(|_| Failure::Other(ended()))?;
            let incoming = match transport::receive(self.socket.get_ref(), &mut buffer) {
                Ok(incoming) => incoming,
                Err(Stop::Empty) => {
                    ready.clear_ready();
                    continue;
                }
                Err(Stop::Closed | Stop::Malformed(_)) => return Err(Failure::Other(ended())),
            };
            if incoming.header.number != self.number {
                continue;
            }
            let errno = <[u8; 4]>::try_from(incoming.body.bytes()).map_or(0, i32::from_le_bytes);
            return match errno {
                0 => Ok(()),
                errno => {
                    Err(Failure::Other(Error::kernel(Errno::from_raw_os_error(errno), "clone the shim")))
                }
            };
        }
    }
}

fn ended() -> Error {
    Error::new(Kind::Unavailable, "the process that shims are copies of has ended")
}

/// How many bytes a pod's directory may have to be shown whole in the command line of its shim.
const ROOM: usize = 1024;

/// The allocator keeps no cache of freed memory per thread. The shim hardly allocates, so the cache would only pin pages:
/// 24 kB of heap instead of 32.
const TUNABLES: &str = "glibc.malloc.tcache_count=0";

/// Whatever becomes of it, it does not stay a zombie while we live.
fn reap_later(mut child: Child) -> Result<(), Error> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::kernel(Errno::INVAL, format_args!("the pid of the shim is {}", child.id())))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)
        .map_err(|errno| Error::kernel(errno, "pidfd_open of the shim"))?;
    let pidfd = super::shared::watch(pidfd, Interest::READABLE)?;
    tokio::spawn(async move {
        let _ = pidfd.readable().await;
        let _ = child.wait();
    });
    Ok(())
}
