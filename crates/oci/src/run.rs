//! `run`: create, start, wait, delete.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags};
use vaquita_sys::process::{reap_any, set_subreaper, try_wait_pidfd};
use vaquita_sys::signal::{self, Set, Signal, SignalFd};

use crate::create::{Create, Made, Request, Start, make};
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
    let code = signals.forward_until_end(&created.pidfd)?;
    if !how.keep {
        container.directory.lock()?;
        crate::delete::clear(host, container)?;
    }
    Ok(code)
}

/// All signals that can be passed on, blocked.
pub(crate) struct Signals(SignalFd);

impl Signals {
    pub(crate) fn take() -> Result<Self, Error> {
        // These are for this program alone, and come from its own mistakes.
        let own =
            [Signal::SEGV, Signal::BUS, Signal::FPE, Signal::ILL, Signal::TRAP, Signal::SYS, Signal::ABRT];
        let mask = own.into_iter().fold(Set::ALL, Set::without);
        signal::set_mask(mask).map_err(|errno| Error::kernel("rt_sigprocmask(SIG_SETMASK)", errno))?;
        Ok(Self(SignalFd::new(mask)?))
    }

    /// Passes signals on until the child ends; its exit code.
    pub(crate) fn forward_until_end(&self, child: &std::os::fd::OwnedFd) -> Result<i32, Error> {
        loop {
            let mut polled =
                [PollFd::new(child, PollFlags::IN), PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
            match rustix::event::poll(&mut polled, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Error::kernel("poll(<container>)", errno)),
            }
            while let Some(received) = self.0.next()? {
                match received.signal {
                    Signal::CHLD | Signal::URG | Signal::PIPE => {}
                    // Ended already: seen below.
                    signal => drop(signal::send(child, signal)),
                }
            }
            if let Some(exit) = try_wait_pidfd(child)? {
                while reap_any()?.is_some() {}
                return Ok(exit.code);
            }
        }
    }
}
