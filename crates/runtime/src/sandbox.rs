//! The process that holds a pod's namespaces.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{LinuxIdMapping, LinuxSeccomp};
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::process::Pid;
use vaquita_cgroup::Cgroup;
use vaquita_sys::cap::Sets;
use vaquita_sys::mount::{Attributes, Propagation};
use vaquita_sys::ns;
use vaquita_sys::process::{CStrArray, CloneFlags, sealed_copy};
use vaquita_sys::procfs::Procfs;
use vaquita_sys::signal::{Set, Signal};

use crate::create::{begun, entry, with_the_api_there_is};
use crate::lsm::Labels;
use crate::plan::process::oom_score_adj;
use crate::plan::sysctl::Sysctl;
use crate::spawn::{self, Script, Spawned};
use crate::stdio::StdioFds;
use crate::steps::{RootTree, Step};
use crate::trees::empty;
use crate::{Error, ParentOf, Stdio, seccomp};

/// What a pod's first process is like.
#[derive(Debug)]
pub struct SandboxArgs<'a> {
    /// The pod's host name; set only where the UTS namespace is new.
    pub hostname: Option<String>,
    /// The namespaces made new; the others are the host's. A mount namespace is always made.
    pub namespaces: Vec<ns::Kind>,
    /// A network namespace that was made before, and is joined where one would be made new.
    pub netns: Option<BorrowedFd<'a>>,
    /// Kernel parameters of the new namespaces, dotted names. Refused when their namespace is the host's or when they belong to none.
    pub sysctls: BTreeMap<String, String>,
    /// The cgroup of the process. `None`: it stays in the caller's.
    pub cgroup: Option<&'a Cgroup>,
    /// User id of the process.
    pub uid: u32,
    /// Group id of the process.
    pub gid: u32,
    /// Seccomp profile; `None` is unconfined.
    pub seccomp: Option<LinuxSeccomp>,
    /// The AppArmor profile of the process. `None`: what the caller's leads to.
    pub apparmor: Option<String>,
    /// The SELinux label of the process. `None`: what the caller's leads to.
    pub selinux: Option<String>,
    /// The SELinux label of the pod's files, which the program of the process gets. `None`: as the kernel labels it.
    pub mount_label: Option<String>,
    /// The wish to be spared by the OOM killer, -1000 to 1000. `None`: as inherited.
    pub oom_score_adj: Option<i32>,
    /// As in [`crate::Context`].
    pub restrict_oom_score_adj: bool,
    /// User ids of a new user namespace.
    pub uid_mappings: Vec<LinuxIdMapping>,
    /// Group ids of a new user namespace.
    pub gid_mappings: Vec<LinuxIdMapping>,
    /// Whose child the process is.
    pub parent: ParentOf,
}

/// A running pause process and the namespaces it holds.
#[derive(Debug)]
pub struct Sandbox {
    /// Its process id, as the caller's PID namespace sees it.
    pub pid: Pid,
    /// A pidfd of it.
    pub pidfd: OwnedFd,
    /// The new namespaces, open, except the mount namespace.
    pub namespaces: Vec<(ns::Kind, OwnedFd)>,
}

impl Sandbox {
    /// The pod's network namespace, unless it is the host's.
    #[must_use]
    pub fn netns(&self) -> Option<&OwnedFd> {
        self.namespaces.iter().find(|(kind, _)| *kind == ns::Kind::Net).map(|(_, fd)| fd)
    }
}

/// Makes the namespaces of a pod and runs pause in them: in an empty read-only root, without capabilities, with no_new_privs.
/// Returns when pause has been executed.
///
/// # Errors
/// [`crate::Kind::Invalid`] for a sysctl that is not allowed, [`crate::Kind::Kernel`] names the step that failed.
pub fn create(args: SandboxArgs<'_>) -> Result<Sandbox, Error> {
    let checked = Checked::new(&args)?;
    with_the_api_there_is(|| make(&args, &checked))
}

