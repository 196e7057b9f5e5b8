//! Starting shims.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use tokio::io::Interest;

use super::Client;
use crate::{Error, Kind, disk, transport};

/// Starts shims from one executable, which is meant to be a sealed memfd that nothing can change.
#[derive(Debug)]
pub struct Spawner {
    exe: OwnedFd,
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
    /// There is nothing to wait for: the socket listens before the shim is there, and is closed if it dies at once.
    ///
    /// # Errors
    /// `Exists` if a live shim serves this directory already, else the error of the call that failed.
    // Async although it never waits: that it needs a tokio runtime shows in the type.
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
        let child = Command::new(format!("/proc/self/fd/{}", self.exe.as_raw_fd()))
            .arg0("vaquita-shim")
            .arg(&pod_dir)
            .env_clear()
            .env("GLIBC_TUNABLES", TUNABLES)
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                disk::remove(&pod_dir.join(transport::SOCKET));
                Error::io(error, format_args!("execute the shim of {at}"))
            })?;
        reap_later(child)?;
        Client::from_socket(&pod_dir, socket)
    }
}

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
