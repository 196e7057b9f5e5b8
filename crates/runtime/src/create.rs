//! From a plan to a process that waits to be started.

mod args;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use vaquita_cgroup::Cgroup;
use vaquita_sys::process::CloneFlags;
use vaquita_sys::procfs::Procfs;
use vaquita_sys::{mount, ns};

use crate::handshake::MOST_FILES;
use crate::lsm::Labels;
use crate::namespaces::Namespaces;
use crate::plan::mounts::Source;
use crate::plan::path::Inside;
use crate::plan::process::ProcessPlan;
use crate::resctrl::Class;
use crate::spawn::{self, Script};
use crate::stdio::{StdioFds, check_stdio};
use crate::steps::{MoveRoot, Step};
use crate::trees::{self, Prepared};
use crate::{Error, Kind, Plan, groups, rootfs};

pub use self::args::{CreateArgs, Created, Meanwhile, ParentOf, Rendezvous};

/// Clones the container's first process and waits until it has set itself up.
///
/// What needs no more than the credentials that the process gives up for its program (cgroup, user, capabilities,
/// seccomp) follows on [`crate::StartHandle::start`], which reports it in the same way.
///
/// # Errors
/// [`crate::Kind::Kernel`] names the step that failed and its arguments. No process is left behind then, except, with
/// [`ParentOf::CallersParent`], a dead one for that parent to reap.
pub fn create(plan: &Plan, args: CreateArgs<'_>) -> Result<Created, Error> {
    check_stdio(&plan.process, &args.stdio)?;
    if plan.has_hooks && args.rendezvous.is_none() {
        return Err(Error::unsupported("hooks: this caller runs none"));
    }
    if !plan.has_own_mounts() && args.rendezvous.is_some() {
        return Err(Error::unsupported(
            "hooks: without a mount namespace of its own the container has no root filesystem that hooks could find",
        ));
    }
    if !plan.has_own_mounts() && plan.root_propagation.is_some() {
        return Err(Error::invalid(
            "linux.rootfsPropagation: without a mount namespace of its own nothing of the container propagates",
        ));
    }
    let place = args.rendezvous.as_ref().map(|rendezvous| host_path(rendezvous.root)).transpose()?;
    let (mut rendezvous, mut meanwhile) = (args.rendezvous, args.meanwhile);
    if let Some(listener) = &args.start_socket {
        listener.set_blocking()?;
    }
    let extra = spawn::extra(args.extra_fds)?;
    let above = |listener| spawn::above(OwnedFd::from(listener), spawn::first_free(&extra));
    let start_socket = args.start_socket.map(above).transpose()?;
    let job = Job {
        plan,
        namespaces: Namespaces::new(plan, args.join)?,
        stdio: StdioFds::new(args.stdio)?,
        rootfs: args.rootfs,
        place,
        cgroup: args.cgroup,
        hide: if args.no_pivot { Some(rootfs::hidden_mounts()?) } else { None },
        extra,
        new_keyring: args.new_keyring,
        start_socket,
    };
    if plan.time_offsets.as_ref().is_some_and(|offsets| !offsets.is_empty())
        && !job.namespaces.is_new(ns::Kind::Time)
    {
        return Err(Error::invalid("linux.timeOffsets: the time namespace is joined, so they cannot be set"));
    }
    check_sysctls(plan, &job.namespaces)?;
    check_capabilities(plan, &job.namespaces)?;
    let spawned = with_the_api_there_is(|| {
        job.spawn(
            args.parent,
            spawn::Caller { rendezvous: rendezvous.as_mut(), meanwhile: meanwhile.as_mut() },
        )
    });
    let spawned = spawned.map_err(|error| if plan.has_own_mounts() { error } else { apart(error) })?;
    let spawn::Spawned { pid, pidfd, start, console } = spawned;
    Ok(Created { pid, pidfd, start, console })
}

/// Says what a tree of mounts that is in no namespace takes.
fn apart(error: Error) -> Error {
    if error.errno() != Some(Errno::INVAL) {
        return error;
    }
    let message = format!(
        "{error}; without a mount namespace of its own a container needs Linux 6.15, and no read-only view of cgroup v1"
    );
    Error::new(error.kind(), message)
}

/// Makes something, once more with mount(2) if the kernel turns out not to have the new mount API. The calls that it may
/// not have come before anything that is seen outside of the new process, hooks among them.
pub(crate) fn with_the_api_there_is<T>(mut make: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let was_old = mount::is_old();
    match make() {
        Err(error) if error.errno() == Some(Errno::NOSYS) && !was_old => {
            mount::fall_back();
            if mount::is_old() { make() } else { Err(error) }
        }
        other => other,
    }
}