fn make(args: &SandboxArgs<'_>, checked: &Checked) -> Result<Sandbox, Error> {
    // Nothing is in it, and nothing can be made, executed or opened as a device there.
    let root = empty(args.mount_label.as_deref())?;
    let attributes = Attributes::RDONLY | Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
    let root = RootTree::New(&root, attributes);
    let stdio = null_stdio()?;
    let program = sealed_copy(c"pause", vaquita_pause::PROGRAM)?;
    if let Some(label) = &args.mount_label {
        // A file in memory has the label of who makes it, with which no policy lets a container begin.
        rustix::fs::fsetxattr(&program, c"security.selinux", label.as_bytes(), XattrFlags::empty()).map_err(
            |errno| Error::kernel(format!("fsetxattr(<pause>, security.selinux, {label:?})"), errno),
        )?;
    }
    let (arguments, environment) = (CStrArray::new(["pause"])?, CStrArray::new::<&str>([])?);
    let is_needed = !checked.sysctls.is_empty() || !checked.labels.is_empty();
    let procfs = if is_needed { Some(Procfs::open()?.above(spawn::first_free(&[]))?) } else { None };

    let begun = begun(args.cgroup, false)?;
    let by_clone = CloneFlags::NEWUSER | CloneFlags::NEWPID | CloneFlags::NEWTIME | CloneFlags::CLEAR_SIGHAND;
    // What the namespaces show (sysfs of links, the root of mqueue) belongs to whoever is root when they are made, which
    // in a user namespace nobody is before it has its maps.
    let has_user = args.namespaces.contains(&ns::Kind::User);
    let is_late = begun.is_some() || has_user;
    let late = if is_late { checked.flags.without(by_clone) } else { CloneFlags::NONE };

    let mut setup = vec![Step::NewSession];
    setup.extend(args.netns.map(|netns| Step::Join(ns::Kind::Net, netns)));
    if has_user {
        setup.extend([Step::AwaitIdMaps, Step::BecomeRoot]);
    }
    if is_late {
        setup.push(Step::Unshare(late));
    }
    setup.extend(checked.labels.new_keyring(procfs.as_ref()));
    setup.extend(args.hostname.as_ref().map(|name| Step::HostName(name.as_bytes())));
    let alone = (Propagation::Private, true);
    setup.extend([Step::Isolate, Step::AttachRoot(root, None, alone), Step::Pivot]);
    if let Some(procfs) = &procfs {
        setup.extend(checked.sysctls.iter().map(|sysctl| Step::WriteProc {
            procfs,
            file: sysctl.file.clone(),
            value: sysctl.value.as_bytes(),
        }));
    }
    setup.extend(stdio.steps(0));

    let none = Sets::default();
    let mut start = Vec::new();
    match begun {
        Some(_) => start.push(Step::EnterAwaitedCgroup),
        None => start.extend(entry(args.cgroup, &[])?),
    }
    // pause waits for these. One that comes before it does so is not lost, as it would be for process 1.
    let awaited = [Signal::CHLD, Signal::INT, Signal::TERM].into_iter().fold(Set::default(), Set::with);
    start.push(Step::BlockSignals(awaited));
    start.extend(procfs.iter().flat_map(|procfs| checked.labels.steps(procfs)));
    start.extend([Step::SetGroups(&[]), Step::SetGid(args.gid), Step::SetUid(args.uid, none)]);
    start.extend([Step::SetCapabilities(none), Step::NoNewPrivs]);
    start.extend(checked.filter.as_ref().map(Step::Seccomp));
    start.push(Step::ExecuteFile { file: program.as_fd(), arguments: &arguments, environment: &environment });

    let script = Script {
        flags: checked.flags.without(late),
        cgroup: args.cgroup.and_then(Cgroup::dir_fd),
        setup,
        late: [Step::DetachOldRoot].into_iter().chain(begun.map(|_| Step::AwaitCgroup)).collect(),
        begun,
        start,
        id_maps: has_user.then_some((&*checked.uid_map, &*checked.gid_map)),
        oom_score_adj: checked.oom_score_adj,
        ..Script::default()
    };
    let Spawned { pid, pidfd, start, .. } = spawn::spawn(&script, args.parent, spawn::Caller::default())?;
    let mut guard = spawn::Guard::new(pidfd, args.parent);
    let kinds = args.namespaces.iter().filter(|kind| **kind != ns::Kind::Mount);
    let namespaces =
        kinds.map(|kind| Ok((*kind, ns::open(Some(pid), *kind)?))).collect::<Result<_, Error>>()?;
    start.start()?;
    Ok(Sandbox { pid, pidfd: guard.release()?, namespaces })
}

