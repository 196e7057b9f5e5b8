//! Waiting for processes, and telling one from its pid's next owner.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus};

use crate::error::Fd;
use crate::{Error, Result};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit status, or 128 plus the signal that killed it, as shells and Kubernetes count.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

impl Exit {
    fn from_status(status: &WaitIdStatus) -> Self {
        match status.terminating_signal() {
            Some(signal) => Self { code: 128 + signal, signal: Some(signal) },
            None => Self { code: status.exit_status().unwrap_or_default(), signal: None },
        }
    }
}

/// Waits until the child of `pidfd` ends, and reaps it.
///
/// # Errors
/// `ECHILD` when it is not a child of the caller or has been reaped.
pub fn wait_pidfd(pidfd: impl AsFd) -> Result<Exit> {
    let exit = wait(&pidfd, WaitIdOptions::EXITED)?;
    exit.ok_or_else(|| Error::new(format!("waitid(P_PIDFD, {})", Fd::of(&pidfd)), Errno::CHILD))
}

/// Reaps the child of `pidfd` if it has ended; none if it still runs.
///
/// # Errors
/// `ECHILD` when it is not a child of the caller or has been reaped.
pub fn try_wait_pidfd(pidfd: impl AsFd) -> Result<Option<Exit>> {
    wait(&pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

/// Reaps any child that has ended, such as an orphan that a subreaper was given. None when no child has, or there is none.
///
/// A child that is waited for by its pidfd must be looked at first: this takes whichever comes.
///
/// # Errors
/// None that is known besides those mapped to none.
pub fn reap_any() -> Result<Option<(Pid, Exit)>> {
    // Not waitid: the one of rustix does not tell which child it was.
    let result = rustix::io::retry_on_intr(|| rustix::process::wait(rustix::process::WaitOptions::NOHANG));
    match result {
        Ok(Some((pid, status))) => {
            let exit = match status.terminating_signal() {
                Some(signal) => Exit { code: 128 + signal, signal: Some(signal) },
                None => Exit { code: status.exit_status().unwrap_or_default(), signal: None },
            };
            Ok(Some((pid, exit)))
        }
        Ok(None) | Err(Errno::CHILD) => Ok(None),
        Err(errno) => Err(Error::new("wait4(-1, WNOHANG)", errno)),
    }
}

/// A descriptor of the process that has `pid` now. Compare [`start_time`] with the recorded one to know that it is
/// still the same process.
///
/// # Errors
/// `ESRCH` when there is none; `ENOSYS` before Linux 5.3, for which there is no substitute: a pid can be another
/// process's at any moment.
pub fn open_pidfd(pid: Pid) -> Result<OwnedFd> {
    let call = || format!("pidfd_open({pid})");
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
        Errno::NOSYS => Error::refused(
            call(),
            errno,
            "ENOSYS: this kernel (before Linux 5.3, or behind a filter) gives no hold of a process by its number, and \
             without one another process might be meant",
        ),
        errno => Error::new(call(), errno),
    })
}

/// The pid of the process of `pidfd` in the PID namespace of procfs, or none when it has been reaped (or is in another
/// namespace). Of the next owner of the pid once the process is gone: look at the pidfd again after using it.
///
/// # Errors
/// `EINVAL` for another descriptor than a pidfd.
pub fn pidfd_pid(pidfd: impl AsFd) -> Result<Option<Pid>> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let call = || format!("read({path:?})");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Error::new(call(), error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
    })?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    // -1 for one that is gone, 0 for one that cannot be seen (pidfd_show_fdinfo in the kernel).
    let pid = pid.ok_or_else(|| Error::refused(call(), Errno::INVAL, "not a pidfd"))?;
    Ok(if pid > 0 { Pid::from_raw(pid) } else { None })
}

/// What proc_pid_stat(5) says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Field 3: `R`, `S`, `D`, `T`, and `Z` or `X` for one that has ended.
    pub state: char,
    /// It is on its way out (`PF_EXITING` of field 9): its files may be closed already, though it is no zombie yet.
    pub exiting: bool,
    /// Field 22: see [`start_time`].
    pub start_time: u64,
}

/// include/linux/sched.h. Set before the process closes its files, and kept until it is gone.
const PF_EXITING: u64 = 0x4;

/// Looks at a process; none when there is none of that pid.
///
/// # Errors
/// Those of reading procfs.
pub fn look(pid: Pid) -> Result<Option<Look>> {
    let path = format!("/proc/{pid}/stat");
    let call = || format!("read({path:?})");
    match std::fs::read(&path)
        .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
    {
        Ok(stat) => match (parse_state(&stat), parse_flags(&stat), parse_start_time(&stat)) {
            (Some(state), Some(flags), Some(start_time)) => {
                Ok(Some(Look { state, exiting: flags & PF_EXITING != 0, start_time }))
            }
            _ => Err(Error::refused(call(), Errno::INVAL, "not what proc_pid_stat(5) says")),
        },
        Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        Err(errno) => Err(Error::new(call(), errno)),
    }
}

/// When the process started, in clock ticks since boot (field 22 of proc_pid_stat(5)): together with the pid this
/// names a process for as long as the machine is up.
///
/// # Errors
/// `ENOENT` or `ESRCH` when there is no such process.
pub fn start_time(pid: Pid) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let call = || format!("read({path:?})");
    let stat = std::fs::read(&path).map_err(|error| {
        Error::new(call(), error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
    })?;
    parse_start_time(&stat).ok_or_else(|| Error::refused(call(), Errno::INVAL, "field 22 is not a number"))
}

fn parse_state(stat: &[u8]) -> Option<char> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(end + 2).map(|byte| char::from(*byte))
}

fn parse_flags(stat: &[u8]) -> Option<u64> {
    parse_number(stat, 9)
}

fn parse_start_time(stat: &[u8]) -> Option<u64> {
    parse_number(stat, 22)
}

/// A field after the name, counted from 1 as in the manual.
pub(super) fn parse_number(stat: &[u8], field: usize) -> Option<u64> {
    // The name in parentheses may contain anything, spaces and parentheses too.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(field - 3)?.parse().ok()
}

fn wait(pidfd: &impl AsFd, options: WaitIdOptions) -> Result<Option<Exit>> {
    let status = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options))
        .map_err(|errno| Error::new(format!("waitid(P_PIDFD, {})", Fd::of(pidfd)), errno))?;
    Ok(status.as_ref().map(Exit::from_status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_the_start_time() {
        let stat = b"42 (a) R 1 2 (3) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        assert_eq!(parse_start_time(stat), Some(12345));
        assert_eq!(parse_state(stat), Some('S'));
        assert_eq!(parse_flags(stat), Some(4194560));
        assert_eq!(parse_state(b"42 (a)"), None);
        assert_eq!(parse_start_time(b""), None);
        assert_eq!(parse_start_time(b"42 (a) R"), None);
    }

    #[test]
    fn a_start_time_does_not_change() {
        let pid = rustix::process::getpid();
        assert_eq!(start_time(pid).unwrap(), start_time(pid).unwrap());
    }
}