/// A container to be made, with all that is the same for another try.
struct Job<'a> {
    plan: &'a Plan,
    namespaces: Namespaces,
    stdio: StdioFds,
    rootfs: OwnedFd,
    /// Where the root filesystem goes until the root is changed.
    place: Option<CString>,
    cgroup: Option<&'a Cgroup>,
    /// Without a pivot: what is taken away before the root is changed.
    hide: Option<Vec<CString>>,
    /// What the program has as descriptors 3, 4 and so on.
    extra: Vec<OwnedFd>,
    new_keyring: bool,
    start_socket: Option<OwnedFd>,
}

impl Job<'_> {
    fn spawn(&self, parent: ParentOf, caller: spawn::Caller<'_, '_>) -> Result<spawn::Spawned, Error> {
        let Self { plan, namespaces, stdio, cgroup, .. } = self;
        let has_view = plan.mounts.iter().any(|mount| matches!(mount.source, Source::Cgroup));
        let begun = begun(*cgroup, has_view)?;
        let unshared = if begun.is_some() { namespaces.late_flags() } else { CloneFlags::NONE };
        let prepared = trees::prepare(plan, *cgroup, namespaces)?;
        let labels = Labels::new(&plan.process)?;
        let procfs = if plan.sysctls.is_empty() && labels.is_empty() {
            None
        } else {
            Some(Procfs::open()?.above(spawn::first_free(&self.extra))?)
        };
        let known = Known::new()?;
        // Hooks look for the process in its cgroup, and so does whoever sees it wait.
        let enters_before = caller.rendezvous.is_some() || self.start_socket.is_some();
        let (awaits, enters) = match begun {
            Some(_) => (Some(Step::AwaitCgroup), Some(Step::EnterAwaitedCgroup)),
            None => (None, entry(*cgroup, &self.extra)?),
        };
        let (mut before, mut late, mut start) = (Vec::new(), Vec::new(), Vec::new());
        late.extend((self.hide.is_none() && plan.has_own_mounts()).then_some(Step::DetachOldRoot));
        if enters_before {
            before.extend(awaits.into_iter().chain(enters));
        } else {
            // The way in comes before the word to start.
            late.extend(awaits);
            start.extend(enters);
        }
        // Its root is the cgroup that the process is in.
        let cgroup_namespace =
            namespaces.is_new(ns::Kind::Cgroup).then_some(Step::Unshare(CloneFlags::NEWCGROUP));

        let keyring = self.new_keyring.then(|| labels.new_keyring(procfs.as_ref())).into_iter().flatten();
        let mut setup = self.before_mounts(unshared, keyring)?;
        mounts(&mut setup, plan, &prepared, &known, stdio);
        if caller.rendezvous.is_some() {
            setup.append(&mut before);
            setup.push(Step::Meet);
        }
        hidden(&mut setup, plan, &prepared);
        self.change_root(&mut setup, procfs.as_ref());
        setup.extend(stdio.steps(plan.process.uid));
        if self.start_socket.is_some() {
            setup.push(Step::LookForProgram(&plan.process.program));
            // As the last thing, so that the set-up's memory is not charged there.
            setup.append(&mut before);
            setup.extend(cgroup_namespace);
        } else {
            start.extend(cgroup_namespace);
        }
        let labels = procfs.iter().flat_map(|procfs| labels.steps(procfs));
        start.extend(program(&plan.process, labels, self.groups()?));

        let class = plan.class.as_ref().map(Class::make).transpose()?;
        let script = Script {
            cgroup: cgroup.and_then(Cgroup::dir_fd),
            flags: namespaces.clone_flags(unshared),
            user_namespace: namespaces.first_user_namespace(),
            pid_namespace: namespaces.joined(ns::Kind::Pid),
            time_offsets: plan.time_offsets.as_deref().filter(|_| namespaces.is_new(ns::Kind::Time)),
            setup,
            late,
            start,
            id_maps: namespaces.is_new(ns::Kind::User).then_some((&*plan.uid_map, &*plan.gid_map)),
            limits: &plan.process.rlimits,
            devices: cgroup.map(|cgroup| (cgroup, &*plan.device_rules)),
            oom_score_adj: spawn::oom_score_adj(&plan.process)?,
            begun,
            class: class.as_ref(),
            net_devices: &plan.net_devices,
            extra: &self.extra,
            start_socket: self.start_socket.as_ref().map(AsFd::as_fd),
            inherited: None,
        };
        let spawned = spawn::spawn(&script, parent, caller)?;
        if let Some(mut class) = class {
            class.keep();
        }
        Ok(spawned)
    }

    /// In a user namespace of the container that root makes or joins all can be set.
    fn groups(&self) -> Result<Option<Step<'_>>, Error> {
        match self.namespaces.contains(ns::Kind::User) {
            true => Ok(Some(Step::SetGroups(&self.plan.process.groups))),
            false => groups::step(&self.plan.process, None),
        }
    }

    fn before_mounts<'a>(
        &'a self,
        unshared: CloneFlags,
        keyring: impl Iterator<Item = Step<'a>>,
    ) -> Result<Vec<Step<'a>>, Error> {
        let plan = self.plan;
        let mut setup = self.namespaces.steps(unshared);
        setup.extend(keyring);
        setup.extend(plan.hostname.as_ref().map(|name| Step::HostName(name.as_bytes())));
        setup.extend(plan.domainname.as_ref().map(|name| Step::DomainName(name.as_bytes())));
        if plan.has_own_mounts() {
            setup.push(Step::Isolate);
            let root = rootfs::tree(&self.rootfs)?;
            setup.push(Step::AttachRoot(root, self.place.clone(), rootfs::propagation(plan)));
        } else {
            setup.push(Step::CopyRoot(rootfs::host_tree(&self.rootfs)?));
        }
        Ok(setup)
    }

    fn change_root<'a>(&'a self, setup: &mut Vec<Step<'a>>, procfs: Option<&'a Procfs>) {
        let plan = self.plan;
        setup.push(match &self.hide {
            _ if !plan.has_own_mounts() => Step::UseRoot,
            None => Step::Pivot,
            Some(hide) => Step::MoveRoot(MoveRoot { hide, is_elsewhere: self.place.is_some() }),
        });
        if let Some((propagation, recursive)) = plan.root_propagation {
            setup.push(Step::SetRootPropagation(propagation, recursive));
        }
        if let Some(procfs) = procfs {
            setup.extend(plan.sysctls.iter().map(|sysctl| Step::WriteProc {
                procfs,
                file: sysctl.file.clone(),
                value: sysctl.value.as_bytes(),
            }));
        }
        setup.push(Step::ChangeDirectory(&plan.process.cwd));
        if plan.root_readonly {
            setup.push(Step::SetRootReadOnly);
        }
    }
}

