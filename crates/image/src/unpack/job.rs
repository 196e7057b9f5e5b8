//! Starting the unpacker and hearing its result.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::{Error, Unpacker};

use super::{Limits, PROGRAM, Report, Unpacked, run};

/// The result has a line per implicit directory at most; see `tree.rs`.
const REPORT_LIMIT: u64 = 64 << 20;
/// Compressed bytes that may wait in the pipe.
const PIPE_BYTES: usize = 512 << 10;

/// A running unpacker. Dropping it ends it.
pub(crate) struct Job {
    input: Option<File>,
    worker: Option<Worker>,
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
        let program = match unpacker {
            Unpacker::Own => "/proc/self/exe".to_owned(),
            Unpacker::Exe(file) => format!("/proc/self/fd/{}", file.as_raw_fd()),
            Unpacker::Thread => {
                let thread = std::thread::spawn(move || Report::from(run(File::from(output), dir, limits)));
                return Ok(Self { input: Some(File::from(input)), worker: Some(Worker::Thread(thread)) });
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
        Ok(Self { input: Some(File::from(input)), worker: Some(Worker::Process(child, result)) })
    }

    /// Hands over compressed bytes. `false` when the unpacker has ended early: [`Job::finish`] knows why.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> bool {
        self.input.as_mut().is_some_and(|input| input.write_all(bytes).is_ok())
    }

    /// Says that all bytes were written, and waits for the result.
    pub(crate) fn finish(mut self) -> Result<Unpacked, Error> {
        self.input = None;
        let report = match self.worker.take() {
            Some(Worker::Thread(thread)) => {
                thread.join().map_err(|_| Error::corrupt("the unpacker panicked"))?
            }
            Some(Worker::Process(mut child, mut result)) => {
                let mut text = Vec::new();
                let read = result.by_ref().take(REPORT_LIMIT).read_to_end(&mut text);
                // Closed before the wait, so that a process with too much to say does not wait for us.
                drop(result);
                let status = child.wait().map_err(|e| Error::io("waitid(unpacker)", &e))?;
                read.map_err(|e| Error::io("read(unpacker)", &e))?;
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
