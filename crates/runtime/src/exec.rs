//! Another process in a running container.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use rustix::process::Pid;
use vaquita_cgroup::Cgroup;
use vaquita_sys::ns;
use vaquita_sys::process::CloneFlags;
use vaquita_sys::procfs::Procfs;

use crate::create::{Known, entry, entry_later, program};
use crate::hook::Place;
use crate::lsm::Labels;
use crate::plan::process::{Common, ProcessPlan};
use crate::resctrl::Class;
use crate::spawn::{self, Script, Spawned};
use crate::stdio::{StdioFds, check_stdio};
use crate::steps::Step;
use crate::{Context, Error, ParentOf, StartHandle, Stdio};

/// What of a container matters to every process that is added to it: worked out once, for many.
#[derive(Clone, Debug)]
pub struct Surroundings {
    common: Common,
    /// The container's class of service.
    class: Option<Class>,
    /// The container's own namespaces, without PID, which is joined before the clone.
    namespaces: CloneFlags,
    has_pid_namespace: bool,
    has_own_mounts: bool,
}

impl Surroundings {
    /// Those of the container that was made from `container`: its namespaces and its seccomp profile, above all.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] and [`crate::Kind::Unsupported`] name the offending property.
    pub fn new(container: &Spec, context: &Context) -> Result<Self, Error> {
        let linux = container.linux().as_ref();
        let kinds = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        let has_own_mounts = kinds.iter().any(|namespace| {
            let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
            namespace.typ() == LinuxNamespaceType::Mount && path.is_none()
        });
        let kinds = kinds.iter().map(|namespace| crate::plan::kind(namespace.typ()));
        let (pid, others): (Vec<_>, Vec<_>) = kinds.partition(|kind| *kind == ns::Kind::Pid);
        let class = linux.and_then(|linux| linux.intel_rdt().as_ref());
        Ok(Self {
            common: Common::new(linux, context)?,
            class: class.map(|asked| Class::new(asked, context)).transpose()?,
            namespaces: others.iter().fold(CloneFlags::NONE, |flags, kind| flags | kind.flag()),
            has_pid_namespace: !pid.is_empty(),
            has_own_mounts,
        })
    }
}

/// A validated process to be added to a container.
#[derive(Debug)]
pub struct ExecPlan {
    process: ProcessPlan,
    inside: Surroundings,
}

impl ExecPlan {
    /// Plans `process` for the container that was made from `container`.
    ///
    /// # Errors
    /// As [`Surroundings::new`] and [`ExecPlan::within`].
    pub fn new(process: &Process, container: &Spec, context: &Context) -> Result<Self, Error> {
        Self::within(process, &Surroundings::new(container, context)?, context)
    }

    /// Plans `process` for the container that these are of.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] and [`crate::Kind::Unsupported`] name the offending property.
    pub fn within(process: &Process, inside: &Surroundings, context: &Context) -> Result<Self, Error> {
        let process = ProcessPlan::new(process, inside.common.clone(), context)?;
        Ok(Self { process, inside: inside.clone() })
    }

    /// The user that the process becomes, as its container knows it.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.process.uid
    }

    /// Whether the process can do all by itself ([`launch`]): a terminal's master has to be handed over, and some things
    /// can only be done to it from outside when it has joined the container.
    #[must_use]
    pub fn goes_alone(&self) -> bool {
        // In a user namespace a hard limit can be raised no more; before, a low one could make joining fail.
        let is_limited =
            self.inside.namespaces.contains(CloneFlags::NEWUSER) && !self.process.rlimits.is_empty();
        !self.process.terminal && self.inside.class.is_none() && !is_limited
    }
}

/// What [`exec()`] needs besides the plan.
#[derive(Debug)]
pub struct ExecArgs<'a> {
    /// A pidfd of the container's first process, whose namespaces are joined.
    pub init: BorrowedFd<'a>,
    /// Standard input, output and error.
    pub stdio: Stdio,
    /// Whether the first process is created and not started, so that its root is still being changed.
    pub created: bool,
    /// The container's cgroup, or one below it.
    pub cgroup: Option<&'a Cgroup>,
    /// What the process has open as descriptors 3, 4 and so on, in this order.
    pub extra_fds: Vec<OwnedFd>,
    /// Whether it gets a session keyring of its own (keyrings(7)). Without one it has the caller's.
    pub new_keyring: bool,
    /// Whose child the process is.
    pub parent: ParentOf,
}

/// A process that is about to execute its program in the container.
#[derive(Debug)]
pub struct Execed {
    /// Its process id, as the caller's PID namespace sees it.
    pub pid: Pid,
    /// A pidfd of it.
    pub pidfd: OwnedFd,
    /// Call [`StartHandle::wait`]: the process is on its way already, and says here whether execve succeeded. Readable
    /// when it is known.
    pub started: StartHandle,
    /// The master side of its terminal, for [`Stdio::Terminal`].
    pub console: Option<OwnedFd>,
}

/// Clones a process that joins the container and executes `plan`'s program.
///
/// # Errors
/// [`crate::Kind::NotFound`] when the container's process is gone; [`crate::Kind::Kernel`] names the step that failed.
pub fn exec(plan: &ExecPlan, args: ExecArgs<'_>) -> Result<Execed, Error> {
    exec_with(plan, args, |_| Ok(()))
}

