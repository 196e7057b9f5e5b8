//! Staying with a process until it ends: its signals, its terminal, its exit code.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::termios::{self, OptionalActions, Termios};
use vaquita_sys::process::{reap_any, try_wait_pidfd};
use vaquita_sys::signal::{self, Set, Signal, SignalFd};
use vaquita_sys::tty;

use crate::Error;

/// All signals that can be passed on, blocked in this process.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// To be called before there is a child, so that none is missed. A new process unblocks them for itself.
    pub(crate) fn take() -> Result<Self, Error> {
        // These are for this program alone, and come from its own mistakes.
        let own =
            [Signal::SEGV, Signal::BUS, Signal::FPE, Signal::ILL, Signal::TRAP, Signal::SYS, Signal::ABRT];
        let mask = own.into_iter().fold(Set::ALL, Set::without);
        signal::set_mask(mask).map_err(|errno| Error::kernel("rt_sigprocmask(SIG_SETMASK)", errno))?;
        Ok(Self(SignalFd::new(mask)?))
    }

    /// Passes signals on, and what is typed and shown if there is a terminal, until the child ends; its exit code.
    pub(crate) fn stay_with(&self, child: &OwnedFd, master: Option<OwnedFd>) -> Result<i32, Error> {
        let mut screen = master.map(Screen::new).transpose()?;
        loop {
            self.wait(child, screen.as_mut())?;
            while let Some(received) = self.0.next()? {
                match (received.signal, &screen) {
                    (Signal::CHLD | Signal::URG | Signal::PIPE, _) => {}
                    (Signal::WINCH, Some(screen)) => screen.resize(),
                    // Ended already: seen below.
                    (signal, _) => drop(signal::send(child, signal)),
                }
            }
            if let Some(exit) = try_wait_pidfd(child)? {
                // What came to this process because it takes in orphans.
                while reap_any()?.is_some() {}
                if let Some(screen) = &mut screen {
                    screen.show_rest()?;
                }
                return Ok(exit.code);
            }
        }
    }

    /// Waits until there is something to do, and does what there is for the terminal.
    fn wait(&self, child: &OwnedFd, screen: Option<&mut Screen>) -> Result<(), Error> {
        let mut polled =
            vec![PollFd::new(child, PollFlags::IN), PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        let Some(screen) = screen else { return poll(&mut polled) };
        let (mut typed, mut output) = (None, None);
        let stdin = std::io::stdin();
        {
            let mut wanted = PollFlags::empty();
            if screen.shows {
                wanted |= PollFlags::IN;
            }
            if !screen.pending.is_empty() {
                wanted |= PollFlags::OUT;
            }
            if !wanted.is_empty() {
                output = Some(polled.len());
                polled.push(PollFd::new(&screen.master, wanted));
            }
            if screen.reads && screen.pending.is_empty() {
                typed = Some(polled.len());
                polled.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
            }
        }
        poll(&mut polled)?;
        let events = |at: Option<usize>| at.map_or(PollFlags::empty(), |at| polled[at].revents());
        let (typed, output) = (events(typed), events(output));
        drop(polled);
        if output.contains(PollFlags::OUT) {
            screen.type_pending()?;
        }
        if !(output - PollFlags::OUT).is_empty() {
            screen.show()?;
        }
        if !typed.is_empty() {
            screen.read()?;
        }
        Ok(())
    }
}

fn poll(polled: &mut [PollFd<'_>]) -> Result<(), Error> {
    match rustix::event::poll(polled, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(Error::kernel("poll(<container>)", errno)),
    }
}

/// The size of this process's own terminal, if it has one.
pub(crate) fn own_size() -> Option<tty::Size> {
    tty::size(std::io::stdin()).or_else(|_| tty::size(std::io::stdout())).ok()
}

/// A container's terminal, shown on this process's own.
struct Screen {
    master: OwnedFd,
    /// Typed, and not taken yet.
    pending: Vec<u8>,
    /// Standard input has not ended.
    reads: bool,
    /// The terminal has not ended.
    shows: bool,
    /// How the own terminal was before.
    before: Option<Termios>,
}

/// End of input, as it is typed (`VEOF`, termios(3)).
const END_OF_INPUT: u8 = 4;

impl Screen {
    fn new(master: OwnedFd) -> Result<Self, Error> {
        rustix::io::ioctl_fionbio(&master, true)
            .map_err(|errno| Error::kernel("ioctl(<terminal>, FIONBIO, 1)", errno))?;
        let before = termios::tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw)
                .map_err(|errno| Error::kernel("tcsetattr(<standard input>)", errno))?;
        }
        let screen = Self { master, pending: Vec::new(), reads: true, shows: true, before };
        screen.resize();
        Ok(screen)
    }

    fn resize(&self) {
        if let Some(size) = own_size().filter(|size| size.rows > 0 && size.columns > 0) {
            // It may have ended.
            let _ = tty::set_size(&self.master, size);
        }
    }

    fn read(&mut self) -> Result<(), Error> {
        let mut buffer = [0; 4096];
        match rustix::io::read(std::io::stdin(), &mut buffer) {
            // Somebody in the background may not read the terminal.
            Ok(0) | Err(Errno::IO) => {
                self.reads = false;
                self.pending.push(END_OF_INPUT);
            }
            Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(Error::kernel("read(<standard input>)", errno)),
        }
        self.type_pending()
    }

    fn type_pending(&mut self) -> Result<(), Error> {
        match rustix::io::write(&self.master, &self.pending) {
            Ok(length) => drop(self.pending.drain(..length)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody has it open any more.
            Err(Errno::IO) => self.pending.clear(),
            Err(errno) => return Err(Error::kernel("write(<terminal>)", errno)),
        }
        Ok(())
    }

    /// Shows what is there; whether there may be more.
    fn show(&mut self) -> Result<bool, Error> {
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.master, &mut buffer) {
            // EIO: nobody has the other end open.
            Ok(0) | Err(Errno::IO) => {
                self.shows = false;
                Ok(false)
            }
            Ok(length) => write_all(std::io::stdout().as_fd(), &buffer[..length]).map(|()| true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(errno) => Err(Error::kernel("read(<terminal>)", errno)),
        }
    }

    fn show_rest(&mut self) -> Result<(), Error> {
        while self.show()? {}
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                poll(&mut polled)?;
            }
            Err(errno) => return Err(Error::kernel("write(<standard output>)", errno)),
        }
    }
    Ok(())
}
