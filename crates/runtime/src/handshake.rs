//! What a new process and its maker say to each other, on a socket that keeps message boundaries.
//!
//! The child says once that it is ready (with its terminal's master, if it has one) and waits for a word; before that it
//! may say that it waits for its maker to do something in its namespaces, and waits for a word then too, and it may wait
//! for files without asking. What goes wrong it says at any time, as the last thing; the kernel's closing of its end on execve is what says that all went
//! well. A message is of bounded length and needs no allocation to be sent.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags,
};

use crate::Error;
use crate::steps::Failure;

/// The two ends: the maker's and the child's.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET);
    rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::kernel("socketpair(AF_UNIX, SOCK_SEQPACKET)", errno))
}

/// Lets the other end go on.
pub(crate) fn give_word(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::net::send(socket, b"g", SendFlags::NOSIGNAL)).map(drop)
}

/// Waits for the word. Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPIPE` when the other end is gone.
pub(crate) fn await_word(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut byte = [0_u8];
    let (_, length) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut byte, RecvFlags::empty()))?;
    if length == 0 { Err(Errno::PIPE) } else { Ok(()) }
}

/// Waits for the word to start: on `socket`, and then on a connection to `listener` if there is one, which is returned.
/// Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPIPE` when the other end of `socket` is gone; those of accept4(2).
pub(crate) fn await_start(
    socket: BorrowedFd<'_>,
    listener: Option<BorrowedFd<'_>>,
) -> Result<Option<OwnedFd>, Errno> {
    await_word(socket)?;
    let Some(listener) = listener else { return Ok(None) };
    loop {
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            // Who leaves without a word has not started anything.
            Ok(connection) if await_word(connection.as_fd()).is_err() => {}
            Ok(connection) => return Ok(Some(connection)),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Says that the set-up is done. Safe between clone and exec: no allocation.
pub(crate) fn say_ready(socket: BorrowedFd<'_>, terminal: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    say(socket, READY, terminal)
}

/// Says the listener of its seccomp filter. Safe between clone and exec: no allocation. Makes no other system call than
/// sendmsg(2), once: they are under the filter.
pub(crate) fn say_listener(socket: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> Result<(), Errno> {
    say(socket, LISTENER, Some(listener))
}

/// Says which process was made. Safe between clone and exec: no allocation.
pub(crate) fn say_born(socket: BorrowedFd<'_>, pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    say(socket, BORN, Some(pidfd))
}

fn say(socket: BorrowedFd<'_>, what: u8, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let bytes = [what];
    let parts = [IoSlice::new(&bytes)];
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL))
        .map(drop)
}

/// Most files that are passed at once.
pub(crate) const MOST_FILES: usize = 32;

/// Files that were passed, in order.
pub(crate) struct Files([Option<OwnedFd>; MOST_FILES]);

impl Files {
    pub(crate) const NONE: Self = Self([const { None }; MOST_FILES]);

    pub(crate) fn iter(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().flatten().map(AsFd::as_fd)
    }
}

/// Passes at most [`MOST_FILES`] files to the other end, which waits for them or will.
pub(crate) fn give_files(socket: BorrowedFd<'_>, files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if files.len() > MOST_FILES || !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files))
    {
        return Err(Errno::TOOBIG);
    }
    let count = [u8::try_from(files.len()).unwrap_or(u8::MAX)];
    let parts = [IoSlice::new(&count)];
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL))
        .map(drop)
}

/// Waits for files. Safe between clone and exec: no allocation.
///
/// # Errors
/// `EPIPE` when the other end is gone; `EMFILE` when not all could be had.
pub(crate) fn take_files(socket: BorrowedFd<'_>) -> Result<Files, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut count = [0_u8];
    let message = rustix::io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut count)];
        rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if message.bytes == 0 {
        return Err(Errno::PIPE);
    }
    let mut files = Files::NONE;
    let mut places = files.0.iter_mut();
    for message in control.drain() {
        let RecvAncillaryMessage::ScmRights(fds) = message else { continue };
        for (place, fd) in places.by_ref().zip(fds) {
            *place = Some(fd);
        }
    }
    if files.iter().count() == usize::from(count[0]) { Ok(files) } else { Err(Errno::MFILE) }
}

/// Says that the maker may come in, and waits until it is done. Safe between clone and exec: no allocation.
pub(crate) fn meet(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::net::send(socket, &[MEET], SendFlags::NOSIGNAL))?;
    await_word(socket)
}

/// Says what went wrong; `step` is text prepared by the maker, or empty and then `number` says which it was.
/// Safe between clone and exec: no allocation.
pub(crate) fn say_failure(socket: BorrowedFd<'_>, number: u16, step: &[u8], is_exec: bool, failure: Failure) {
    let [e0, e1, e2, e3] = failure.errno.raw_os_error().to_le_bytes();
    let [n0, n1] = number.to_le_bytes();
    let header = [if is_exec { EXEC_FAILED } else { FAILED }, e0, e1, e2, e3, n0, n1];
    let step = &step[..step.len().min(LONGEST)];
    let between: &[u8] = if step.is_empty() || failure.call.is_empty() { b"" } else { b": " };
    let parts = [
        IoSlice::new(&header),
        IoSlice::new(step),
        IoSlice::new(between),
        IoSlice::new(failure.call.as_bytes()),
    ];
    let mut control = SendAncillaryBuffer::default();
    // Nobody may be there any more to be told.
    let _ = rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL);
}

