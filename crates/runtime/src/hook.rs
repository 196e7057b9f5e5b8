//! Hooks: programs that are run at points of a container's life (runtime-spec, config.md, "POSIX-platform Hooks").
//!
//! How one is run, in each of three places:
//!
//! | hooks | where | function |
//! |---|---|---|
//! | `prestart`, `createRuntime`, `poststart`, `poststop` | the caller's namespaces | [`run`] |
//! | `createContainer` | the container's namespaces, a program of the host | [`run_inside`] |
//! | `startContainer` | the container's namespaces, a program of the container | [`run_as_container`] |
//!
//! Those before the start that need the host's tree run at a [`crate::Rendezvous`]. [`early`], [`start_container`],
//! [`poststart`] and [`poststop`] run all hooks of a point of the container's life; what follows from a failure is the
//! caller's business.
//!
//! Each gets the container's state on standard input, has its `env` as its whole environment and no other descriptor
//! than 0 to 2, and is killed when its `timeout` is over. It fails when it ends with another status than 0; the end of
//! what it wrote is then part of the error. It is the first process of a session of its own, with umask 022.

mod order;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Spec};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, OFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use vaquita_cgroup::Cgroup;
use vaquita_sys::ns;
use vaquita_sys::process::{CStrArray, CloneFlags, Exit, pidfd_pid, wait_pidfd};
use vaquita_sys::procfs::Procfs;

use crate::create::program;
use crate::lsm::Labels;
use crate::plan::process::{Common, ProcessPlan, ProgramFile, c_string};
use crate::spawn::{self, Guard, Script, Spawned};
use crate::stdio::StdioFds;
use crate::steps::Step;
use crate::{Context, Error, Kind, ParentOf, Stdio};

pub use order::{About, early, has_any, has_late, poststart, poststop, start_container};

/// The container that a hook is a program of.
#[derive(Debug)]
pub struct Container<'a> {
    /// Its specification: who its process is and what it may do is what the hook is and may do.
    pub spec: &'a Spec,
    /// What the specification depends on.
    pub context: &'a Context,
    /// A pidfd of its first process, which waits to be started.
    pub init: BorrowedFd<'a>,
    /// Its cgroup, which the hook enters.
    pub cgroup: Option<&'a Cgroup>,
}

/// Runs `hook` in the namespaces of the caller and waits for its end. `stdin` is the container's state.
///
/// # Errors
/// [`Kind::Hook`] when it fails or takes too long, [`Kind::Exec`] when it cannot be executed, [`Kind::Invalid`] for a path
/// that is not absolute or a time that is not positive.
pub fn run(hook: &Hook, stdin: &[u8]) -> Result<(), Error> {
    let command = Command::new(hook)?;
    let (stdio, output) = stdio(stdin)?;
    let script = Script {
        flags: CloneFlags::CLEAR_SIGHAND,
        setup: [Step::NewSession].into_iter().chain(stdio.steps(0)).collect(),
        start: command.steps(),
        ..Script::default()
    };
    let spawned = spawn::spawn(&script, ParentOf::Caller, spawn::Caller::default())?;
    drop(script);
    drop(stdio);
    command.finish(spawned, &output)
}

/// As [`run`], in all namespaces of the process of `init` and at its root; as user 0 of its user namespace, if that is
/// another, otherwise with the caller's privileges. For programs of the host, at a [`crate::Rendezvous`]: what can be
/// changed by the container must not be run so.
///
/// # Errors
/// As there; [`Kind::NotFound`] when the process of `init` is gone.
pub fn run_inside(hook: &Hook, stdin: &[u8], init: BorrowedFd<'_>) -> Result<(), Error> {
    let command = Command::new(hook)?;
    let (stdio, output) = stdio(stdin)?;
    let place = Place::of(init)?;
    let mut setup = vec![Step::NewSession];
    setup.extend(place.steps(init));
    setup.extend(stdio.steps(0));
    let script = Script {
        flags: CloneFlags::CLEAR_SIGHAND,
        pid_namespace: place.has_pid_namespace.then_some(init),
        setup,
        start: command.steps(),
        ..Script::default()
    };
    let spawned = spawn::spawn(&script, ParentOf::Caller, spawn::Caller::default())?;
    drop(script);
    drop(stdio);
    command.finish(spawned, &output)
}

