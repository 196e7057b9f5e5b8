//! `pause` and `resume`.

use vaquita_cgroup::Cgroup;

use crate::{Container, Error, Host, Id, Kind, Status};

/// Freezes all processes of a container; returns when they stand.
///
/// # Errors
/// [`Kind::Status`] when it does not run.
pub fn pause(host: &Host, id: &Id) -> Result<(), Error> {
    let container = Container::lock(host, id)?;
    match container.status()? {
        Status::Running | Status::Created => {}
        Status::Paused => return Err(Error::new(Kind::Status, "the container is paused already")),
        _ => return Err(cannot("paused")),
    }
    Ok(group(&container)?.freeze()?)
}

/// Lets the processes of a paused container go on.
///
/// # Errors
/// [`Kind::Status`] when it is not paused.
pub fn resume(host: &Host, id: &Id) -> Result<(), Error> {
    let container = Container::lock(host, id)?;
    let group = match container.progress()? {
        Status::Running | Status::Created => group(&container)?,
        _ => return Err(cannot("resumed")),
    };
    if !group.is_frozen()? {
        return Err(Error::new(Kind::Status, "the container is not paused"));
    }
    Ok(group.thaw()?)
}

fn cannot(what: &str) -> Error {
    Error::new(Kind::NotRunning, format!("container not running: it cannot be {what}"))
}

fn group(container: &Container) -> Result<Cgroup, Error> {
    container.cgroup()?.ok_or_else(|| {
        Error::new(Kind::Unsupported, "the container has no cgroup, and without one nothing can be paused")
    })
}
