//! Messages over a `SOCK_SEQPACKET` socket: one packet each, descriptors beside it, long bodies in a sealed memfd.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use vaquita_sys::memory::Pages;

use crate::disk;
use crate::wire::{HEADER, Header, MAX_BODY, MAX_FDS, MAX_INLINE, NUMBER};

/// The memory in bytes that receiving needs.
pub(crate) const RECEIVE_BUFFER: usize = HEADER + MAX_INLINE;
/// The name of the socket in the pod's directory.
pub(crate) const SOCKET: &str = "shim.sock";

/// A message that is ready to go.
#[derive(Debug)]
pub(crate) struct Outgoing {
    packet: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// A message that came.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) header: Header,
    pub(crate) body: Body<'a>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// The body of a message, wherever it travelled.
#[derive(Debug)]
pub(crate) enum Body<'a> {
    Inline(&'a [u8]),
    /// Pages of their own, so that a long body does not make the heap grow for good.
    Spilled(Pages, usize),
}

/// Why nothing was received.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Nothing is there yet.
    Empty,
    /// The peer is gone.
    Closed,
    /// The peer does not follow the protocol.
    Malformed(&'static str),
}

impl Outgoing {
    pub(crate) fn new(code: u8, number: u32, body: &[u8], mut fds: Vec<OwnedFd>) -> Result<Self, Errno> {
        if fds.len() > MAX_FDS || body.len() > MAX_BODY {
            return Err(Errno::MSGSIZE);
        }
        let spilled = body.len() > MAX_INLINE;
        let count = u8::try_from(fds.len()).map_err(|_| Errno::MSGSIZE)?;
        let mut packet = Header { code, fds: count, number, spilled }.encode().to_vec();
        if spilled {
            fds.push(vaquita_sys::process::sealed_copy(c"message", body).map_err(|error| error.errno())?);
        } else {
            packet.extend_from_slice(body);
        }
        Ok(Self { packet, fds })
    }

    /// Gives the message another number.
    pub(crate) fn renumber(&mut self, number: u32) {
        if let Some(place) = self.packet.get_mut(NUMBER..HEADER) {
            place.copy_from_slice(&number.to_le_bytes());
        }
    }

    /// Sends the message whole or not at all. `AGAIN` if the socket does not block and is full.
    pub(crate) fn send(&self, socket: impl AsFd) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::MSGSIZE);
        }
        let packet = [IoSlice::new(&self.packet)];
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(socket.as_fd(), &packet, &mut control, SendFlags::NOSIGNAL)
        })
        .map(drop)
    }
}

/// Receives one message into `buffer`, which must be [`RECEIVE_BUFFER`] bytes long.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Incoming<'_>, Stop> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(buffer)];
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket.as_fd(), &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let received = match received {
        Ok(received) => received,
        Err(Errno::AGAIN) => return Err(Stop::Empty),
        Err(_) => return Err(Stop::Closed),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(Stop::Closed);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Stop::Malformed("a packet that is too long"));
    }
    let (header, body) =
        Header::decode(&buffer[..received.bytes]).map_err(|error| Stop::Malformed(error.0))?;
    if fds.len() != usize::from(header.fds) + usize::from(header.spilled) {
        return Err(Stop::Malformed("fewer file descriptors than announced"));
    }
    let body = match fds.pop_if(|_| header.spilled) {
        Some(memfd) => read_spilled(memfd).ok_or(Stop::Malformed("a memfd that cannot be read"))?,
        None => Body::Inline(body),
    };
    Ok(Incoming { header, body, fds })
}

impl Body<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Inline(bytes) => bytes,
            Self::Spilled(pages, length) => &pages[..*length],
        }
    }
}

