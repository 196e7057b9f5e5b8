//! The namespaces of a container, as its maker sees them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::OFlags;
use vaquita_sys::ns;
use vaquita_sys::process::CloneFlags;

use crate::steps::Step;
use crate::{Error, Plan};

/// The container's namespaces: kind to the one to join, or none for a new one.
pub(crate) struct Namespaces(BTreeMap<ns::Kind, Option<OwnedFd>>);

impl Namespaces {
    pub(crate) fn new(plan: &Plan, join: Vec<(ns::Kind, OwnedFd)>) -> Result<Self, Error> {
        let mut all = BTreeMap::new();
        for (kind, path) in &plan.namespaces {
            #[expect(
                clippy::disallowed_methods,
                reason = "a path of the host by specification, such as /proc/1/ns/net"
            )]
            let open = |path: &PathBuf| {
                // A FIFO there would wait for its other end.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, rustix::fs::Mode::empty()))
                    .map_err(|errno| Error::kernel(format!("open({path:?})"), errno))
            };
            let is_given = join.iter().any(|(given, _)| given == kind);
            all.insert(*kind, path.as_ref().filter(|_| !is_given).map(open).transpose()?);
        }
        for (kind, fd) in join {
            if kind == ns::Kind::Mount {
                return Err(Error::unsupported(
                    "a container cannot be created in a mount namespace that is there already",
                ));
            }
            all.insert(kind, Some(fd));
        }
        Ok(Self(all))
    }

    pub(crate) fn contains(&self, kind: ns::Kind) -> bool {
        self.0.contains_key(&kind)
    }

    pub(crate) fn is_new(&self, kind: ns::Kind) -> bool {
        matches!(self.0.get(&kind), Some(None))
    }

    pub(crate) fn joined(&self, kind: ns::Kind) -> Option<BorrowedFd<'_>> {
        self.0.get(&kind)?.as_ref().map(AsFd::as_fd)
    }

    /// Made by the clone, unless they must belong to a user namespace that is joined after it, or are
    /// unshared by the process, as [`Self::late_flags`] can be.
    pub(crate) fn clone_flags(&self, unshared: CloneFlags) -> CloneFlags {
        if self.joined(ns::Kind::User).is_some() && self.first_user_namespace().is_none() {
            CloneFlags::CLEAR_SIGHAND
        } else {
            self.new_flags().without(unshared) | CloneFlags::CLEAR_SIGHAND
        }
    }

    /// All that need not be made by the clone. The kernel takes 0.6 ms for them, in which the maker can do something else.
    pub(crate) fn late_flags(&self) -> CloneFlags {
        self.new_flags().without(CloneFlags::NEWUSER | CloneFlags::NEWPID)
    }

    /// The user namespace to join before the clone: a PID namespace that belongs to it cannot be made afterwards.
    pub(crate) fn first_user_namespace(&self) -> Option<BorrowedFd<'_>> {
        self.joined(ns::Kind::User).filter(|_| self.is_new(ns::Kind::Pid))
    }

    fn new_flags(&self) -> CloneFlags {
        // The cgroup namespace comes later, when the process is in its cgroup.
        // And the time namespace before, because its offsets must be set while nobody is in it.
        let apart = [ns::Kind::Cgroup, ns::Kind::Time];
        let new = self.0.iter().filter(|(kind, fd)| fd.is_none() && !apart.contains(kind));
        new.fold(CloneFlags::NONE, |flags, (kind, _)| flags | kind.flag())
    }

    pub(crate) fn steps(&self, unshared: CloneFlags) -> Vec<Step<'_>> {
        let mut steps = vec![Step::NewSession];
        if self.is_new(ns::Kind::User) {
            steps.push(Step::AwaitIdMaps);
        }
        let is_in = self.first_user_namespace().is_some();
        let done = |kind: ns::Kind| kind == ns::Kind::Pid || is_in && kind == ns::Kind::User;
        let order = ns::Kind::ALL.iter().filter(|kind| !done(**kind));
        steps.extend(order.filter_map(|kind| self.joined(*kind).map(|fd| Step::Join(*kind, fd))));
        if self.joined(ns::Kind::User).is_some() && !is_in {
            steps.push(Step::Unshare(self.new_flags()));
        } else if !unshared.is_empty() {
            steps.push(Step::Unshare(unshared));
        }
        if self.contains(ns::Kind::User) {
            steps.push(Step::BecomeRoot);
        }
        steps
    }
}