/// What the child said.
#[derive(Debug)]
pub(crate) enum Said {
    /// Its end is closed: it has executed its program, or it is dead.
    Nothing,
    /// It died with our word unread.
    Unread,
    /// It waits, with its mounts in place and its root not yet changed.
    Meet,
    Ready(Option<OwnedFd>),
    /// It has made the process of this pidfd, and ends.
    Born(OwnedFd),
    /// Of its seccomp filter.
    Listener(OwnedFd),
    Failed {
        number: usize,
        text: String,
        errno: Errno,
        is_exec: bool,
    },
}

/// Waits for what the child says.
pub(crate) fn hear(socket: impl AsFd) -> Result<Said, Error> {
    match hear_once(&socket)? {
        // The kernel says that first; why the child is gone comes behind it.
        Said::Unread => match hear_once(&socket)? {
            Said::Nothing => Ok(Said::Unread),
            said => Ok(said),
        },
        said => Ok(said),
    }
}

fn hear_once(socket: impl AsFd) -> Result<Said, Error> {
    let mut bytes = [0_u8; LONGEST + 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let length = match received {
        Ok(message) => message.bytes,
        Err(Errno::CONNRESET) => return Ok(Said::Unread),
        Err(errno) => return Err(Error::kernel("recvmsg(<new process>)", errno)),
    };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    parse(&bytes[..length], fd)
}

const READY: u8 = 1;
const FAILED: u8 = 2;
const EXEC_FAILED: u8 = 3;
const MEET: u8 = 4;
const LISTENER: u8 = 5;
const BORN: u8 = 6;

/// Longest text of a step; more is cut.
const LONGEST: usize = 3072;

fn parse(message: &[u8], fd: Option<OwnedFd>) -> Result<Said, Error> {
    match message {
        [] => Ok(Said::Nothing),
        [READY] => Ok(Said::Ready(fd)),
        [BORN] => {
            fd.map(Said::Born).ok_or_else(|| Error::died("a pidfd did not arrive: too many open files?"))
        }
        [LISTENER] => fd
            .map(Said::Listener)
            .ok_or_else(|| Error::died("a listener did not arrive: too many open files?")),
        [MEET] => Ok(Said::Meet),
        [kind @ (FAILED | EXEC_FAILED), e0, e1, e2, e3, n0, n1, text @ ..] => Ok(Said::Failed {
            number: usize::from(u16::from_le_bytes([*n0, *n1])),
            text: String::from_utf8_lossy(text).into_owned(),
            errno: errno(i32::from_le_bytes([*e0, *e1, *e2, *e3])),
            is_exec: *kind == EXEC_FAILED,
        }),
        _ => {
            Err(Error::died(format!("a new process said what no version of this program says: {message:?}")))
        }
    }
}

/// A number that is none (1 to `MAX_ERRNO`) comes from nobody who speaks this protocol.
fn errno(number: i32) -> Errno {
    if (1..4096).contains(&number) { Errno::from_raw_os_error(number) } else { Errno::PROTO }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn failures_arrive_as_sent(number in any::<u16>(), step in prop::collection::vec(any::<u8>(), 0..5000), is_exec in any::<bool>()) {
            let (ours, theirs) = pair().unwrap();
            say_failure(theirs.as_fd(), number, &step, is_exec, Failure { call: "openat2", errno: Errno::NOENT });
            let Said::Failed { number: n, text, errno, is_exec: e } = hear(&ours).unwrap() else { panic!() };
            prop_assert_eq!((n, errno, e), (usize::from(number), Errno::NOENT, is_exec));
            prop_assert!(text.ends_with("openat2"));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&bytes, None);
        }
    }

    #[test]
    fn what_was_said_before_the_end_is_heard_though_a_word_was_not() {
        let (ours, theirs) = pair().unwrap();
        give_word(ours.as_fd()).unwrap();
        say_failure(theirs.as_fd(), 7, b"", false, Failure { call: "mount", errno: Errno::IO });
        drop(theirs);
        assert!(matches!(hear(&ours).unwrap(), Said::Failed { number: 7, .. }));
        let (ours, theirs) = pair().unwrap();
        give_word(ours.as_fd()).unwrap();
        drop(theirs);
        assert!(matches!(hear(&ours).unwrap(), Said::Unread));
    }

    #[test]
    fn files_arrive_in_order_and_without_any_too() {
        let (ours, theirs) = pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        for files in [vec![read.as_fd(), write.as_fd()], Vec::new(), vec![read.as_fd(); MOST_FILES]] {
            give_files(ours.as_fd(), &files).unwrap();
            let taken = take_files(theirs.as_fd()).unwrap();
            let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
            let (given, taken): (Vec<_>, Vec<_>) =
                (files.iter().map(|fd| inode(*fd)).collect(), taken.iter().map(inode).collect());
            assert_eq!(given, taken);
        }
        assert_eq!(give_files(ours.as_fd(), &[read.as_fd(); MOST_FILES + 1]).unwrap_err(), Errno::TOOBIG);
        drop(ours);
        assert_eq!(take_files(theirs.as_fd()).err(), Some(Errno::PIPE));
    }

    #[test]
    fn a_closed_end_says_nothing() {
        let (ours, theirs) = pair().unwrap();
        drop(theirs);
        assert!(matches!(hear(&ours).unwrap(), Said::Nothing));
        assert_eq!(give_word(ours.as_fd()).unwrap_err(), Errno::PIPE);
        assert_eq!(await_word(ours.as_fd()).unwrap_err(), Errno::PIPE);
    }
}
