//! The process that shims are copies of.
//!
//! To execute a program of this size, to begin a C library and to read the host's table of mounts takes longer than a shim
//! needs for all that it does until its pod is there. So that is done once, by a process without a pod, and each shim begins
//! as a copy of it. Memory that neither of them writes to, they share.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use vaquita_cgroup::Layout;
use vaquita_sys::memory::Pages;
use vaquita_sys::process::{CommandLine, fork_worker};
use vaquita_sys::signal::{self, Signal};

use super::{Server, complain, setup};
use crate::transport::{self, Outgoing, Stop};
use crate::{Error, disk};

/// The name of the program.
pub(crate) const NAME: &str = "vaquita-shim";

/// A process without a pod.
#[derive(Debug)]
pub(super) struct Template {
    socket: OwnedFd,
    layout: Layout,
    line: CommandLine,
    buffer: Pages,
}

impl Template {
    /// What all shims have in common.
    pub(super) fn new() -> Result<Self, Error> {
        let socket = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)
            .map_err(|errno| Error::kernel(errno, "dup of standard input"))?;
        rustix::net::sockopt::socket_type(&socket).map_err(|errno| {
            Error::kernel(errno, "standard input is no socket: shims are started by the daemon alone")
        })?;
        // Nothing but ourselves may keep the connection.
        let null = disk::null().map_err(|errno| Error::kernel(errno, "open /dev/null"))?;
        rustix::stdio::dup2_stdin(&null).map_err(|errno| Error::kernel(errno, "dup2 of standard input"))?;
        let line = CommandLine::of_self()?;
        setup::process()?;
        // Nobody waits for shims that end before we do, so they leave nothing.
        signal::ignore(Signal::CHLD).map_err(|errno| Error::kernel(errno, "signal(SIGCHLD)"))?;
        Ok(Self { socket, layout: Layout::detect()?, line, buffer: Pages::new(transport::RECEIVE_BUFFER)? })
    }

    /// Makes a shim for each pod that is named, until nobody is there to name one.
    pub(super) fn serve(mut self) -> Result<(), Error> {
        loop {
            let incoming = match transport::receive(&self.socket, &mut self.buffer) {
                Ok(incoming) => incoming,
                Err(Stop::Empty) => continue,
                Err(Stop::Closed) => return Ok(()),
                Err(Stop::Malformed(what)) => return Err(Error::kernel(Errno::BADMSG, what)),
            };
            let number = incoming.header.number;
            let pod_dir = PathBuf::from(OsStr::from_bytes(incoming.body.bytes()));
            let fds = incoming.fds;
            let errno = self.copy(&pod_dir, fds).err().map_or(0, |error| error.errno().raw_os_error());
            let sent = Outgoing::new(0, number, &errno.to_le_bytes(), Vec::new())
                .and_then(|answer| answer.send(&self.socket));
            match sent {
                Ok(()) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
                Err(errno) => return Err(Error::kernel(errno, "answer the daemon")),
            }
        }
    }

    /// Becomes the shim of that pod in a copy, which has the listening socket alone.
    fn copy(&mut self, pod_dir: &Path, listener: Vec<OwnedFd>) -> vaquita_sys::Result<()> {
        let Self { layout, line, .. } = self;
        let (_, _pidfd) = fork_worker(listener, |mut listener| {
            line.show(&[NAME.as_bytes(), pod_dir.as_os_str().as_bytes()]);
            let result = be_shim(pod_dir, listener.pop(), layout.clone());
            if let Err(error) = &result {
                complain(format_args!("{error}"));
            }
            i32::from(result.is_err())
        })?;
        Ok(())
    }
}

fn be_shim(pod_dir: &Path, listener: Option<OwnedFd>, layout: Layout) -> Result<(), Error> {
    signal::reset_all().map_err(|errno| Error::kernel(errno, "rt_sigaction"))?;
    let listener = listener.ok_or_else(|| Error::kernel(Errno::BADF, "no socket was given"))?;
    Server::new(pod_dir, listener, layout)?.run()
}
