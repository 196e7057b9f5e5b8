//! Plugins that outlived the process that ran them.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::exec::{CONTAINER, MARK, SESSION};
use crate::{Error, Kind, Result};

/// How long killed processes may take to be gone.
const KILLED: Duration = Duration::from_secs(5);

/// Waits for what plugins still do for an attachment, begun by a process of ours that is gone: one that is killed in the middle
/// of ADD or DEL may leave what it cannot find again. What has not ended after `patience` is killed, for ADD must not go on
/// beside our DEL. Nobody reads the results any more.
pub(crate) fn end(cache: &Path, id: &str, patience: Duration) -> Result<()> {
    let (to_wait, to_kill) = (Instant::now() + patience, Instant::now() + patience + KILLED);
    loop {
        let found: Vec<_> =
            running(cache)?.into_iter().filter(|(_, of)| of == id).map(|(pid, _)| pid).collect();
        let Some(first) = found.first() else { return Ok(()) };
        let now = Instant::now();
        if now > to_kill {
            let message = format!(
                "processes {found:?} of an earlier plugin for {id} do not end although they were killed"
            );
            return Err(Error::new(Kind::Timeout, message));
        }
        if now < to_wait {
            with(cache, id, *first, |pidfd| wait(pidfd, to_wait - now));
            continue;
        }
        for pid in found {
            with(cache, id, pid, |pidfd| {
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
                wait(pidfd, KILLED);
            });
        }
    }
}

/// The processes of plugins that work with a cache directory, and those that they have started: process id and container id. Who has
/// begun a session of its own is not among them: a service of the plugin, which outlives it on purpose.
///
/// They are known by variables in their environment, which whatever they start has too.
///
/// # Errors
/// When /proc cannot be listed.
#[expect(clippy::disallowed_methods, reason = "the host's own /proc")]
pub fn running(cache: &Path) -> Result<Vec<(i32, String)>> {
    let entries =
        std::fs::read_dir("/proc").map_err(|error| Error::file("list", Path::new("/proc"), error))?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter_map(|pid| works_for(cache, pid).map(|id| (pid, id))).collect())
}

/// The container that a process works for, when it is one of ours. None also when it is gone.
#[expect(clippy::disallowed_methods, reason = "the host's own /proc")]
fn works_for(cache: &Path, pid: i32) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |name: &str| {
        environment.split(|byte| *byte == 0).find_map(|variable| {
            variable.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_owned)
        })
    };
    let is_ours = value(MARK)? == cache.as_os_str().as_encoded_bytes();
    let session = session(&pid.to_string()).ok()?;
    (is_ours && value(SESSION)? == session.as_bytes())
        .then(|| value(CONTAINER).and_then(|id| String::from_utf8(id).ok()))?
}

/// The session of a process, "0" where its leader is in a PID namespace outside of ours, which getsid(2) tells as 0, too,
/// and rustix does not take.
///
/// # Errors
/// When the process is gone.
#[expect(clippy::disallowed_methods, reason = "the host's own /proc")]
pub(crate) fn session(pid: &str) -> std::io::Result<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Its name, in parentheses, may hold anything; state, parent and group follow (proc_pid_stat(5)).
    let session = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(3));
    session.map(str::to_owned).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// Does something with a process that is one of ours, by a descriptor: the number may become another's.
fn with(cache: &Path, id: &str, pid: i32, work: impl FnOnce(&OwnedFd)) {
    let Some(process) = Pid::from_raw(pid) else { return };
    let Ok(pidfd) = pidfd_open(process, PidfdFlags::empty()) else { return };
    if works_for(cache, pid).as_deref() == Some(id) {
        work(&pidfd);
    }
}

/// Waits for the end of a process.
fn wait(pidfd: &OwnedFd, limit: Duration) {
    if let Ok(limit) = Timespec::try_from(limit) {
        let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit));
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the tests")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_those_of_this_cache_container_and_session_are_ended() {
        let dir = tempfile::tempdir().unwrap();
        let own = session("self").unwrap();
        let sleeper = |cache: &Path, id: &str, session: &str| {
            let mut command = Command::new("/bin/sleep");
            command.arg("600").env(MARK, cache).env(CONTAINER, id).env(SESSION, session).spawn().unwrap()
        };
        let mut ours = sleeper(dir.path(), "one", &own);
        let mut others = [
            sleeper(dir.path(), "two", &own),
            sleeper(Path::new("/elsewhere"), "one", &own),
            sleeper(dir.path(), "one", "1"),
        ];
        // The environment is the new one once the command line is.
        let all = [ours.id(), others[0].id(), others[1].id(), others[2].id()];
        while !all
            .iter()
            .all(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap().ends_with(b"600\0"))
        {
            std::thread::yield_now();
        }
        assert_eq!(running(dir.path()).unwrap().len(), 2);
        end(dir.path(), "one", Duration::ZERO).unwrap();
        assert!(!ours.wait().unwrap().success());
        for other in &mut others {
            assert!(other.try_wait().unwrap().is_none());
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }

    #[test]
    fn a_session_is_that_of_its_leader() {
        let mut leader = Command::new("setsid").args(["/bin/sleep", "600"]).spawn().unwrap();
        let pid = leader.id().to_string();
        while !std::fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"/bin/sleep") {
            std::thread::yield_now();
        }
        assert_eq!(session(&pid).unwrap(), pid);
        leader.kill().unwrap();
        leader.wait().unwrap();
        assert!(session(&pid).is_err());
        assert_ne!(session("self").unwrap(), pid);
    }

    #[test]
    fn one_that_ends_by_itself_is_not_killed() {
        let dir = tempfile::tempdir().unwrap();
        let own = session("self").unwrap();
        let mut command = Command::new("/bin/sleep");
        command.arg("0.5").env(MARK, dir.path()).env(CONTAINER, "one").env(SESSION, own);
        let mut child = command.spawn().unwrap();
        while running(dir.path()).unwrap().is_empty() {
            std::thread::yield_now();
        }
        end(dir.path(), "one", Duration::from_secs(60)).unwrap();
        assert!(child.wait().unwrap().success());
    }
}
