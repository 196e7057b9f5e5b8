//! The shim process: parent of a pod's processes, keeper of their output and of how they ended.
//!
//! One thread waits in one epoll loop; nothing in it waits for anything else. What takes long or needs much memory,
//! which is making processes, is done by a short-lived copy of the process (`creator`) that hands its result back.
//! Every operation is therefore a state that some later event moves on, and requests of several clients overlap.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use vaquita_cgroup::Layout;
use vaquita_sys::memory::{self, Pages};
use vaquita_sys::process::Exit as ProcessExit;
use vaquita_sys::procfs::Procfs;
use vaquita_sys::signal::SignalFd;

use crate::{Error, Event, transport};

mod attach;
mod connection;
mod container;
mod creator;
mod deletion;
mod elsewhere;
mod exec;
mod exits;
mod external;
mod hooks;
mod oom;
mod output;
mod requests;
mod setup;
pub(crate) mod template;

use connection::Connection;
use container::{Container, Sandbox};
use creator::Job;
use deletion::Deletion;
use output::Buffers;
use template::Template;

/// Starts a shim for each pod that a [`crate::client::Spawner`] names, by whom standard input is a socket, until that one
/// is gone. Shims stay, each until it is told to shut down or its sandbox is deleted.
///
/// The calling process must have one thread only, and belongs to this from now on: its signal mask, session, standard
/// streams, working directory and command line change.
pub fn main() -> ExitCode {
    match Template::new().and_then(Template::serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

/// Everything that the shim knows.
#[derive(Debug)]
struct Server {
    epoll: OwnedFd,
    listener: OwnedFd,
    signals: SignalFd,
    pod_dir: PathBuf,
    layout: Layout,
    connections: Vec<Connection>,
    jobs: Vec<Job>,
    sandbox: Option<Sandbox>,
    containers: Vec<Container>,
    /// Children that ended while a creator was at work: one of them may be what it has made.
    strays: Vec<(i32, ProcessExit)>,
    receive_buffer: Pages,
    buffers: Buffers,
    /// Kept from the first exec on: the kernel waits when such a mount is closed.
    procfs: Option<Procfs>,
    next_token: u64,
    /// Something has happened since memory was given back last.
    busy: bool,
    /// Somebody wants everything deleted.
    farewell: Option<Deletion>,
    ending: bool,
}

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const FIRST_TOKEN: u64 = 2;
/// How long nothing happens until memory is given back.
const IDLE_MS: i64 = 1000;

impl Server {
    fn new(pod_dir: &Path, listener: OwnedFd, layout: Layout) -> Result<Self, Error> {
        setup::standard_streams(pod_dir)?;
        setup::listener(&listener)?;
        setup::process()?;
        setup::record(pod_dir)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| Error::kernel(errno, "epoll_create"))?;
        let server = Self {
            listener,
            signals: setup::signals()?,
            pod_dir: pod_dir.to_owned(),
            layout,
            connections: Vec::new(),
            jobs: Vec::new(),
            sandbox: None,
            containers: Vec::new(),
            strays: Vec::new(),
            receive_buffer: Pages::new(transport::RECEIVE_BUFFER)?,
            buffers: Buffers::new()?,
            procfs: None,
            next_token: FIRST_TOKEN,
            busy: true,
            farewell: None,
            ending: false,
            epoll,
        };
        server.watch(&server.listener, LISTENER)?;
        server.watch(&server.signals, SIGNALS)?;
        Ok(server)
    }

    fn run(mut self) -> Result<(), Error> {
        let mut events = Vec::with_capacity(16);
        while !self.ending {
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::kernel(errno, "epoll_wait")),
            }
            if events.is_empty() && self.rest().is_none() {
                self.buffers.release();
                memory::trim_heap();
                memory::trim_stack();
                self.busy = false;
            }
            self.busy |= !events.is_empty();
            for event in events.drain(..) {
                self.handle(event.data.u64(), event.flags);
            }
            self.wake_outputs();
            self.continue_deletions();
        }
        Ok(())
    }

    /// Ends when the events at hand are served. Whoever is told of it finds nothing of us in the pod's directory.
    fn end(&mut self) {
        setup::forget(&self.pod_dir);
        self.ending = true;
    }

    fn handle(&mut self, token: u64, flags: epoll::EventFlags) {
        match token {
            LISTENER => self.accept(),
            SIGNALS => self.reap(),
            _ => {
                let _handled = self.pump_output(token)
                    || self.serve_connection(token, flags)
                    || self.finish_job(token)
                    || self.finish_start(token)
                    || self.drop_tap(token);
            }
        }
    }

    /// How long to wait for events: until a deletion or an output is to be looked at again, or until buffers are worth
    /// giving back.
    fn timeout(&self) -> Option<Timespec> {
        let idle = self.busy.then_some(IDLE_MS);
        let ms = [self.next_deletion_check(), self.rest(), idle].into_iter().flatten().min()?;
        Some(Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 })
    }

    fn new_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token - 1
    }

    /// Wants to hear of `fd` becoming readable, or of its other end going, as `token`.
    fn watch(&self, fd: impl AsFd, token: u64) -> Result<(), Error> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
            .map_err(|errno| Error::kernel(errno, "epoll_ctl(EPOLL_CTL_ADD)"))
    }

    fn tell(&mut self, event: Event) {
        let Event::Exited(exited) = event else { return };
        let body = crate::wire::encode_exited(&exited);
        for at in (0..self.connections.len()).rev() {
            self.send(at, crate::wire::EXITED, 0, &body, Vec::new());
        }
    }
}

/// Writes a line to `shim.log`, for what nobody asked about.
fn complain(what: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let now = crate::log::Timestamp::from_unix_ns(now_ns());
    let now = String::from_utf8_lossy(now.as_bytes());
    let _ = std::io::stderr().write_all(format!("{now} {what}\n").as_bytes());
}

/// Nanoseconds since 1970.
fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// Milliseconds since some moment, never going back.
fn monotonic_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}
