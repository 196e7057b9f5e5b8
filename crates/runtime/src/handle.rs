//! The socket between a waiting process and whoever starts it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::handshake::{self, Said};
use crate::{Error, Kind};

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
    /// [`crate::Kind::Exec`] when execve failed, [`crate::Kind::Kernel`] when a step before it did,
    /// [`crate::Kind::NotFound`] when the process was gone; it has exited in each case.
    pub fn start(self) -> Result<(), Error> {
        self.release()?;
        self.wait()
    }

    /// As [`StartHandle::start`], for a process whose seccomp profile has `SCMP_ACT_NOTIFY`: `pass` gets the listener, and
    /// passes it on ([`crate::seccomp::Agent::send`]). From then on calls of the process wait for the agent's answers, the
    /// one of execve included if the profile says so.
    ///
    /// # Errors
    /// As there, and those of `pass`: the process goes on then, with notified calls that fail by `ENOSYS`, and it is the
    /// caller's to end.
    pub fn start_with(self, pass: impl FnOnce(OwnedFd) -> Result<(), Error>) -> Result<(), Error> {
        self.release()?;
        self.wait_with(pass)
    }

    /// Lets the process go on, and returns at once.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] when the process is gone.
    pub fn release(&self) -> Result<(), Error> {
        handshake::give_word(self.0.as_fd()).map_err(|errno| match errno {
            Errno::PIPE | Errno::CONNRESET => gone(),
            errno => Error::kernel("send(<new process>)", errno),
        })
    }

    /// Waits until the program has been executed (the process's end of the socket is closed by that). The socket polls
    /// readable when this will not block. A process that dies without a word, of a seccomp filter that kills or of a
    /// signal, counts as started: its exit status tells.
    ///
    /// # Errors
    /// As for [`StartHandle::start`].
    pub fn wait(self) -> Result<(), Error> {
        self.wait_with(|_| {
            Err(Error::unsupported("linux.seccomp: SCMP_ACT_NOTIFY: nobody passes the listener on"))
        })
    }

    /// As [`StartHandle::wait`], with a listener as for [`StartHandle::start_with`].
    ///
    /// # Errors
    /// As there.
    pub fn wait_with(self, pass: impl FnOnce(OwnedFd) -> Result<(), Error>) -> Result<(), Error> {
        let mut heard = handshake::hear(&self.0)?;
        if let Said::Listener(listener) = heard {
            pass(listener)?;
            heard = handshake::hear(&self.0)?;
        }
        match heard {
            Said::Nothing => Ok(()),
            Said::Unread => Err(gone()),
            Said::Ready(_) | Said::Meet | Said::Born(_) | Said::Listener(_) => {
                Err(Error::died("a process that was ready said something else than how its start went"))
            }
            Said::Failed { text, errno, is_exec: true, .. } => Err(Error::exec(text, errno)),
            Said::Failed { text, errno, .. } => Err(Error::kernel(text, errno)),
        }
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

fn gone() -> Error {
    Error::new(Kind::NotFound, "the container's process ended before it was started".to_owned())
}

impl AsFd for StartHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
