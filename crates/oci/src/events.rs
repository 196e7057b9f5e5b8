//! `events`: what a container uses, and that it ran out of memory.

mod form;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::{Value, json};
use vaquita_cgroup::{Cgroup, OomEvent};

use crate::{Container, Error, Host, Id, Kind};

/// What a container uses now, as an event of type `stats` in runc's form.
///
/// # Errors
/// [`Kind::NotRunning`]; those of reading.
pub fn stats(host: &Host, id: &Id) -> Result<Value, Error> {
    let (_, cgroup) = running(host, id)?;
    stats_event(id, &cgroup)
}

/// Tells `tell` of what the container uses, every `interval`, and of processes that were killed for want of memory, until
/// it ends.
///
/// # Errors
/// As [`stats`], and those of `tell`.
pub fn watch(
    host: &Host,
    id: &Id,
    interval: Duration,
    mut tell: impl FnMut(&Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let (container, cgroup) = running(host, id)?;
    let init = container.init()?.ok_or_else(Error::not_running)?;
    let mut watch = cgroup.watch_oom()?;
    let mut next = Instant::now() + interval;
    loop {
        let wait = next.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        let mut polled = [
            PollFd::from_borrowed_fd(init.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut polled, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::kernel("poll(<first process>)", errno)),
        }
        let ended = !polled[0].revents().is_empty();
        match watch.take()? {
            Some(OomEvent::Oom) => tell(&json!({"type": "oom", "id": id.as_str()}))?,
            Some(OomEvent::Ended) => return Ok(()),
            None => {}
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            tell(&stats_event(id, &cgroup)?)?;
            next += interval;
        }
    }
}

fn running(host: &Host, id: &Id) -> Result<(Container, Cgroup), Error> {
    let container = Container::open(host, id)?;
    if container.init()?.is_none() {
        return Err(Error::new(
            Kind::NotRunning,
            format!("container with id {id} is not running: container not running"),
        ));
    }
    let cgroup = container.cgroup()?.ok_or_else(|| {
        Error::new(Kind::Unsupported, "the container has no cgroup, and without one nothing is counted")
    })?;
    Ok((container, cgroup))
}

fn stats_event(id: &Id, cgroup: &Cgroup) -> Result<Value, Error> {
    Ok(json!({"type": "stats", "id": id.as_str(), "data": form::data(&cgroup.details()?)}))
}
