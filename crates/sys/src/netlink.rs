//! Netlink sockets (netlink(7)).

use std::ffi::c_int;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};

use crate::syscall::check;
use crate::{Error, Result};

/// A netlink socket of the calling thread's network namespace, whose refusals say why (`NETLINK_EXT_ACK`, Linux 4.12) and
/// leave the request out (`NETLINK_CAP_ACK`, Linux 4.2).
///
/// `None` is `NETLINK_ROUTE`; for others see [`rustix::net::netlink`].
///
/// # Errors
/// `EPROTONOSUPPORT` when the kernel has no such protocol; `EMFILE`, `ENOBUFS`.
pub fn socket(protocol: Option<Protocol>) -> Result<OwnedFd> {
    let call = |errno: Errno| {
        let number = protocol.map_or(0, |protocol| protocol.as_raw().get());
        Error::new(format!("socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, {number})"), errno)
    };
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(call)?;
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let on: c_int = 1;
        // SAFETY: the kernel reads the four bytes of `on`, which lives across the call.
        let set = check(unsafe {
            libc::syscall(
                libc::SYS_setsockopt,
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                &raw const on,
                size_of::<c_int>(),
            )
        });
        set.map_err(|errno| Error::new(format!("setsockopt(<netlink>, SOL_NETLINK, {option}, 1)"), errno))?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_open_and_unknown_protocols_are_refused_by_name() {
        socket(None).unwrap();
        socket(Some(rustix::net::netlink::NETFILTER)).unwrap();
        let unknown = Protocol::from_raw(std::num::NonZeroU32::new(31).unwrap());
        let error = socket(Some(unknown)).unwrap_err();
        assert_eq!(error.errno(), Errno::PROTONOSUPPORT);
        assert!(
            error.to_string().starts_with("socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, 31): EPROTONOSUPPORT"),
            "{error}"
        );
    }
}
