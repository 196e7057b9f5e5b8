//! A connection to systemd, or to a bus that it is on: blocking, with a limit of time.

mod address;

#[cfg(fuzzing)]
mod fuzzing;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use vaquita_sys::Errno;

use super::Bus;
use super::wire::{self, Header, Message, Type, Value, field};
use crate::{Error, Kind, Result};

pub(super) use address::{Address, addresses};
#[cfg(fuzzing)]
pub use fuzzing::talk;

/// How long everything that is asked of one connection may take, as with runc.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many ends of jobs are kept until somebody asks for them; the oldest goes first.
const MAX_ENDED: usize = 1024;

/// The longest end of a job that is kept, path and result together, in bytes. systemd's have about 40.
const MAX_END: usize = 256;

/// The longest answer to the handshake.
const MAX_LINE: usize = 1024;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    deadline: Instant,
    serial: u32,
    /// Bytes that came in and were not looked at yet.
    input: Vec<u8>,
    /// Jobs that ended, with how.
    ended: VecDeque<(String, String)>,
}

/// An error that the peer answered.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) name: String,
    text: String,
}

/// How a call went.
pub(super) enum Answer {
    Values(Vec<Value>),
    Refused(Refusal),
}

impl Connection {
    /// Connects to the first of the bus's sockets that takes a connection.
    ///
    /// # Errors
    /// `Unavailable` when none does, with the reason of the last; `Denied` when it does not let us in; `Timeout`.
    pub(super) fn open(bus: &Bus) -> Result<Self> {
        Self::open_within(bus, PATIENCE)
    }

    fn open_within(bus: &Bus, patience: Duration) -> Result<Self> {
        let mut reason = "no address is known: set XDG_RUNTIME_DIR or DBUS_SESSION_BUS_ADDRESS".to_owned();
        for address in addresses(bus) {
            match connect(&address) {
                Ok(socket) => return Self::greet(socket, &address, patience),
                Err(errno) => reason = format!("connect({address}): {errno}"),
            }
        }
        let message = format!("systemd cannot be reached, which the systemd cgroup driver needs: {reason}");
        Err(Error::refused(Kind::Unavailable, message))
    }

    /// The handshake (D-Bus Specification, "Authentication Protocol") with the credentials of the socket, which the kernel
    /// vouches for. All is sent at once, as systemd's own client does.
    fn greet(socket: OwnedFd, address: &Address, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        let mut this = Self { socket, deadline, serial: 0, input: Vec::new(), ended: VecDeque::new() };
        this.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        loop {
            let line = this.line()?;
            match line.split(' ').next() {
                Some("DATA") => {}
                Some("OK") => break,
                _ => {
                    let message = format!("{address} did not let this user in: it said {line:?}");
                    return Err(Error::refused(Kind::Denied, message));
                }
            }
        }
        if address.is_broker() {
            this.of_bus("Hello", &[])?;
            let rule =
                format!("type='signal',interface='{MANAGER}',member='JobRemoved',path='{MANAGER_PATH}'");
            this.of_bus("AddMatch", &[Value::Str(rule)])?;
        }
        Ok(this)
    }

    /// Calls a method of systemd's manager.
    ///
    /// # Errors
    /// Those of the connection. An error that systemd answers is an [`Answer`].
    pub(super) fn manager(&mut self, member: &str, body: &[Value]) -> Result<Answer> {
        self.call("org.freedesktop.systemd1", MANAGER_PATH, MANAGER, member, body)
    }

    /// A property of the manager that is a text.
    ///
    /// # Errors
    /// Those of the connection and of systemd.
    pub(super) fn manager_text(&mut self, name: &str) -> Result<String> {
        let body = [Value::str(MANAGER), Value::str(name)];
        let interface = "org.freedesktop.DBus.Properties";
        match self.call("org.freedesktop.systemd1", MANAGER_PATH, interface, "Get", &body)? {
            Answer::Refused(refusal) => Err(refusal.into_error(&format!("tell its {name}"))),
            Answer::Values(mut values) => match values.pop() {
                Some(Value::Variant(value)) => match *value {
                    Value::Str(text) => Ok(text),
                    _ => Err(unexpected("Get")),
                },
                _ => Err(unexpected("Get")),
            },
        }
    }

    /// Waits until a job has ended, and tells how: `done`, or `failed`, `canceled`, `timeout`, `dependency`, `skipped`.
    ///
    /// # Errors
    /// Those of the connection.
    pub(super) fn job_result(&mut self, job: &str) -> Result<String> {
        loop {
            if let Some(at) = self.ended.iter().position(|(ended, _)| ended == job) {
                return Ok(self.ended.remove(at).map(|(_, result)| result).unwrap_or_default());
            }
            self.message()?;
        }
    }

