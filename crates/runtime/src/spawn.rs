//! The clone, and the maker's side of the set-up.

mod namespaces;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit};
use vaquita_cgroup::{Cgroup, DeviceRule};
use vaquita_sys::process::{Clone, CloneFlags, Forked, NoWayBack, clone3, clone3_raw, exit_now, wait_pidfd};
use vaquita_sys::procfs::Procfs;
use vaquita_sys::signal::{self, Signal};
use vaquita_sys::{cap, ns};

use self::namespaces::{in_pid_namespace, in_time_namespace};
use crate::create::{Meanwhile, ParentOf, Rendezvous};
use crate::handshake::{self, Said};
use crate::netdev::{self, NetDevice};
use crate::plan::process::ProcessPlan;
use crate::resctrl::Made;
use crate::steps::{At, Failure, State, Step, limit_text};
use crate::{Error, StartHandle};

/// All that a new process does, in order.
#[derive(Default)]
pub(crate) struct Script<'a> {
    /// Namespaces made by the clone itself.
    pub(crate) flags: CloneFlags,
    /// The v2 cgroup that the process is cloned into. Moving it there later would take milliseconds; the set-up's few
    /// pages are given back on execve.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// A user namespace that the process is in from its first moment on, so that what the clone makes belongs to it.
    pub(crate) user_namespace: Option<BorrowedFd<'a>>,
    /// A PID namespace that the new process is in; only a child can join one.
    pub(crate) pid_namespace: Option<BorrowedFd<'a>>,
    /// Lines for timens_offsets, when the process is to be the first one of a new time namespace.
    pub(crate) time_offsets: Option<&'a str>,
    /// Done at once.
    pub(crate) setup: Vec<Step<'a>>,
    /// Done when the set-up was told to be done, without waiting for the word to start.
    pub(crate) late: Vec<Step<'a>>,
    /// Done after the word to start; the last one executes the program.
    pub(crate) start: Vec<Step<'a>>,
    /// Lines for uid_map and gid_map of a new user namespace.
    pub(crate) id_maps: Option<(&'a str, &'a str)>,
    /// Set from outside when the set-up is done: lower ones could make it fail.
    pub(crate) limits: &'a [(Resource, Rlimit)],
    pub(crate) oom_score_adj: Option<i32>,
    /// A group of the process, and the devices that may be used in it from [`Step::Meet`] on, or when the set-up is done.
    pub(crate) devices: Option<(&'a Cgroup, &'a [DeviceRule])>,
    /// The group, if it is yet to be made in full, which is done while the process sets itself up. A step waits for the way
    /// in: [`Step::AwaitCgroup`].
    pub(crate) begun: Option<&'a Cgroup>,
    /// Its class of service in resctrl.
    pub(crate) class: Option<&'a Made<'a>>,
    /// Links that are moved into its network namespace, from when on the devices may be used.
    pub(crate) net_devices: &'a [NetDevice],
    /// What it has as descriptors 3, 4 and so on.
    pub(crate) extra: &'a [OwnedFd],
    /// Where the process waits for the word to start, after the word on the handshake's socket.
    pub(crate) start_socket: Option<BorrowedFd<'a>>,
    /// What the set-up uses of the descriptors that the process inherits: all others it closes first. None where the maker
    /// has no others that matter.
    pub(crate) inherited: Option<Vec<i32>>,
}

/// A process that has done its set-up.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) start: StartHandle,
    pub(crate) console: Option<OwnedFd>,
}

/// What the caller does between the clone and the end of the set-up.
#[derive(Default)]
pub(crate) struct Caller<'c, 'a> {
    /// At [`Step::Meet`], when the process waits.
    pub(crate) rendezvous: Option<&'c mut Rendezvous<'a>>,
    /// Beside the set-up.
    pub(crate) meanwhile: Option<&'c mut Meanwhile<'a>>,
}

/// Clones, and returns at once. The process goes all its way without a word, and says only what fails; nothing is done to
/// it from outside. It is its maker's to reap or, with [`ParentOf::CallersParent`], that parent's.
pub(crate) fn launch(script: &Script<'_>, parent: ParentOf) -> Result<Spawned, Error> {
    let (pid, mut guard, start) = clone(script, parent, true)?;
    Ok(Spawned { pid, pidfd: guard.release()?, start: StartHandle::from_fd(start), console: None })
}

