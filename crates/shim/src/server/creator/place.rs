//! The control group that a process is made in.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::process::Pid;
use vaquita_cgroup::{Cgroup, Layout, Location, Placed, Resources};
use vaquita_sys::signal::{self, Signal};

use crate::Error;

/// A group that waits for its first process.
pub(super) struct Place<'a> {
    layout: &'a Layout,
    location: Location,
    placed: Placed,
}

impl<'a> Place<'a> {
    /// Makes the group, or has systemd make it, as its path says.
    ///
    /// Where it bears the name `id` alone, it is nobody else's, and the daemon may have made it before it asked.
    pub(super) fn make(path: &Path, id: &str, layout: &'a Layout, limits: &Resources) -> Result<Self, Error> {
        let mut location = Location::at(path);
        // Annotations of pods are no properties of units: whoever may make pods need not be trusted with those.
        let annotations = HashMap::<String, String>::new();
        let placed = match path.file_name().is_some_and(|name| name == id) {
            true => location.create_unchecked(layout, limits, &annotations)?,
            false => location.create(layout, limits, &annotations)?,
        };
        Ok(Self { layout, location, placed })
    }

    /// The group.
    pub(super) fn cgroup(&self) -> Option<&Cgroup> {
        self.placed.cgroup()
    }

    /// The process has been made, and the group is its own from here on. Without a process there shall be no group.
    pub(super) fn settle<T>(
        mut self,
        made: Result<T, vaquita_runtime::Error>,
        process: impl FnOnce(&T) -> (Pid, BorrowedFd<'_>),
    ) -> Result<T, Error> {
        let settled = made.map_err(Error::from).and_then(|made| {
            let (pid, pidfd) = process(&made);
            match self.placed.settle(pid.as_raw_nonzero().get()) {
                Ok(()) => Ok(made),
                Err(error) => {
                    let _ = signal::send(pidfd, Signal::KILL);
                    Err(error.into())
                }
            }
        });
        if settled.is_err() {
            drop(self.placed);
            // The first failure is told.
            let _ = self.location.remove(self.layout);
        }
        settled
    }
}
