//! Signals: names and numbers, masks, signalfd.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;

use rustix::io::Errno;

use crate::syscall::{check, check_fd};
use crate::{Error, Result};

/// A signal number, 1 to 64. Real-time signals are counted as programs see them: `SIGRTMIN` is 34 (signal(7)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident = $number:expr),* $(,)?) => {
        impl Signal {
            $(#[doc = concat!("`SIG", stringify!($name), "`, signal(7).")]
            pub const $name: Self = Self($number as u8);)*
        }
        const NAMES: &[(&str, Signal)] = &[$((stringify!($name), Signal::$name)),*];
    };
}

signals! {
    HUP = libc::SIGHUP, INT = libc::SIGINT, QUIT = libc::SIGQUIT, ILL = libc::SIGILL, TRAP = libc::SIGTRAP,
    ABRT = libc::SIGABRT, BUS = libc::SIGBUS, FPE = libc::SIGFPE, KILL = libc::SIGKILL, USR1 = libc::SIGUSR1,
    SEGV = libc::SIGSEGV, USR2 = libc::SIGUSR2, PIPE = libc::SIGPIPE, ALRM = libc::SIGALRM, TERM = libc::SIGTERM,
    STKFLT = libc::SIGSTKFLT, CHLD = libc::SIGCHLD, CONT = libc::SIGCONT, STOP = libc::SIGSTOP,
    TSTP = libc::SIGTSTP, TTIN = libc::SIGTTIN, TTOU = libc::SIGTTOU, URG = libc::SIGURG, XCPU = libc::SIGXCPU,
    XFSZ = libc::SIGXFSZ, VTALRM = libc::SIGVTALRM, PROF = libc::SIGPROF, WINCH = libc::SIGWINCH,
    IO = libc::SIGIO, PWR = libc::SIGPWR, SYS = libc::SIGSYS,
}

const RTMIN: u8 = 34;
const MAX: u8 = 64;

impl Signal {
    /// The signal of that number, if there is one.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|number| (1..=MAX).contains(number)).map(Self)
    }

    /// The number, as kill(2) takes it.
    #[must_use]
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    fn bit(self) -> u64 {
        1 << (self.0 - 1)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMES.iter().find(|(_, signal)| signal == self) {
            return write!(f, "SIG{name}");
        }
        match self.0 {
            RTMIN => f.write_str("SIGRTMIN"),
            MAX => f.write_str("SIGRTMAX"),
            number if number > RTMIN => write!(f, "SIGRTMIN+{}", number - RTMIN),
            number => write!(f, "SIG{number}"),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Signal {
    type Err = Error;

    /// Reads `SIGTERM`, `TERM`, `term`, `15`, `SIGRTMIN+3` and `RTMAX-1`, as image configurations write them.
    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::refused(format!("signal {text:?}"), Errno::INVAL, "no such signal");
        if let Ok(number) = text.parse::<i32>() {
            return Self::from_number(number).ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let alias = match name {
            "IOT" => "ABRT",
            "POLL" => "IO",
            "CLD" => "CHLD",
            other => other,
        };
        if let Some((_, signal)) = NAMES.iter().find(|(known, _)| *known == alias) {
            return Ok(*signal);
        }
        let offset = |rest: &str, sign: char| match rest {
            "" => Some(0),
            rest => rest.strip_prefix(sign)?.parse::<u8>().ok(),
        };
        let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(rest), _) => offset(rest, '+').and_then(|n| RTMIN.checked_add(n)),
            (_, Some(rest)) => offset(rest, '-').and_then(|n| MAX.checked_sub(n)),
            _ => None,
        };
        number.filter(|number| (RTMIN..=MAX).contains(number)).map(Self).ok_or_else(unknown)
    }
}

/// A set of signals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set(u64);

impl Set {
    /// No signal.
    pub const EMPTY: Self = Self(0);
    /// Every signal.
    pub const ALL: Self = Self(u64::MAX);

    /// This set and `signal`.
    #[must_use]
    pub const fn with(self, signal: Signal) -> Self {
        Self(self.0 | 1 << (signal.0 - 1))
    }

    /// This set but for `signal`.
    #[must_use]
    pub const fn without(self, signal: Signal) -> Self {
        Self(self.0 & !(1 << (signal.0 - 1)))
    }

    /// Whether `signal` is in it.
    #[must_use]
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & signal.bit() != 0
    }
}

impl FromIterator<Signal> for Set {
    fn from_iter<I: IntoIterator<Item = Signal>>(signals: I) -> Self {
        signals.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// Replaces the calling thread's signal mask and returns the one before. Unlike libc's, this covers the signals that
/// libc keeps for itself. Safe between clone and exec: no allocation.
///
/// # Errors
/// None that is known (rt_sigprocmask(2)).
pub fn set_mask(mask: Set) -> core::result::Result<Set, Errno> {
    let mut before = 0u64;
    // SAFETY: both pointers are to u64, which is the kernel's sigset_t, and the size says so.
    check(unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask.0, &raw mut before, 8usize)
    })?;
    Ok(Set(before))
}

