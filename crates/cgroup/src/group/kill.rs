//! Stopping, waking and killing all processes of a group.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::Pid;
use vaquita_sys::Errno;
use vaquita_sys::process::open_pidfd;
use vaquita_sys::signal::{Signal, send};

use super::Cgroup;
use crate::files::{error, exists, open, read, read_if_there, write};
use crate::group::key;
use crate::{Error, Kind, Result, Version};

/// How long the kernel may take to stop every process: some are in the middle of a system call.
const FREEZE: Duration = Duration::from_secs(10);

/// How often processes that come up while others are killed are gone after.
const ROUNDS: u32 = 1000;

impl Cgroup {
    /// Stops all processes of the group and waits until they are.
    ///
    /// # Errors
    /// `Timeout` after 10 seconds (the group is thawed again then); `Unsupported` without a freezer.
    pub fn freeze(&self) -> Result<()> {
        let done = match self.freezer()? {
            Version::V2 => self.freeze_v2("1"),
            Version::V1 => self.freeze_v1("FROZEN", FREEZE),
        };
        if done.is_err() {
            let _ = self.thaw();
        }
        done
    }

    /// Lets the processes of a frozen group run again.
    ///
    /// # Errors
    /// `Timeout` after 10 seconds; `Unsupported` without a freezer.
    pub fn thaw(&self) -> Result<()> {
        match self.freezer()? {
            Version::V2 => self.freeze_v2("0")?,
            Version::V1 => {}
        }
        // Of a hybrid host somebody else may have used this one.
        match self.controller("freezer") {
            Ok((_, Version::V1)) => self.freeze_v1("THAWED", FREEZE),
            _ => Ok(()),
        }
    }

    /// Whether all processes of the group are stopped, or are being stopped, by its freezer or that of a group above it.
    ///
    /// # Errors
    /// Those of reading. Without a freezer it is not.
    pub fn is_frozen(&self) -> Result<bool> {
        match self.freezer() {
            Ok(Version::V2) => {
                let Some(v2) = self.v2() else { return Ok(false) };
                let events = read_if_there(&v2.fd, "cgroup.events")?.unwrap_or_default();
                let asked = read_if_there(&v2.fd, "cgroup.freeze")?.unwrap_or_default();
                Ok(key(&events, "frozen") == Some(1) || asked.trim() == "1")
            }
            Ok(Version::V1) => {
                let (dir, _) = self.controller("freezer")?;
                let state = read_if_there(&dir.fd, "freezer.state")?.unwrap_or_default();
                Ok(!matches!(state.trim(), "THAWED" | ""))
            }
            Err(_) => Ok(false),
        }
    }

    /// The directory in whose files the group is frozen, for programs that do so themselves.
    ///
    /// # Errors
    /// `Unsupported` without a freezer.
    pub fn freezer_dir(&self) -> Result<PathBuf> {
        let dir = match self.freezer()? {
            Version::V2 => self.v2(),
            Version::V1 => Some(self.controller("freezer")?.0),
        };
        let mount = dir.map_or_else(PathBuf::new, |dir| self.hierarchy(dir).mount.clone());
        Ok(mount.join(self.path.strip_prefix("/").unwrap_or(&self.path)))
    }

    /// Kills every process of the group and of groups below it; when this returns, each has got `SIGKILL` and none can make
    /// another one. They may take a moment to be gone: see [`Self::wait_empty`]. The group itself stays.
    ///
    /// v2 has a file for it (Linux 5.14). On v1 they are frozen, killed and thawed, until there are none.
    ///
    /// # Errors
    /// Those of reading and writing; `Timeout` when ever more processes come up.
    pub fn kill(&self) -> Result<()> {
        let by_file = match self.v2() {
            Some(v2) if exists(&v2.fd, "cgroup.kill") => {
                write(&v2.fd, "cgroup.kill", "1")?;
                true
            }
            _ => false,
        };
        if by_file && self.layout.is_v2() {
            return Ok(());
        }
        // On a hybrid host a process could have left one hierarchy and not the others.
        let mut killed = BTreeSet::new();
        if by_file && let Some(v2) = self.v2() {
            self.procs_in(v2, &mut killed)?;
        }
        let strays = self.procs()?;
        if strays.iter().all(|pid| killed.contains(pid)) {
            return Ok(());
        }
        self.kill_one_by_one()
    }

