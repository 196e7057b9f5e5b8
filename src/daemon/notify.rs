//! Tells systemd, as sd_notify(3) does.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The socket is open.
pub(crate) fn ready() {
    send("READY=1\nSTATUS=answering\n");
}

/// We are about to end.
pub(crate) fn stopping() {
    send("STOPPING=1\n");
}

/// Does nothing where nobody asked; a manager that cannot be told is worth a line in the log, not more.
fn send(message: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent =
        address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, socket = %path.display(), "cannot notify the service manager");
    }
}
