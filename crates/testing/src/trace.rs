//! Runs a program under ptrace(2) with all processes that it makes, and decides about each of their system calls.
//!
//! A call is named by the process (0 is the program, the others count up as they are made) and by its number in that
//! process, which makes it the same one in the next run, however the processes were scheduled. A process other than the
//! first is let go when it executes a program.
//!
//! x86-64 only, Linux 5.3 (`PTRACE_GET_SYSCALL_INFO`).

mod raw;
mod watchdog;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use raw::{Stop, Word};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use watchdog::Watchdog;

/// A program to run. Its standard input is empty, its output is kept.
#[derive(Clone, Debug)]
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    patience: Duration,
}

impl Program {
    /// The file `path` with its name as argument 0, an empty environment but for `PATH`, and a minute to end.
    ///
    /// # Panics
    /// When there is a NUL in the path.
    #[must_use]
    pub fn new(path: &str) -> Self {
        let path = CString::new(path).expect("a path without NUL");
        let environment = vec![c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        Self { arguments: vec![path.clone()], path, environment, patience: Duration::from_secs(60) }
    }

    /// Another argument 0.
    ///
    /// # Panics
    /// When there is a NUL in it.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.arguments[0] = CString::new(name).expect("a name without NUL");
        self
    }

    /// Adds arguments.
    ///
    /// # Panics
    /// When there is a NUL in one.
    #[must_use]
    pub fn args<S: AsRef<str>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        let arguments =
            arguments.into_iter().map(|text| CString::new(text.as_ref()).expect("an argument without NUL"));
        self.arguments.extend(arguments);
        self
    }
}

/// A system call that is about to be made.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which process makes it: 0 is the program, those it was attached to follow, then those that were made.
    pub process: usize,
    /// How many the process has made before.
    pub index: usize,
    /// The kernel's number of the call (`SYS_…`).
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// The thread that makes it, which is stopped meanwhile.
    pub pid: i32,
}

