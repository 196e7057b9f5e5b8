//! `kill`: signals for a container.

use vaquita_sys::signal::{self, Signal};

use crate::{Container, Error, Host, Id, Status};

/// Sends a signal to the first process of a container, or with `all` to every process in its cgroup. No signal: only
/// looks whether there is somebody to get one.
///
/// # Errors
/// [`crate::Kind::NotRunning`] when the container has stopped.
pub fn kill(host: &Host, id: &Id, signal: Option<Signal>, all: bool) -> Result<(), Error> {
    let container = Container::open(host, id)?;
    let status = container.progress()?;
    let cgroup = if all || container.record.shares_pids { container.cgroup()? } else { None };
    let goes_to_all = all || status == Status::Stopped || signal == Some(Signal::KILL);
    if let Some(cgroup) = cgroup.filter(|_| goes_to_all) {
        // Processes that share a PID namespace outlive the first one.
        if status == Status::Stopped && cgroup.procs()?.is_empty() {
            return Err(Error::not_running());
        }
        match signal {
            Some(Signal::KILL) => cgroup.kill()?,
            Some(signal) => cgroup.signal_all(signal)?,
            None => {}
        }
        return Ok(());
    }
    let init = container.init()?.ok_or_else(Error::not_running)?;
    if let Some(signal) = signal {
        match signal::send(&init, signal) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return Err(Error::not_running()),
            Err(errno) => {
                return Err(Error::kernel(format!("pidfd_send_signal(<first process>, {signal})"), errno));
            }
        }
    }
    // A frozen process of v1 gets even SIGKILL only when it is thawed.
    if signal == Some(Signal::KILL)
        && let Some(cgroup) = container.cgroup()?
        && !cgroup.layout().is_v2()
        && cgroup.is_frozen()?
    {
        cgroup.thaw()?;
    }
    Ok(())
}
