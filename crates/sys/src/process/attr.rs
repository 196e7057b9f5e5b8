//! What a process sets on itself. All of it is safe between clone and exec: no allocation.

use std::ffi::CStr;

use rustix::io::Errno;
use rustix::thread::{Gid, Uid};

use crate::signal::Signal;
use crate::syscall::check;

/// Orphans below this process become its children (`PR_SET_CHILD_SUBREAPER`).
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// None that is known.
pub fn set_subreaper() -> Result<(), Errno> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// Whether others of the same user may look into this process (ptrace, `/proc/PID/mem`) and it may dump core.
/// An execve sets it again (prctl(2) `PR_SET_DUMPABLE`).
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// None that is known.
pub fn set_dumpable(dumpable: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_DUMPABLE, u64::from(dumpable))
}

/// From here on no execve gains privileges; cannot be undone (`PR_SET_NO_NEW_PRIVS`).
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// None that is known.
pub fn no_new_privs() -> Result<(), Errno> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// The thread's name, of which the kernel keeps 15 bytes (`PR_SET_NAME`).
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// None that is known.
pub fn set_name(name: &CStr) -> Result<(), Errno> {
    prctl(libc::PR_SET_NAME, name.as_ptr() as u64)
}

/// Whether the working directory is below the process's root: getcwd(2) answers `(unreachable)/...` where it is not.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `ENOENT` when the directory has been removed, `ERANGE` for a path longer than `PATH_MAX`.
pub fn cwd_is_reachable() -> Result<bool, Errno> {
    let mut path = [0_u8; 4097];
    // SAFETY: the kernel writes at most as many bytes as it is told.
    check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(path[0] == b'/')
}

/// The signal that this process gets when its parent *thread* ends; none for no signal. The caller must check
/// afterwards that the parent is still there (`PR_SET_PDEATHSIG`).
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// None that is known.
pub fn parent_death_signal(signal: Option<Signal>) -> Result<(), Errno> {
    prctl(libc::PR_SET_PDEATHSIG, signal.map_or(0, |signal| u64::from(signal.number().unsigned_abs())))
}

/// Whether permitted capabilities survive the change to another user id; cleared by execve (`PR_SET_KEEPCAPS`).
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM` when the securebits lock it.
pub fn set_keep_caps(keep: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(keep))
}

/// The supplementary groups, all of them (setgroups(2)); of this thread only.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM`; `EINVAL` for more than 65536 groups, or for 4294967295, which is not an id but means "no change" in other
/// calls.
pub fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    if groups.contains(&u32::MAX) {
        return Err(Errno::INVAL);
    }
    // SAFETY: gid_t is u32 and the length is that of the slice.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Real, effective and saved group id (setresgid(2)); of this thread only.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM`; `EINVAL` for an id that the user namespace does not map and for 4294967295, which would mean "no change".
pub fn set_gid(gid: u32) -> Result<(), Errno> {
    if gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    let gid = Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)
}

/// Real, effective and saved user id (setresuid(2)); of this thread only.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM`; `EINVAL` for an id that the user namespace does not map and for 4294967295, which would mean "no change".
pub fn set_uid(uid: u32) -> Result<(), Errno> {
    if uid == u32::MAX {
        return Err(Errno::INVAL);
    }
    let uid = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Starts a session keyring of that name, or an anonymous one, so that the parent's keys are out of reach
/// (keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`).
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EDQUOT`, `ENOMEM`; `ENOSYS` in a kernel without keys.
pub fn join_session_keyring(name: Option<&CStr>) -> Result<(), Errno> {
    let name = name.map_or(core::ptr::null(), CStr::as_ptr);
    // SAFETY: name is null or NUL-terminated.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, name)
    })
    .map(drop)
}

/// The execution domain, such as `PER_LINUX32` for `linux32` of the OCI specification (personality(2)).
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EINVAL`.
pub fn set_personality(persona: u32) -> Result<(), Errno> {
    // SAFETY: an integer only.
    check(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(persona)) }).map(drop)
}

/// How a thread is scheduled: the fields of `struct sched_attr` (sched_setattr(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// `SCHED_OTHER` (0), `SCHED_FIFO` (1), `SCHED_RR` (2), `SCHED_BATCH` (3), `SCHED_IDLE` (5), `SCHED_DEADLINE` (6).
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub period: u64,
}

/// Sets how the calling thread is scheduled (sched_setattr(2)). With the flags `SCHED_FLAG_UTIL_CLAMP_MIN` and `_MAX` the
/// utilization is clamped to 0.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM`, `EINVAL`, `EBUSY` for a deadline that cannot be admitted.
pub fn set_scheduling(how: &Scheduling) -> Result<(), Errno> {
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
        util_min: u32,
        util_max: u32,
    }
    let attr = SchedAttr {
        // SCHED_ATTR_SIZE_VER0, or VER1 (Linux 5.3) for the flags that need it.
        size: if how.flags & 0x60 == 0 { 48 } else { 56 },
        policy: how.policy,
        flags: how.flags,
        nice: how.nice,
        priority: how.priority,
        runtime: how.runtime,
        deadline: how.deadline,
        period: how.period,
        util_min: 0,
        util_max: 0,
    };
    // SAFETY: the structure is at least of the size that it states.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// The number that [`set_io_priority`] takes: class 1 (real-time), 2 (best effort) or 3 (idle), level 0 to 7.
#[must_use]
pub const fn io_priority(class: u16, level: u16) -> u32 {
    ((class as u32) << 13) | (level as u32)
}

/// Sets the IO priority of the calling process (ioprio_set(2)), see [`io_priority`].
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM` for the real-time class without `CAP_SYS_ADMIN` or `CAP_SYS_NICE`, `EINVAL`.
pub fn set_io_priority(priority: u32) -> Result<(), Errno> {
    // SAFETY: integers only; 1 is IOPRIO_WHO_PROCESS, 0 the caller.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, priority) }).map(drop)
}

/// Where the calling thread's memory comes from on a machine with several nodes (set_mempolicy(2)): `mode` is `MPOL_*` with
/// its flags, `nodes` has a bit for each node. An execve keeps it.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EINVAL` for a mode that the kernel does not know or nodes that it does not have or may not be used, `ENOSYS` in a
/// kernel without `CONFIG_NUMA`.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> Result<(), Errno> {
    // The kernel takes one bit less than it is told (get_nodes in mm/mempolicy.c).
    let (nodes, bits) = match nodes {
        [] => (core::ptr::null(), 0),
        nodes => (nodes.as_ptr(), nodes.len() * 64 + 1),
    };
    // SAFETY: the kernel reads as many bits as it is told, less one, which the slice has.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes, bits) }).map(drop)
}

fn prctl(option: i32, argument: u64) -> Result<(), Errno> {
    // SAFETY: the options used here take one number, or a NUL-terminated string that outlives the call.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, argument, 0u64, 0u64, 0u64) }).map(drop)
}
