//! Another process in a running container.

use std::os::fd::{BorrowedFd, OwnedFd};

use oci_spec::runtime::{Process, Spec};
use rustix::process::Pid;

use crate::{Context, Error, ParentOf, StartHandle, Stdio};

/// A validated process to be added to a container.
#[derive(Debug)]
pub struct ExecPlan {}

impl ExecPlan {
    /// Plans `process` for the container that was made from `container`: its namespaces and its seccomp profile apply.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] and [`crate::Kind::Unsupported`] name the offending property.
    pub fn new(process: &Process, container: &Spec, context: &Context) -> Result<Self, Error> {
        let _ = (process, container, context);
        Err(Error::unsupported("not there yet"))
    }
}

/// What [`exec`] needs besides the plan.
#[derive(Debug)]
pub struct ExecArgs<'a> {
    /// A pidfd of the container's first process, whose namespaces are joined.
    pub init: BorrowedFd<'a>,
    /// Standard input, output and error.
    pub stdio: Stdio,
    /// Whose child the process is.
    pub parent: ParentOf,
}

/// A process that is about to execute its program in the container.
#[derive(Debug)]
pub struct Execed {
    /// Its process id, as the caller's PID namespace sees it.
    pub pid: Pid,
    /// A pidfd of it.
    pub pidfd: OwnedFd,
    /// Call [`StartHandle::wait`]: the process needs no start, it says here whether execve succeeded. Readable when it is known.
    pub started: StartHandle,
    /// The master side of its terminal, for [`Stdio::Terminal`].
    pub console: Option<OwnedFd>,
}

/// Clones a process that joins the container and executes `plan`'s program.
///
/// # Errors
/// [`crate::Kind::NotFound`] when the container's process is gone; [`crate::Kind::Kernel`] names the step that failed.
pub fn exec(plan: &ExecPlan, args: ExecArgs<'_>) -> Result<Execed, Error> {
    let _ = (plan, args);
    Err(Error::unsupported("not there yet"))
}
