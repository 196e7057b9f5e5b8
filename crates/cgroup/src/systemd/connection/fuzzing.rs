//! The door for a fuzz target; no ordinary build has it.

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

use super::{Address, Connection, PATIENCE};
use crate::Result;

/// Asks all that is asked of a systemd, of one that has said `answers` and no more, alone or on a message bus.
///
/// # Errors
/// What is wrong with the answers, at the latest that they end.
pub fn talk(answers: &[u8], is_broker: bool) -> Result<String> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|errno| super::broken("socketpair", errno))?;
    rustix::io::write(&theirs, answers)
        .and_then(|_| rustix::net::shutdown(&theirs, Shutdown::Write))
        .map_err(|errno| super::broken("write", errno))?;
    let address =
        if is_broker { Address::Broker("/bus".into()) } else { Address::Private("/private".into()) };
    let mut connection = Connection::greet(ours, &address, PATIENCE)?;
    connection.manager_text("ControlGroup")?;
    connection.manager("StartTransientUnit", &[])?;
    connection.job_result("/org/freedesktop/systemd1/job/1")
}
