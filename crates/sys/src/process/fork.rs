//! A short-lived copy of a process that has one thread.

use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;
use rustix::process::Pid;

use super::{Clone, CloneFlags, Forked, clone3, close_range, exit_now};
use crate::{Error, Result};

/// Runs `work` in a copy of this process, which ends with the exit code that it returns (70 if it panics).
///
/// Of the open descriptors the copy has `fds` and 0 to 2 only, so that it keeps neither connections nor pipes of its
/// parent open; `work` must use no other, whatever it can name. Signal mask and memory are those of the caller.
/// Returns the pid and a pidfd of the copy, which the caller must reap.
///
/// # Errors
/// `EDEADLK` if the process has more than one thread: the copy could wait for ever for a lock of theirs. Else as
/// [`clone3`].
pub fn fork_worker(fds: Vec<OwnedFd>, work: impl FnOnce(Vec<OwnedFd>) -> i32) -> Result<(Pid, OwnedFd)> {
    one_thread("clone3(..)")?;
    let how = Clone { flags: CloneFlags::NONE, ..Clone::default() };
    // SAFETY: this is the only thread, and the child never returns from here.
    match unsafe { clone3(&how) }? {
        Forked::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Forked::Child => {
            let work = AssertUnwindSafe(|| {
                close_others(&fds);
                work(fds)
            });
            exit_now(catch_unwind(work).unwrap_or(PANICKED))
        }
    }
}

/// Refuses `what` where there are other threads.
pub(super) fn one_thread(what: &'static str) -> Result<()> {
    // Directories below count as links of a directory in procfs: two of its own, and one for each thread.
    let threads =
        rustix::fs::stat("/proc/self/task").map_err(|errno| Error::new("stat(/proc/self/task)", errno))?;
    if threads.st_nlink > 3 {
        return Err(Error::refused(what, Errno::DEADLK, "this process has more than one thread"));
    }
    Ok(())
}

/// Held by a new process from clone on: unwinding ends there, before a frame is reached that is its maker's as well, whose
/// destructors would act on what both have in common. It is never dropped otherwise, as such a process ends or becomes
/// another program.
#[derive(Debug)]
pub struct NoWayBack(());

impl NoWayBack {
    /// From here on.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "nobody wants one by default")]
    pub fn new() -> Self {
        Self(())
    }
}

impl Drop for NoWayBack {
    fn drop(&mut self) {
        exit_now(PANICKED)
    }
}

/// The exit code of a copy of this process that panicked (`EX_SOFTWARE` of sysexits.h).
const PANICKED: i32 = 70;

/// Closes everything from 3 on that is not among `fds`.
fn close_others(fds: &[OwnedFd]) {
    let mut keep: Vec<u32> = fds.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    keep.sort_unstable();
    let mut next = 3;
    for fd in keep.into_iter().filter(|fd| *fd >= 3) {
        if fd > next {
            close(next, fd - 1);
        }
        next = fd + 1;
    }
    close(next, u32::MAX);
}

fn close(first: u32, last: u32) {
    // SAFETY: the owners of these descriptors are in frames that this copy of the process never returns to, and `work`
    // has promised not to use them.
    let _ = unsafe { close_range(first, last) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_process_does_not_unwind_into_its_makers_code() {
        // SAFETY: the child unwinds, for which it needs no lock that another thread of this test may have, and exits.
        match unsafe { clone3(&Clone::default()) }.unwrap() {
            Forked::Parent { pidfd, .. } => {
                let exit = crate::process::wait_pidfd(&pidfd).unwrap();
                assert_eq!((exit.code, exit.signal), (PANICKED, None));
            }
            Forked::Child => {
                let _reached = catch_unwind(|| {
                    let _end = NoWayBack::new();
                    std::panic::resume_unwind(Box::new(()));
                });
                exit_now(0)
            }
        }
    }

    #[test]
    fn a_process_with_threads_is_refused() {
        // The test runner has one thread for itself and at least one for tests.
        assert_eq!(fork_worker(Vec::new(), |_| 0).unwrap_err().errno(), Errno::DEADLK);
    }
}
