//! Starting the unpacker and hearing its result.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::{Error, Kind, Unpacker};

use super::{Limits, PROGRAM, Report, Unpacked, run};

/// The result has the paths of implicit directories in hex, of at most 4 MiB; see `tree/bounds.rs`.
const REPORT_LIMIT: usize = 10 << 20;
/// How long the unpacker may take nothing, and say nothing when it has everything. No layer asks for so much, but a disk
/// may be stuck.
const PATIENCE: Duration = Duration::from_secs(600);
/// Compressed bytes that may wait in the pipe.
const PIPE_BYTES: usize = 512 << 10;

/// A running unpacker. Dropping it ends it.
pub(crate) struct Job {
    input: Option<File>,
    worker: Option<Worker>,
    patience: Duration,
    /// The unpacker took nothing for so long.
    is_stuck: bool,
}

enum Worker {
    Process(Child, ChildStdout),
    Thread(JoinHandle<Report>),
}

impl Job {
    /// Starts unpacking into `dir`.
    pub(crate) fn start(unpacker: &Unpacker, dir: OwnedFd, limits: Limits) -> Result<Self, Error> {
        let (output, input) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::kernel("pipe2", e))?;
        // Fewer wake-ups; an unprivileged limit on pipe sizes is no reason to fail.
        let _ = rustix::pipe::fcntl_setpipe_size(&input, PIPE_BYTES);
        rustix::io::ioctl_fionbio(&input, true).map_err(|e| Error::kernel("ioctl(<pipe>, FIONBIO)", e))?;
        let program = match unpacker {
            Unpacker::Own => "/proc/self/exe".to_owned(),
            Unpacker::Exe(file) => format!("/proc/self/fd/{}", file.as_raw_fd()),
            Unpacker::Thread => {
                let thread = std::thread::spawn(move || Report::from(run(File::from(output), dir, limits)));
                return Ok(Self::of(input, Worker::Thread(thread)));
            }
        };
        super::confine::tell_gaps();
        let mut child = Command::new(&program)
            .arg0(PROGRAM)
            .args([limits.bytes.to_string(), limits.entries.to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(output))
            .stdout(Stdio::piped())
            .stderr(Stdio::from(dir))
            .spawn()
            .map_err(|e| Error::io(format!("execve({program:?}, [{PROGRAM:?}])"), &e))?;
        let result = child.stdout.take().ok_or_else(|| Error::corrupt("the unpacker has no output"))?;
        Ok(Self::of(input, Worker::Process(child, result)))
    }

    fn of(input: OwnedFd, worker: Worker) -> Self {
        Self { input: Some(File::from(input)), worker: Some(worker), patience: PATIENCE, is_stuck: false }
    }

    /// Hands over compressed bytes. `false` when the unpacker has ended early: [`Job::finish`] knows why.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> bool {
        let Some(input) = &mut self.input else { return false };
        while !bytes.is_empty() {
            match input.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if !is_ready(input, PollFlags::OUT, self.patience) {
                        self.is_stuck = true;
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// Says that all bytes were written, and waits for the result.
    pub(crate) fn finish(mut self) -> Result<Unpacked, Error> {
        self.input = None;
        let report = match self.worker.take() {
            Some(Worker::Thread(thread)) => {
                thread.join().map_err(|_| Error::corrupt("the unpacker panicked"))?
            }
            Some(Worker::Process(mut child, mut result)) => {
                let text = if self.is_stuck { None } else { report(&mut result, self.patience)? };
                // Closed before the wait, so that a process with too much to say does not wait for us.
                drop(result);
                if text.is_none() {
                    let _ = child.kill();
                }
                let status = child.wait().map_err(|e| Error::io("waitid(unpacker)", &e))?;
                let Some(text) = text else {
                    let seconds = self.patience.as_secs();
                    let silent = format!(
                        "the unpacker stood still for {seconds} s over this layer: is the disk stuck?"
                    );
                    return Err(Error::new(Kind::Timeout, silent));
                };
                serde_json::from_slice(&text)
                    .map_err(|_| Error::corrupt(format!("the unpacker died over this layer ({status})")))?
            }
            None => return Err(Error::corrupt("the unpacker was ended before")),
        };
        report.into_result()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.input = None;
        match self.worker.take() {
            Some(Worker::Process(mut child, _)) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Some(Worker::Thread(thread)) => {
                let _ = thread.join();
            }
            None => {}
        }
    }
}

/// What the unpacker says, up to [`REPORT_LIMIT`] bytes; `None` when it says nothing for so long.
fn report(result: &mut ChildStdout, patience: Duration) -> Result<Option<Vec<u8>>, Error> {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while text.len() < REPORT_LIMIT {
        if !is_ready(result, PollFlags::IN, patience) {
            return Ok(None);
        }
        match result.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read(unpacker)", &e)),
        }
    }
    Ok(Some(text))
}

/// Waits for the pipe; also when its other end is closed it is ready.
fn is_ready(pipe: &impl AsFd, events: PollFlags, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match rustix::event::poll(&mut [PollFd::new(pipe, events)], Some(&left)) {
            Err(Errno::INTR) => {}
            other => return other != Ok(0),
        }
    }
}