/// Clones, and waits until the set-up is done. A process that fails is gone when this returns; with
/// [`ParentOf::CallersParent`] it is that parent's to reap.
pub(crate) fn spawn(script: &Script<'_>, parent: ParentOf, caller: Caller<'_, '_>) -> Result<Spawned, Error> {
    let (pid, mut guard, ours) = clone(script, parent, false)?;
    let console = set_up(script, (pid, guard.pidfd()?), &ours, caller)?;
    Ok(Spawned { pid, pidfd: guard.release()?, start: StartHandle::from_fd(ours), console })
}

/// The process, which ends if it is not released, and our end of the handshake's socket.
fn clone(script: &Script<'_>, parent: ParentOf, is_alone: bool) -> Result<(Pid, Guard, OwnedFd), Error> {
    let (ours, theirs) = handshake::pair()?;
    let theirs = above(theirs, first_free(script.extra))?;
    let texts = |steps: &[Step<'_>]| steps.iter().map(ToString::to_string).collect::<Vec<_>>();
    let texts = Texts {
        setup: if is_alone { texts(&script.setup) } else { Vec::new() },
        rest: [texts(&script.late), texts(&script.start)].concat(),
    };
    let sockets = [theirs.as_raw_fd()].into_iter().chain(script.start_socket.map(|fd| fd.as_raw_fd()));
    let after = gaps(sockets.clone(), script, &[]);
    let before = script.inherited.as_ref().map(|used| gaps(sockets, script, used));
    let told = Told {
        texts: &texts,
        strangers: before.as_deref().unwrap_or_default(),
        gaps: &after,
        makers_end: ours.as_fd(),
        is_alone,
    };
    let state = State::new(theirs.as_fd());
    let how = Clone {
        flags: script.flags,
        parent: parent == ParentOf::CallersParent,
        cgroup: script.cgroup,
        ..Clone::default()
    };
    let (pid, guard) = in_time_namespace(script.time_offsets, || {
        in_pid_namespace(script.pid_namespace, || {
            let (pid, pidfd) = fork(&how, script, &told, state)?;
            Ok((pid, Guard::new(pidfd, parent)))
        })
    })?;
    Ok((pid, guard, ours))
}

/// What is set from outside, and the wait for the child's word.
fn set_up(
    script: &Script<'_>,
    (pid, pidfd): (Pid, BorrowedFd<'_>),
    socket: &OwnedFd,
    Caller { rendezvous, meanwhile }: Caller<'_, '_>,
) -> Result<Option<OwnedFd>, Error> {
    let go_on =
        || handshake::give_word(socket.as_fd()).map_err(|errno| Error::kernel("send(<new process>)", errno));
    let procfs = match (script.id_maps, script.oom_score_adj) {
        (None, None) => None,
        _ => Some(Procfs::host()?),
    };
    if let (Some((uids, gids)), Some(procfs)) = (script.id_maps, &procfs) {
        procfs.write(format!("{pid}/uid_map"), uids)?;
        procfs.write(format!("{pid}/gid_map"), gids)?;
        go_on()?;
    }
    let has_devices = script.begun.map_or(Ok(false), |cgroup| finish(cgroup, script, socket.as_fd()))?;
    if let Some(Meanwhile(work)) = meanwhile {
        work(pid);
    }
    let mut heard = handshake::hear(socket)?;
    let mut has_all = false;
    if let (Said::Meet, Some(rendezvous)) = (&heard, rendezvous) {
        // A hook may want to see the links, and may allow more devices.
        give(script, pid, has_devices)?;
        has_all = true;
        (rendezvous.meet)(pid, pidfd)?;
        go_on()?;
        heard = handshake::hear(socket)?;
    }
    let console = match heard {
        Said::Ready(console) => console,
        Said::Born(_) | Said::Listener(_) => {
            return Err(Error::died("the new process said what comes at another time"));
        }
        Said::Meet => return Err(Error::died("the new process waits for hooks that nobody runs")),
        Said::Nothing | Said::Unread => {
            return Err(Error::died("the new process died while it set itself up"));
        }
        Said::Failed { number, text, errno, .. } => {
            let step = script.setup.get(number);
            let what = step.map(ToString::to_string).unwrap_or_default();
            let between = if what.is_empty() || text.is_empty() { "" } else { ": " };
            let call = format!("{what}{between}{text}");
            let is_exec = matches!(step, Some(Step::LookForProgram(_)));
            return Err(if is_exec { Error::exec(call, errno) } else { Error::kernel(call, errno) });
        }
    };
    if !has_all {
        give(script, pid, has_devices)?;
    }
    if let (Some(value), Some(procfs)) = (script.oom_score_adj, &procfs) {
        procfs.write(format!("{pid}/oom_score_adj"), value.to_string())?;
    }
    for (resource, limit) in script.limits {
        rustix::process::prlimit(Some(pid), *resource, *limit).map_err(|errno| {
            Error::kernel(format!("prlimit({pid}, {})", limit_text(*resource, limit)), errno)
        })?;
    }
    Ok(console)
}

/// Makes a group in full and lets the new process in. Whether its rules for devices are set: the process has made all its
/// nodes when it comes in.
fn finish(cgroup: &Cgroup, script: &Script<'_>, socket: BorrowedFd<'_>) -> Result<bool, Error> {
    cgroup.finish()?;
    let early = script.devices.filter(|(cgroup, _)| cgroup.rules_devices_by_entry());
    if let Some((cgroup, rules)) = early {
        cgroup.set_devices(rules)?;
    }
    let entry = cgroup.entry_after_clone()?;
    let files: Vec<BorrowedFd<'_>> = entry.fds().collect();
    match handshake::give_files(socket, &files) {
        // Why it has ended it has said before.
        Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(early.is_some()),
        Err(errno) => Err(Error::kernel("sendmsg(<new process>, SCM_RIGHTS)", errno)),
    }
}

/// What a process gets from outside once its namespaces are there and its nodes are made.
fn give(script: &Script<'_>, pid: Pid, has_devices: bool) -> Result<(), Error> {
    if let Some((cgroup, rules)) = script.devices.filter(|_| !has_devices) {
        cgroup.set_devices(rules)?;
    }
    if let Some(class) = script.class {
        class.assign(pid)?;
    }
    netdev::move_all(script.net_devices, pid)
}

/// What to write to oom_score_adj: as asked for, or the lowest that this process may, when that is wanted.
pub(crate) fn oom_score_adj(process: &ProcessPlan) -> Result<Option<i32>, Error> {
    match process.oom_score_adj {
        Some(value) if process.restrict_oom_score_adj => restricted(value).map(Some),
        other => Ok(other),
    }
}

/// `value`, but not below what this process has unless it may go lower, which takes `CAP_SYS_RESOURCE`.
pub(crate) fn restricted(value: i32) -> Result<i32, Error> {
    let own = cap::held().map_err(|errno| Error::kernel("capget", errno))?;
    if own.effective.contains(cap::Capability::SYS_RESOURCE) {
        return Ok(value);
    }
    let own = Procfs::host()?.read("self/oom_score_adj", 16)?;
    let own = String::from_utf8_lossy(&own).trim().parse().unwrap_or(0);
    Ok(value.max(own))
}

#[expect(
    unsafe_code,
    reason = "the clone3 of this crate: what the child may do is a property of all steps together"
)]
fn fork(
    how: &Clone<'_>,
    script: &Script<'_>,
    told: &Told<'_>,
    state: State<'_>,
) -> Result<(Pid, OwnedFd), Error> {
    let Some(user) = script.user_namespace else {
        // SAFETY: the child only runs `child`, which allocates nothing, takes no lock and never returns.
        return match unsafe { clone3(how) }? {
            Forked::Child => child(script, told, state),
            Forked::Parent { pid, pidfd } => Ok((pid, pidfd)),
        };
    };
    // Not the handshake's socket: the new process may be quicker to speak there.
    let (ours, theirs) = handshake::pair()?;
    // What it is in, its child is in, too; from inside the user namespace a v2 cgroup could not be entered.
    let between = Clone { parent: how.parent, cgroup: how.cgroup, ..Clone::default() };
    // SAFETY: the child only runs `make_inside`, which allocates nothing, takes no lock and never returns.
    let between = match unsafe { clone3(&between) }? {
        Forked::Child => make_inside((user, theirs.as_fd()), how, script, told, state),
        Forked::Parent { pidfd, .. } => pidfd,
    };
    drop(theirs);
    let heard = handshake::hear(ours);
    if !how.parent {
        wait_pidfd(&between)?;
    }
    match heard? {
        Said::Born(pidfd) => match vaquita_sys::process::pidfd_pid(&pidfd)? {
            Some(pid) => Ok((pid, pidfd)),
            None => Err(Error::died("the new process died at once")),
        },
        Said::Failed { text, errno, .. } => Err(Error::kernel(text, errno)),
        _ => Err(Error::died("the process that joins the user namespace died")),
    }
}