impl Call {
    /// The string at which an argument points, at most 4095 bytes; none where it points nowhere.
    #[must_use]
    pub fn string(&self, argument: usize) -> Option<String> {
        let address = *self.arguments.get(argument)?;
        let mut bytes = Vec::new();
        // A page at a time: the next one may not be there.
        while bytes.len() < 4096 && !bytes.contains(&0) {
            let from = address + bytes.len() as u64;
            let page = self.memory(from, 4096 - from % 4096).ok()?;
            if page.is_empty() {
                return None;
            }
            bytes.extend(page);
        }
        let end = bytes.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    /// The number of eight bytes, `index` times eight bytes behind where an argument points; none where it points nowhere.
    #[must_use]
    pub fn word(&self, argument: usize, index: u64) -> Option<u64> {
        let address = *self.arguments.get(argument)?;
        let bytes = self.memory(address + 8 * index, 8).ok()?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    fn memory(&self, address: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut memory = File::open(format!("/proc/{}/mem", self.pid))?;
        memory.seek(io::SeekFrom::Start(address))?;
        let mut bytes = Vec::new();
        memory.take(length).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Make,
    /// It is not made, and answers with this error.
    Fail(Errno),
    /// As [`Self::Fail`]; then nobody is asked any more, and everything runs at full speed.
    FailOnce(Errno),
    /// It is not made: its process is killed. Nobody is asked any more.
    Kill,
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// Killed by this signal.
    Killed(i32),
}

/// What a program did.
#[derive(Debug)]
pub struct Trace {
    /// How it ended.
    pub end: End,
    /// It did not end in time, and was killed.
    pub is_late: bool,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub errors: String,
    /// All processes that it made and that were followed, itself among them, by a pidfd.
    pub processes: Vec<OwnedFd>,
}

/// Runs `program` and asks `decide` about every system call, of the processes `attached` too.
///
/// It ends when the program has, and when all processes that are followed wait for something (in accept, recv, read,
/// poll or the like); those are let go and live on.
///
/// # Errors
/// Those of fork, ptrace(2) and wait.
pub fn run(program: &Program, attached: &[Pid], decide: impl FnMut(&Call) -> Verdict) -> io::Result<Trace> {
    let output = [memory_file()?, memory_file()?];
    let main = raw::spawn(&program.path, &program.arguments, &program.environment, &output)?;
    let watchdog = Watchdog::new(program.patience);
    let mut tracer = Tracer { tasks: BTreeMap::new(), next: 0, watchdog, decide, is_asking: true };
    tracer.add(main.pid())?;
    for pid in attached {
        raw::seize(pid.as_raw_pid())?;
        tracer.add(pid.as_raw_pid())?;
        // From here on: it stops, and goes on with its calls told.
        raw::interrupt(pid.as_raw_pid())?;
    }
    let pid = main.pid();
    main.go()?;
    let end = tracer.until_ended(pid)?;
    tracer.let_go()?;
    let (is_late, processes) = tracer.watchdog.stop();
    let [output, errors] = output.map(read_all);
    Ok(Trace { end, is_late, output: output?, errors: errors?, processes })
}

/// A thread that is traced.
struct Task {
    process: usize,
    calls: usize,
    /// The call that it is in.
    inside: Option<i64>,
    /// What the call that was not made answers.
    answer: Option<Errno>,
    /// It executes nothing before this: events of the start are none of its own.
    is_program: bool,
}

struct Tracer<F> {
    tasks: BTreeMap<i32, Task>,
    next: usize,
    watchdog: Watchdog,
    decide: F,
    is_asking: bool,
}

impl<F: FnMut(&Call) -> Verdict> Tracer<F> {
    fn add(&mut self, pid: i32) -> io::Result<()> {
        if self.tasks.contains_key(&pid) {
            return Ok(());
        }
        let task =
            Task { process: self.next, calls: 0, inside: None, answer: None, is_program: self.next == 0 };
        self.next += 1;
        self.tasks.insert(pid, task);
        // A thread that is not its process's first has no pidfd of this kind.
        match Pid::from_raw(pid).map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(pidfd)) => self.watchdog.watch(pidfd),
            Some(Err(Errno::SRCH | Errno::INVAL | Errno::NOENT)) | None => {}
            Some(Err(errno)) => return Err(errno.into()),
        }
        Ok(())
    }

    fn until_ended(&mut self, main: i32) -> io::Result<End> {
        let mut end = None;
        loop {
            if let Some(end) = end
                && (!self.is_asking || self.tasks.values().all(Task::waits))
            {
                return Ok(end);
            }
            let Some((pid, stop)) = raw::wait()? else {
                return end.ok_or_else(|| io::Error::other("the program vanished"));
            };
            match stop {
                Stop::Ended(how) => {
                    self.tasks.remove(&pid);
                    if pid == main {
                        end = Some(how);
                    }
                }
                stop => self.stopped(pid, stop)?,
            }
        }
    }

    fn stopped(&mut self, pid: i32, stop: Stop) -> io::Result<()> {
        let mut signal = 0;
        match stop {
            Stop::Ended(_) => {}
            Stop::Call => self.call(pid)?,
            Stop::Made => {
                if let Some(child) = raw::event_message(pid)? {
                    self.add(child)?;
                }
            }
            Stop::Executed => {
                if !self.tasks.get(&pid).is_none_or(|task| task.is_program) {
                    self.tasks.remove(&pid);
                    return raw::detach(pid, 0);
                }
            }
            // A child that stops for the first time may be seen before its parent's event.
            Stop::Attached => self.add(pid)?,
            Stop::Signal(number) => signal = number,
        }
        let in_call = self.tasks.get(&pid).is_some_and(|task| task.answer.is_some());
        raw::resume(pid, self.is_asking || in_call, signal)
    }

    /// At the beginning or at the end of a call.
    fn call(&mut self, pid: i32) -> io::Result<()> {
        let Some(task) = self.tasks.get_mut(&pid) else { return Ok(()) };
        let Some((number, arguments)) = raw::entered(pid)? else {
            task.inside = None;
            if let Some(errno) = task.answer.take() {
                raw::set(pid, Word::Result, -i64::from(errno.raw_os_error()))?;
            }
            return Ok(());
        };
        let call = Call { process: task.process, index: task.calls, number, arguments, pid };
        task.calls += 1;
        task.inside = Some(number);
        if !self.is_asking {
            return Ok(());
        }
        match (self.decide)(&call) {
            Verdict::Make => {}
            Verdict::Fail(errno) => {
                task.answer = Some(errno);
                raw::set(pid, Word::Number, -1)?;
            }
            Verdict::FailOnce(errno) => {
                self.is_asking = false;
                task.answer = Some(errno);
                raw::set(pid, Word::Number, -1)?;
            }
            Verdict::Kill => {
                self.is_asking = false;
                raw::kill(pid)?;
            }
        }
        Ok(())
    }

    /// Whoever is left goes on unobserved.
    fn let_go(&mut self) -> io::Result<()> {
        for pid in self.tasks.keys() {
            raw::interrupt(*pid)?;
        }
        while !self.tasks.is_empty() {
            let Some((pid, stop)) = raw::wait()? else { return Ok(()) };
            let ended = matches!(stop, Stop::Ended(_));
            let signal = if let Stop::Signal(number) = stop { number } else { 0 };
            if let Stop::Made = stop {
                // Too late to be one of those that are followed.
                if let Some(child) = raw::event_message(pid)? {
                    self.add(child)?;
                }
            }
            if let (Stop::Call, Some(errno)) =
                (&stop, self.tasks.get_mut(&pid).and_then(|task| task.answer.take()))
            {
                raw::set(pid, Word::Result, -i64::from(errno.raw_os_error()))?;
            }
            self.tasks.remove(&pid);
            if !ended {
                raw::detach(pid, signal)?;
            }
        }
        Ok(())
    }
}

impl Task {
    /// Whether it waits for somebody else.
    fn waits(&self) -> bool {
        self.inside.is_some_and(|number| WAITING.contains(&number))
    }
}

const WAITING: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
];

