//! What the process becomes before it serves.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;
use vaquita_sys::process;
use vaquita_sys::signal::{self, Set, Signal, SignalFd};

use crate::{Error, disk, transport};

/// The name of the file that says who the shim is: its pid and its start time in clock ticks since boot.
pub(crate) const RECORD: &str = "shim.json";
/// The name of the file that standard error goes to.
const COMPLAINTS: &str = "shim.log";

/// The socket that clients connect to listens already.
pub(super) fn listener(listener: &OwnedFd) -> Result<(), Error> {
    let listening = rustix::net::sockopt::socket_acceptconn(listener)
        .map_err(|errno| Error::kernel(errno, "what was given is not the listening socket of a shim"))?;
    if !listening {
        return Err(Error::kernel(Errno::INVAL, "the socket that was given does not listen"));
    }
    rustix::io::ioctl_fionbio(listener, true).map_err(|errno| Error::kernel(errno, "ioctl(FIONBIO)"))
}

/// Standard input and output become `/dev/null`, standard error a file that is empty unless something is wrong.
pub(super) fn standard_streams(pod_dir: &Path) -> Result<(), Error> {
    let null = disk::null().map_err(|errno| Error::kernel(errno, "open /dev/null"))?;
    let path = pod_dir.join(COMPLAINTS);
    let complaints = disk::complaints(&path)
        .map_err(|errno| Error::kernel(errno, format_args!("open {}", path.display())))?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&complaints))
        .map_err(|errno| Error::kernel(errno, "dup2 of the standard streams"))
}

/// Own session, no tie to the directory we were started in, orphans of the pod are ours, nobody looks into our memory.
#[expect(clippy::disallowed_methods, reason = "the host's root; nothing is looked up")]
pub(super) fn process() -> Result<(), Error> {
    // Whoever started us may have left descriptors open: they must not reach a container.
    let _ = process::close_range_on_exec(3, u32::MAX);
    match rustix::process::setsid() {
        Ok(_) | Err(Errno::PERM) => {}
        Err(errno) => return Err(Error::kernel(errno, "setsid")),
    }
    rustix::process::chdir("/").map_err(|errno| Error::kernel(errno, "chdir /"))?;
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    process::set_subreaper().map_err(|errno| Error::kernel(errno, "prctl(PR_SET_CHILD_SUBREAPER)"))?;
    process::set_dumpable(false).map_err(|errno| Error::kernel(errno, "prctl(PR_SET_DUMPABLE)"))?;
    process::set_name(c"vaquita-shim").map_err(|errno| Error::kernel(errno, "prctl(PR_SET_NAME)"))?;
    Ok(())
}

/// Blocks every signal for good, so that SIGTERM, SIGHUP or SIGPIPE mean nothing to us, and reads SIGCHLD as an event.
pub(super) fn signals() -> Result<SignalFd, Error> {
    signal::block_all().map_err(|errno| Error::kernel(errno, "rt_sigprocmask"))?;
    Ok(SignalFd::new(Set::EMPTY.with(Signal::CHLD))?)
}

/// Writes who we are, so that a later daemon can tell whether we are dead even if our pid has a new owner.
pub(super) fn record(pod_dir: &Path) -> Result<(), Error> {
    let pid = rustix::process::getpid();
    let started = process::start_time(pid)?;
    let text = format!("{{\"pid\":{},\"start_time\":{started}}}\n", pid.as_raw_nonzero());
    Ok(disk::write(pod_dir, RECORD, text.as_bytes())?)
}

/// Removes what we put into the pod's directory, at the end.
pub(super) fn forget(pod_dir: &Path) {
    for name in [transport::SOCKET, RECORD] {
        disk::remove(&pod_dir.join(name));
    }
    let complaints = pod_dir.join(COMPLAINTS);
    if disk::is_empty(&complaints) {
        disk::remove(&complaints);
    }
}
