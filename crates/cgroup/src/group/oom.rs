//! Being told when a group runs out of memory.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use vaquita_sys::Errno;

use super::{Cgroup, normal};
use crate::files::{error, exists, open, read_if_there, write};
use crate::group::key;
use crate::{Error, Result, Version};

/// Tells when a group runs out of memory: pollable, and read when it is readable.
#[derive(Debug)]
pub struct OomWatch {
    /// inotify on v2, an eventfd on v1.
    fd: OwnedFd,
    /// The group in the memory controller's hierarchy.
    dir: OwnedFd,
    version: Version,
    /// How many kills were told.
    kills: u64,
    /// Whether there was a process in it since the watch began (v2).
    lived: bool,
}

/// What a watch saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomEvent {
    /// The group hit its limit: on v2 a process was killed, on v1 one will be unless the killer is switched off.
    Oom,
    /// No process is left in the group or below it (v2), or it is gone (both).
    Ended,
}

impl Cgroup {
    /// Begins to watch the group, and on v2 those below it, for want of memory. What was before does not count.
    ///
    /// # Errors
    /// `Unsupported` without the memory controller, and without `memory.oom_control` on a v1 kernel that was built so.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        let (dir, version) = self.controller("memory")?;
        let own = rustix::io::fcntl_dupfd_cloexec(&dir.fd, 3).map_err(|errno| failed("dup", errno))?;
        let (fd, kills) = match version {
            Version::V2 => {
                let path = self.hierarchy(dir).mount.join(normal(&self.path).collect::<std::path::PathBuf>());
                let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
                    .map_err(|errno| failed("inotify_init1", errno))?;
                for file in ["memory.events", "cgroup.events"] {
                    let file = path.join(file);
                    inotify::add_watch(&fd, &file, WatchFlags::MODIFY)
                        .map_err(|errno| failed(format!("inotify_add_watch({file:?}, IN_MODIFY)"), errno))?;
                }
                // After the watch: what comes in between is seen by either.
                (fd, kills(&own)?)
            }
            Version::V1 => {
                let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
                let fd = eventfd(0, flags).map_err(|errno| failed("eventfd2", errno))?;
                let control = open(&own, "memory.oom_control", OFlags::RDONLY)
                    .map_err(|errno| error("openat", &own, "memory.oom_control", "", errno))?;
                let line = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
                write(&own, "cgroup.event_control", &line)?;
                (fd, 0)
            }
        };
        let lived = version == Version::V2 && self.is_populated()?;
        Ok(OomWatch { fd, dir: own, version, kills, lived })
    }
}

impl OomWatch {
    /// What has happened since the last time; none for nothing that counts. Does not block.
    ///
    /// # Errors
    /// Those of reading.
    pub fn take(&mut self) -> Result<Option<OomEvent>> {
        match self.version {
            Version::V1 => self.take_v1(),
            Version::V2 => self.take_v2(),
        }
    }

    fn take_v1(&self) -> Result<Option<OomEvent>> {
        let mut count = [0; 8];
        let happened = match rustix::io::read(&self.fd, &mut count) {
            Ok(_) => true,
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(errno) => return Err(failed("read", errno)),
        };
        // The group tells its own end by the same number.
        Ok(match happened {
            _ if !exists(&self.dir, "memory.oom_control") => Some(OomEvent::Ended),
            true => Some(OomEvent::Oom),
            false => None,
        })
    }

    fn take_v2(&mut self) -> Result<Option<OomEvent>> {
        let mut space = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(&self.fd, &mut space);
        loop {
            match events.next() {
                // The second watch: somebody came or went.
                Ok(event) if event.wd() > 1 => self.lived = true,
                Ok(_) => {}
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(errno) => return Err(failed("read", errno)),
            }
        }
        let kills = kills(&self.dir)?;
        if std::mem::replace(&mut self.kills, kills) < kills {
            return Ok(Some(OomEvent::Oom));
        }
        let text = read_if_there(&self.dir, "cgroup.events")?;
        let populated = text.as_deref().and_then(|text| key(text, "populated")) == Some(1);
        self.lived |= populated;
        Ok((text.is_none() || self.lived && !populated).then_some(OomEvent::Ended))
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cold]
fn failed(call: impl Into<String>, errno: Errno) -> Error {
    Error::sys("watching for want of memory", vaquita_sys::Error::new(call, errno))
}

fn kills(dir: &OwnedFd) -> Result<u64> {
    Ok(read_if_there(dir, "memory.events")?.and_then(|text| key(&text, "oom_kill")).unwrap_or_default())
}
