//! clone3(2).

use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
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

    /// These flags but those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
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
/// Where the kernel has no clone3(2) (before Linux 5.3), clone(2) does the same, and a cgroup is entered right after it.
///
/// # Errors
/// `EPERM` for namespaces without the privilege, `ENOSPC` at the limit of nested namespaces, `EAGAIN` at pids.max,
/// `EINVAL` for `parent` when the caller is process 1 of its PID namespace, `EBUSY`/`EOPNOTSUPP` for a `cgroup` that
/// takes no processes; `ENOSYS` for a new time namespace without clone3(2).
///
/// # Safety
/// When other threads run, the child holds copies of their locks, which nobody releases. Then it may call only what is
/// marked safe between clone and exec, and must end in [`execveat`](super::execveat) or
/// [`exit_now`](super::exit_now). In a process of one thread it may do anything, but must not return into frames that
/// act for the parent.
pub unsafe fn clone3(how: &Clone<'_>) -> Result<Forked> {
    // SAFETY: the caller answers for what the child does.
    unsafe { clone3_raw(how) }.map_err(|errno| Error::new(describe(how), errno))
}

/// As [`clone3`]. Safe between clone and exec: no allocation.
///
/// # Errors
/// As there.
///
/// # Safety
/// As there.
pub unsafe fn clone3_raw(how: &Clone<'_>) -> core::result::Result<Forked, Errno> {
    if !LACKS_CLONE3.load(Ordering::Relaxed) {
        // SAFETY: the caller answers for what the child does.
        match unsafe { by_clone3(how) } {
            Err(Errno::NOSYS) => LACKS_CLONE3.store(true, Ordering::Relaxed),
            other => return other,
        }
    }
    // SAFETY: as above.
    unsafe { by_clone(how) }
}

/// The kernel was asked, and does not have it.
static LACKS_CLONE3: AtomicBool = AtomicBool::new(false);

unsafe fn by_clone3(how: &Clone<'_>) -> core::result::Result<Forked, Errno> {
    let mut pidfd: i32 = -1;
    let mut exit_signal = how.exit_signal.map_or(0, |signal| signal.number().unsigned_abs().into());
    if how.parent {
        exit_signal = 0; // The kernel refuses both together (kernel/fork.c clone3_args_valid).
    }
    let cgroup = how.cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs()));
    let flags = how.all_flags();
    let args =
        CloneArgs { flags, pidfd: (&raw mut pidfd) as u64, exit_signal, cgroup, ..CloneArgs::default() };
    // SAFETY: the arguments live until the call returns; no stack is given, so the child runs on a copy of this one.
    // The caller answers for what the child does.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    // SAFETY: CLONE_PIDFD made the kernel store a new fd there; nobody else knows it.
    Ok(unsafe { forked(pid, pidfd) })
}

unsafe fn by_clone(how: &Clone<'_>) -> core::result::Result<Forked, Errno> {
    let mut pidfd: i32 = -1;
    let upper = CloneFlags::CLEAR_SIGHAND.0 | CLONE_INTO_CGROUP;
    let flags = how.all_flags() & !upper;
    if flags & 0xff != 0 {
        // CLONE_NEWTIME is where clone(2) takes the exit signal.
        return Err(Errno::NOSYS);
    }
    let signal = how.exit_signal.map_or(0, |signal| signal.number().unsigned_abs());
    let none = core::ptr::null_mut::<libc::c_void>();
    // SAFETY: as for clone3; the third argument is where CLONE_PIDFD stores it, and no other pointer is used.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone, flags | u64::from(signal), none, &raw mut pidfd, none, none)
    })?;
    // SAFETY: as for clone3.
    let forked = unsafe { forked(pid, pidfd) };
    match &forked {
        Forked::Child => {
            if how.flags.contains(CloneFlags::CLEAR_SIGHAND) {
                // It fails for no signal that can be handled.
                let _ = crate::signal::reset_all();
            }
        }
        Forked::Parent { pid, pidfd } => {
            if let Some(Err(errno)) = how.cgroup.map(|cgroup| enter(cgroup, *pid)) {
                let _ = crate::signal::send(pidfd, Signal::KILL);
                if !how.parent {
                    let _ = super::wait_pidfd(pidfd);
                }
                return Err(errno);
            }
        }
    }
    Ok(forked)
}

/// Puts a process into a v2 cgroup.
fn enter(cgroup: BorrowedFd<'_>, pid: Pid) -> core::result::Result<(), Errno> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file =
        rustix::io::retry_on_intr(|| rustix::fs::openat(cgroup, c"cgroup.procs", flags, Mode::empty()))?;
    let mut digits = [0; 12];
    let mut at = digits.len();
    let mut rest = pid.as_raw_nonzero().get().unsigned_abs();
    while rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    crate::fs::write_all(&file, &digits[at..])
}

/// # Safety
/// `pidfd` must be a new fd, owned by nobody else, unless `pid` is 0.
unsafe fn forked(pid: libc::c_long, pidfd: i32) -> Forked {
    match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        None => Forked::Child,
        Some(pid) => {
            // SAFETY: the caller's promise.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Forked::Parent { pid, pidfd }
        }
    }
}

impl Clone<'_> {
    fn all_flags(&self) -> u64 {
        let parent = if self.parent { libc::CLONE_PARENT as u64 } else { 0 };
        let cgroup = if self.cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
        self.flags.0 | libc::CLONE_PIDFD as u64 | parent | cgroup
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
fn describe(how: &Clone<'_>) -> String {
    let flags = how.all_flags();
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
