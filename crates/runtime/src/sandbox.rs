//! The process that holds a pod's namespaces.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use oci_spec::runtime::{LinuxIdMapping, LinuxSeccomp};
use rustix::process::Pid;
use vaquita_sys::ns;

use crate::{Error, ParentOf};

/// What a pod's first process is like.
#[derive(Debug)]
pub struct SandboxArgs {
    /// The pod's host name; set only where the UTS namespace is new.
    pub hostname: Option<String>,
    /// The namespaces made new; the others are the host's. A mount namespace is always made.
    pub namespaces: Vec<ns::Kind>,
    /// Kernel parameters of the new namespaces, dotted names. Refused when their namespace is the host's or when they belong to none.
    pub sysctls: BTreeMap<String, String>,
    /// User id of the process.
    pub uid: u32,
    /// Group id of the process.
    pub gid: u32,
    /// Seccomp profile; `None` is unconfined.
    pub seccomp: Option<LinuxSeccomp>,
    /// The wish to be spared by the OOM killer, -1000 to 1000. `None`: as inherited.
    pub oom_score_adj: Option<i32>,
    /// As in [`crate::Context`].
    pub restrict_oom_score_adj: bool,
    /// User ids of a new user namespace.
    pub uid_mappings: Vec<LinuxIdMapping>,
    /// Group ids of a new user namespace.
    pub gid_mappings: Vec<LinuxIdMapping>,
    /// Whose child the process is.
    pub parent: ParentOf,
}

/// A running pause process and the namespaces it holds.
#[derive(Debug)]
pub struct Sandbox {
    /// Its process id, as the caller's PID namespace sees it.
    pub pid: Pid,
    /// A pidfd of it.
    pub pidfd: OwnedFd,
    /// The new namespaces, open, except the mount namespace.
    pub namespaces: Vec<(ns::Kind, OwnedFd)>,
}

impl Sandbox {
    /// The pod's network namespace, unless it is the host's.
    #[must_use]
    pub fn netns(&self) -> Option<&OwnedFd> {
        self.namespaces.iter().find(|(kind, _)| *kind == ns::Kind::Net).map(|(_, fd)| fd)
    }
}

/// Makes the namespaces of a pod and runs pause in them: in an empty read-only root, without capabilities, with no_new_privs.
/// Returns when pause has been executed.
///
/// # Errors
/// [`crate::Kind::Invalid`] for a sysctl that is not allowed, [`crate::Kind::Kernel`] names the step that failed.
pub fn create(args: SandboxArgs) -> Result<Sandbox, Error> {
    let _ = args;
    Err(Error::unsupported("not there yet"))
}
