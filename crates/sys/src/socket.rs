//! Unix sockets that keep message boundaries and carry fds (`SOCK_SEQPACKET`, unix(7)).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::{Fd, quoted};
use crate::{Error, Result};

/// How many fds one message can carry (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// Who is at the other end, as the kernel knows (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The process that connected or listened, in the caller's PID namespace.
    pub pid: i32,
    /// Its effective user id then.
    pub uid: u32,
    /// Its effective group id then.
    pub gid: u32,
}

/// A listening socket in the file system, with mode 0600. Dropping it does not remove the file.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Makes the socket at `path`, of any length, non-blocking. The file gets mode 0600 before anybody can see it.
    ///
    /// # Errors
    /// `EADDRINUSE` when something is there, dead socket or not; `ENOENT`, `EACCES`, `ENOSPC`.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bound = (|| {
            let socket = new_socket(SocketFlags::NONBLOCK)?;
            // The file's mode is the socket's own, less the umask (unix_bind in the kernel).
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            with_address(path, |address| rustix::net::bind(&socket, address))?;
            rustix::net::listen(&socket, 128)?;
            Ok(socket)
        })();
        bound
            .map(Self)
            .map_err(|errno| Error::new(format!("bind(<seqpacket socket>, {})", quoted(path)), errno))
    }

    /// Makes whoever accepts wait for a connection, in this process and in those that inherit the socket.
    ///
    /// # Errors
    /// None that is known.
    pub fn set_blocking(&self) -> Result<()> {
        rustix::io::ioctl_fionbio(&self.0, false)
            .map_err(|errno| Error::new(format!("ioctl({}, FIONBIO, 0)", Fd::of(&self.0)), errno))
    }

    /// The next connection, blocking, or none when nobody is waiting.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn accept(&self) -> Result<Option<OwnedFd>> {
        match rustix::io::retry_on_intr(|| rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC)) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::AGAIN | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(Error::new(format!("accept4({})", Fd::of(&self.0)), errno)),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> Self {
        listener.0
    }
}

impl From<OwnedFd> for Listener {
    /// Takes a socket that listens already, such as one that was passed on.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// Connects to the listener at `path`, of any length. The connection blocks.
///
/// # Errors
/// `ENOENT`, `ECONNREFUSED` when nobody listens any more, `EACCES`, `EAGAIN` when too many wait.
pub fn connect(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    let connected = (|| {
        let socket = new_socket(SocketFlags::empty())?;
        with_address(path, |address| rustix::io::retry_on_intr(|| rustix::net::connect(&socket, address)))?;
        Ok(socket)
    })();
    connected.map_err(|errno| Error::new(format!("connect(<seqpacket socket>, {})", quoted(path)), errno))
}

/// As [`connect`], to a byte stream (`SOCK_STREAM`).
///
/// # Errors
/// As there; `EPROTOTYPE` for a socket of another type.
pub fn connect_stream(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    let connected = (|| {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        with_address(path, |address| rustix::io::retry_on_intr(|| rustix::net::connect(&socket, address)))?;
        Ok(socket)
    })();
    connected.map_err(|errno| Error::new(format!("connect(<stream socket>, {})", quoted(path)), errno))
}

/// Whether the seqpacket socket at `path` is still open somewhere. Nobody who listens there notices.
///
/// # Errors
/// `EACCES`; a path at which there is nothing is no error.
pub fn is_bound(path: impl AsRef<Path>) -> Result<bool> {
    let path = path.as_ref();
    let connected = (|| {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        with_address(path, |address| rustix::io::retry_on_intr(|| rustix::net::connect(&socket, address)))
    })();
    match connected {
        // The kernel compares the types when it has found the socket (unix_find_bsd in the kernel).
        Err(Errno::PROTOTYPE) => Ok(true),
        Ok(()) | Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(errno) => Err(Error::new(format!("connect(<datagram socket>, {})", quoted(path)), errno)),
    }
}

/// Two sockets connected to each other, close-on-exec and blocking.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::new("socketpair(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC)", errno))
}

/// Sends one message with copies of the fds. Safe between clone and exec when there are no fds: no allocation.
///
/// # Errors
/// `EAGAIN` when the socket does not block and is full, `EPIPE` when the other end is closed (no signal), `EMSGSIZE` for a
/// message that does not fit, `EINVAL` for more than [`MAX_FDS`] fds.
pub fn send(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> core::result::Result<(), Errno> {
    if fds.len() > MAX_FDS {
        return Err(Errno::INVAL);
    }
    if fds.is_empty() {
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(&socket, message, SendFlags::NOSIGNAL))?;
        return if sent == message.len() { Ok(()) } else { Err(Errno::MSGSIZE) };
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)
    })?;
    if sent == message.len() { Ok(()) } else { Err(Errno::MSGSIZE) }
}

