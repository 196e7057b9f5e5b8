//! Raw system calls that neither rustix nor std offers.

use std::ffi::{c_int, c_long};
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;

/// The result of a raw system call as a number, or its error.
///
/// Safe between clone and exec: no allocation.
pub(crate) fn check(result: c_long) -> Result<c_long, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    // SAFETY: __errno_location returns the address of this thread's errno, which is always valid.
    let number = unsafe { *libc::__errno_location() };
    Err(Errno::from_raw_os_error(number))
}

/// The result of a raw system call that returns a new fd.
///
/// # Safety
/// The call must be one that gives the caller a new fd, owned by nobody else.
pub(crate) unsafe fn check_fd(result: c_long) -> Result<OwnedFd, Errno> {
    let fd = check(result)?;
    // An fd always fits: the kernel's own type for it is int.
    let fd = c_int::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the caller promises that this is a fresh fd.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
