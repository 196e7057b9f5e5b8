//! Standard input, output and error of a process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vaquita_sys::tty::Size;

use crate::plan::path::Inside;
use crate::plan::process::ProcessPlan;
use crate::steps::Step;
use crate::{Error, spawn};

/// What a process has as file descriptors 0, 1 and 2.
#[derive(Debug)]
pub enum Stdio {
    /// These, in order.
    Fds([OwnedFd; 3]),
    /// A pseudo-terminal from the container's own devpts; its master comes back as `console`.
    Terminal {
        /// Height in characters; 0 leaves the size unset.
        rows: u16,
        /// Width in characters.
        columns: u16,
    },
}

/// The specification and what the caller brings must agree.
pub(crate) fn check_stdio(process: &ProcessPlan, stdio: &Stdio) -> Result<(), Error> {
    match (process.terminal, stdio) {
        (true, Stdio::Fds(_)) => {
            Err(Error::invalid("process.terminal is set, and files were given for stdio"))
        }
        (false, Stdio::Terminal { .. }) => {
            Err(Error::invalid("process.terminal is not set, and a terminal was asked for"))
        }
        _ => Ok(()),
    }
}

/// Standard input, output and error, at numbers that dup2 does not overwrite.
pub(crate) enum StdioFds {
    Fds([OwnedFd; 3]),
    Terminal(Size),
}

impl StdioFds {
    pub(crate) fn new(stdio: Stdio) -> Result<Self, Error> {
        let high = |fd: OwnedFd| spawn::above(fd, 3);
        Ok(match stdio {
            Stdio::Terminal { rows, columns } => Self::Terminal(Size { rows, columns }),
            Stdio::Fds([input, output, error]) => Self::Fds([high(input)?, high(output)?, high(error)?]),
        })
    }

    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let fds = match self {
            Self::Fds(fds) => fds.as_slice(),
            Self::Terminal(_) => &[],
        };
        fds.iter().map(AsFd::as_fd)
    }

    pub(crate) fn steps(&self, uid: u32) -> Option<Step<'_>> {
        Some(match self {
            Self::Fds(fds) => Step::UseFds(fds.each_ref().map(AsFd::as_fd), uid),
            Self::Terminal(_) => Step::UseTerminal(uid),
        })
    }

    pub(crate) fn terminal<'a>(&self, devpts: Inside, console: Option<Inside>) -> Option<Step<'a>> {
        match self {
            Self::Fds(_) => None,
            Self::Terminal(size) => Some(Step::Terminal { devpts, console, size: *size }),
        }
    }
}
