//! Handing descriptors to who asked for them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::Error;

/// Sends a terminal's master side to the socket at `path` (`--console-socket`), with its name.
pub(crate) fn send_terminal(path: &Path, master: &OwnedFd) -> Result<(), Error> {
    let name = rustix::pty::ptsname(master, Vec::new())
        .map_err(|errno| Error::kernel("ioctl(<terminal>, TIOCGPTN)", errno))?;
    send(path, name.as_bytes(), master.as_fd()).map_err(|error| error.while_doing("--console-socket"))
}

/// Sends a pidfd to the socket at `path` (`--pidfd-socket`).
pub(crate) fn send_pidfd(path: &Path, pidfd: BorrowedFd<'_>) -> Result<(), Error> {
    send(path, b"pidfd", pidfd).map_err(|error| error.while_doing("--pidfd-socket"))
}

fn send(path: &Path, message: &[u8], fd: BorrowedFd<'_>) -> Result<(), Error> {
    let socket = vaquita_sys::socket::connect_stream(path)?;
    vaquita_sys::socket::send(&socket, message, &[fd])
        .map_err(|errno| Error::kernel(format!("sendmsg({path:?}, SCM_RIGHTS)"), errno))
}