/// Removes `name` in `dir` and everything below it, however deep, with two descriptors and no recursion: a directory
/// inside is moved up next to the others and taken on later.
#[expect(clippy::disallowed_methods, reason = "one name, not followed")]
pub(crate) fn remove_tree(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut queue = vec![name.to_vec()];
    let mut next = 0_u64;
    while let Some(name) = queue.pop() {
        let inner = match rustix::fs::openat(dir, &name[..], flags, Mode::empty()) {
            Ok(inner) => inner,
            Err(Errno::NOENT) => continue,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                rustix::fs::unlinkat(dir, &name[..], AtFlags::empty())?;
                continue;
            }
            Err(e) => return Err(e),
        };
        for entry in Dir::read_from(&inner)? {
            let entry = entry?;
            let child = entry.file_name();
            if matches!(child.to_bytes(), b"." | b"..") {
                continue;
            }
            if entry.file_type() != FileType::Directory {
                match rustix::fs::unlinkat(&inner, child, AtFlags::empty()) {
                    Err(Errno::ISDIR) => {}
                    Err(Errno::NOENT) => continue,
                    other => {
                        other?;
                        continue;
                    }
                }
            }
            // Most directories are empty or soon will be; only the others are moved.
            match rustix::fs::unlinkat(&inner, child, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => queue.push(move_up(&inner, child, dir, &mut next)?),
                other => other?,
            }
        }
        match rustix::fs::unlinkat(dir, &name[..], AtFlags::REMOVEDIR) {
            // A writer that has not ended yet, or a directory changed while it was read: once more.
            Err(Errno::NOTEMPTY | Errno::EXIST) => queue.push(name),
            other => other?,
        }
    }
    Ok(())
}

fn move_up(
    from: &OwnedFd,
    child: &std::ffi::CStr,
    dir: BorrowedFd<'_>,
    next: &mut u64,
) -> Result<Vec<u8>, Errno> {
    loop {
        let name = format!(".gone-{:x}-{next:x}", std::process::id());
        *next += 1;
        match rustix::fs::renameat_with(from, child, dir, &name[..], RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other.map(|()| name.into_bytes()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the tests")]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// `sleep`, which takes two numbers as the unpacker does, takes no byte, and says nothing.
    fn sleeping() -> (Job, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let sleep = OwnedFd::from(File::open("/bin/sleep").unwrap());
        let home = OwnedFd::from(File::open(dir.path()).unwrap());
        let limits = Limits { bytes: 10_000, entries: 10_000 };
        let mut job = Job::start(&Unpacker::Exe(Arc::new(sleep)), home, limits).unwrap();
        job.patience = Duration::from_millis(50);
        (job, dir)
    }

    #[test]
    fn an_unpacker_that_stands_still_is_ended() {
        let (mut job, _dir) = sleeping();
        // More than the pipe holds.
        assert!(!job.write(&vec![0; 4 * PIPE_BYTES]));
        assert_eq!(job.finish().unwrap_err().kind(), Kind::Timeout);
        let (mut job, _dir) = sleeping();
        assert!(job.write(b"little"));
        let error = job.finish().unwrap_err();
        assert!(error.to_string().contains("stood still"), "{error}");
    }
}
