//! What a new process does between clone and execve, as prepared data.
//!
//! The parent builds a list of [`Step`]s; the child runs them in order and allocates nothing. A step that fails is told
//! to the parent by its number, the call that failed and the error number, and the parent prints it.

mod files;
mod fill;
mod identity;
mod mounts;
mod place;

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;
use vaquita_cgroup::Entry;
use vaquita_sys::cap::Sets;
use vaquita_sys::mount::{Attributes, Failed, Propagation, Trees};
use vaquita_sys::ns;
use vaquita_sys::process::{CStrArray, CloneFlags, Scheduling};
use vaquita_sys::procfs::Procfs;
use vaquita_sys::signal;
use vaquita_sys::tty::Size;

use crate::handshake::{self, Files};
use crate::plan::devices::DevicePlan;
use crate::plan::mounts::{Change, Filesystem, MountPlan};
use crate::plan::path::Inside;
use crate::plan::process::ProgramFile;
use crate::plan::scheduling::MemoryPolicy;
use crate::seccomp::Program;

/// One thing that the child does. Everything it needs is in it.
pub(crate) enum Step<'a> {
    /// Waits until the parent has written the id maps.
    AwaitIdMaps,
    /// User and group 0 of the user namespace just entered.
    BecomeRoot,
    /// Leaves the caller's session and terminal.
    NewSession,
    NewKeyring,
    Join(ns::Kind, BorrowedFd<'a>),
    /// All of these of the process, at once.
    JoinProcess(BorrowedFd<'a>, CloneFlags),
    Unshare(CloneFlags),
    HostName(&'a [u8]),
    DomainName(&'a [u8]),
    /// Nothing that is mounted from here on reaches the host.
    Isolate,
    /// The root filesystem, attached in this mount namespace only, with this propagation: at this path of the host, or on
    /// top of all of it.
    AttachRoot(RootTree<'a>, Option<CString>, (Propagation, bool)),
    /// For a process that is in a mount namespace of others: a copy of the root filesystem that is in none.
    CopyRoot(HostTree<'a>),
    /// And changes to it.
    UseRoot,
    /// The root of the mount namespace just joined.
    OpenRoot,
    /// This directory as the root, in the mount namespace just joined.
    ChangeRoot(BorrowedFd<'a>),
    /// Waits while the maker works in the namespaces.
    Meet,
    Mount(MountStep<'a>),
    Remount(&'a MountPlan),
    SetAttributes(Inside, Attributes),
    MakeDevice(&'a DevicePlan),
    BindDevice(&'a DevicePlan, &'a CStr),
    Link(Inside, &'static CStr),
    /// A terminal from the container's devpts, bound to /dev/console if asked.
    Terminal {
        devpts: Inside,
        console: Option<Inside>,
        size: Size,
    },
    /// With an empty filesystem like this where it is a directory.
    Mask(&'a Inside, &'a Filesystem),
    ReadOnly(&'a Inside),
    Pivot,
    /// Instead of [`Self::Pivot`], where the root of the mount namespace cannot be exchanged.
    MoveRoot(MoveRoot<'a>),
    /// After [`Self::Pivot`], when nobody waits: the kernel takes milliseconds for it (RCU) on a busy machine.
    DetachOldRoot,
    SetRootPropagation(Propagation, bool),
    SetRootReadOnly,
    WriteProc {
        procfs: &'a Procfs,
        file: CString,
        value: &'a [u8],
    },
    ChangeDirectory(&'a Inside),
    /// Standard input, output and error, owned by this user where they are pipes.
    UseFds([BorrowedFd<'a>; 3], u32),
    /// As above, of the terminal made before.
    UseTerminal(u32),
    EnterCgroup(Entry),
    /// Until the maker has made the cgroup and passed on the way in.
    AwaitCgroup,
    /// By that way.
    EnterAwaitedCgroup,
    /// They stay pending for the program, which waits for them.
    BlockSignals(signal::Set),
    SetUmask(u32),
    SetPersonality(u32),
    SetScheduling(&'a Scheduling),
    SetIoPriority(u32),
    SetAffinity(&'a CpuSet),
    SetMemoryPolicy(&'a MemoryPolicy),
    SetLimit(Resource, Rlimit),
    SetGroups(&'a [u32]),
    SetGid(u32),
    SetUid(u32, Sets),
    SetCapabilities(Sets),
    NoNewPrivs,
    /// And says the listener, if it has one.
    Seccomp(&'a Program),
    /// Fails as [`Self::Execute`] will if nothing is there to be executed.
    LookForProgram(&'a ProgramFile),
    Execute {
        program: &'a ProgramFile,
        arguments: &'a CStrArray,
        environment: &'a CStrArray,
    },
    ExecuteFile {
        file: BorrowedFd<'a>,
        arguments: &'a CStrArray,
        environment: &'a CStrArray,
    },
}

/// A mount, and the tree that goes there.
pub(crate) struct MountStep<'a> {
    pub(crate) destination: &'a Inside,
    pub(crate) tree: Tree<'a>,
    pub(crate) is_dir: bool,
    pub(crate) strict: bool,
    pub(crate) may_cover_proc: bool,
    /// Of a tree that is made here.
    pub(crate) propagation: &'a [(Propagation, bool)],
}

impl<'a> MountStep<'a> {
    pub(crate) fn new(plan: &'a MountPlan, tree: Tree<'a>, is_dir: bool) -> Self {
        Self {
            destination: &plan.destination,
            tree,
            is_dir,
            strict: plan.is_strict(),
            may_cover_proc: plan.may_cover_proc(),
            propagation: &plan.propagation,
        }
    }
}

/// Where a mounted tree comes from.
pub(crate) enum Tree<'a> {
    /// Made by the parent.
    Ready(BorrowedFd<'a>, String),
    /// To be copied here, where the parent could not: a tree of the host.
    Host(HostTree<'a>),
    /// To be made here, in the namespaces of the container.
    New(&'a Filesystem, Attributes),
}

/// The root filesystem to be.
pub(crate) enum RootTree<'a> {
    /// A detached mount.
    Ready(BorrowedFd<'a>),
    Host(HostTree<'a>),
    New(&'a Filesystem, Attributes),
}

/// How to change the root without exchanging that of the mount namespace.
pub(crate) struct MoveRoot<'a> {
    /// Mounts of procfs and sysfs, which are taken away before: otherwise they could be had back without what hides their
    /// files.
    pub(crate) hide: &'a [CString],
    /// The root filesystem does not lie over the root yet.
    pub(crate) is_elsewhere: bool,
}

/// A file or directory of the host, found again by path in the new mount namespace and compared.
pub(crate) struct HostTree<'a> {
    pub(crate) path: CString,
    /// What the parent has opened at that path.
    pub(crate) same: BorrowedFd<'a>,
    pub(crate) recursive: bool,
    pub(crate) change: Change,
    pub(crate) propagation: Option<(Propagation, bool)>,
}

/// Why a step failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) call: &'static str,
    pub(crate) errno: Errno,
}

pub(crate) trait At<T> {
    /// Names the call.
    fn at(self, call: &'static str) -> Result<T, Failure>;
}

impl From<Failed> for Failure {
    fn from(Failed { call, errno }: Failed) -> Self {
        Self { call, errno }
    }
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, call: &'static str) -> Result<T, Failure> {
        self.map_err(|errno| Failure { call, errno })
    }
}

pub(crate) fn fail<T>(call: &'static str, errno: Errno) -> Result<T, Failure> {
    Err(Failure { call, errno })
}

/// What steps leave for later ones.
pub(crate) struct State<'a> {
    /// The end of the handshake's socket.
    pub(crate) socket: BorrowedFd<'a>,
    /// The connection of who starts the process, where that is another one.
    pub(crate) starter: Option<OwnedFd>,
    /// Makes mounts, by the API that there is.
    trees: Trees,
    /// The container's root directory.
    root: Option<OwnedFd>,
    /// The mount that it is the root of, where that is in no namespace: it takes no more mounts when this is closed.
    tree: Option<OwnedFd>,
    /// The host's /dev/null, verified.
    null: Option<OwnedFd>,
    pub(crate) master: Option<OwnedFd>,
    slave: Option<OwnedFd>,
    /// The way into the cgroup.
    entry: Files,
}

impl<'a> State<'a> {
    pub(crate) fn new(socket: BorrowedFd<'a>) -> Self {
        let trees = Trees::new(vaquita_sys::mount::is_old());
        Self {
            socket,
            starter: None,
            trees,
            root: None,
            tree: None,
            null: None,
            master: None,
            slave: None,
            entry: Files::NONE,
        }
    }

    /// Who is told how the start goes.
    pub(crate) fn starter(&self) -> BorrowedFd<'_> {
        self.starter.as_ref().map_or(self.socket, OwnedFd::as_fd)
    }

    fn root(&self) -> Result<BorrowedFd<'_>, Failure> {
        self.root.as_ref().map(OwnedFd::as_fd).ok_or(Failure { call: "root", errno: Errno::BADF })
    }
}

impl Step<'_> {
    /// The descriptors that the step uses, of those that may come after the set-up.
    pub(crate) fn fds(&self) -> Vec<i32> {
        match self {
            Self::EnterCgroup(entry) => entry.fds().map(|fd| fd.as_raw_fd()).collect(),
            Self::WriteProc { procfs, .. } => vec![procfs.as_fd().as_raw_fd()],
            Self::ExecuteFile { file, .. } => vec![file.as_raw_fd()],
            _ => Vec::new(),
        }
    }

    /// Safe between clone and exec: no allocation.
    pub(crate) fn run(&self, state: &mut State<'_>) -> Result<(), Failure> {
        match self {
            Self::AwaitIdMaps => identity::await_id_maps(state),
            Self::BecomeRoot => identity::become_root(),
            Self::NewSession => rustix::process::setsid().map(drop).at("setsid"),
            Self::NewKeyring => identity::new_keyring(),
            Self::Join(kind, fd) => ns::setns(*fd, *kind).at("setns"),
            Self::JoinProcess(pidfd, kinds) => ns::setns_process(*pidfd, *kinds).at("setns"),
            Self::Unshare(kinds) => ns::unshare(*kinds).at("unshare"),
            Self::HostName(name) => rustix::system::sethostname(name).at("sethostname"),
            Self::DomainName(name) => rustix::system::setdomainname(name).at("setdomainname"),
            Self::Isolate => mounts::isolate(),
            Self::CopyRoot(tree) => mounts::copy_root(state, tree),
            Self::UseRoot => mounts::change_root(state.root()?),
            Self::AttachRoot(tree, place, propagation) => {
                mounts::attach_root(state, tree, place.as_deref(), *propagation)
            }
            Self::OpenRoot => mounts::open_root(state),
            Self::ChangeRoot(root) => mounts::change_root(*root),
            Self::Meet => handshake::meet(state.socket).at("recv"),
            Self::Mount(step) => mounts::mount(state, step),
            Self::Remount(plan) => mounts::remount(state, plan),
            Self::SetAttributes(path, set) => mounts::set_attributes(state, path, *set),
            Self::MakeDevice(device) => files::make_device(state, device),
            Self::BindDevice(device, host) => files::bind_device(state, device, host),
            Self::Link(path, target) => files::link(state, path, target),
            Self::Terminal { devpts, console, size } => {
                files::terminal(state, devpts, console.as_ref(), *size)
            }
            Self::Mask(path, empty) => mounts::mask(state, path, empty),
            Self::ReadOnly(path) => mounts::read_only(state, path),
            Self::Pivot => mounts::pivot(state),
            Self::MoveRoot(how) => mounts::move_root(state, how),
            Self::DetachOldRoot => mounts::detach_old_root(state),
            Self::SetRootPropagation(propagation, recursive) => {
                mounts::root_propagation(state, *propagation, *recursive)
            }
            Self::SetRootReadOnly => mounts::root_read_only(state),
            Self::WriteProc { procfs, file, value } => procfs.write_raw(file.as_c_str(), value).at("write"),
            Self::ChangeDirectory(path) => files::change_directory(state, path),
            Self::UseFds(fds, uid) => files::use_fds(fds, *uid),
            Self::UseTerminal(uid) => files::use_terminal(state, *uid),
            Self::EnterCgroup(entry) => entry.enter_self().at("write"),
            Self::AwaitCgroup => {
                state.entry = handshake::take_files(state.socket).at("recvmsg")?;
                Ok(())
            }
            Self::EnterAwaitedCgroup => {
                let entry = std::mem::replace(&mut state.entry, Files::NONE);
                Entry::enter_by(entry.iter()).at("write")
            }
            Self::BlockSignals(set) => signal::set_mask(*set).map(drop).at("rt_sigprocmask"),
            Self::SetUmask(mask) => identity::set_umask(*mask),
            Self::SetPersonality(persona) => {
                vaquita_sys::process::set_personality(*persona).at("personality")
            }
            Self::SetScheduling(how) => vaquita_sys::process::set_scheduling(how).at("sched_setattr"),
            Self::SetIoPriority(priority) => {
                vaquita_sys::process::set_io_priority(*priority).at("ioprio_set")
            }
            Self::SetAffinity(set) => rustix::thread::sched_setaffinity(None, set).at("sched_setaffinity"),
            Self::SetMemoryPolicy(policy) => {
                vaquita_sys::process::set_memory_policy(policy.mode, &policy.nodes).at("set_mempolicy")
            }
            Self::SetLimit(resource, limit) => rustix::process::setrlimit(*resource, *limit).at("setrlimit"),
            Self::SetGroups(groups) => vaquita_sys::process::set_groups(groups).at("setgroups"),
            Self::SetGid(gid) => vaquita_sys::process::set_gid(*gid).at("setresgid"),
            Self::SetUid(uid, keep) => identity::set_uid(*uid, keep),
            Self::SetCapabilities(sets) => identity::set_capabilities(sets),
            Self::NoNewPrivs => vaquita_sys::process::no_new_privs().at("prctl"),
            Self::Seccomp(program) => identity::install_filter(state, program),
            Self::LookForProgram(program) => identity::look_for_program(program),
            Self::Execute { program, arguments, environment } => {
                identity::execute(program, arguments, environment)
            }
            Self::ExecuteFile { file, arguments, environment } => {
                identity::execute_file(*file, arguments, environment)
            }
        }
    }
}

/// Before the first step: nothing of the caller's signal handling is left, and nobody may look into this process.
pub(crate) fn prepare() -> Result<(), Failure> {
    signal::reset_all().at("rt_sigaction")?;
    vaquita_sys::process::set_dumpable(false).at("prctl")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(())
}

impl fmt::Display for Step<'_> {
    /// What the step is for; the call that failed comes behind it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AwaitIdMaps => f.write_str("waiting for the id maps"),
            Self::BecomeRoot => f.write_str("becoming user 0 of the user namespace"),
            Self::NewSession => f.write_str("starting a session"),
            Self::NewKeyring => f.write_str("starting a session keyring"),
            Self::Join(kind, _) => write!(f, "joining the {} namespace", kind.file_name()),
            Self::JoinProcess(_, kinds) => write!(f, "joining the container's namespaces ({kinds:?})"),
            Self::Unshare(kinds) => write!(f, "making namespaces ({kinds:?})"),
            Self::HostName(name) => write!(f, "setting the host name {:?}", String::from_utf8_lossy(name)),
            Self::DomainName(name) => {
                write!(f, "setting the domain name {:?}", String::from_utf8_lossy(name))
            }
            Self::Isolate => f.write_str("keeping mounts from spreading to the host"),
            Self::AttachRoot(..) => f.write_str("attaching the root filesystem"),
            Self::CopyRoot(_) => f.write_str("copying the root filesystem"),
            Self::UseRoot => f.write_str("changing to the root filesystem"),
            Self::OpenRoot => f.write_str("opening the container's root"),
            Self::ChangeRoot(_) => f.write_str("changing to the container's root"),
            Self::Meet => f.write_str("waiting for the hooks"),
            Self::Mount(MountStep { destination, tree, .. }) => match tree {
                Tree::Ready(_, source) => write!(f, "mounting {source} on {destination}"),
                Tree::Host(tree) => write!(f, "mounting {:?} on {destination}", tree.path),
                Tree::New(filesystem, _) => {
                    write!(f, "mounting {} on {destination}", filesystem.recipe.kind().to_string_lossy())
                }
            },
            Self::Remount(plan) => write!(f, "remounting {}", plan.destination),
            Self::SetAttributes(path, _) => write!(f, "making {path} read-only"),
            Self::MakeDevice(device) | Self::BindDevice(device, _) => {
                write!(f, "making the device {} ({}:{})", device.path, device.major, device.minor)
            }
            Self::Link(path, target) => write!(f, "linking {path} to {target:?}"),
            Self::Terminal { .. } => f.write_str("making a terminal in the container's /dev/pts"),
            Self::Mask(path, _) => write!(f, "masking {path}"),
            Self::ReadOnly(path) => write!(f, "making {path} read-only"),
            Self::Pivot => f.write_str("changing to the root filesystem"),
            Self::MoveRoot(_) => f.write_str("changing to the root filesystem without a pivot"),
            Self::DetachOldRoot => f.write_str("leaving the host's root filesystem"),
            Self::SetRootPropagation(..) => f.write_str("setting the propagation of the root filesystem"),
            Self::SetRootReadOnly => f.write_str("making the root filesystem read-only"),
            Self::WriteProc { file, value, .. } => {
                write!(f, "writing {:?} to /proc/{}", String::from_utf8_lossy(value), file.to_string_lossy())
            }
            Self::ChangeDirectory(path) => write!(f, "changing to the working directory {path}"),
            Self::UseFds(..) => f.write_str("setting up standard input, output and error"),
            Self::UseTerminal(_) => f.write_str("taking the terminal"),
            Self::EnterCgroup(_) | Self::EnterAwaitedCgroup => f.write_str("entering the cgroup"),
            Self::AwaitCgroup => f.write_str("waiting for the cgroup"),
            Self::BlockSignals(_) => f.write_str("blocking signals"),
            Self::SetUmask(mask) => write!(f, "setting the umask {mask:#o}"),
            Self::SetPersonality(persona) => write!(f, "setting the personality {persona:#x}"),
            Self::SetScheduling(_) => f.write_str("setting the scheduler"),
            Self::SetIoPriority(_) => f.write_str("setting the I/O priority"),
            Self::SetAffinity(_) => f.write_str("setting the CPUs of process.execCPUAffinity"),
            Self::SetMemoryPolicy(policy) => write!(f, "setting the memory policy {policy}"),
            Self::SetLimit(resource, limit) => {
                write!(f, "setting the limit {}", limit_text(*resource, limit))
            }
            Self::SetGroups(groups) => write!(f, "setting the supplementary groups {groups:?}"),
            Self::SetGid(gid) => write!(f, "becoming group {gid}"),
            Self::SetUid(uid, _) => write!(f, "becoming user {uid}"),
            Self::SetCapabilities(sets) => write!(f, "setting the capabilities {:?}", sets.permitted),
            Self::NoNewPrivs => f.write_str("setting no_new_privs"),
            Self::Seccomp(_) => f.write_str("installing the seccomp profile"),
            Self::LookForProgram(program) | Self::Execute { program, .. } => match &program.search {
                None => write!(f, "execve({:?})", program.name),
                Some(search) => write!(f, "execve({:?}, looked for in {search:?})", program.name),
            },
            Self::ExecuteFile { .. } => f.write_str("execveat(<pause>)"),
        }
    }
}

/// A limit of a resource, for an error.
pub(crate) fn limit_text(resource: Resource, limit: &Rlimit) -> String {
    let number = |value: Option<u64>| value.map_or_else(|| "unlimited".to_owned(), |value| value.to_string());
    format!("{resource:?}, {{soft {}, hard {}}}", number(limit.current), number(limit.maximum))
}
