//! Where systemd listens.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use rustix::net::SocketAddrUnix;
use vaquita_sys::Errno;

use super::Bus;

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Address {
    /// systemd's own, on which nobody else is.
    Private(PathBuf),
    /// That of a message bus.
    Broker(PathBuf),
    /// The same without a file (unix(7), "abstract").
    AbstractBroker(String),
}

/// The sockets to try, in order. systemd's own first: it needs no bus to be there, and costs fewer switches.
pub(in super::super) fn addresses(bus: &Bus) -> Vec<Address> {
    match bus {
        Bus::Private(path) => vec![Address::Private(path.clone())],
        Bus::Broker(path) => vec![Address::Broker(path.clone())],
        Bus::System => {
            let mut all = vec![Address::Private("/run/systemd/private".into())];
            all.extend(from_environment("DBUS_SYSTEM_BUS_ADDRESS"));
            all.push(Address::Broker("/run/dbus/system_bus_socket".into()));
            all
        }
        Bus::User => {
            let runtime =
                std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
            let mut all = from_environment("DBUS_SESSION_BUS_ADDRESS");
            all.extend(runtime.iter().map(|dir| Address::Broker(dir.join("bus"))));
            all.extend(runtime.iter().map(|dir| Address::Private(dir.join("systemd/private"))));
            all
        }
    }
}

impl Address {
    /// Whether there is a message bus between us and systemd.
    pub(super) fn is_broker(&self) -> bool {
        !matches!(self, Self::Private(_))
    }

    pub(super) fn socket(&self) -> Result<SocketAddrUnix, Errno> {
        match self {
            Self::Private(path) | Self::Broker(path) => SocketAddrUnix::new(path),
            Self::AbstractBroker(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private(path) | Self::Broker(path) => write!(f, "{}", path.display()),
            Self::AbstractBroker(name) => write!(f, "@{name}"),
        }
    }
}

fn from_environment(variable: &str) -> Vec<Address> {
    let text = std::env::var_os(variable).map(OsString::into_string);
    text.and_then(Result::ok).map(|text| parse(&text)).unwrap_or_default()
}

/// The sockets in a list like `unix:path=/run/user/1000/bus,guid=0;unix:abstract=x` (D-Bus Specification, "Server
/// Addresses"). What else there may be (tcp, unixexec) is passed over.
fn parse(list: &str) -> Vec<Address> {
    let one = |address: &str| {
        address.strip_prefix("unix:")?.split(',').find_map(|part| {
            let (key, value) = part.split_once('=')?;
            let value = unescape(value)?;
            match key {
                "path" if Path::new(&value).is_absolute() => Some(Address::Broker(value.into())),
                "abstract" if !value.is_empty() => Some(Address::AbstractBroker(value)),
                _ => None,
            }
        })
    };
    list.split(';').filter_map(one).collect()
}

/// `%2c` is a comma.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_addresses() {
        assert_eq!(
            parse(
                "unix:path=/run/user/1000/bus,guid=12;tcp:host=x;unix:abstract=/tmp/d%2cb;unix:path=relative"
            ),
            [Address::Broker("/run/user/1000/bus".into()), Address::AbstractBroker("/tmp/d,b".into())]
        );
        for none in ["", "unix:", "unix:path=%2", "unix:path=%zz", "unix:tmpdir=/tmp"] {
            assert_eq!(parse(none), [], "{none}");
        }
    }

    #[test]
    fn the_private_socket_comes_first() {
        let all = addresses(&Bus::System);
        assert_eq!(all[0], Address::Private("/run/systemd/private".into()));
        assert!(all.contains(&Address::Broker("/run/dbus/system_bus_socket".into())));
    }
}
