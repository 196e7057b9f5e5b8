//! The socket between a waiting process and whoever starts it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::Error;

/// Our end of the socket on which a new process tells how its execve went, and on which a created one waits.
///
/// It may be handed to another process (`SCM_RIGHTS`): it carries all that is needed to tell the error. When it is
/// dropped before [`StartHandle::release`], the waiting process exits.
#[derive(Debug)]
pub struct StartHandle(OwnedFd);

impl StartHandle {
    /// Lets the process execute its program and waits until it has.
    ///
    /// # Errors
    /// [`crate::Kind::Exec`] when execve failed, [`crate::Kind::Kernel`] when a step before it did; the process has exited then.
    pub fn start(self) -> Result<(), Error> {
        self.release()?;
        self.wait()
    }

    /// Lets the process go on, and returns at once.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] when the process is gone.
    pub fn release(&self) -> Result<(), Error> {
        Err(Error::unsupported("not there yet"))
    }

    /// Waits until the program has been executed (the process's end of the socket is closed by that). The socket polls readable when this will not block.
    ///
    /// # Errors
    /// As for [`StartHandle::start`].
    pub fn wait(self) -> Result<(), Error> {
        Err(Error::unsupported("not there yet"))
    }

    /// Takes up a handle which was sent here from another process.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The socket, to be sent elsewhere.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for StartHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