/// The arguments, validated and compiled.
struct Checked {
    flags: CloneFlags,
    sysctls: Vec<Sysctl>,
    filter: Option<seccomp::Program>,
    labels: Labels,
    oom_score_adj: Option<i32>,
    uid_map: String,
    gid_map: String,
}

impl Checked {
    fn new(args: &SandboxArgs<'_>) -> Result<Self, Error> {
        let is_new = |kind| args.namespaces.contains(&kind);
        if args.hostname.is_some() && !is_new(ns::Kind::Uts) {
            return Err(Error::invalid("hostname: it would be set on the host; a UTS namespace is needed"));
        }
        if args.uid == u32::MAX || args.gid == u32::MAX {
            return Err(Error::invalid("uid, gid: 4294967295 is not an id"));
        }
        if is_new(ns::Kind::User) && (args.uid_mappings.is_empty() || args.gid_mappings.is_empty()) {
            return Err(Error::invalid("uid_mappings, gid_mappings: a new user namespace needs them"));
        }
        let oom_score_adj = match args.oom_score_adj.map(oom_score_adj).transpose()? {
            Some(value) if args.restrict_oom_score_adj => Some(spawn::restricted(value)?),
            other => other,
        };
        if args.netns.is_some() && (!is_new(ns::Kind::Net) || is_new(ns::Kind::User)) {
            return Err(Error::invalid(
                "a network namespace that is joined must be the pod's own, and cannot belong to its user namespace",
            ));
        }
        let flags = CloneFlags::CLEAR_SIGHAND | CloneFlags::NEWNS;
        let flags = args.namespaces.iter().fold(flags, |flags, kind| flags | kind.flag());
        let joined = if args.netns.is_some() { CloneFlags::NEWNET } else { CloneFlags::NONE };
        Ok(Self {
            flags: flags.without(joined),
            sysctls: args
                .sysctls
                .iter()
                .map(|(name, value)| Sysctl::new(name, value, is_new))
                .collect::<Result<_, _>>()?,
            filter: args.seccomp.as_ref().map(filter).transpose()?,
            labels: Labels::of(args.apparmor.as_deref(), args.selinux.as_deref())?,
            oom_score_adj,
            uid_map: crate::plan::ids::text("uid_mappings", &args.uid_mappings)?,
            gid_map: crate::plan::ids::text("gid_mappings", &args.gid_mappings)?,
        })
    }
}

fn filter(profile: &LinuxSeccomp) -> Result<seccomp::Program, Error> {
    let program = seccomp::compile(profile)?;
    if program.notifies() {
        return Err(Error::unsupported("linux.seccomp: SCMP_ACT_NOTIFY cannot be had for a sandbox"));
    }
    Ok(program)
}

fn null_stdio() -> Result<StdioFds, Error> {
    #[expect(clippy::disallowed_methods, reason = "the host's own device")]
    let open = || {
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error::kernel("open(\"/dev/null\", O_RDWR)", errno))
    };
    StdioFds::new(Stdio::Fds([open()?, open()?, open()?]))
}
