//! clone3(2).

use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

use crate::signal::Signal;
use crate::syscall::check;
use crate::{Error, Result};

/// `CLONE_*` flags that make sense for a new process (clone3(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloneFlags(u64);

impl CloneFlags {
    /// No new namespace.
    pub const NONE: Self = Self(0);
    /// Every signal that the parent handles is set to its default in the child (Linux 5.5).
    pub const CLEAR_SIGHAND: Self = Self(0x1_0000_0000);
    /// A new cgroup namespace.
    pub const NEWCGROUP: Self = Self(libc::CLONE_NEWCGROUP as u64);
    /// A new IPC namespace.
    pub const NEWIPC: Self = Self(libc::CLONE_NEWIPC as u64);
    /// A new network namespace.
    pub const NEWNET: Self = Self(libc::CLONE_NEWNET as u64);
    /// A new mount namespace.
    pub const NEWNS: Self = Self(libc::CLONE_NEWNS as u64);
    /// A new PID namespace, of which the child is process 1.
    pub const NEWPID: Self = Self(libc::CLONE_NEWPID as u64);
    /// A new time namespace (Linux 5.6).
    pub const NEWTIME: Self = Self(0x80);
    /// A new user namespace.
    pub const NEWUSER: Self = Self(libc::CLONE_NEWUSER as u64);
    /// A new UTS namespace.
    pub const NEWUTS: Self = Self(libc::CLONE_NEWUTS as u64);

    /// The kernel's bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no flag is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for CloneFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for CloneFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// How a process is cloned.
#[derive(Debug)]
pub struct Clone<'a> {
    /// New namespaces, and [`CloneFlags::CLEAR_SIGHAND`].
    pub flags: CloneFlags,
    /// What the parent gets when the child ends. With `parent` the kernel takes the caller's own exit signal instead.
    pub exit_signal: Option<Signal>,
    /// The child becomes a child of the caller's parent (`CLONE_PARENT`).
    pub parent: bool,
    /// The v2 control group that the child starts in (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
}

impl Default for Clone<'_> {
    fn default() -> Self {
        Self { flags: CloneFlags::NONE, exit_signal: Some(Signal::CHLD), parent: false, cgroup: None }
    }
}

/// Which side of the clone this is.
#[derive(Debug)]
pub enum Forked {
    /// The new process.
    Child,
    /// The caller, with the child as it sees it.
    Parent {
        /// The child's pid in the caller's PID namespace.
        pid: Pid,
        /// Names the child for as long as it is held, whatever happens to the pid. Close-on-exec.
        pidfd: OwnedFd,
    },
}

/// Clones the calling process with a copy of its memory, as fork does, but with namespaces and a pidfd.
///
/// # Errors
/// `EPERM` for namespaces without the privilege, `ENOSPC` at the limit of nested namespaces, `EAGAIN` at pids.max,
/// `EINVAL` for `parent` when the caller is process 1 of its PID namespace, `EBUSY`/`EOPNOTSUPP` for a `cgroup` that
/// takes no processes.
///
/// # Safety
/// When other threads run, the child holds copies of their locks, which nobody releases. Then it may call only what is
/// marked safe between clone and exec, and must end in [`execveat`](super::execveat) or
/// [`exit_now`](super::exit_now). In a process of one thread it may do anything, but must not return into frames that
/// act for the parent.
pub unsafe fn clone3(how: &Clone<'_>) -> Result<Forked> {
    let mut pidfd: i32 = -1;
    let mut flags = how.flags.0 | libc::CLONE_PIDFD as u64;
    let mut exit_signal = how.exit_signal.map_or(0, |signal| signal.number().unsigned_abs().into());
    if how.parent {
        flags |= libc::CLONE_PARENT as u64;
        exit_signal = 0; // The kernel refuses both together (kernel/fork.c clone3_args_valid).
    }
    let mut cgroup = 0;
    if let Some(fd) = how.cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup = u64::from(fd.as_raw_fd().unsigned_abs());
    }
    let args =
        CloneArgs { flags, pidfd: (&raw mut pidfd) as u64, exit_signal, cgroup, ..CloneArgs::default() };
    // SAFETY: the arguments live until the call returns; no stack is given, so the child runs on a copy of this one.
    // The caller answers for what the child does.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })
        .map_err(|errno| Error::new(describe(how, flags), errno))?;
    match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        None => Ok(Forked::Child),
        Some(pid) => {
            // SAFETY: CLONE_PIDFD made the kernel store a new fd there; nobody else knows it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid, pidfd })
        }
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of linux/sched.h, in the size of Linux 5.7.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

#[cold]
fn describe(how: &Clone<'_>, flags: u64) -> String {
    let names = [
        (CloneFlags::NEWNS.0, "CLONE_NEWNS"),
        (CloneFlags::NEWCGROUP.0, "CLONE_NEWCGROUP"),
        (CloneFlags::NEWUTS.0, "CLONE_NEWUTS"),
        (CloneFlags::NEWIPC.0, "CLONE_NEWIPC"),
        (CloneFlags::NEWUSER.0, "CLONE_NEWUSER"),
        (CloneFlags::NEWPID.0, "CLONE_NEWPID"),
        (CloneFlags::NEWNET.0, "CLONE_NEWNET"),
        (CloneFlags::NEWTIME.0, "CLONE_NEWTIME"),
        (CloneFlags::CLEAR_SIGHAND.0, "CLONE_CLEAR_SIGHAND"),
        (libc::CLONE_PARENT as u64, "CLONE_PARENT"),
        (CLONE_INTO_CGROUP, "CLONE_INTO_CGROUP"),
    ];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    let cgroup = how.cgroup.map(|fd| format!(", cgroup={}", crate::error::Fd::of(&fd))).unwrap_or_default();
    format!("clone3({{flags=CLONE_PIDFD|{}{cgroup}}})", set.join("|"))
}