/// In a process of its own, which ends: joins the user namespace, and makes the new process from there as a sibling.
#[expect(unsafe_code, reason = "as for fork, which this is a part of")]
fn make_inside(
    (user, socket): (BorrowedFd<'_>, BorrowedFd<'_>),
    how: &Clone<'_>,
    script: &Script<'_>,
    told: &Told<'_>,
    state: State<'_>,
) -> ! {
    let _end = NoWayBack::new();
    let how = Clone { parent: true, cgroup: None, ..*how };
    let made = crate::steps::prepare()
        .map_err(|failure| ("preparing", failure))
        .and_then(|()| {
            ns::setns(user, ns::Kind::User)
                .at("setns")
                .map_err(|failure| ("joining the user namespace", failure))
        })
        // Whoever is root there must not look into this process, which has all of the maker's memory.
        .and_then(|()| {
            vaquita_sys::process::set_dumpable(false).at("prctl").map_err(|failure| ("preparing", failure))
        })
        .and_then(|()| {
            // SAFETY: as in `fork`.
            let forked = unsafe { clone3_raw(&how) };
            forked.at("clone3").map_err(|failure| ("making a process in the user namespace", failure))
        });
    match made {
        Ok(Forked::Child) => child(script, told, state),
        Ok(Forked::Parent { pidfd, .. }) => {
            let said = handshake::say_born(socket, pidfd.as_fd());
            if said.is_err() {
                // Nobody is there to have it.
                let _ = signal::send(&pidfd, Signal::KILL);
            }
            exit_now(0)
        }
        Err((step, failure)) => {
            handshake::say_failure(socket, u16::MAX, step.as_bytes(), false, failure);
            exit_now(1)
        }
    }
}

