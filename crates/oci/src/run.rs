//! `run`: create, start, wait, delete.

use std::os::fd::AsFd;

use vaquita_sys::process::set_subreaper;

use crate::create::{Create, Made, Request, Start, make};
use crate::foreground::Signals;
use crate::{Error, Host, Id, start};

/// How a container is run.
#[derive(Debug, Default)]
pub struct Run {
    /// How it is made.
    pub create: Create,
    /// Return when it has been started.
    pub detach: bool,
    /// Do not delete it when it ends.
    pub keep: bool,
    /// Do not take in processes whose parents end.
    pub no_subreaper: bool,
}

/// Runs a container and returns its exit code: 128 plus the signal for one that was killed, 0 with `detach`.
///
/// # Errors
/// As those of create and start; nothing is left behind.
pub fn run(host: &Host, id: &Id, how: &Run) -> Result<i32, Error> {
    let request = Request::read(host, &how.create)?;
    if request.has_no_process {
        return Err(start::no_process());
    }
    check_console(how, request.has_terminal())?;
    // Blocked before there is a child, so that none is missed; a new process unblocks them for itself.
    let signals = if how.detach { None } else { Some(Signals::take()?) };
    if !how.detach && !how.no_subreaper {
        set_subreaper().map_err(|errno| Error::kernel("prctl(PR_SET_CHILD_SUBREAPER, 1)", errno))?;
    }
    let Made { mut container, created, cgroup } = make(host, id, &how.create, &request, Start::Here)?;
    let started = start::go(
        host,
        &container,
        Some(&request.spec),
        (created.pidfd.as_fd(), cgroup.as_ref()),
        created.start,
    );
    if let Err(error) = started {
        let _ = vaquita_sys::process::wait_pidfd(&created.pidfd);
        let _ = crate::delete::clear(host, container);
        return Err(error);
    }
    let Some(signals) = signals else { return Ok(0) };
    container.unlock()?;
    let master = if how.create.console_socket.is_some() { None } else { created.console };
    let code = signals.stay_with(&created.pidfd, master)?;
    if !how.keep {
        container.directory.lock()?;
        crate::delete::clear(host, container)?;
    }
    Ok(code)
}

fn check_console(how: &Run, has_terminal: bool) -> Result<(), Error> {
    match (has_terminal, &how.create.console_socket) {
        (true, None) if how.detach => Err(Error::invalid(
            "process.terminal is set, and nobody would hold the terminal of a detached container: give --console-socket",
        )),
        (true, Some(_)) if !how.detach => Err(Error::invalid(
            "--console-socket is for a detached container: this one's terminal is shown here; give --detach too, or neither",
        )),
        (false, Some(_)) => Err(Error::invalid(
            "--console-socket is given, but process.terminal is not set: nothing would be sent",
        )),
        _ => Ok(()),
    }
}
