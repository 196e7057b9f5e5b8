//! seccomp(2): installing a filter. What the filter says is compiled elsewhere.

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::syscall::check;

/// An instruction of classic BPF, `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockFilter {
    /// Operation code.
    pub code: u16,
    /// How many instructions to skip if true.
    pub jt: u8,
    /// How many instructions to skip if false.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Applies to all threads (`SECCOMP_FILTER_FLAG_TSYNC`).
pub const FLAG_TSYNC: u32 = 1;
/// Logs every action but allow (`SECCOMP_FILTER_FLAG_LOG`).
pub const FLAG_LOG: u32 = 2;
/// Does not slow speculative stores down (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`).
pub const FLAG_SPEC_ALLOW: u32 = 4;
/// Returns a descriptor for notifications (`SECCOMP_FILTER_FLAG_NEW_LISTENER`, Linux 5.0).
pub const FLAG_NEW_LISTENER: u32 = 8;
/// Tells a thread that cannot be synchronised by `ESRCH`, which [`FLAG_TSYNC`] with [`FLAG_NEW_LISTENER`] needs
/// (`SECCOMP_FILTER_FLAG_TSYNC_ESRCH`, Linux 5.7).
pub const FLAG_TSYNC_ESRCH: u32 = 16;
/// A process whose call was received by the listener can only be killed until it is answered
/// (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, Linux 5.19). Only with [`FLAG_NEW_LISTENER`].
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 32;

/// Filters the calling thread's system calls from here on, for good. Returns the listener if [`FLAG_NEW_LISTENER`] is set.
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EACCES` without `no_new_privs` or `CAP_SYS_ADMIN`; `EINVAL` for a program that is not valid, empty or too long, or an
/// unknown flag; `ENOMEM` when all filters together are too long.
pub fn install(program: &[SockFilter], flags: u32) -> Result<Option<OwnedFd>, Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies `length` instructions from the slice; SockFilter has the layout of sock_filter.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            &raw const program,
        )
    })?;
    if flags & FLAG_NEW_LISTENER == 0 {
        // A positive number with TSYNC is a thread that could not be synchronised.
        return if result == 0 { Ok(None) } else { Err(Errno::SRCH) };
    }
    let fd = i32::try_from(result).map_err(|_| Errno::BADF)?;
    // SAFETY: with that flag the result is a new fd.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether the kernel knows this action, `SECCOMP_RET_*` without data.
#[must_use]
pub fn action_available(action: u32) -> bool {
    // SAFETY: the operation reads one u32.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0 as libc::c_ulong,
            &raw const action,
        )
    };
    check(result).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions() {
        assert!(action_available(0x7fff_0000)); // SECCOMP_RET_ALLOW
        assert!(!action_available(0x1234_0000));
    }

    #[test]
    fn an_empty_program_is_refused() {
        assert_eq!(install(&[], 0).unwrap_err(), Errno::INVAL);
    }
}