/// Connects to the socket in the pod's directory, whatever the length of its path.
pub(crate) fn connect(pod_dir: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket(SocketFlags::NONBLOCK)?;
    let (_dir, address) = address(pod_dir)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// Makes the socket in the pod's directory, for its owner alone, and listens. One that a dead shim left is replaced.
pub(crate) fn listen(pod_dir: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket(SocketFlags::NONBLOCK)?;
    let (dir, address) = address(pod_dir)?;
    match rustix::fs::unlinkat(&dir, SOCKET, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    // The mode of the socket becomes the mode of its name (net/unix/af_unix.c unix_bind_bsd).
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

/// Whether the peer is root or the user that we are.
pub(crate) fn is_trusted(socket: impl AsFd) -> bool {
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

fn socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags | SocketFlags::CLOEXEC, None)
}

/// The address by way of the open directory: a path of more than 107 bytes does not fit into one.
fn address(pod_dir: &Path) -> Result<(OwnedFd, SocketAddrUnix), Errno> {
    use std::os::fd::AsRawFd as _;
    let dir = disk::directory(pod_dir)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?;
    Ok((dir, address))
}

/// A memfd that its sender can still change or shorten is refused: reading it would be a race.
fn read_spilled(memfd: OwnedFd) -> Option<Body<'static>> {
    let seals = rustix::fs::fcntl_get_seals(&memfd).ok()?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::WRITE) {
        return None;
    }
    let length = usize::try_from(rustix::fs::fstat(&memfd).ok()?.st_size).ok()?;
    if length > MAX_BODY {
        return None;
    }
    let mut pages = Pages::new(length).ok()?;
    let mut filled = 0;
    while filled < length {
        match rustix::io::pread(&memfd, &mut pages[filled..length], filled as u64) {
            Ok(0) | Err(_) => return None,
            Ok(read) => filled += read,
        }
    }
    Some(Body::Spilled(pages, length))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the tests")]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_any_length_arrive_with_their_descriptors() {
        let (a, b) = pair();
        for length in [0, 1, MAX_INLINE, MAX_INLINE + 1, MAX_BODY] {
            let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let fds = vec![a.try_clone().unwrap(), b.try_clone().unwrap()];
            Outgoing::new(7, 9, &body, fds).unwrap().send(&a).unwrap();
            let mut buffer = vec![0; RECEIVE_BUFFER];
            let incoming = receive(&b, &mut buffer).unwrap();
            assert_eq!((incoming.header.code, incoming.header.number), (7, 9));
            assert!(incoming.body.bytes() == body, "a body of {length} bytes");
            assert_eq!(incoming.fds.len(), 2);
        }
        assert!(matches!(receive(&b, &mut vec![0; RECEIVE_BUFFER]), Err(Stop::Empty)));
        drop(a);
        assert!(matches!(receive(&b, &mut vec![0; RECEIVE_BUFFER]), Err(Stop::Closed)));
    }

    #[test]
    fn too_much_is_refused() {
        let (a, b) = pair();
        assert_eq!(Outgoing::new(1, 1, &vec![0; MAX_BODY + 1], Vec::new()).unwrap_err(), Errno::MSGSIZE);
        rustix::net::send(&a, &vec![1; RECEIVE_BUFFER + 1], SendFlags::empty()).unwrap();
        assert!(matches!(receive(&b, &mut vec![0; RECEIVE_BUFFER]), Err(Stop::Malformed(_))));
    }

    #[test]
    fn an_unsealed_memfd_is_refused() {
        let (a, b) = pair();
        let memfd = rustix::fs::memfd_create("unsealed", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let packet = Header { code: 1, fds: 0, number: 1, spilled: true }.encode().to_vec();
        Outgoing { packet, fds: vec![memfd] }.send(&a).unwrap();
        assert!(matches!(receive(&b, &mut vec![0; RECEIVE_BUFFER]), Err(Stop::Malformed(_))));
    }

    #[test]
    fn a_long_path_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let pod_dir = dir.path().join("x".repeat(200));
        std::fs::create_dir(&pod_dir).unwrap();
        assert_eq!(connect(&pod_dir).unwrap_err(), Errno::NOENT);
        let listener = listen(&pod_dir).unwrap();
        let client = connect(&pod_dir).unwrap();
        assert!(is_trusted(&client));
        let mode = rustix::fs::stat(pod_dir.join(SOCKET)).unwrap().st_mode;
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert_eq!(connect(&pod_dir).unwrap_err(), Errno::CONNREFUSED);
        listen(&pod_dir).unwrap();
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }
}
