//! `delete`: removes what a container has.

use std::time::Duration;

use vaquita_cgroup::Layout;
use vaquita_sys::signal::{self, Signal};

use crate::state::{CONFIG, FILES};
use crate::store::Directory;
use crate::{Container, Error, Host, Id, Kind, Status, hooks};

/// Deletes a container that has stopped or was never started; with `force` one that runs too, and one that was not made
/// wholly. With `force` a container that does not exist is fine.
///
/// # Errors
/// [`Kind::Status`] for a running container without `force`.
pub fn delete(host: &Host, id: &Id, force: bool) -> Result<(), Error> {
    let directory = match lock(host, id) {
        Err(error) if force && error.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    let container = match Container::load_locked(directory) {
        Ok(container) => container,
        // Its maker ended before it wrote anything down, and so before it made anything.
        Err((directory, error)) if force && error.kind() == Kind::NotFound => return directory.remove(FILES),
        Err((_, error)) => return Err(error),
    };
    let status = container.progress()?;
    match status {
        Status::Stopped | Status::Created => {}
        _ if force => {}
        other => {
            return Err(Error::new(
                Kind::Status,
                format!(
                    "cannot delete container {id} that is not stopped: {}; kill it first, or use --force",
                    other.as_str()
                ),
            ));
        }
    }
    // Also where it has stopped: it may still be on its way out.
    end(&container)?;
    clear(host, container)
}

fn lock(host: &Host, id: &Id) -> Result<Directory, Error> {
    let directory = Directory::open(host, id)?;
    directory.lock()?;
    Ok(directory)
}

/// How long a killed process may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills the first process and waits for its end.
fn end(container: &Container) -> Result<(), Error> {
    let Some(init) = container.init()? else { return Ok(()) };
    match signal::send(&init, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => return Err(Error::kernel("pidfd_send_signal(<first process>, SIGKILL)", errno)),
    }
    if let Some(cgroup) = container.cgroup()? {
        // Also thaws; a frozen process does not end.
        cgroup.kill()?;
    }
    wait_for_end(&init)
}

fn wait_for_end(init: &std::os::fd::OwnedFd) -> Result<(), Error> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    let mut polled = [PollFd::new(init, PollFlags::IN)];
    match rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&patience))) {
        Ok(0) => Err(Error::new(
            Kind::Other,
            format!(
                "the container's first process did not end within {} s of SIGKILL: try again later",
                PATIENCE.as_secs()
            ),
        )),
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::kernel("poll(<first process>)", errno)),
    }
}

/// Removes everything of a container whose first process has ended: other processes, the cgroup, the directory. Runs
/// the hooks for that.
pub(crate) fn clear(host: &Host, container: Container) -> Result<(), Error> {
    remove_cgroup(&container)?;
    remove_class(&container)?;
    forget(host, container)
}

/// As [`clear`], of a container without a cgroup.
pub(crate) fn forget(host: &Host, container: Container) -> Result<(), Error> {
    hooks::poststop(host, &container.record, container.id());
    container.directory.remove(FILES)
}

/// What it has in a resctrl filesystem. Few containers have that, and for the others nothing is parsed.
fn remove_class(container: &Container) -> Result<(), Error> {
    let config = container.directory.read(CONFIG)?.unwrap_or_default();
    let name = b"intelRdt";
    if !config.windows(name.len()).any(|part| part == name) {
        return Ok(());
    }
    let spec = vaquita_runtime::document::parse_spec(CONFIG, &config)?;
    Ok(vaquita_runtime::resctrl::remove(&spec, &container.id().to_string())?)
}

fn remove_cgroup(container: &Container) -> Result<(), Error> {
    let location = &container.record.cgroup;
    if location.path().is_none() {
        return Ok(());
    }
    let layout = Layout::detect()?;
    let group = match location.open(&layout) {
        Err(error) if error.kind() == vaquita_cgroup::Kind::NotFound => None,
        other => other?,
    };
    if let Some(group) = group {
        if container.record.init.is_some() {
            // With the first process of a PID namespace all others of it have ended.
            if container.record.shares_pids {
                group.kill()?;
            }
        } else if group.wait_empty(PATIENCE).is_err() {
            // A process that had not been written down ends when it sees that its maker has: these are of somebody
            // else, for whom the container was refused.
            return Ok(());
        }
    }
    Ok(location.remove(&layout)?)
}