/// As [`exec`]; `admit` is called with the process when it has joined the container and executes nothing yet: for a caller
/// whose children are not made in the container's cgroup ([`Cgroup::takes_clones`]), and who moves them there.
///
/// # Errors
/// As [`exec`], and what `admit` says. No process is left behind then.
pub fn exec_with<E: From<Error>>(
    plan: &ExecPlan,
    args: ExecArgs<'_>,
    admit: impl FnOnce(Pid) -> Result<(), E>,
) -> Result<Execed, E> {
    let spawned =
        script(plan, args, None, |script, parent| spawn::spawn(script, parent, spawn::Caller::default()))?;
    let Spawned { pid, pidfd, start: started, console } = spawned;
    if let Err(error) = admit(pid) {
        let _ = vaquita_sys::signal::send(&pidfd, vaquita_sys::signal::Signal::KILL);
        let _ = vaquita_sys::process::wait_pidfd(&pidfd);
        return Err(error);
    }
    started.release()?;
    Ok(Execed { pid, pidfd, started, console })
}

/// Clones a process that joins the container and executes `plan`'s program, and returns at once: for a caller that waits
/// for nobody, not even for a process that is frozen as soon as it is in the container's cgroup. What fails on its way is
/// told by [`StartHandle::wait`], too. Of the caller's descriptors it keeps what it needs alone, from its first step on.
///
/// `procfs` is one of the caller's PID namespace, which the caller may keep.
///
/// # Errors
/// [`crate::Kind::NotFound`] when the container's process is gone, as far as it shows now;
/// [`crate::Kind::Unsupported`] for a plan of which [`ExecPlan::goes_alone`] is false.
pub fn launch(plan: &ExecPlan, args: ExecArgs<'_>, procfs: &Procfs) -> Result<Execed, Error> {
    if !plan.goes_alone() {
        return Err(Error::unsupported(
            "a process that something has to be done to from outside cannot be left alone",
        ));
    }
    let Spawned { pid, pidfd, start: started, console } = script(plan, args, Some(procfs), spawn::launch)?;
    Ok(Execed { pid, pidfd, started, console })
}

/// Has `run` clone a process that does what it takes: one that is alone with this procfs, or one that waits for a word
/// when it has joined the container.
fn script(
    plan: &ExecPlan,
    args: ExecArgs<'_>,
    alone: Option<&Procfs>,
    run: impl FnOnce(&Script<'_>, ParentOf) -> Result<Spawned, Error>,
) -> Result<Spawned, Error> {
    let ExecPlan { process, inside } = plan;
    check_stdio(process, &args.stdio)?;
    let stdio = StdioFds::new(args.stdio)?;
    let extra = spawn::extra(args.extra_fds)?;
    let labels = Labels::new(process)?;
    let own = match alone {
        None if !labels.is_empty() => Some(Procfs::open()?.above(spawn::first_free(&extra))?),
        _ => None,
    };
    let procfs = alone.or(own.as_ref());
    let known = Known::new()?;
    let oom_score_adj = spawn::oom_score_adj(process)?;
    let own_score = oom_score_adj.map(|score| score.to_string());

    // To join the mount namespace of others does not lead to the container's root.
    let place = if args.created || !inside.has_own_mounts { Some(Place::of(args.init)?) } else { None };

    let affinity = &process.affinity;
    let mut setup = Vec::new();
    if let (Some(procfs), Some(score)) = (alone, &own_score) {
        // In a user namespace it may not any more.
        setup.push(Step::WriteProc {
            procfs,
            file: c"self/oom_score_adj".to_owned(),
            value: score.as_bytes(),
        });
    }
    setup.push(Step::NewSession);
    setup.extend(affinity.before.as_ref().map(Step::SetAffinity));
    if args.new_keyring {
        setup.extend(labels.new_keyring(procfs));
    }
    if !inside.namespaces.is_empty() {
        setup.push(Step::JoinProcess(args.init, inside.namespaces));
    }
    if inside.namespaces.contains(CloneFlags::NEWUSER) {
        setup.push(Step::BecomeRoot);
    }
    setup.extend(place.as_ref().map(Place::change_root));
    setup.push(Step::OpenRoot);
    setup.extend(stdio.terminal(known.devpts, None));
    setup.push(Step::ChangeDirectory(&process.cwd));
    setup.extend(stdio.steps(process.uid));

    let mut start = Vec::new();
    if alone.is_some() {
        start.extend(process.rlimits.iter().map(|(resource, limit)| Step::SetLimit(*resource, *limit)));
    }
    let is_cloned_into = affinity.before.is_none();
    start.extend(match is_cloned_into {
        true => entry(args.cgroup, &extra)?,
        // Its CPUs before it is in the cgroup matter.
        false => entry_later(args.cgroup, &extra)?,
    });
    start.extend(affinity.after.as_ref().map(Step::SetAffinity));
    let joins_users = inside.namespaces.contains(CloneFlags::NEWUSER);
    let of = if joins_users { vaquita_sys::process::pidfd_pid(args.init)? } else { None };
    let labels = procfs.into_iter().flat_map(|procfs| labels.steps(procfs));
    start.extend(program(process, labels, crate::groups::step(process, of)?));

    let class = inside.class.as_ref().map(Class::join).transpose()?;
    let inherited = alone.map(|procfs| {
        let files = stdio.fds().chain(extra.iter().map(AsFd::as_fd)).chain(place.as_ref().map(Place::fd));
        files.chain([args.init, procfs.as_fd()]).map(|fd| fd.as_raw_fd()).collect()
    });
    let script = Script {
        cgroup: args.cgroup.and_then(Cgroup::dir_fd).filter(|_| is_cloned_into),
        flags: CloneFlags::CLEAR_SIGHAND,
        pid_namespace: inside.has_pid_namespace.then(|| args.init.as_fd()),
        setup,
        start,
        limits: if alone.is_some() { &[] } else { &process.rlimits },
        oom_score_adj: oom_score_adj.filter(|_| alone.is_none()),
        class: class.as_ref(),
        extra: &extra,
        inherited,
        ..Script::default()
    };
    run(&script, args.parent)
}