/// A cgroup that is yet to be made in full, which can be done while the process sets itself up: not where it takes a view of
/// the cgroup along.
pub(crate) fn begun(cgroup: Option<&Cgroup>, has_view: bool) -> Result<Option<&Cgroup>, Error> {
    let Some(cgroup) = cgroup.filter(|cgroup| !cgroup.is_whole()) else { return Ok(None) };
    if !has_view && cgroup.layout().hierarchies().len() <= MOST_FILES {
        return Ok(Some(cgroup));
    }
    cgroup.finish()?;
    Ok(None)
}

/// What is left of entering the cgroup after a clone into it.
pub(crate) fn entry<'a>(cgroup: Option<&Cgroup>, extra: &[OwnedFd]) -> Result<Option<Step<'a>>, Error> {
    cgroup.map(|cgroup| enter(cgroup.entry_after_clone()?, extra)).transpose()
}

/// Entering the cgroup after a clone elsewhere.
pub(crate) fn entry_later<'a>(cgroup: Option<&Cgroup>, extra: &[OwnedFd]) -> Result<Option<Step<'a>>, Error> {
    cgroup.map(|cgroup| enter(cgroup.entry()?, extra)).transpose()
}

fn enter<'a>(entry: vaquita_cgroup::Entry, extra: &[OwnedFd]) -> Result<Step<'a>, Error> {
    let first = spawn::first_free(extra);
    let entry = entry.above(first);
    entry
        .map(Step::EnterCgroup)
        .map_err(|errno| Error::kernel(format!("fcntl(<cgroup>, F_DUPFD_CLOEXEC, {first})"), errno))
}

/// From the credentials to execve; what an exec does too.
pub(crate) fn program<'a>(
    process: &'a ProcessPlan,
    labels: impl Iterator<Item = Step<'a>>,
    groups: Option<Step<'a>>,
) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    steps.extend(process.scheduling.as_ref().map(Step::SetScheduling));
    steps.extend(process.io_priority.map(Step::SetIoPriority));
    steps.extend(process.personality.map(Step::SetPersonality));
    steps.extend(process.memory_policy.as_ref().map(Step::SetMemoryPolicy));
    steps.extend(labels);
    steps.push(Step::SetUmask(process.umask));
    steps.extend(groups);
    steps.push(Step::SetGid(process.gid));
    steps.push(Step::SetUid(process.uid, process.capabilities));
    let filter = process.seccomp.as_deref().map(Step::Seccomp);
    // As late as possible, so that the profile need not allow what comes before execve.
    let sys_admin = process.capabilities.effective.contains(vaquita_sys::cap::Capability::SYS_ADMIN);
    if process.no_new_privs || sys_admin || filter.is_none() {
        steps.push(Step::SetCapabilities(process.capabilities));
        if process.no_new_privs {
            steps.push(Step::NoNewPrivs);
        }
        steps.extend(filter);
    } else {
        steps.extend(filter);
        steps.push(Step::SetCapabilities(process.capabilities));
    }
    let ProcessPlan { program, arguments, environment, .. } = process;
    steps.push(Step::Execute { program, arguments, environment });
    steps
}