/// What the maker worked out for the child, which cannot.
struct Told<'a> {
    texts: &'a Texts,
    /// Ranges of descriptors that are the maker's alone.
    strangers: &'a [(u32, u32)],
    /// Ranges of descriptors that are not needed after the set-up.
    gaps: &'a [(u32, u32)],
    /// Of the handshake's socket, which the child has inherited.
    makers_end: BorrowedFd<'a>,
    /// The maker is not there to hear of the set-up, nor to give its word.
    is_alone: bool,
}

/// What each step is for.
struct Texts {
    /// Empty where the maker hears of failures by the number of the step.
    setup: Vec<String>,
    /// After the set-up, late ones first.
    rest: Vec<String>,
}

/// Descriptors for a program, where putting each in its place overwrites none of the others.
pub(crate) fn extra(fds: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, Error> {
    let first = first_free(&fds);
    let place = |(index, fd): (usize, OwnedFd)| {
        if usize::try_from(fd.as_raw_fd()) == Ok(index + 3) { Ok(fd) } else { above(fd, first) }
    };
    fds.into_iter().enumerate().map(place).collect()
}

/// The first number behind those of a program's further descriptors.
pub(crate) fn first_free(extra: &[OwnedFd]) -> i32 {
    i32::try_from(extra.len() + 3).unwrap_or(i32::MAX)
}

/// The descriptor, with a number of at least `first`.
pub(crate) fn above(fd: OwnedFd, first: i32) -> Result<OwnedFd, Error> {
    if fd.as_raw_fd() >= first {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, first)
        .map_err(|errno| Error::kernel(format!("fcntl({}, F_DUPFD_CLOEXEC, {first})", fd.as_raw_fd()), errno))
}

/// All numbers behind the program's own, but those that are needed after the set-up, and these.
fn gaps(sockets: impl Iterator<Item = i32>, script: &Script<'_>, others: &[i32]) -> Vec<(u32, u32)> {
    let needed = script.start.iter().flat_map(Step::fds).chain(sockets).chain(others.iter().copied());
    let mut needed: Vec<u32> = needed.map(i32::unsigned_abs).filter(|fd| *fd > 2).collect();
    needed.sort_unstable();
    let mut gaps = Vec::new();
    let mut next = first_free(script.extra).unsigned_abs();
    for fd in needed {
        if fd > next {
            gaps.push((next, fd - 1));
        }
        next = next.max(fd + 1);
    }
    gaps.push((next, u32::MAX));
    gaps
}

/// Closes what was inherited or used for the set-up, so that a process that waits keeps nothing alive, not even the
/// maker's end of its own socket. What is left is closed by execve.
#[expect(unsafe_code, reason = "closing by number is the only way to close what one does not know")]
fn close_others(extra: &[OwnedFd], gaps: &[(u32, u32)]) -> Result<(), Failure> {
    let mut next = 3;
    for fd in extra {
        // SAFETY: what has the number is used by no later step, and no owner of it is dropped: the child only ends.
        unsafe { vaquita_sys::process::dup_for_exec(fd.as_fd(), next) }.at("dup3")?;
        next += 1;
    }
    vaquita_sys::process::close_range_on_exec(next.unsigned_abs(), u32::MAX).at("close_range")?;
    close_all(gaps)
}

#[expect(unsafe_code, reason = "closing by number is the only way to close what one does not know")]
fn close_all(ranges: &[(u32, u32)]) -> Result<(), Failure> {
    for &(first, last) in ranges {
        // SAFETY: no step from here on uses any of them, and no owner of one is dropped: the child only ends.
        unsafe { vaquita_sys::process::close_range(first, last) }.at("close_range")?;
    }
    Ok(())
}

/// Closes what was inherited: who waits on the other end is to notice when the maker is dead.
#[expect(unsafe_code, reason = "the owner is the maker's: the new process has but the number")]
fn close(fd: BorrowedFd<'_>) -> Result<(), Failure> {
    let number = fd.as_raw_fd().unsigned_abs();
    // SAFETY: no step uses it, and its owner is not dropped: the child only ends.
    unsafe { vaquita_sys::process::close_range(number, number) }.at("close_range")
}

/// The new process. Nothing here and below allocates, takes a lock or returns.
fn child(script: &Script<'_>, told: &Told<'_>, mut state: State<'_>) -> ! {
    let _end = NoWayBack::new();
    let socket = state.socket;
    let tell = |to: BorrowedFd<'_>, number: usize, text: &str, is_exec: bool, failure| -> ! {
        handshake::say_failure(
            to,
            u16::try_from(number).unwrap_or(u16::MAX),
            text.as_bytes(),
            is_exec,
            failure,
        );
        exit_now(1)
    };
    let fail = |number: usize, text: &str, is_exec: bool, failure| -> ! {
        tell(socket, number, text, is_exec, failure)
    };
    if let Err(failure) = close_all(told.strangers) {
        fail(usize::from(u16::MAX), "", false, failure);
    }
    if let Err(failure) = crate::steps::prepare() {
        fail(usize::from(u16::MAX), "", false, failure);
    }
    if let Err(failure) = close(told.makers_end) {
        fail(usize::from(u16::MAX), "", false, failure);
    }
    for (number, step) in script.setup.iter().enumerate() {
        if let Err(failure) = step.run(&mut state) {
            fail(number, told.texts.setup.get(number).map_or("", String::as_str), false, failure);
        }
    }
    let ready = match told.is_alone {
        true => Ok(()),
        false => handshake::say_ready(socket, state.master.as_ref().map(AsFd::as_fd)),
    };
    if let Err(failure) = close_others(script.extra, told.gaps) {
        fail(usize::from(u16::MAX), "", false, failure);
    }
    if ready.is_err() {
        // The maker is gone, and nobody wants this container any more.
        exit_now(1);
    }
    let steps = script.late.iter().chain(&script.start).zip(&told.texts.rest).enumerate();
    for (number, (step, text)) in steps {
        if number == script.late.len() && !told.is_alone {
            state.starter = match handshake::await_start(socket, script.start_socket) {
                Ok(starter) => starter,
                Err(_) => exit_now(1),
            };
        }
        if let Err(failure) = step.run(&mut state) {
            let is_exec = matches!(step, Step::Execute { .. } | Step::ExecuteFile { .. });
            tell(state.starter(), number, text, is_exec, failure);
        }
    }
    exit_now(1)
}

/// Ends a half-made process.
pub(crate) struct Guard {
    pidfd: Option<OwnedFd>,
    reap: bool,
}

impl Guard {
    pub(crate) fn new(pidfd: OwnedFd, parent: ParentOf) -> Self {
        Self { pidfd: Some(pidfd), reap: parent == ParentOf::Caller }
    }

    pub(crate) fn pidfd(&self) -> Result<BorrowedFd<'_>, Error> {
        self.pidfd.as_ref().map(AsFd::as_fd).ok_or_else(|| Error::died("the new process has no pidfd"))
    }

    /// The process is whole now.
    pub(crate) fn release(&mut self) -> Result<OwnedFd, Error> {
        self.pidfd.take().ok_or_else(|| Error::died("the new process has no pidfd"))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            // It may have exited already.
            let _ = signal::send(pidfd, Signal::KILL);
            if self.reap {
                let _ = wait_pidfd(pidfd);
            }
        }
    }
}
