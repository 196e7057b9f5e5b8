//! Plugins that outlived the process that ran them.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::exec::{CONTAINER, MARK};
use crate::{Error, Kind, Result};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills what the plugins of a former process of ours still do for an attachment, and waits until it is gone: nobody reads their
/// results any more, and an ADD that goes on beside our DEL would leave something behind.
///
/// They are known by two variables in their environment, which whatever they start has too.
pub(crate) fn end(cache: &Path, id: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found: Vec<_> =
            running(cache)?.into_iter().filter(|(_, of)| of == id).map(|(pid, _)| pid).collect();
        if found.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let message = format!(
                "processes {found:?} of an earlier plugin for {id} do not end although they were killed"
            );
            return Err(Error::new(Kind::Timeout, message));
        }
        for pid in found {
            kill(cache, id, pid);
        }
    }
}

/// The processes of plugins that work with a cache directory, and those that they have started: process id and container id.
///
/// # Errors
/// When /proc cannot be listed.
pub fn running(cache: &Path) -> Result<Vec<(i32, String)>> {
    let entries =
        std::fs::read_dir("/proc").map_err(|error| Error::file("list", Path::new("/proc"), error))?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter_map(|pid| works_for(cache, pid).map(|id| (pid, id))).collect())
}

/// The container that a process works for, when it is one of ours. None also when it is gone.
fn works_for(cache: &Path, pid: i32) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |name: &str| {
        environment.split(|byte| *byte == 0).find_map(|variable| {
            variable.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_owned)
        })
    };
    let ours = value(MARK)? == cache.as_os_str().as_encoded_bytes();
    ours.then(|| value(CONTAINER).and_then(|id| String::from_utf8(id).ok()))?
}

fn kill(cache: &Path, id: &str, pid: i32) {
    let Some(process) = Pid::from_raw(pid) else { return };
    let Ok(pidfd) = pidfd_open(process, PidfdFlags::empty()) else { return };
    // Once more, now that the number cannot become another's.
    if works_for(cache, pid).as_deref() != Some(id) {
        return;
    }
    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
    let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit));
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_those_of_this_cache_and_container_are_ended() {
        let dir = tempfile::tempdir().unwrap();
        let sleeper = |cache: &Path, id: &str| {
            Command::new("/bin/sleep").arg("600").env(MARK, cache).env(CONTAINER, id).spawn().unwrap()
        };
        let mut ours = sleeper(dir.path(), "one");
        let mut others = [sleeper(dir.path(), "two"), sleeper(Path::new("/elsewhere"), "one")];
        // The environment is the new one once the command line is.
        let all = [ours.id(), others[0].id(), others[1].id()];
        while !all
            .iter()
            .all(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap().ends_with(b"600\0"))
        {
            std::thread::yield_now();
        }
        assert_eq!(running(dir.path()).unwrap().len(), 2);
        end(dir.path(), "one").unwrap();
        assert!(!ours.wait().unwrap().success());
        for other in &mut others {
            assert!(other.try_wait().unwrap().is_none());
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }
}