/// Paths that the set-up itself uses.
pub(crate) struct Known {
    pub(crate) devpts: Inside,
    console: Inside,
}

impl Known {
    pub(crate) fn new() -> Result<Self, Error> {
        let inside = |path| Inside::new("path", Path::new(path));
        Ok(Self { devpts: inside("/dev/pts")?, console: inside("/dev/console")? })
    }
}

/// A path of the host, for the child.
fn host_path(path: &Path) -> Result<CString, Error> {
    use std::os::unix::ffi::OsStrExt;
    match CString::new(path.as_os_str().as_bytes()) {
        Ok(text) if path.is_absolute() => Ok(text),
        _ => Err(Error::invalid(format!("the path of the root filesystem, {path:?}, is not absolute"))),
    }
}

/// Mounts, devices and links, in the order in which they depend on each other.
fn mounts<'a>(
    steps: &mut Vec<Step<'a>>,
    plan: &'a Plan,
    prepared: &'a Prepared,
    known: &Known,
    stdio: &StdioFds,
) {
    for (mount, source) in plan.mounts.iter().zip(&prepared.mounts) {
        source.steps(mount, steps);
    }
    for (device, node) in plan.devices.iter().zip(&prepared.nodes) {
        steps.push(match node {
            Some(node) => Step::BindDevice(device, node),
            None => Step::MakeDevice(device),
        });
    }
    if !plan.has_dev_of_host {
        steps.extend(prepared.links.iter().map(|(path, target)| Step::Link(path.clone(), target)));
    }
    steps.extend(stdio.terminal(known.devpts.clone(), Some(known.console.clone())));
}

/// What of all that cannot be seen or changed.
fn hidden<'a>(steps: &mut Vec<Step<'a>>, plan: &'a Plan, prepared: &'a Prepared) {
    steps.extend(plan.readonly.iter().map(Step::ReadOnly));
    steps.extend(plan.masked.iter().map(|path| Step::Mask(path, &prepared.empty)));
}

/// A namespace that is joined may turn out to be the host's own.
fn check_sysctls(plan: &Plan, namespaces: &Namespaces) -> Result<(), Error> {
    if plan.sysctls.is_empty() {
        return Ok(());
    }
    let is_own = |kind: ns::Kind| -> Result<bool, Error> {
        let Some(fd) = namespaces.joined(kind) else { return Ok(namespaces.contains(kind)) };
        Ok(ns::identity(fd)? != ns::identity(ns::open(None, kind)?)?)
    };
    let own = [ns::Kind::Net, ns::Kind::Ipc, ns::Kind::Uts].map(|kind| Ok((kind, is_own(kind)?)));
    let own: BTreeMap<ns::Kind, bool> = own.into_iter().collect::<Result<_, Error>>()?;
    for sysctl in &plan.sysctls {
        crate::plan::sysctl::Sysctl::new(&sysctl.name, &sysctl.value, |kind| {
            own.get(&kind).copied().unwrap_or(false)
        })?;
    }
    Ok(())
}

/// Says early which capabilities this process itself lacks, rather than at the start.
fn check_capabilities(plan: &Plan, namespaces: &Namespaces) -> Result<(), Error> {
    if namespaces.contains(ns::Kind::User) {
        return Ok(());
    }
    let own = vaquita_sys::cap::held().map_err(|errno| Error::kernel("capget", errno))?;
    let wanted = plan.process.capabilities;
    let lacking = wanted.permitted.difference(own.permitted);
    let bounded = vaquita_sys::cap::bounded(wanted.bounding)
        .map_err(|errno| Error::kernel("prctl(PR_CAPBSET_READ)", errno))?;
    let unbounded = wanted.bounding.difference(bounded);
    let missing = vaquita_sys::cap::CapSet(lacking.0 | unbounded.0);
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "process.capabilities: {missing:?} cannot be given, because this process does not have it: EPERM"
    );
    Err(Error::new(Kind::Kernel(Errno::PERM), message))
}