/// As [`run_inside`], but as the container's own process would be: its user, groups, capabilities, limits, labels and
/// seccomp profile, in its cgroup.
///
/// # Errors
/// As there, and those of [`crate::ExecPlan::new`].
pub fn run_as_container(hook: &Hook, stdin: &[u8], container: &Container<'_>) -> Result<(), Error> {
    let command = Command::new(hook)?;
    let process = command.as_process(container)?;
    let (stdio, output) = stdio(stdin)?;
    let place = Place::of(container.init)?;
    let labels = Labels::new(&process)?;
    let procfs = if labels.is_empty() { None } else { Some(Procfs::open()?) };
    let mut setup = vec![Step::NewSession];
    setup.extend(labels.new_keyring(procfs.as_ref()));
    setup.extend(place.steps(container.init));
    setup.extend(stdio.steps(process.uid));
    let mut start = Vec::new();
    start.extend(container.cgroup.map(Cgroup::entry_after_clone).transpose()?.map(Step::EnterCgroup));
    let of = if place.namespaces.contains(CloneFlags::NEWUSER) { pidfd_pid(container.init)? } else { None };
    let labels = procfs.iter().flat_map(|procfs| labels.steps(procfs));
    start.extend(program(&process, labels, crate::groups::step(&process, of)?));
    let script = Script {
        cgroup: container.cgroup.and_then(Cgroup::dir_fd),
        flags: CloneFlags::CLEAR_SIGHAND,
        pid_namespace: place.has_pid_namespace.then_some(container.init),
        setup,
        start,
        limits: &process.rlimits,
        oom_score_adj: spawn::oom_score_adj(&process)?,
        ..Script::default()
    };
    let spawned = spawn::spawn(&script, ParentOf::Caller, spawn::Caller::default())?;
    drop(script);
    drop(stdio);
    command.finish(spawned, &output)
}

/// What of a hook's output is in the error: the last bytes.
const SHOWN: usize = 1024;
/// What a pipe holds (pipe(7)).
const PIPE: usize = 65536;

/// A hook, checked.
struct Command {
    path: PathBuf,
    program: ProgramFile,
    arguments: CStrArray,
    environment: CStrArray,
    timeout: Option<Duration>,
}

impl Command {
    fn new(hook: &Hook) -> Result<Self, Error> {
        let path = hook.path();
        if !path.is_absolute() {
            return Err(Error::invalid(format!("hooks: the path {path:?} is not absolute")));
        }
        let timeout = match hook.timeout() {
            None => None,
            Some(seconds) => match u64::try_from(seconds) {
                Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds)),
                _ => {
                    return Err(Error::invalid(format!(
                        "hooks: {path:?}: the timeout is {seconds} seconds, and must be above 0"
                    )));
                }
            },
        };
        let name = path
            .to_str()
            .ok_or_else(|| Error::invalid(format!("hooks: the path {path:?} is not UTF-8")))?
            .to_owned();
        let arguments = match hook.args().as_deref() {
            None | Some([]) => vec![name.clone()],
            Some(arguments) => arguments.to_vec(),
        };
        let strings = |list: &[String]| {
            CStrArray::new(list).map_err(|error| Error::invalid(format!("hooks: {path:?}: {error}")))
        };
        Ok(Self {
            path: path.clone(),
            arguments: strings(&arguments)?,
            environment: strings(hook.env().as_deref().unwrap_or_default())?,
            program: ProgramFile { candidates: vec![c_string("hooks", &name)?], name, search: None },
            timeout,
        })
    }

    fn steps(&self) -> Vec<Step<'_>> {
        let Self { program, arguments, environment, .. } = self;
        vec![Step::SetUmask(0o022), Step::Execute { program, arguments, environment }]
    }

    /// The container's process, with this as its program.
    fn as_process(&self, container: &Container<'_>) -> Result<ProcessPlan, Error> {
        let spec = container.spec;
        let mut process = spec.process().clone().unwrap_or_default();
        process.set_terminal(None).set_args(Some(vec![self.program.name.clone()])).set_env(None);
        process.set_cwd("/".into());
        let common = Common::new(spec.linux().as_ref(), container.context)?;
        let mut plan = ProcessPlan::new(&process, common, container.context)?;
        let copy =
            |list: &CStrArray| CStrArray::new(list.iter().map(|text| OsStr::from_bytes(text.to_bytes())));
        plan.arguments = copy(&self.arguments)?;
        plan.environment = copy(&self.environment)?;
        Ok(plan)
    }

    /// Lets it go, and waits for its end.
    fn finish(&self, spawned: Spawned, output: &OwnedFd) -> Result<(), Error> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let Spawned { pidfd, start, .. } = spawned;
        let mut guard = Guard::new(pidfd, ParentOf::Caller);
        start.release()?;
        let mut said = Vec::new();
        if !ready([start.as_fd()], deadline)? {
            return Err(self.too_slow(&said));
        }
        start.wait()?;
        let mut is_open = true;
        loop {
            let pidfd = guard.pidfd()?;
            let is_over = match is_open {
                true => ready([pidfd, output.as_fd()], deadline)?,
                false => ready([pidfd], deadline)?,
            };
            // One that always has something to say is always ready.
            let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if !is_over || (is_late && !ready([pidfd], Some(Instant::now()))?) {
                return Err(self.too_slow(&said));
            }
            // What it wrote before it ended is there when it has ended.
            let has_ended = ready([pidfd], Some(Instant::now()))?;
            is_open = is_open && read(output, &mut said)?;
            if has_ended {
                break;
            }
        }
        let exit = wait_pidfd(guard.release()?)?;
        match exit {
            Exit { code: 0, .. } => Ok(()),
            Exit { signal: Some(signal), .. } => {
                Err(self.failed(&format!("was ended by signal {signal}"), &said))
            }
            Exit { code, .. } => Err(self.failed(&format!("ended with status {code}"), &said)),
        }
    }

    fn too_slow(&self, said: &[u8]) -> Error {
        let seconds = self.timeout.unwrap_or_default().as_secs();
        self.failed(&format!("did not end within its timeout of {seconds} seconds and was killed"), said)
    }

    fn failed(&self, how: &str, said: &[u8]) -> Error {
        let said = String::from_utf8_lossy(said);
        let said = said.trim();
        let between = if said.is_empty() { "" } else { ": " };
        Error::new(Kind::Hook, format!("the hook {:?} {how}{between}{said}", self.path))
    }
}

