//! The calls of ptrace(2), and the fork.

#![expect(unsafe_code, reason = "ptrace has no safe wrapper, and a traced process is made by fork")]

use std::ffi::{CString, c_char, c_long, c_void};
use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsRawFd;

use super::End;

/// A process that waits to be told to execute its program. It is killed when this is dropped before.
pub(super) struct Waiting {
    pid: i32,
    go: PipeWriter,
}

impl Waiting {
    pub(super) const fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn go(mut self) -> io::Result<()> {
        self.go.write_all(b"g")
    }
}

/// Why a traced thread stands still.
pub(super) enum Stop {
    Ended(End),
    /// At the beginning or the end of a system call.
    Call,
    /// It has made another thread or process.
    Made,
    Executed,
    /// For the first time, or because it was asked to.
    Attached,
    Signal(i32),
}

/// What can be changed in a thread that stands at a call.
pub(super) enum Word {
    Number,
    Result,
}

const OPTIONS: c_long = (libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC) as c_long;

/// Forks a process that is traced by this thread and waits for [`Waiting::go`].
pub(super) fn spawn(
    path: &CString,
    arguments: &[CString],
    environment: &[CString],
    output: &[File; 2],
) -> io::Result<Waiting> {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let (word, go) = io::pipe()?;
    let null = File::open("/dev/null")?;
    let fds = [null.as_raw_fd(), output[0].as_raw_fd(), output[1].as_raw_fd()];
    let (word_fd, go_fd) = (word.as_raw_fd(), go.as_raw_fd());
    // SAFETY: the child calls only async-signal-safe functions, with memory prepared before, and never returns.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: close, read, dup2, execve and _exit are async-signal-safe; the vectors end with null, and what
            // they point to lives in this copy of the parent's memory.
            unsafe {
                libc::close(go_fd);
                let mut byte = 0_u8;
                if libc::read(word_fd, (&raw mut byte).cast::<c_void>(), 1) == 1 {
                    for (target, fd) in fds.into_iter().enumerate() {
                        libc::dup2(fd, target as i32);
                    }
                    // Signals that the test runner ignores would be ignored in the program.
                    libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                    libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr());
                }
                libc::_exit(127)
            }
        }
        pid => {
            let waiting = Waiting { pid, go };
            seize(pid)?;
            Ok(waiting)
        }
    }
}

pub(super) fn seize(pid: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_SEIZE, pid, 0, OPTIONS).map(drop)
}

/// Makes it stop, also in the middle of a call, which it makes again then.
pub(super) fn interrupt(pid: i32) -> io::Result<()> {
    gone_is_fine(ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0))
}

/// Lets it run to its next call, or freely.
pub(super) fn resume(pid: i32, calls: bool, signal: i32) -> io::Result<()> {
    let request = if calls { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT };
    gone_is_fine(ptrace(request, pid, 0, c_long::from(signal)))
}

pub(super) fn detach(pid: i32, signal: i32) -> io::Result<()> {
    gone_is_fine(ptrace(libc::PTRACE_DETACH, pid, 0, c_long::from(signal)))
}

/// Kills the whole process of the thread.
pub(super) fn kill(pid: i32) -> io::Result<()> {
    // SAFETY: no memory is involved; the thread is traced by this one, so that nobody else has its number.
    match unsafe { libc::kill(pid, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The call at whose beginning it stands; none at its end.
pub(super) fn entered(pid: i32) -> io::Result<Option<(i64, [u64; 6])>> {
    let mut info = std::mem::MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size = size_of::<libc::ptrace_syscall_info>() as c_long;
    match ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, info.as_mut_ptr() as c_long) {
        Ok(_) => {}
        // Killed meanwhile.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    }
    // SAFETY: all bit patterns are values of the structure, and it was zeroed.
    let info = unsafe { info.assume_init() };
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: `op` says that this part of the union was written.
    let entry = unsafe { info.u.entry };
    Ok(Some((entry.nr.cast_signed(), entry.args)))
}

pub(super) fn set(pid: i32, what: Word, value: i64) -> io::Result<()> {
    let offset = match what {
        Word::Number => std::mem::offset_of!(libc::user_regs_struct, orig_rax),
        Word::Result => std::mem::offset_of!(libc::user_regs_struct, rax),
    };
    gone_is_fine(ptrace(libc::PTRACE_POKEUSER, pid, offset as c_long, value))
}

/// The thread that it has made.
pub(super) fn event_message(pid: i32) -> io::Result<Option<i32>> {
    let mut message: libc::c_ulong = 0;
    match ptrace(libc::PTRACE_GETEVENTMSG, pid, 0, (&raw mut message) as c_long) {
        Ok(_) => Ok(i32::try_from(message).ok()),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits for what is made or traced by this thread. None when there is nothing any more.
pub(super) fn wait() -> io::Result<Option<(i32, Stop)>> {
    let mut status = 0;
    let pid = loop {
        // SAFETY: the status is written to a variable of this function.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) } {
            -1 => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
            pid => break pid,
        }
    };
    if libc::WIFEXITED(status) {
        return Ok(Some((pid, Stop::Ended(End::Exited(libc::WEXITSTATUS(status))))));
    }
    if libc::WIFSIGNALED(status) {
        return Ok(Some((pid, Stop::Ended(End::Killed(libc::WTERMSIG(status))))));
    }
    let stop = match (status >> 16, libc::WSTOPSIG(status)) {
        (0, signal) if signal == libc::SIGTRAP | 0x80 => Stop::Call,
        (libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE, _) => Stop::Made,
        (libc::PTRACE_EVENT_EXEC, _) => Stop::Executed,
        (0, signal) => Stop::Signal(signal),
        _ => Stop::Attached,
    };
    Ok(Some((pid, stop)))
}

fn ptrace(request: libc::c_uint, pid: i32, address: c_long, data: c_long) -> io::Result<c_long> {
    // SAFETY: the requests made here either take no memory, or a pointer to a live variable of the size that the kernel
    // writes.
    match unsafe { libc::ptrace(request, pid, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// A thread may be killed at any moment; its end is told by the next wait.
fn gone_is_fine(result: io::Result<c_long>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}
