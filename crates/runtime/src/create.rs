//! From a plan to a process that waits to be started.

use std::os::fd::OwnedFd;

use rustix::process::Pid;
use vaquita_sys::ns;

use crate::{Error, Plan, StartHandle};

/// What [`create`] needs besides the plan: things of this machine, by file descriptor.
#[derive(Debug)]
pub struct CreateArgs {
    /// The root filesystem: a detached mount (fsmount(2), or open_tree(2) with `OPEN_TREE_CLONE`). It is attached in the container's mount namespace only.
    pub rootfs: OwnedFd,
    /// Standard input, output and error.
    pub stdio: Stdio,
    /// Namespaces to join. They take precedence over a path in the specification for the same kind.
    pub join: Vec<(ns::Kind, OwnedFd)>,
    /// Whose child the process is.
    pub parent: ParentOf,
}

/// What a process has as file descriptors 0, 1 and 2.
#[derive(Debug)]
pub enum Stdio {
    /// These, in order.
    Fds([OwnedFd; 3]),
    /// A pseudo-terminal from the container's own devpts; its master comes back as `console`.
    Terminal {
        /// Height in characters; 0 leaves the size unset.
        rows: u16,
        /// Width in characters.
        columns: u16,
    },
}

/// Whose child a new process is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ParentOf {
    /// The calling process.
    Caller,
    /// The parent of the calling process (`CLONE_PARENT`): for a short-lived process that works for a long-lived one.
    CallersParent,
}

/// A container's first process, set up completely and waiting for [`StartHandle::start`].
#[derive(Debug)]
pub struct Created {
    /// Its process id, as the caller's PID namespace sees it.
    pub pid: Pid,
    /// A pidfd of it.
    pub pidfd: OwnedFd,
    /// Starts it.
    pub start: StartHandle,
    /// The master side of its terminal, for [`Stdio::Terminal`].
    pub console: Option<OwnedFd>,
}

/// Clones the container's first process and waits until it has set itself up.
///
/// # Errors
/// [`crate::Kind::Kernel`] names the step that failed and its arguments. No process is left behind then, except, with
/// [`ParentOf::CallersParent`], a dead one for that parent to reap.
pub fn create(plan: &Plan, args: CreateArgs) -> Result<Created, Error> {
    let _ = (plan, args);
    Err(Error::unsupported("not there yet"))
}