/// Where a process is: the namespaces that are not the caller's, and its root.
pub(crate) struct Place {
    namespaces: CloneFlags,
    has_pid_namespace: bool,
    root: OwnedFd,
}

impl Place {
    pub(crate) fn of(init: BorrowedFd<'_>) -> Result<Self, Error> {
        let gone = || Error::new(Kind::NotFound, "the container's process is gone".to_owned());
        let Some(pid) = pidfd_pid(init)? else { return Err(gone()) };
        let place = Self::of_pid(pid);
        // What was found was the process's only if it still lives.
        if ready([init], Some(Instant::now()))? { Err(gone()) } else { place }
    }

    fn of_pid(pid: Pid) -> Result<Self, Error> {
        let mut namespaces = CloneFlags::NONE;
        let mut has_pid_namespace = false;
        for kind in ns::Kind::ALL {
            let own = match ns::open(None, kind) {
                // A kernel without namespaces of that kind.
                Err(error) if error.errno() == Errno::NOENT => continue,
                other => other?,
            };
            let theirs = ns::open(Some(pid), kind)?;
            // The kernel refuses to join the own user namespace.
            if ns::identity(&own)? == ns::identity(&theirs)? {
                continue;
            }
            match kind {
                ns::Kind::Pid => has_pid_namespace = true,
                kind => namespaces |= kind.flag(),
            }
        }
        let path = format!("/proc/{pid}/root");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        #[expect(
            clippy::disallowed_methods,
            reason = "a magic link of the host's procfs, not below the container's root"
        )]
        let root = rustix::io::retry_on_intr(|| rustix::fs::open(&path, flags, Mode::empty()))
            .map_err(|errno| Error::kernel(format!("open({path:?}, O_PATH)"), errno))?;
        Ok(Self { namespaces, has_pid_namespace, root })
    }

    fn steps<'a>(&'a self, init: BorrowedFd<'a>) -> Vec<Step<'a>> {
        let mut steps = Vec::new();
        if !self.namespaces.is_empty() {
            steps.push(Step::JoinProcess(init, self.namespaces));
        }
        if self.namespaces.contains(CloneFlags::NEWUSER) {
            steps.push(Step::BecomeRoot);
        }
        steps.push(self.change_root());
        steps
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(crate) fn change_root(&self) -> Step<'_> {
        Step::ChangeRoot(self.root.as_fd())
    }
}

/// What the hook finds open, and the other end of what it writes to.
fn stdio(stdin: &[u8]) -> Result<(StdioFds, OwnedFd), Error> {
    // A file in memory, unlike a pipe, is never full.
    let input = rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC)
        .map_err(|errno| Error::kernel("memfd_create(\"state\", MFD_CLOEXEC)", errno))?;
    let mut input = File::from(input);
    input.write_all(stdin).and_then(|()| input.rewind()).map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        Error::kernel("write(<state>)", errno)
    })?;
    let pipe = || {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        let again = rustix::io::fcntl_dupfd_cloexec(&write, 3)?;
        Ok((read, write, again))
    };
    let (read, output, error) = pipe().map_err(|errno| Error::kernel("pipe2(O_CLOEXEC)", errno))?;
    Ok((StdioFds::new(Stdio::Fds([input.into(), output, error]))?, read))
}

/// Reads what is there, as much as a pipe holds, and keeps the end of it; false at the end.
fn read(output: &OwnedFd, said: &mut Vec<u8>) -> Result<bool, Error> {
    let mut buffer = [0; SHOWN];
    for _ in 0..PIPE / SHOWN {
        match rustix::io::read(output, &mut buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => said.extend_from_slice(&buffer[..length]),
            Err(Errno::AGAIN) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::kernel("read(<output of a hook>)", errno)),
        }
        said.drain(..said.len().saturating_sub(SHOWN));
    }
    Ok(true)
}

/// Waits until one of them can be read; false when the time is over.
fn ready<const N: usize>(fds: [BorrowedFd<'_>; N], deadline: Option<Instant>) -> Result<bool, Error> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match rustix::event::poll(&mut polled, left.as_ref()) {
            Ok(number) => return Ok(number > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::kernel("poll(<hook>)", errno)),
        }
    }
}
