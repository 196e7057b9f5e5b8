//! The program: called, waited for, killed when it takes too long, and heard.

use std::ffi::CStr;
use std::io::{Read as _, Seek as _};
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use vaquita_sys::process::open_pidfd;

use super::{Criu, io, stdio};
use crate::Error;

/// How many complaints of a log are told.
const COMPLAINTS: usize = 3;
/// Of what the program says that is not in its log, in bytes.
const LONGEST: u64 = 64 << 10;
/// How long `criu check` may take.
const CHECK: Duration = Duration::from_secs(60);

/// What a call has beside its arguments.
pub(super) struct How<'a> {
    /// Names of what CRIU gets of the caller's own standard streams.
    pub(super) streams: &'a [String],
    /// After that long it is killed, with its helpers.
    pub(super) timeout: Option<Duration>,
    /// A process without which there is nothing to do: when that has ended, it is killed as well.
    pub(super) about: Option<BorrowedFd<'a>>,
    /// Its standard input otherwise: nothing reads there.
    pub(super) held: Option<BorrowedFd<'a>>,
}

/// Whether `criu check` is content.
pub(super) fn check(program: &Path) -> Result<(), Error> {
    let said = said_here()?;
    let copy = |file: &std::fs::File| file.try_clone().map_err(|error| io("dup", &error));
    let mut command = Command::new(program);
    command.arg("check").stdin(Stdio::null()).stdout(copy(&said)?).stderr(copy(&said)?);
    let child = command.process_group(0).spawn().map_err(|error| {
        Error::unsupported(format!(
            "CRIU is needed, and {program:?} cannot be executed ({error}): install criu, or name it with --criu"
        ))
    })?;
    let status = wait(child, program, Some(CHECK), None)?;
    if status.success() {
        return Ok(());
    }
    let said = complaints(&read(said));
    Err(Error::unsupported(format!(
        "{program:?} does not work on this kernel, as `criu check` tells ({status}): {said}"
    )))
}

/// Runs CRIU to its end.
pub(super) fn run(criu: &Criu, arguments: &[String], log: &str, how: &How<'_>) -> Result<(), Error> {
    let said = said_here()?;
    let stderr = said.try_clone().map_err(|error| io("dup", &error))?;
    let mut command = Command::new(&criu.program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    if let Some(held) = how.held {
        command.stdin(held.try_clone_to_owned().map_err(|error| io("dup", &error))?);
    }
    if how.timeout.is_some() {
        // It has helpers, which are killed with it.
        command.process_group(0);
    }
    stdio::on_restore(&mut command, how.streams);
    let child = command.spawn().map_err(|error| io(format!("execve({:?})", criu.program), &error))?;
    let status = wait(child, &criu.program, how.timeout, how.about)?;
    if status.success() {
        return Ok(());
    }
    let text = match std::fs::read(criu.log(log)) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => read(said),
    };
    Err(Error::died(format!("criu failed ({status}): {}", complaints(&text))))
}

/// With a timeout the child leads a process group of its own.
fn wait(
    mut child: Child,
    program: &Path,
    timeout: Option<Duration>,
    about: Option<BorrowedFd<'_>>,
) -> Result<ExitStatus, Error> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let (Some(timeout), Some(pid)) = (timeout, pid) {
        let pidfd = open_pidfd(pid)?;
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(about.as_ref().map(|about| PollFd::new(about, PollFlags::IN)));
        let limit =
            Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
        let news = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit)));
        if fds.first().is_none_or(|fd| fd.revents().is_empty()) {
            // It is not reaped, so the number is still its own. Its parent hears of the end of a process only when the one that
            // traces it lets go of it, which CRIU does not do by itself then.
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = child.wait();
            let why = match news {
                Ok(1..) => "the container ended meanwhile".to_owned(),
                _ => format!("it did not end within {} s", timeout.as_secs()),
            };
            return Err(Error::died(format!("{program:?} was killed: {why}")));
        }
    }
    child.wait().map_err(|error| io(format!("wait({program:?})"), &error))
}

/// A file in memory for what a program says: unlike a pipe it needs nobody to read it meanwhile.
fn said_here() -> Result<std::fs::File, Error> {
    const NAME: &CStr = c"criu";
    let fd = rustix::fs::memfd_create(NAME, MemfdFlags::CLOEXEC)
        .map_err(|errno| Error::kernel("memfd_create", errno))?;
    Ok(fd.into())
}

fn read(mut said: std::fs::File) -> String {
    let mut text = Vec::new();
    let _ = said.rewind().and_then(|()| said.take(LONGEST).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// The last complaints of a log that say more than that it failed, or its last line.
fn complaints(log: &str) -> String {
    let is_error = |line: &&str| line.contains("Error (") && !line.ends_with("FAILED.");
    let mut lines: Vec<&str> = log.lines().rev().filter(is_error).take(COMPLAINTS).map(str::trim).collect();
    if lines.is_empty() {
        lines.extend(log.lines().rev().map(str::trim).find(|line| !line.is_empty()));
    }
    lines.reverse();
    if lines.is_empty() { "it says nothing".to_owned() } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn the_last_complaints_of_a_log_count() {
        let log = "(00.0) Error (z.c:1): old\n(00.1) Error (a.c:1): first\n(00.2) Error (b.c:2): second\n\
                   (00.2) Error (b.c:2): third\n(00.3) Error (c.c:3): Dumping FAILED.\nDumping FAILED.\n";
        let all = "(00.1) Error (a.c:1): first; (00.2) Error (b.c:2): second; (00.2) Error (b.c:2): third";
        assert_eq!(complaints(log), all);
        assert_eq!(complaints("one\ntwo\n\n"), "two");
        assert_eq!(complaints(""), "it says nothing");
    }

    #[test]
    fn one_that_hangs_is_killed_with_its_helpers() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $! >&2; wait"]).process_group(0);
        let said = said_here().unwrap();
        let child = command.stderr(said.try_clone().unwrap()).spawn().unwrap();
        while read(said.try_clone().unwrap()).is_empty() {
            std::thread::yield_now();
        }
        let error = wait(child, Path::new("sh"), Some(Duration::from_millis(1)), None).unwrap_err();
        assert_eq!(error.kind(), Kind::Died);
        let helper = Pid::from_raw(read(said).trim().parse().unwrap()).unwrap();
        while matches!(vaquita_sys::process::look(helper), Ok(Some(look)) if !matches!(look.state, 'Z' | 'X'))
        {
            std::thread::yield_now();
        }
    }
}