fn memory_file() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("output", rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

fn read_all(mut file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether the process of `pidfd` has ended; one that was not waited for counts.
#[must_use]
pub fn has_ended(pidfd: impl AsFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cat() -> Program {
        Program::new("/bin/cat").args(["/proc/self/comm"])
    }

    #[test]
    fn calls_are_counted_alike_each_time() {
        let count = || {
            let mut calls = Vec::new();
            let trace = run(&cat(), &[], |call| {
                calls.push((call.process, call.index, call.number));
                Verdict::Make
            })
            .unwrap();
            assert_eq!((trace.end, trace.output.as_str(), trace.is_late), (End::Exited(0), "cat\n", false));
            assert_eq!(trace.processes.len(), 1);
            calls
        };
        let first = count();
        assert!(first.len() > 5, "{first:?}");
        assert_eq!(first, count());
        assert_eq!(first.last().unwrap().2, libc::SYS_exit_group);
    }

    #[test]
    fn a_call_fails_as_told() {
        let trace = run(&cat(), &[], |call| {
            let is_it =
                call.number == libc::SYS_openat && call.string(1).as_deref() == Some("/proc/self/comm");
            if is_it { Verdict::FailOnce(Errno::IO) } else { Verdict::Make }
        })
        .unwrap();
        assert_eq!(trace.end, End::Exited(1));
        assert!(trace.errors.contains("Input/output error"), "{trace:?}");
    }

    #[test]
    fn a_process_is_killed_before_its_call() {
        let kill_at = |number| {
            run(&cat(), &[], |call| if call.number == number { Verdict::Kill } else { Verdict::Make })
                .unwrap()
        };
        let trace = kill_at(libc::SYS_write);
        assert_eq!((trace.end, trace.output.as_str()), (End::Killed(libc::SIGKILL), ""));
        assert!(trace.processes.iter().all(has_ended));
    }

    #[test]
    fn children_are_followed_until_they_execute() {
        let program = Program::new("/bin/sh").args(["-c", "(exit 3); /bin/true; exit 4"]);
        let mut of_children = Vec::new();
        let trace = run(&program, &[], |call| {
            if call.process > 0 {
                of_children.push((call.process, call.number));
            }
            Verdict::Make
        })
        .unwrap();
        assert_eq!((trace.end, trace.processes.len()), (End::Exited(4), 3));
        assert!(of_children.contains(&(1, libc::SYS_exit_group)), "{of_children:?}");
        assert_eq!(of_children.last(), Some(&(2, libc::SYS_execve)));
    }

    #[test]
    fn a_process_that_runs_already_is_followed_too() {
        let mut child = std::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let mut seen = Vec::new();
        let trace = run(&Program::new("/bin/true"), &[pid], |call| {
            seen.push(call.process);
            Verdict::Make
        })
        .unwrap();
        assert_eq!((trace.end, trace.processes.len()), (End::Exited(0), 2));
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn what_does_not_end_is_killed() {
        let mut program = Program::new("/bin/sleep").args(["1000"]);
        program.patience = Duration::from_millis(50);
        let trace = run(&program, &[], |_| Verdict::Make).unwrap();
        assert_eq!((trace.end, trace.is_late), (End::Killed(libc::SIGKILL), true));
    }
}