    fn of_bus(&mut self, member: &str, body: &[Value]) -> Result<()> {
        let name = "org.freedesktop.DBus";
        match self.call(name, "/org/freedesktop/DBus", name, member, body)? {
            Answer::Values(_) => Ok(()),
            Answer::Refused(refusal) => Err(refusal.into_error(&format!("answer {member}"))),
        }
    }

    fn call(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: &[Value],
    ) -> Result<Answer> {
        self.serial += 1;
        let fields = [
            (field::PATH, Value::ObjectPath(path.to_owned())),
            (field::DESTINATION, Value::str(destination)),
            (field::INTERFACE, Value::str(interface)),
            (field::MEMBER, Value::str(member)),
        ];
        let serial = self.serial;
        self.send(&Message { kind: Type::Call, serial, fields: &fields, body }.encode()?)?;
        loop {
            let (header, message) = self.message()?;
            if header.reply_serial != self.serial {
                continue;
            }
            match header.kind {
                Some(Type::Return) => return Ok(Answer::Values(wire::body(&header, &message)?)),
                Some(Type::Error) => {
                    // By convention a text comes first.
                    let text = match wire::body(&header, &message)?.into_iter().next() {
                        Some(Value::Str(text)) => text,
                        _ => String::new(),
                    };
                    return Ok(Answer::Refused(Refusal { name: header.error_name, text }));
                }
                _ => {}
            }
        }
    }

    /// The next message. The end of a job is noted.
    fn message(&mut self) -> Result<(Header, Vec<u8>)> {
        let length = loop {
            match wire::length(&self.input)? {
                Some(length) if self.input.len() >= length => break length,
                _ => self.receive()?,
            }
        };
        let rest = self.input.split_off(length);
        let message = std::mem::replace(&mut self.input, rest);
        let header = wire::header(&message)?;
        if header.kind == Some(Type::Signal)
            && header.interface == MANAGER
            && header.member == "JobRemoved"
            && header.path == MANAGER_PATH
            && let [_, Value::ObjectPath(job), _, Value::Str(result)] =
                &mut wire::body(&header, &message)?[..]
            // What others send with the same names must not fill the memory.
            && job.len() + result.len() <= MAX_END
        {
            if self.ended.len() == MAX_ENDED {
                self.ended.pop_front();
            }
            self.ended.push_back((std::mem::take(job), std::mem::take(result)));
        }
        Ok((header, message))
    }

    /// A line of the handshake.
    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
                let rest = self.input.split_off(end + 2);
                let line = std::mem::replace(&mut self.input, rest);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.input.len() > MAX_LINE {
                return Err(Error::refused(Kind::Invalid, "the bus sent too long a line in the handshake"));
            }
            self.receive()?;
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(broken("send", errno)),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            self.wait(PollFlags::IN)?;
            match rustix::io::read(&self.socket, &mut buffer) {
                Ok(0) => return Err(broken("read", Errno::CONNRESET)),
                Ok(count) => {
                    self.input.extend_from_slice(&buffer[..count]);
                    return Ok(());
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(broken("read", errno)),
            }
        }
    }

    fn wait(&self, flags: PollFlags) -> Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let message =
                    "systemd did not answer in time: it has 30 seconds for what a command asks of it";
                return Err(Error::refused(Kind::Timeout, message));
            }
            match poll(
                &mut [PollFd::new(&self.socket.as_fd(), flags)],
                Timespec::try_from(left).ok().as_ref(),
            ) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(broken("poll", errno)),
            }
        }
    }
}

impl Refusal {
    /// Whether it is systemd's error of that name.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.strip_prefix("org.freedesktop.systemd1.") == Some(name)
    }

    pub(super) fn into_error(self, asked: &str) -> Error {
        let kind = match self.name.rsplit('.').next().unwrap_or_default() {
            "UnitExists" => Kind::Exists,
            "NoSuchUnit" | "UnknownUnit" | "LoadFailed" => Kind::NotFound,
            "AccessDenied" | "AuthFailed" | "InteractiveAuthorizationRequired" => Kind::Denied,
            "InvalidArgs" | "BadUnitSetting" | "PropertyReadOnly" | "InvalidName" => Kind::Invalid,
            "NotSupported" | "UnknownMethod" | "UnknownProperty" => Kind::Unsupported,
            "NoReply" | "Timeout" | "TimedOut" => Kind::Timeout,
            _ => Kind::Systemd,
        };
        Error::refused(kind, format!("systemd was asked to {asked} and said {}: {}", self.name, self.text))
    }
}

pub(super) fn unexpected(member: &str) -> Error {
    Error::refused(Kind::Invalid, format!("systemd answered {member} with something else than it should"))
}

fn connect(address: &Address) -> core::result::Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address.socket()?)?;
    Ok(socket)
}

#[cold]
fn broken(call: &str, errno: Errno) -> Error {
    Error::sys("connection to systemd", vaquita_sys::Error::new(format!("{call}(<bus>)"), errno))
}
