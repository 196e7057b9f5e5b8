//! The agent that answers for notified system calls (runtime-spec, config-linux.md, "The Container Process State").

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::ContainerProcessState;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use crate::Error;

/// A connection to the agent at `listenerPath` (unix(7), `SOCK_STREAM`). Made before the process is started, so that a
/// profile without an agent fails while nothing has run.
#[derive(Debug)]
pub struct Agent(OwnedFd);

impl Agent {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`crate::Kind::Kernel`] with `ENOENT` or `ECONNREFUSED` when no agent listens there.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let connect = || {
            let flags = SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(Self(socket))
        };
        connect()
            .map_err(|errno| Error::kernel(format!("connect(<linux.seccomp.listenerPath>, {path:?})"), errno))
    }

    /// Sends the listener, described by `state`, and closes the connection. The state's `fds` must be
    /// [`oci_spec::runtime::SECCOMP_FD_NAME`] alone and its `metadata` the profile's `listenerMetadata`.
    ///
    /// # Errors
    /// [`crate::Kind::Kernel`] when the agent has gone away.
    pub fn send(self, listener: OwnedFd, state: &ContainerProcessState) -> Result<(), Error> {
        let text = serde_json::to_vec(state)
            .map_err(|error| Error::invalid(format!("the state of the container process: {error}")))?;
        let fds = [listener.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let mut rest = &text[..];
        while !rest.is_empty() {
            let sent = rustix::io::retry_on_intr(|| {
                rustix::net::sendmsg(&self.0, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL)
            });
            rest = match sent {
                Ok(0) => return Err(Error::kernel("sendmsg(<seccomp agent>)", Errno::PIPE)),
                Ok(length) => &rest[length..],
                Err(errno) => return Err(Error::kernel("sendmsg(<seccomp agent>)", errno)),
            };
            // The descriptor goes with the first part.
            control.clear();
        }
        Ok(())
    }
}
