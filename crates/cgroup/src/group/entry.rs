//! How processes get into a group.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use vaquita_sys::Errno;

use super::{Cgroup, User};
use crate::files::{error, open, write};
use crate::location::rootless;
use crate::{Result, Version};

impl Cgroup {
    /// The directory in the v2 hierarchy, for `CLONE_INTO_CGROUP`; none without that hierarchy, and for an ordinary user who
    /// may not move processes there from where the caller is: see [`Self::takes_clones`].
    ///
    /// A child cloned into it need not, and should not, write to `cgroup.procs`: that takes a lock over all processes of
    /// the machine, which can wait for an RCU grace period (10 ms and more), where `CLONE_INTO_CGROUP` costs 8 µs. See
    /// [`Self::entry_after_clone`].
    #[must_use]
    pub fn dir_fd(&self) -> Option<BorrowedFd<'_>> {
        self.v2().filter(|_| self.takes_clones()).map(|dir| dir.fd.as_fd())
    }

    /// Whether the caller's children can be made in the group. For root they can; for an ordinary user the kernel wants the
    /// nearest group above both its own and this one to be writable (cgroups(7), "delegation containment").
    #[must_use]
    pub fn takes_clones(&self) -> bool {
        !matches!(self.user, User::Ordinary { by_clone: false })
    }

    /// Moves another process with all its threads into the group, in every hierarchy.
    ///
    /// # Errors
    /// `Denied`; `Kernel(ESRCH)` when it is gone; those of [`Entry::enter_self`].
    pub fn add(&self, pid: i32) -> Result<()> {
        self.dirs().try_for_each(|dir| write(&dir.fd, "cgroup.procs", &pid.to_string()))
    }

    /// Whether a process is in the group of the v2 hierarchy, or below it.
    pub(crate) fn is_in_v2(&self, pid: i32) -> Result<bool> {
        let Some(v2) = self.v2() else { return Ok(false) };
        let mut inside = std::collections::BTreeSet::new();
        self.procs_in(v2, &mut inside)?;
        Ok(inside.contains(&pid))
    }

    /// Moves a process into the group of systemd's own v1 hierarchy alone.
    pub(crate) fn add_to_named(&self, pid: i32) -> Result<()> {
        let (dir, _) = self.controller("name=systemd")?;
        write(&dir.fd, "cgroup.procs", &pid.to_string())
    }

    /// The same group, as an ordinary user sees it.
    pub(crate) fn of_ordinary_user(mut self) -> Self {
        let by_clone = match rootless::own_group(&self.layout) {
            Ok(Some(own)) => rootless::may_move(&self.layout, &own, &self.path),
            _ => false,
        };
        self.user = User::Ordinary { by_clone };
        self
    }

    /// What a process needs to enter the group in every hierarchy.
    ///
    /// # Errors
    /// `Denied`; `NotFound` when the group has been removed.
    pub fn entry(&self) -> Result<Entry> {
        self.entry_in(|_| true)
    }

    /// What a process that was cloned into [`Self::dir_fd`] still needs: the v1 hierarchies, if any. Entering those last
    /// keeps the memory that the set-up took out of the container's account.
    ///
    /// # Errors
    /// As [`Self::entry`].
    pub fn entry_after_clone(&self) -> Result<Entry> {
        self.entry_in(|version| version == Version::V1)
    }

    fn entry_in(&self, wanted: impl Fn(Version) -> bool) -> Result<Entry> {
        let dirs = self.dirs().filter(|dir| wanted(self.hierarchy(dir).version));
        let fds = dirs.map(|dir| {
            // `tasks` moves one thread, and takes no lock over all threads of the machine.
            let file = match self.hierarchy(dir).version {
                Version::V1 => "tasks",
                Version::V2 => "cgroup.procs",
            };
            open(&dir.fd, file, OFlags::WRONLY)
                .map_err(|errno| error("openat", &dir.fd, file, ", O_WRONLY", errno))
        });
        Ok(Entry { fds: fds.collect::<Result<_>>()? })
    }
}

/// Open files through which a process enters a group by itself. Inherited by a child across clone, not across execve.
#[derive(Debug)]
pub struct Entry {
    fds: Vec<OwnedFd>,
}

impl Entry {
    /// The open files, for a process that closes all others.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd)
    }

    /// The same files, each with a number of at least `first`: for a process in which lower ones are given to its program.
    ///
    /// # Errors
    /// `EMFILE`, `EINVAL` above the limit of open files.
    pub fn above(self, first: i32) -> core::result::Result<Self, Errno> {
        let fds = self.fds.into_iter().map(|fd| match fd.as_raw_fd() >= first {
            true => Ok(fd),
            false => rustix::io::fcntl_dupfd_cloexec(&fd, first),
        });
        Ok(Self { fds: fds.collect::<core::result::Result<_, _>>()? })
    }

    /// Moves the calling thread, which must be its process's only one, into the group.
    ///
    /// A cgroup namespace made before this shows the old group as its root: unshare it afterwards.
    ///
    /// Safe between clone and exec: no allocation.
    ///
    /// # Errors
    /// `EAGAIN` at pids.max of a parent, `ENOSPC` for a v1 cpuset without CPUs, `ENODEV` when the group is gone, `EBUSY` for a
    /// v2 group with controllers for groups below it.
    pub fn enter_self(&self) -> core::result::Result<(), Errno> {
        Self::enter_by(self.fds())
    }

    /// As [`Self::enter_self`], by the files of an entry that another process has opened and passed on.
    ///
    /// Safe between clone and exec: no allocation.
    ///
    /// # Errors
    /// As there.
    pub fn enter_by<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>) -> core::result::Result<(), Errno> {
        for fd in fds {
            rustix::io::retry_on_intr(|| rustix::io::write(fd, b"0"))?;
        }
        Ok(())
    }
}
