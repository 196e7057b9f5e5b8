//! What a container is made of besides its plan, and what there is then.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::Pid;
use vaquita_cgroup::Cgroup;
use vaquita_sys::ns;

use crate::stdio::Stdio;
use crate::{Error, StartHandle};

/// What [`crate::create()`] needs besides the plan: things of this machine, by file descriptor.
#[derive(Debug)]
pub struct CreateArgs<'a> {
    /// The root filesystem: a detached mount (fsmount(2), or open_tree(2) with `OPEN_TREE_CLONE`), or what
    /// [`crate::rootfs::open`] gives for a directory. It is attached in the container's mount namespace only.
    pub rootfs: OwnedFd,
    /// Standard input, output and error.
    pub stdio: Stdio,
    /// Namespaces to join. They take precedence over what the specification says of the same kind.
    pub join: Vec<(ns::Kind, OwnedFd)>,
    /// The container's cgroup, with its limits; one that is begun ([`Cgroup::begin`]) is made in full while the process sets
    /// itself up, and is the caller's to remove if the creation fails. Hierarchies of v1 are entered when the process is started, or before it
    /// waits on a `start_socket`, so that none of the set-up's memory is charged there; into v2 it is cloned. The rules for devices are not among those limits: they
    /// come from the plan, when the set-up is done that has device nodes to make. `None`: it stays in the caller's.
    pub cgroup: Option<&'a Cgroup>,
    /// What the process has open as descriptors 3, 4 and so on, in this order.
    pub extra_fds: Vec<OwnedFd>,
    /// Whether it gets a session keyring of its own (keyrings(7)). Without one it has the caller's.
    pub new_keyring: bool,
    /// Whose child the process is.
    pub parent: ParentOf,
    /// What the caller does in the middle of the set-up, mostly running the hooks of the specification (see
    /// [`crate::hook`]). It must be given when the specification has such hooks.
    pub rendezvous: Option<Rendezvous<'a>>,
    /// What the caller has to do for the new process and can do while that sets itself up: called with it when it is cloned
    /// and its groups are made; again, with another, if the creation is tried once more.
    pub meanwhile: Option<Meanwhile<'a>>,
    /// A socket that listens (`SOCK_SEQPACKET`, unix(7)), on which the process waits to be started by whoever connects:
    /// [`StartHandle::from_fd`] takes that connection. One that is closed without a word changes nothing. Others see such
    /// a process, so it is in its cgroup and cgroup namespace by then, and a program that is not there is an error of
    /// the creation already. `None`: the process waits for [`Created::start`].
    pub start_socket: Option<vaquita_sys::socket::Listener>,
    /// The root of the mount namespace is not exchanged: the root filesystem is moved over it, and the process changes its
    /// root (chroot(2)). For a host that runs from a ramdisk, of which pivot_root(2) wants nothing to know. It is weaker:
    /// the host's root stays in the container's mount namespace, below its own, and a process with `CAP_SYS_ADMIN` in
    /// the container (or one that may make a user namespace and take mounts away there) can have it back. procfs and
    /// sysfs of the host are taken away before.
    pub no_pivot: bool,
}

/// A point of the set-up at which the caller works and the new process waits: its namespaces are made, its mounts and
/// devices are in place, it is in its cgroup (of v1 too), and its root is not yet changed (runtime-spec, `prestart`,
/// `createRuntime`, `createContainer`). What is masked or made read-only follows.
pub struct Rendezvous<'a> {
    /// Where the root filesystem is in the container's mount namespace until the root is changed: an absolute path of
    /// the host to a directory, as programs that enter that namespace expect it.
    pub root: &'a Path,
    /// Called once, with the new process and its pidfd. If it fails, so does [`crate::create()`], and the process is ended.
    #[expect(clippy::type_complexity, reason = "a function, said in full")]
    pub meet: Box<dyn FnMut(Pid, BorrowedFd<'_>) -> Result<(), Error> + 'a>,
}

impl fmt::Debug for Rendezvous<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rendezvous").field("root", &self.root).finish_non_exhaustive()
    }
}

/// Work beside the set-up: see [`CreateArgs::meanwhile`].
pub struct Meanwhile<'a>(pub Box<dyn FnMut(Pid) + 'a>);

impl fmt::Debug for Meanwhile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meanwhile").finish_non_exhaustive()
    }
}

/// Whose child a new process is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ParentOf {
    /// The calling process.
    Caller,
    /// The parent of the calling process (`CLONE_PARENT`): for a short-lived process that works for a long-lived one.
    CallersParent,
}

/// A container's first process, set up and waiting for [`StartHandle::start`].
#[derive(Debug)]
pub struct Created {
    /// Its process id, as the caller's PID namespace sees it.
    pub pid: Pid,
    /// A pidfd of it.
    pub pidfd: OwnedFd,
    /// Starts it. With [`CreateArgs::start_socket`] its [`StartHandle::release`] lets the process wait there, after which
    /// the maker may be gone; until then the process ends with its maker.
    pub start: StartHandle,
    /// The master side of its terminal, for [`Stdio::Terminal`].
    pub console: Option<OwnedFd>,
}