    /// Sends a signal to every process of the group and of groups below it that is there now.
    ///
    /// # Errors
    /// Those of reading. Processes that end meanwhile are no error.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        for (_, pidfd) in self.pidfds()? {
            match send(&pidfd, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    let call = format!("pidfd_send_signal({}, {signal})", vaquita_sys::describe(&pidfd));
                    return Err(Error::sys(
                        format!("signalling {}", self.path.display()),
                        vaquita_sys::Error::new(call, errno),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Waits until no process is in the group or below it.
    ///
    /// # Errors
    /// `Timeout`, with the processes that are left.
    pub fn wait_empty(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let watched = self.pidfds()?;
            if watched.is_empty() && !self.is_populated()? {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let pids: Vec<_> = watched.iter().map(|(pid, _)| pid.to_string()).collect();
                let message = format!("processes are still in {}: {}", self.path.display(), pids.join(", "));
                return Err(Error::refused(Kind::Timeout, message));
            }
            match watched.first() {
                // Each is waited for; the next round sees who is left.
                Some((_, pidfd)) => wait_readable(pidfd, PollFlags::IN, left)?,
                // Nobody to be seen, but counted: one on its way out, or of another PID namespace.
                None => self.wait_event(left.min(Duration::from_millis(1)))?,
            }
        }
    }

    fn freezer(&self) -> Result<Version> {
        if self.v2().is_some_and(|v2| exists(&v2.fd, "cgroup.freeze")) {
            return Ok(Version::V2);
        }
        self.controller("freezer").map(|(_, version)| version)
    }

    fn freeze_v2(&self, state: &str) -> Result<()> {
        let Some(v2) = self.v2() else { return Ok(()) };
        write(&v2.fd, "cgroup.freeze", state)?;
        let deadline = Instant::now() + FREEZE;
        let events = open(&v2.fd, "cgroup.events", OFlags::RDONLY)
            .map_err(|errno| error("openat", &v2.fd, "cgroup.events", "", errno))?;
        loop {
            // Read through this descriptor: poll reports what changed since.
            let mut text = [0; 256];
            let n = rustix::io::pread(&events, &mut text, 0)
                .map_err(|errno| error("pread", &v2.fd, "cgroup.events", "", errno))?;
            if key(&String::from_utf8_lossy(&text[..n]), "frozen") == state.parse().ok() {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.timeout("frozen or thawed"));
            }
            wait_readable(&events, PollFlags::PRI, left)?;
        }
    }

    fn freeze_v1(&self, state: &str, patience: Duration) -> Result<()> {
        let (dir, _) = self.controller("freezer")?;
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_micros(50);
        loop {
            // Written again each time: the kernel looks at the processes anew then, and there is nothing to wait on.
            write(&dir.fd, "freezer.state", state)?;
            if read(&dir.fd, "freezer.state")?.trim() == state {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.timeout("frozen or thawed"));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    fn kill_one_by_one(&self) -> Result<()> {
        let has_freezer = matches!(self.controller("freezer"), Ok((_, Version::V1)));
        for _ in 0..ROUNDS {
            // While they are frozen none can fork. One that cannot be stopped cannot fork either: it hangs in the kernel.
            let frozen = has_freezer && self.freeze_v1("FROZEN", Duration::from_millis(200)).is_ok();
            let killed = self.signal_all(Signal::KILL);
            if has_freezer {
                self.freeze_v1("THAWED", FREEZE)?;
            }
            killed?;
            if frozen || self.procs()?.is_empty() {
                return Ok(());
            }
        }
        Err(self.timeout("killed"))
    }

    /// Descriptors of the processes. A pid may be another's by the time that it is opened, so only those count that are
    /// still listed afterwards.
    fn pidfds(&self) -> Result<Vec<(i32, OwnedFd)>> {
        let mut opened = Vec::new();
        for pid in self.procs()? {
            match Pid::from_raw(pid).map(open_pidfd) {
                Some(Ok(pidfd)) => opened.push((pid, pidfd)),
                // None can be opened, and nobody may take that for a group without processes.
                Some(Err(error)) if error.errno() == Errno::NOSYS => {
                    return Err(Error::refused(Kind::Unsupported, error.to_string()));
                }
                _ => {}
            }
        }
        let listed: BTreeSet<i32> = self.procs()?.into_iter().collect();
        Ok(opened.into_iter().filter(|(pid, _)| listed.contains(pid)).collect())
    }

    fn wait_event(&self, left: Duration) -> Result<()> {
        let Some(v2) = self.v2() else {
            std::thread::sleep(left);
            return Ok(());
        };
        match open(&v2.fd, "cgroup.events", OFlags::RDONLY) {
            Ok(events) => wait_readable(&events, PollFlags::PRI, left),
            Err(_) => Ok(()),
        }
    }

    fn timeout(&self, what: &str) -> Error {
        let message = format!("the processes of {} could not be {what} in time", self.path.display());
        Error::refused(Kind::Timeout, message)
    }
}

fn wait_readable(fd: impl AsFd, flags: PollFlags, left: Duration) -> Result<()> {
    let timeout = Timespec::try_from(left).ok();
    match poll(&mut [PollFd::new(&fd, flags)], timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(error("poll", &fd, "", "", errno)),
    }
}
