//! Namespaces: opening, joining, running something inside.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::error::Fd;
use crate::process::CloneFlags;
use crate::syscall::{check, check_fd};
use crate::{Error, Result};

/// A kind of namespace (namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Control groups.
    Cgroup,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Mounts.
    Mount,
    /// Network.
    Net,
    /// Process ids: of children, not of the caller.
    Pid,
    /// Boot and monotonic clocks: of children, not of the caller.
    Time,
    /// Users and capabilities.
    User,
    /// Host name.
    Uts,
}

impl Kind {
    /// Every kind, in an order in which they can be joined: user first, mount last.
    pub const ALL: [Self; 8] =
        [Self::User, Self::Cgroup, Self::Ipc, Self::Uts, Self::Net, Self::Pid, Self::Time, Self::Mount];

    /// The flag of clone3 that makes a new one.
    #[must_use]
    pub const fn flag(self) -> CloneFlags {
        match self {
            Self::Cgroup => CloneFlags::NEWCGROUP,
            Self::Ipc => CloneFlags::NEWIPC,
            Self::Mount => CloneFlags::NEWNS,
            Self::Net => CloneFlags::NEWNET,
            Self::Pid => CloneFlags::NEWPID,
            Self::Time => CloneFlags::NEWTIME,
            Self::User => CloneFlags::NEWUSER,
            Self::Uts => CloneFlags::NEWUTS,
        }
    }

    /// Its file below `/proc/PID/ns`: `net`, `mnt`…
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Ipc => "ipc",
            Self::Mount => "mnt",
            Self::Net => "net",
            Self::Pid => "pid",
            Self::Time => "time",
            Self::User => "user",
            Self::Uts => "uts",
        }
    }
}