/// Blocks every signal that can be blocked and returns the mask before. Safe between clone and exec: no allocation.
///
/// # Errors
/// None that is known (rt_sigprocmask(2)).
pub fn block_all() -> core::result::Result<Set, Errno> {
    set_mask(Set::ALL)
}

/// Unblocks every signal and sets every action to the default, so that a new program starts as from a fresh shell.
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// None that is known; signals whose action cannot be set (`SIGKILL`, `SIGSTOP`) are passed over.
pub fn reset_all() -> core::result::Result<(), Errno> {
    for number in 1..=i32::from(MAX) {
        if number == libc::SIGKILL || number == libc::SIGSTOP {
            continue;
        }
        // All-zero is SIG_DFL with no flags and an empty mask, on every architecture; 64 bytes cover the kernel's
        // struct sigaction everywhere.
        let default = [0u64; 8];
        // SAFETY: the kernel reads its struct sigaction from a larger zeroed buffer and writes nothing.
        check(unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                core::ptr::null::<libc::c_void>(),
                8usize,
            )
        })?;
    }
    set_mask(Set::EMPTY).map(drop)
}

/// Ignores `SIGPIPE` (or another signal) in this process. A program executed later inherits that: see [`reset_all`].
///
/// # Errors
/// `EINVAL` for `SIGKILL` and `SIGSTOP`.
pub fn ignore(signal: Signal) -> core::result::Result<(), Errno> {
    // SAFETY: SIG_IGN runs no code of ours.
    let before = unsafe { libc::signal(signal.number(), libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(Errno::INVAL) } else { Ok(()) }
}

/// Signals as readable events, signalfd(2). The signals must be blocked, in every thread, to arrive here.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

/// A signal that arrived on a [`SignalFd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Which signal.
    pub signal: Signal,
    /// Who sent it; 0 when the kernel did. For `SIGCHLD`, the child.
    pub pid: u32,
    /// The sender's real user id.
    pub uid: u32,
}

impl SignalFd {
    /// A non-blocking, close-on-exec descriptor for `signals`.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new(signals: Set) -> Result<Self> {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the mask is a u64 of the size given; a successful call returns a new fd.
        let fd =
            unsafe { check_fd(libc::syscall(libc::SYS_signalfd4, -1, &raw const signals.0, 8usize, flags)) };
        fd.map(Self).map_err(|errno| Error::new("signalfd4(-1, .., SFD_CLOEXEC|SFD_NONBLOCK)", errno))
    }

    /// The next signal, or none if none is waiting.
    ///
    /// # Errors
    /// Those of read(2) except `EAGAIN` and `EINTR`.
    pub fn next(&self) -> Result<Option<Received>> {
        let mut info = [0u8; 128];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut info)) {
            Ok(128) => {
                let word =
                    |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
                // struct signalfd_siginfo: ssi_signo, ssi_errno, ssi_code, ssi_pid, ssi_uid.
                let signal = i32::try_from(word(0)).ok().and_then(Signal::from_number);
                Ok(signal.map(|signal| Received { signal, pid: word(12), uid: word(16) }))
            }
            Ok(_) | Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(Error::new("read(<signalfd>)", errno)),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends `signal` to the process of `pidfd`, pidfd_send_signal(2). Safe between clone and exec: no allocation.
///
/// # Errors
/// `ESRCH` when the process has been reaped, `EPERM`.
pub fn send(pidfd: impl AsFd, signal: Signal) -> core::result::Result<(), Errno> {
    let pidfd = std::os::fd::AsRawFd::as_raw_fd(&pidfd.as_fd());
    // SAFETY: integers and a null pointer (no siginfo) only.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd,
            signal.number(),
            core::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// Sends `signal` to the process `pid` of this PID namespace, kill(2). Prefer [`send`]: a pid may have been reused.
///
/// # Errors
/// `ESRCH`, `EPERM`; `EINVAL` for a pid below 1 (process groups are not addressed by this function).
pub fn send_to_pid(pid: i32, signal: Signal) -> core::result::Result<(), Errno> {
    if pid < 1 {
        return Err(Errno::INVAL);
    }
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_kill, pid, signal.number()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            if number == 32 || number == 33 {
                continue; // libc keeps them; they have no name.
            }
            assert_eq!(signal.to_string().parse::<Signal>().unwrap(), signal, "{signal}");
        }
    }

    #[test]
    fn forms_that_images_use() {
        for (text, number) in
            [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGRTMAX", 64)]
        {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for text in ["", "0", "65", "-1", "SIGFOO", "RTMIN+31", "RTMIN-1", "RTMAX-31", "SIG", "RTMIN+"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_blocked_signal_arrives_on_the_descriptor() {
        let before = set_mask(Set::EMPTY.with(Signal::WINCH)).unwrap();
        let signals = SignalFd::new(Set::EMPTY.with(Signal::WINCH)).unwrap();
        assert_eq!(signals.next().unwrap(), None);
        // SAFETY: sends a blocked signal to this thread only.
        check(unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), Signal::WINCH.number())
        })
        .unwrap();
        let got = signals.next().unwrap().unwrap();
        assert_eq!((got.signal, got.pid), (Signal::WINCH, std::process::id()));
        set_mask(before).unwrap();
    }
}
