//! Pseudo-terminals, made from a devpts that is held by fd.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::error::Fd;
use crate::syscall::check;
use crate::{Error, Result};

/// Both ends of a pseudo-terminal, close-on-exec. Neither is the controlling terminal of anybody.
#[derive(Debug)]
pub struct Pty {
    /// The end that a terminal emulator holds.
    pub master: OwnedFd,
    /// The end that the program gets.
    pub slave: OwnedFd,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Makes a pseudo-terminal in the devpts filesystem whose root directory is `devpts` (devpts(5)). The slave is opened
/// through its master (`TIOCGPTPEER`, Linux 4.13), never by a path that a container could have changed.
///
/// # Errors
/// `ENOENT` without `ptmx`, `ENODEV` when that is not the device, `ENOSPC` at the limit of terminals.
pub fn open_pty_in(devpts: impl AsFd) -> Result<Pty> {
    let call = format!("openat2({}, \"ptmx\", O_RDWR|O_NOCTTY)", Fd::of(&devpts));
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV | ResolveFlags::BENEATH;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = crate::root::openat2(devpts.as_fd(), c"ptmx", flags, Mode::empty(), resolve)
        .map_err(|errno| Error::new(call.clone(), errno))?;
    let stat = rustix::fs::fstat(&master).map_err(|errno| Error::new(call.clone(), errno))?;
    let device = rustix::fs::makedev(5, 2);
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != device {
        return Err(Error::refused(call, Errno::NODEV, "not the device 5:2"));
    }
    rustix::pty::unlockpt(&master).map_err(|errno| Error::new("ioctl(<ptmx>, TIOCSPTLCK, 0)", errno))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)
        .map_err(|errno| Error::new("ioctl(<ptmx>, TIOCGPTPEER, O_RDWR|O_NOCTTY)", errno))?;
    Ok(Pty { master, slave })
}

/// Changes the size; the programs in the foreground get `SIGWINCH`.
///
/// # Errors
/// `ENOTTY`.
pub fn set_size(terminal: impl AsFd, size: Size) -> core::result::Result<(), Errno> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// The size.
///
/// # Errors
/// `ENOTTY`.
pub fn size(terminal: impl AsFd) -> core::result::Result<Size, Errno> {
    let size = rustix::termios::tcgetwinsize(terminal)?;
    Ok(Size { rows: size.ws_row, columns: size.ws_col })
}

/// Makes the terminal the controlling one of the calling process, which must lead a session without one (`TIOCSCTTY`).
///
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPERM` when the caller leads no session, has a terminal, or another session has this one.
pub fn set_controlling(terminal: impl AsFd) -> core::result::Result<(), Errno> {
    // SAFETY: TIOCSCTTY takes a number, 0: do not take it from another session.
    check(unsafe { libc::syscall(libc::SYS_ioctl, terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) })
        .map(drop)
}