/// Receives one message: its length, 0 when the other end is closed, and the fds that came with it, close-on-exec.
/// With `max_fds` 0 this allocates nothing.
///
/// # Errors
/// `EAGAIN` when the socket does not block and has nothing, `EMSGSIZE` for a message longer than `buffer` or with more fds
/// than `max_fds` (or than the process may open): the message and its fds are gone then; `ECONNRESET`.
pub fn recv(
    socket: impl AsFd,
    buffer: &mut [u8],
    max_fds: usize,
) -> core::result::Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = Vec::new();
    if max_fds > 0 {
        space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    }
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || fds.len() > max_fds {
        return Err(Errno::MSGSIZE);
    }
    Ok((received.bytes, fds))
}

/// Who is at the other end.
///
/// # Errors
/// `ENOTSOCK`.
pub fn peer_cred(socket: impl AsFd) -> core::result::Result<Peer, Errno> {
    let cred = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(Peer { pid: cred.pid.as_raw_nonzero().get(), uid: cred.uid.as_raw(), gid: cred.gid.as_raw() })
}

fn new_socket(flags: SocketFlags) -> core::result::Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags | SocketFlags::CLOEXEC, None)
}

/// Calls with an address for `path`. One that does not fit is reached through its directory's fd.
fn with_address(
    path: &Path,
    call: impl FnOnce(&SocketAddrUnix) -> core::result::Result<(), Errno>,
) -> core::result::Result<(), Errno> {
    if path.as_os_str().as_bytes().first() == Some(&0) {
        return Err(Errno::INVAL); // Not an abstract address: those belong to the network namespace (CVE-2020-15257).
    }
    match SocketAddrUnix::new(path) {
        Ok(address) => call(&address),
        Err(Errno::NAMETOOLONG) => {
            let name = path.file_name().ok_or(Errno::INVAL)?;
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::open(dir, flags, Mode::empty())?;
            let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
            call(&SocketAddrUnix::new(short)?)
        }
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_boundaries_and_carry_fds() {
        let (a, b) = pair().unwrap();
        let file = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        send(&a, b"one", &[]).unwrap();
        send(&a, b"two", &[file.as_fd(), a.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(recv(&b, &mut buffer, 0).unwrap().0, 3);
        let (n, fds) = recv(&b, &mut buffer, 2).unwrap();
        assert_eq!((&buffer[..n], fds.len()), (&b"two"[..], 2));
        assert_eq!(rustix::fs::fstat(&fds[0]).unwrap().st_rdev, rustix::fs::fstat(&file).unwrap().st_rdev);
        let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(peer_cred(&a).unwrap().pid, i32::try_from(std::process::id()).unwrap());
        drop((a, fds));
        assert_eq!(recv(&b, &mut buffer, 0).unwrap().0, 0);
        assert_eq!(send(&b, b"x", &[]).unwrap_err(), Errno::PIPE);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (a, b) = pair().unwrap();
        let mut buffer = [0; 4];
        send(&a, b"12345", &[]).unwrap();
        assert_eq!(recv(&b, &mut buffer, 0).unwrap_err(), Errno::MSGSIZE);
        for max in [0, 1] {
            send(&a, b"1", &[a.as_fd(), a.as_fd()]).unwrap();
            assert_eq!(recv(&b, &mut buffer, max).unwrap_err(), Errno::MSGSIZE, "at most {max} fds");
        }
        send(&a, b"1234", &vec![a.as_fd(); MAX_FDS]).unwrap();
        assert_eq!(recv(&b, &mut buffer, MAX_FDS).unwrap().1.len(), MAX_FDS);
        assert_eq!(send(&a, b"1", &vec![a.as_fd(); MAX_FDS + 1]).unwrap_err(), Errno::INVAL);
    }

    #[test]
    fn a_path_of_any_length_works_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        for path in [dir.path().join("s"), deep.join("s")] {
            let listener = Listener::bind(&path).unwrap();
            let mode =
                std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600);
            assert!(listener.accept().unwrap().is_none());
            assert!(is_bound(&path).unwrap());
            assert!(listener.accept().unwrap().is_none(), "looking is no connection");
            assert_eq!(connect_stream(&path).unwrap_err().errno(), Errno::PROTOTYPE);
            let client = connect(&path).unwrap();
            let server = listener.accept().unwrap().unwrap();
            send(&client, b"hello", &[]).unwrap();
            assert_eq!(recv(&server, &mut [0; 8], 0).unwrap().0, 5);
            assert_eq!(Listener::bind(&path).unwrap_err().errno(), Errno::ADDRINUSE);
            drop(listener);
            assert_eq!(connect(&path).unwrap_err().errno(), Errno::CONNREFUSED);
            assert!(!is_bound(&path).unwrap());
        }
    }

    #[test]
    fn abstract_addresses_are_refused() {
        assert_eq!(Listener::bind("\0vaquita").unwrap_err().errno(), Errno::INVAL);
    }
}
