//! A process that does nothing.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::Pid;

use super::{Clone, CloneFlags, Forked, NoWayBack, clone3, close_range, exit_now, wait_pidfd};
use crate::signal::{Signal, send};
use crate::{Result, socket};

/// A child that only waits for its end: to hold a place, such as a control group that somebody removes when it is empty.
///
/// It has no descriptors of its parent's, and ends with `self` or with the parent, whichever is first.
#[derive(Debug)]
pub struct Idle {
    pid: Pid,
    pidfd: OwnedFd,
    /// Closed when the parent ends, however it does.
    _alive: OwnedFd,
}

impl Idle {
    /// Makes it.
    ///
    /// # Errors
    /// `EAGAIN` at the limit of processes, `EMFILE`, `ENOMEM`.
    pub fn new() -> Result<Self> {
        Self::in_new(CloneFlags::NONE)
    }

    /// Makes it in new namespaces.
    ///
    /// # Errors
    /// As those of [`Self::new`]; `EPERM`, `ENOSPC` when there may be no more namespaces.
    pub fn in_new(namespaces: CloneFlags) -> Result<Self> {
        let (ours, theirs) = socket::pair()?;
        let theirs_at = theirs.as_raw_fd().unsigned_abs();
        // SAFETY: the child makes system calls only, and exits.
        match unsafe { clone3(&Clone { flags: namespaces, ..Clone::default() }) }? {
            Forked::Parent { pid, pidfd } => Ok(Self { pid, pidfd, _alive: ours }),
            Forked::Child => {
                let _end = NoWayBack::new();
                if theirs_at > 0 {
                    // SAFETY: the child only reads from `theirs` after this, and drops nothing.
                    let _ = unsafe { close_range(0, theirs_at - 1) };
                }
                // SAFETY: as before.
                let _ = unsafe { close_range(theirs_at + 1, u32::MAX) };
                let _ = crate::signal::block_all();
                let _ = rustix::io::retry_on_intr(|| rustix::io::read(&theirs, &mut [0; 1]));
                exit_now(0)
            }
        }
    }

    /// Its process id, as the caller's PID namespace sees it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }
}

impl AsFd for Idle {
    /// Its pidfd.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // It may have been killed already; it is reaped in any case.
        let _ = send(&self.pidfd, Signal::KILL);
        let _ = wait_pidfd(&self.pidfd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_and_goes() {
        let idle = Idle::new().unwrap();
        let stat = format!("/proc/{}/fd", idle.pid());
        assert!(super::super::try_wait_pidfd(&idle).unwrap().is_none());
        let pid = idle.pid();
        // It has one descriptor once it has closed the others.
        while std::fs::read_dir(&stat).unwrap().count() != 1 {
            std::thread::yield_now();
        }
        drop(idle);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