/// Opens a namespace of `pid`, or of the calling thread. It lives as long as the descriptor.
///
/// # Errors
/// `ENOENT` when there is no such process, `EACCES` or `EPERM` when it may not be looked into.
pub fn open(pid: Option<Pid>, kind: Kind) -> Result<OwnedFd> {
    let path = match pid {
        Some(pid) => format!("/proc/{pid}/ns/{}", kind.file_name()),
        None => format!("/proc/thread-self/ns/{}", kind.file_name()),
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::io::retry_on_intr(|| rustix::fs::open(&path, flags, Mode::empty()))
        .map_err(|errno| Error::new(format!("open({path:?}, O_RDONLY|O_CLOEXEC)"), errno))
}

/// Joins the namespace, which must be of that kind (setns(2)); of this thread only.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EINVAL` for another kind, or for a user or mount namespace when there are other threads; `EPERM`.
pub fn setns(fd: BorrowedFd<'_>, kind: Kind) -> core::result::Result<(), Errno> {
    join(fd, kind.flag())
}

/// Joins several namespaces of the process of `pidfd` at once (setns(2), Linux 5.8).
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `ESRCH` when the process is gone, else as [`setns`].
pub fn setns_process(pidfd: BorrowedFd<'_>, kinds: CloneFlags) -> core::result::Result<(), Errno> {
    join(pidfd, kinds)
}

/// Leaves namespaces for new ones (unshare(2)); of this thread only.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM`, `EINVAL` for a user namespace when there are other threads, `ENOSPC`.
pub fn unshare(kinds: CloneFlags) -> core::result::Result<(), Errno> {
    // SAFETY: an integer only. CLONE_FILES, which could surprise other code, is not among the flags.
    check(unsafe { libc::syscall(libc::SYS_unshare, kinds.bits()) }).map(drop)
}

/// The user namespace that another namespace belongs to (`NS_GET_USERNS`, ioctl_nsfs(2), Linux 4.9).
///
/// # Errors
/// `EPERM` where it is out of the caller's reach.
pub fn owner(fd: impl AsFd) -> Result<OwnedFd> {
    /// `_IO(0xb7, 1)` of linux/nsfs.h.
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    let fd = fd.as_fd();
    // SAFETY: integers only.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), NS_GET_USERNS) };
    // SAFETY: this ioctl gives a new descriptor.
    unsafe { check_fd(result) }
        .map_err(|errno| Error::new(format!("ioctl({}, NS_GET_USERNS)", Fd::of(&fd)), errno))
}

/// Runs `inside` on a thread of its own in the network namespace `netns`; sockets opened there stay in it.
///
/// # Errors
/// Those of setns(2) and of starting a thread.
///
/// # Panics
/// When `inside` does.
pub fn in_netns<T: Send>(netns: impl AsFd, inside: impl FnOnce() -> T + Send) -> Result<T> {
    let netns = netns.as_fd();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).stack_size(256 << 10).spawn_scoped(
            scope,
            move || match setns(netns, Kind::Net) {
                Ok(()) => Ok(inside()),
                Err(errno) => Err(Error::new(format!("setns({}, CLONE_NEWNET)", Fd::of(&netns)), errno)),
            },
        );
        let thread = thread.map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::AGAIN, Errno::from_raw_os_error);
            Error::new("clone(<thread for a network namespace>)", errno)
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A new network namespace with nothing in it but a loopback link that is down. It lives as long as the descriptor.
///
/// # Errors
/// `EPERM`, `ENOSPC`.
pub fn new_netns() -> Result<OwnedFd> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| match unshare(CloneFlags::NEWNET) {
            Ok(()) => open(None, Kind::Net),
            Err(errno) => Err(Error::new("unshare(CLONE_NEWNET)", errno)),
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A new user namespace in which nobody is, with these lines for uid_map and gid_map: for its maps alone. It lives as
/// long as the descriptor.
///
/// # Errors
/// `EPERM` where the caller may not map these ids, `EINVAL` for lines that do not read, `ENOSPC`.
pub fn new_userns(uid_map: &str, gid_map: &str) -> Result<OwnedFd> {
    let (ours, theirs) = crate::socket::pair()?;
    let how = crate::process::Clone { flags: CloneFlags::NEWUSER, ..crate::process::Clone::default() };
    // SAFETY: the child waits on a socket and ends; it allocates nothing.
    match unsafe { crate::process::clone3(&how) }? {
        crate::process::Forked::Child => {
            let _end = crate::process::NoWayBack::new();
            // Its own copy of the parent's end would keep it from hearing that the parent is gone.
            drop(ours);
            let _ = rustix::io::read(&theirs, &mut [0]);
            crate::process::exit_now(0)
        }
        crate::process::Forked::Parent { pid, pidfd } => {
            let made = (|| {
                let procfs = crate::procfs::Procfs::host()?;
                procfs.write(format!("{pid}/uid_map"), uid_map)?;
                procfs.write(format!("{pid}/gid_map"), gid_map)?;
                open(Some(pid), Kind::User)
            })();
            let _ = rustix::io::write(&ours, b"x");
            crate::process::wait_pidfd(pidfd)?;
            made
        }
    }
}

/// Whether the caller is in another user namespace than the one that the machine started with.
///
/// # Errors
/// Without procfs.
pub fn is_in_user_namespace() -> Result<bool> {
    // PROC_USER_INIT_INO of linux/proc_ns.h, which is fixed.
    const FIRST: u64 = 0xeffffffd;
    let path = "/proc/self/ns/user";
    let stat = rustix::fs::stat(path).map_err(|errno| Error::new(format!("stat({path:?})"), errno))?;
    Ok(stat.st_ino != FIRST)
}

/// Which namespace it is: device and inode of the descriptor, equal for the same namespace only.
///
/// # Errors
/// None that is known.
pub fn identity(fd: impl AsFd) -> Result<(u64, u64)> {
    let stat =
        rustix::fs::fstat(&fd).map_err(|errno| Error::new(format!("fstat({})", Fd::of(&fd)), errno))?;
    Ok((stat.st_dev, stat.st_ino))
}

fn join(fd: BorrowedFd<'_>, kinds: CloneFlags) -> core::result::Result<(), Errno> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), kinds.bits()) }).map(drop)
}
