//! Containers written to files and made again from these, by CRIU (criu(8)) where the host has it.
//!
//! What is the host's and not the container's, bind mounts, namespaces that were joined, the other ends of its streams, CRIU
//! is told by name: it leaves them out, and expects them to be there again.

#![expect(
    clippy::disallowed_methods,
    reason = "files of whoever calls, who vouches for them, and the host's /proc; a container's root by its descriptor"
)]

mod arguments;
mod call;
mod external;
mod stdio;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::Spec;
use rustix::process::Pid;
use vaquita_cgroup::Layout;
use vaquita_sys::ns;
use vaquita_sys::procfs::Procfs;

use crate::Error;

pub use external::joined;

/// Which CRIU, where its files are, and what it is allowed; its manual explains each.
#[derive(Clone, Debug, Default)]
pub struct Criu {
    /// The program: a path, or a name that is looked for in `PATH`.
    pub program: PathBuf,
    /// The directory of the files.
    pub images: PathBuf,
    /// The directory of logs, if another.
    pub work: Option<PathBuf>,
    /// Options that are CRIU's own: established TCP connections, file locks and the like, as it takes them.
    pub options: Vec<String>,
    /// `soft`, `full`, `strict` or `ignore`.
    pub cgroups: String,
}

/// What is written, and how.
#[derive(Debug, Default)]
pub struct Dump<'a> {
    /// The first process of the container.
    pub pid: i32,
    /// Its root as the host sees it, where it does.
    pub root: Option<&'a Path>,
    /// It goes on afterwards; it is ended otherwise.
    pub leave_running: bool,
    /// Memory only, and it goes on.
    pub pre_dump: bool,
    /// The files of a pre-dump before, relative to the directory of the files.
    pub parent: Option<&'a Path>,
    /// The directory of its freezer. Who has frozen it before finds it frozen afterwards.
    pub freezer: Option<&'a Path>,
    /// The namespaces that are not its own, with their inodes: see [`joined`].
    pub joined: Vec<(ns::Kind, u64)>,
    /// After that long CRIU is killed, and when the process has ended that was to go on. What it was about to do to the processes is undone by the kernel, as far as it can be.
    pub timeout: Option<Duration>,
    /// What CRIU keeps open as long as it runs, and whatever it starts: a lock.
    pub held: Option<BorrowedFd<'a>>,
}

/// What is made from files, and where.
#[derive(Debug)]
pub struct Restore<'a> {
    /// Its root. It must be the root of a mount.
    pub root: &'a Path,
    /// CRIU writes the number of the first process there.
    pub pid_file: &'a Path,
    /// Its cgroup, which is there.
    pub cgroup: Option<&'a Path>,
    /// The namespaces that it shares with others.
    pub joined: Vec<(ns::Kind, OwnedFd)>,
}

impl Criu {
    /// Whether CRIU is there and works on this kernel: to be found out before anything is done to a container.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported) if not, with what `criu check` says.
    pub fn check(&self) -> Result<(), Error> {
        call::check(&self.program)
    }

    /// Where CRIU says what it did: `dump.log`, `restore.log`.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.work.as_ref().unwrap_or(&self.images).join(name)
    }

    /// Writes the processes of a container with that specification to [`Self::images`], which is there.
    ///
    /// # Errors
    /// What CRIU says; [`Kind::Died`](crate::Kind::Died) where it took too long. Files may be left then.
    pub fn dump(&self, spec: &Spec, dump: &Dump<'_>) -> Result<(), Error> {
        let procfs = Procfs::host()?;
        let seen = external::Seen::by(&procfs, dump.pid)?;
        let streams = stdio::names(&procfs, dump.pid, &seen.mounts)?;
        let mut arguments = arguments::dump(self, dump);
        arguments.extend(external::on_dump(spec, &Layout::detect()?, &seen));
        arguments.extend(external::namespaces_on_dump(&dump.joined)?);
        arguments.extend(stdio::on_dump(&streams));
        arguments.extend(stdio::terminals(dump.pid));
        let process = match Pid::from_raw(dump.pid).filter(|_| dump.leave_running) {
            Some(pid) => Some(vaquita_sys::process::open_pidfd(pid)?),
            None => None,
        };
        let about = process.as_ref().map(|fd| fd.as_fd());
        let how = call::How { streams: &[], timeout: dump.timeout, about, held: dump.held };
        call::run(self, &arguments, "dump.log", &how)?;
        stdio::write(&self.images, &streams)
    }

    /// Makes the processes again and returns the first one, a child of whoever takes in the caller's orphans. Its standard streams
    /// are the caller's where they were the host's. The calling process has one thread: descriptors are handed on.
    ///
    /// # Errors
    /// What CRIU says.
    pub fn restore(&self, spec: &Spec, restore: &Restore<'_>) -> Result<Pid, Error> {
        let mut arguments = arguments::restore(self, restore);
        arguments.extend(external::on_restore(spec, &Layout::detect()?)?);
        let namespaces = external::namespaces_on_restore(&restore.joined)?;
        arguments.extend(namespaces.arguments);
        let streams = stdio::read(&self.images)?;
        let how = call::How { streams: &streams, timeout: None, about: None, held: None };
        call::run(self, &arguments, "restore.log", &how)?;
        drop(namespaces.kept);
        let path = restore.pid_file;
        let text = std::fs::read_to_string(path).map_err(|error| io(format!("read({path:?})"), &error))?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| Error::died(format!("CRIU wrote {text:?} and no pid")))
    }
}

fn io(call: impl core::fmt::Display, error: &std::io::Error) -> Error {
    let errno = error.raw_os_error().map_or(rustix::io::Errno::IO, rustix::io::Errno::from_raw_os_error);
    Error::kernel(call, errno)
}
